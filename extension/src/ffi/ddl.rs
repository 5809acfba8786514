//! A callback when a foreign key, a trigger, a rule or an expression of a table is created, before PostgreSQL uses it.

use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{FromDatum, PgRelation};
use std::sync::OnceLock;

/// Something created.
pub enum Created {
    ForeignKey(ForeignKey),
    /// A trigger or a rule of this table.
    Code(Oid),
    /// An index, a CHECK constraint or statistics of this table.
    Expression(Oid),
}

/// A foreign key.
#[derive(Clone, Copy)]
pub struct ForeignKey {
    pub table: Oid,
    pub referenced: Oid,
    /// pg_constraint.confdeltype and confupdtype.
    pub on_delete: u8,
    pub on_update: u8,
    /// Whether each column has the type of the column that it references, so that no cast is needed to compare them.
    pub has_same_types: bool,
}

static CALLBACK: OnceLock<fn(Created)> = OnceLock::new();
static NEXT: OnceLock<pg_sys::object_access_hook_type> = OnceLock::new();

/// Calls `callback` for each. Call this once, when the library is loaded.
pub fn register(callback: fn(Created)) {
    CALLBACK.get_or_init(|| callback);
    // SAFETY: no other thread; our hook calls the earlier one.
    unsafe {
        NEXT.get_or_init(|| pg_sys::object_access_hook);
        pg_sys::object_access_hook = Some(on_access);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_access(
    access: pg_sys::ObjectAccessType::Type,
    catalog: Oid,
    object: Oid,
    part: std::ffi::c_int,
    argument: *mut std::ffi::c_void,
) {
    // SAFETY: the earlier hook gets the same arguments.
    unsafe {
        if let Some(next) = NEXT.get().copied().flatten() {
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| next(access, catalog, object, part, argument));
        }
    }
    if access == pg_sys::ObjectAccessType::OAT_POST_CREATE
        && let (Some(callback), Some(created)) = (CALLBACK.get(), created(catalog, object))
    {
        callback(created);
    }
}

fn created(catalog: Oid, object: Oid) -> Option<Created> {
    let found = match catalog {
        pg_sys::ConstraintRelationId => {
            let key = Some((pg_sys::Anum_pg_constraint_oid, pg_sys::ConstraintOidIndexId, object));
            let checks = checks(key).into_iter().map(|(_, table)| Created::Expression(table));
            foreign_keys(key).into_iter().map(Created::ForeignKey).chain(checks).collect()
        }
        pg_sys::RelationRelationId => {
            let key = (pg_sys::Anum_pg_index_indexrelid, pg_sys::IndexRelidIndexId, object);
            indexes(key).into_iter().map(|(_, table)| Created::Expression(table)).collect()
        }
        pg_sys::StatisticExtRelationId => {
            let key = (pg_sys::Anum_pg_statistic_ext_oid, pg_sys::StatisticExtOidIndexId, object);
            statistics(key).into_iter().map(Created::Expression).collect()
        }
        pg_sys::TriggerRelationId => triggers((pg_sys::Anum_pg_trigger_oid, pg_sys::TriggerOidIndexId, object))
            .into_iter()
            .map(Created::Code)
            .collect(),
        pg_sys::RewriteRelationId => rules((pg_sys::Anum_pg_rewrite_oid, pg_sys::RewriteOidIndexId, object))
            .into_iter()
            .map(Created::Code)
            .collect(),
        _ => Vec::new(),
    };
    found.into_iter().next()
}

/// Returns every foreign key of the database.
pub fn all_foreign_keys() -> Vec<ForeignKey> {
    foreign_keys(None)
}

/// Whether a table has a trigger or a rule of a user.
pub fn has_code(table: Oid) -> bool {
    !triggers((pg_sys::Anum_pg_trigger_tgrelid, pg_sys::TriggerRelidNameIndexId, table)).is_empty()
        || !rules((pg_sys::Anum_pg_rewrite_ev_class, pg_sys::RewriteRelRulenameIndexId, table)).is_empty()
}

/// Whether the planner evaluates functions of a user when it plans a query of the table: in its indexes, its
/// statistics, its CHECK constraints or its partition key. PostgreSQL's own functions are no dependencies.
pub fn has_expressions_of_users(table: Oid) -> bool {
    let indexes = indexes((pg_sys::Anum_pg_index_indrelid, pg_sys::IndexIndrelidIndexId, table));
    let key = Some((pg_sys::Anum_pg_constraint_conrelid, pg_sys::ConstraintRelidTypidNameIndexId, table));
    !statistics((pg_sys::Anum_pg_statistic_ext_stxrelid, pg_sys::StatisticExtRelidIndexId, table)).is_empty()
        || depends_on_code(pg_sys::RelationRelationId, table)
        || indexes.iter().any(|(index, _)| depends_on_code(pg_sys::RelationRelationId, *index))
        || checks(key).iter().any(|(check, _)| depends_on_code(pg_sys::ConstraintRelationId, *check))
}

/// Whether an object depends on a function, an operator or a domain that a user created.
fn depends_on_code(catalog: Oid, object: Oid) -> bool {
    let mut found = false;
    let keys = [(pg_sys::Anum_pg_depend_classid, catalog), (pg_sys::Anum_pg_depend_objid, object)];
    scan_by(pg_sys::DependRelationId, pg_sys::DependDependerIndexId.into(), &keys, |row, _| {
        // SAFETY: a row of pg_depend, and a catalog look-up.
        unsafe {
            let form = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_depend>();
            let is_code = match form.refclassid {
                pg_sys::ProcedureRelationId | pg_sys::OperatorRelationId => true,
                pg_sys::TypeRelationId => pg_sys::get_typtype(form.refobjid) as u8 == b'd',
                _ => false,
            };
            // Number 0 is the object itself, and others are columns.
            found |= form.objsubid == 0 && is_code;
        }
    });
    found
}

/// Returns indexes with their tables.
fn indexes(key: Key) -> Vec<(Oid, Oid)> {
    let mut found = Vec::new();
    scan(pg_sys::IndexRelationId, Some(key), |row, _| {
        // SAFETY: a row of pg_index.
        let form = unsafe { &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_index>() };
        found.push((form.indexrelid, form.indrelid));
    });
    found
}

/// Returns CHECK constraints with their tables.
fn checks(key: Option<Key>) -> Vec<(Oid, Oid)> {
    let mut found = Vec::new();
    scan(pg_sys::ConstraintRelationId, key, |row, _| {
        // SAFETY: a row of pg_constraint.
        let form = unsafe { &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_constraint>() };
        if form.contype as u8 == b'c' {
            found.push((form.oid, form.conrelid));
        }
    });
    found
}

/// Returns the tables of statistics on expressions, whose dependencies are not stored yet.
fn statistics(key: Key) -> Vec<Oid> {
    let mut tables = Vec::new();
    scan(pg_sys::StatisticExtRelationId, Some(key), |row, descriptor| {
        // SAFETY: a row of pg_statistic_ext.
        unsafe {
            let mut is_null = false;
            pg_sys::htup::heap_getattr(row, pg_sys::Anum_pg_statistic_ext_stxexprs as i32, descriptor, &mut is_null);
            if !is_null {
                tables.push((*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_statistic_ext>()).stxrelid);
            }
        }
    });
    tables
}

/// A column of a catalog, the index that begins with it, and its value.
type Key = (u32, u32, Oid);

fn foreign_keys(key: Option<Key>) -> Vec<ForeignKey> {
    let mut found = Vec::new();
    scan(pg_sys::ConstraintRelationId, key, |row, descriptor| {
        // SAFETY: a row of pg_constraint. Its columns of attribute numbers are not null in a foreign key.
        unsafe {
            let form = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_constraint>();
            if form.contype as u8 != b'f' {
                return;
            }
            let columns = |attribute: u32| {
                let mut is_null = false;
                let value = pg_sys::htup::heap_getattr(row, attribute as i32, descriptor, &mut is_null);
                Vec::<i16>::from_datum(value, is_null).unwrap_or_default()
            };
            let own = columns(pg_sys::Anum_pg_constraint_conkey);
            let others = columns(pg_sys::Anum_pg_constraint_confkey);
            let has_same_types = own.iter().zip(&others).all(|(column, other)| {
                pg_sys::get_atttype(form.conrelid, *column) == pg_sys::get_atttype(form.confrelid, *other)
            });
            found.push(ForeignKey {
                table: form.conrelid,
                referenced: form.confrelid,
                on_delete: form.confdeltype as u8,
                on_update: form.confupdtype as u8,
                has_same_types,
            });
        }
    });
    found
}

/// Returns the table of each trigger that a user created.
fn triggers(key: Key) -> Vec<Oid> {
    let mut tables = Vec::new();
    scan(pg_sys::TriggerRelationId, Some(key), |row, _| {
        // SAFETY: a row of pg_trigger.
        let form = unsafe { &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_trigger>() };
        if !form.tgisinternal {
            tables.push(form.tgrelid);
        }
    });
    tables
}

/// Returns the table or view of each rule.
fn rules(key: Key) -> Vec<Oid> {
    let mut tables = Vec::new();
    scan(pg_sys::RewriteRelationId, Some(key), |row, _| {
        // SAFETY: a row of pg_rewrite.
        tables.push(unsafe { (*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_rewrite>()).ev_class });
    });
    tables
}

fn scan(catalog: Oid, key: Option<Key>, visit: impl FnMut(pg_sys::HeapTuple, pg_sys::TupleDesc)) {
    match key {
        Some((column, index, value)) => scan_by(catalog, index.into(), &[(column, value)], visit),
        None => scan_by(catalog, Oid::INVALID, &[], visit),
    }
}

/// Visits rows of a catalog, also those that the current command has written. Without keys, visits all.
fn scan_by(catalog: Oid, index: Oid, keys: &[(u32, Oid)], mut visit: impl FnMut(pg_sys::HeapTuple, pg_sys::TupleDesc)) {
    // SAFETY: the catalog stays open during the scan, which ends before it is closed. The keys' columns are oids, the
    // first of the index. An error unwinds, and the end of the (sub)transaction closes what is open.
    unsafe {
        let relation = PgRelation::with_lock(catalog, pg_sys::AccessShareLock as i32);
        let mut scan_keys = [pg_sys::ScanKeyData::default(); 2];
        for (scan_key, (column, value)) in scan_keys.iter_mut().zip(keys) {
            pg_sys::ScanKeyInit(
                scan_key,
                *column as i16,
                pg_sys::BTEqualStrategyNumber as u16,
                pg_sys::F_OIDEQ.into(),
                Datum::from(*value),
            );
        }
        let scan = pg_sys::systable_beginscan(
            relation.as_ptr(),
            index,
            !keys.is_empty(),
            &raw mut pg_sys::SnapshotSelfData,
            keys.len() as i32,
            scan_keys.as_mut_ptr(),
        );
        loop {
            let row = pg_sys::systable_getnext(scan);
            if row.is_null() {
                break;
            }
            visit(row, (*relation.as_ptr()).rd_att);
        }
        pg_sys::systable_endscan(scan);
    }
}
