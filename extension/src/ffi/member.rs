//! The objects of the extension pg_workflow. A name proves nothing: anyone who may create a schema can call it `workflow`.

use super::catalog;
use super::table_cache::TableCache;
use pgrx::pg_sys::{self, Datum, Oid, SysCacheIdentifier};
use std::ffi::CStr;

const EXTENSION: &CStr = c"pg_workflow";
const SCHEMA: &CStr = c"workflow";

/// Finds a table, view or sequence of the extension, and its owner; `None` if the relation with this name does not
/// exist or is not a member. A backend looks each one up once, until it changes.
pub fn relation(name: &CStr) -> Option<(Oid, Oid)> {
    thread_local! {
        static RELATIONS: TableCache<(Name, Oid)> = const { TableCache::new() };
    }
    let is_named = |(known, _): &(Name, Oid)| text(known) == name.to_bytes();
    RELATIONS.with(|relations| {
        let (relation, (_, owner)) = relations.search(is_named).or_else(|| {
            let relation = relation_named(name);
            // It may have got another name meanwhile: the look-up says which.
            let look_up = || Some((member_name(relation)?, catalog::owner(relation)?));
            Some((relation, relations.find(relation, look_up).filter(is_named)?))
        })?;
        Some((relation, owner))
    })
}

/// Finds a relation by its name in the schema; an invalid OID if there is none.
fn relation_named(name: &CStr) -> Oid {
    // SAFETY: catalog look-ups by NUL-terminated names; true: no error if there is no such schema.
    unsafe { pg_sys::get_relname_relid(name.as_ptr(), pg_sys::get_namespace_oid(SCHEMA.as_ptr(), true)) }
}

/// Whether a relation is a member. A backend looks each one up once: it stays one until it is dropped.
pub fn is_relation(relation: Oid) -> bool {
    thread_local! {
        static MEMBERS: TableCache<()> = const { TableCache::new() };
    }
    let look_up = || is_member(pg_sys::RelationRelationId, relation).then_some(());
    MEMBERS.with(|members| members.find(relation, look_up)).is_some()
}

/// A name as PostgreSQL stores it, with NULs after its end.
type Name = [u8; pg_sys::NAMEDATALEN as usize];

fn text(name: &Name) -> &[u8] {
    name.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Whether a relation is this table of the extension, or a partition of it. A backend looks each one up once.
pub fn is_table(relation: Oid, name: &str) -> bool {
    thread_local! {
        static TABLES: TableCache<Name> = const { TableCache::new() };
    }
    let table = TABLES.with(|tables| tables.find(relation, || table_name(relation)));
    // A member that is no partition any more has its table's name and a number.
    table.is_some_and(|table| {
        text(&table).strip_prefix(name.as_bytes()).is_some_and(|rest| match rest.split_first() {
            None => true,
            Some((separator, number)) => *separator == b'_' && number.iter().all(u8::is_ascii_digit),
        })
    })
}

/// Returns the name of the member that the relation is, or is a partition of. Partitions that were created after the
/// extension are no members themselves.
fn table_name(relation: Oid) -> Option<Name> {
    // SAFETY: catalog look-ups; a partition has a parent.
    let table = unsafe {
        let is_partition = pg_sys::get_rel_relispartition(relation);
        if is_partition { pg_sys::get_partition_parent(relation, true) } else { relation }
    };
    member_name(table)
}

/// Returns the name of a member; `None` if the relation does not exist or is none.
fn member_name(relation: Oid) -> Option<Name> {
    // SAFETY: catalog look-ups; the name is null or NUL-terminated.
    unsafe {
        let found = pg_sys::get_rel_name(relation);
        if found.is_null() || !is_member(pg_sys::RelationRelationId, relation) {
            return None;
        }
        let text = CStr::from_ptr(found).to_bytes();
        let mut name = [0; pg_sys::NAMEDATALEN as usize];
        name.get_mut(..text.len())?.copy_from_slice(text);
        Some(name)
    }
}

/// Returns the name of any relation, for an error.
pub fn any_name(relation: Oid) -> String {
    // SAFETY: a catalog look-up; the result is null or NUL-terminated.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() { relation.to_u32().to_string() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// Finds a function of the extension by its exact signature; `None` if it does not exist or is not a member.
pub fn function(name: &CStr, arguments: &[Oid]) -> Option<Oid> {
    // SAFETY: catalog look-ups by a NUL-terminated name, a vector of that many types, and a schema.
    let function = unsafe {
        let arguments = pg_sys::buildoidvector(arguments.as_ptr(), arguments.len() as i32);
        pg_sys::GetSysCacheOid(
            SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            pg_sys::Anum_pg_proc_oid as pg_sys::AttrNumber,
            Datum::from(name.as_ptr()),
            Datum::from(arguments),
            Datum::from(pg_sys::get_namespace_oid(SCHEMA.as_ptr(), true)),
            Datum::null(),
        )
    };
    (function != Oid::INVALID && is_member(pg_sys::ProcedureRelationId, function)).then_some(function)
}

/// Whether an object of a catalog is a member.
fn is_member(catalog: Oid, object: Oid) -> bool {
    // SAFETY: catalog look-ups; true: no error if there is no such extension.
    unsafe {
        let extension = pg_sys::get_extension_oid(EXTENSION.as_ptr(), true);
        extension != Oid::INVALID && pg_sys::getExtensionOfObject(catalog, object) == extension
    }
}
