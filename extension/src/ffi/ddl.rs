//! A callback when a foreign key, a trigger or a rule is created, before PostgreSQL checks a row by it.

use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{FromDatum, PgRelation};
use std::sync::OnceLock;

/// Something created.
pub enum Created {
    ForeignKey(ForeignKey),
    /// A trigger or a rule of this table.
    Code(Oid),
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
            foreign_keys(Some((pg_sys::Anum_pg_constraint_oid, pg_sys::ConstraintOidIndexId, object)))
                .into_iter()
                .map(Created::ForeignKey)
                .collect()
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

/// Visits rows of a catalog, also those that the current command has written.
fn scan(catalog: Oid, key: Option<Key>, mut visit: impl FnMut(pg_sys::HeapTuple, pg_sys::TupleDesc)) {
    // SAFETY: the catalog stays open during the scan, which ends before it is closed. The key's column is an oid. An
    // error unwinds, and the end of the (sub)transaction closes what is open.
    unsafe {
        let relation = PgRelation::with_lock(catalog, pg_sys::AccessShareLock as i32);
        let mut scan_key = pg_sys::ScanKeyData::default();
        if let Some((column, _, value)) = key {
            pg_sys::ScanKeyInit(
                &mut scan_key,
                column as i16,
                pg_sys::BTEqualStrategyNumber as u16,
                pg_sys::F_OIDEQ.into(),
                Datum::from(value),
            );
        }
        let index = key.map_or(Oid::INVALID, |(_, index, _)| Oid::from(index));
        let scan = pg_sys::systable_beginscan(
            relation.as_ptr(),
            index,
            key.is_some(),
            &raw mut pg_sys::SnapshotSelfData,
            i32::from(key.is_some()),
            &mut scan_key,
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
