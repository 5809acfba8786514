//! A setting that is stored in a table, and whose value counts at once everywhere.

use super::member;
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

/// Reads the first column of a table, a NOT NULL boolean, as PostgreSQL reads its catalogs: with each change that has
/// been committed, also in a transaction with a fixed snapshot and in parallel workers; and whatever the role's rights.
pub fn read(table: Oid) -> Vec<bool> {
    let mut flags = Vec::new();
    // SAFETY: the table exists while it is locked, and the scan ends before it is closed. Its column is NOT NULL and
    // boolean. An error unwinds, and the end of the (sub)transaction closes what is open.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let (snapshot, key) = (std::ptr::null_mut(), std::ptr::null_mut());
        let scan = pg_sys::systable_beginscan(relation, Oid::INVALID, false, snapshot, 0, key);
        loop {
            let row = pg_sys::systable_getnext(scan);
            if row.is_null() {
                break;
            }
            let mut is_null = false;
            flags.push(pg_sys::htup::heap_getattr(row, 1, (*relation).rd_att, &mut is_null).value() != 0);
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    flags
}

/// Has every session plan its queries of one of the extension's tables, and of its partitions, again. Other sessions learn of it with the
/// commit.
pub fn replan(table: &CStr) {
    let Some((table, _)) = member::relation(table) else { return };
    // SAFETY: the table exists. Its partitions are not locked: one that is dropped meanwhile changes nothing.
    unsafe {
        pg_sys::CacheInvalidateRelcacheByRelid(table);
        let partitions = pg_sys::find_inheritance_children(table, pg_sys::NoLock as i32);
        let count = if partitions.is_null() { 0 } else { (*partitions).length };
        for n in 0..count as usize {
            pg_sys::CacheInvalidateRelcacheByRelid((*(*partitions).elements.add(n)).oid_value);
        }
    }
}
