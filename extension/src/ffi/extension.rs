//! The extension's own tables. A name alone proves nothing: any role can create a table of that name somewhere.

use super::table_cache::TableCache;
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

/// A name as PostgreSQL stores it, with NULs after its end.
type Name = [u8; pg_sys::NAMEDATALEN as usize];

/// Whether a table is `workflow.<name>` of the extension, or a partition of it.
pub fn owns(table: Oid, name: &str) -> bool {
    thread_local! {
        static OWN: TableCache<Option<Name>> = const { TableCache::new() };
    }
    let own = OWN.with(|own| own.get(table, || look_up(table)));
    own.is_some_and(|own| is_name(&own, name))
}

/// A detached partition that is still a member has its table's name and a number.
fn is_name(own: &Name, name: &str) -> bool {
    let own = own.split(|byte| *byte == 0).next().unwrap_or_default();
    own.strip_prefix(name.as_bytes()).is_some_and(|rest| match rest.split_first() {
        None => true,
        Some((first, number)) => *first == b'_' && !number.is_empty() && number.iter().all(u8::is_ascii_digit),
    })
}

/// Returns the name of the extension's table that the table is, or is a partition of. Partitions that were created after
/// the extension are no members.
fn look_up(table: Oid) -> Option<Name> {
    // SAFETY: catalog look-ups; the table is open, and a partition has a parent.
    unsafe {
        let is_partition = pg_sys::get_rel_relispartition(table);
        let table = if is_partition { pg_sys::get_partition_parent(table, true) } else { table };
        let extension = pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, table);
        if extension == Oid::INVALID || extension != pg_sys::get_extension_oid(c"pg_workflow".as_ptr(), true) {
            return None;
        }
        let name = pg_sys::get_rel_name(table);
        let text = if name.is_null() { b"" } else { CStr::from_ptr(name).to_bytes() };
        let mut own = [0; pg_sys::NAMEDATALEN as usize];
        own.get_mut(..text.len())?.copy_from_slice(text);
        Some(own)
    }
}
