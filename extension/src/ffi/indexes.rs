//! The indexes of a heap table, and the entries of its rows.

use super::raw;
use super::rows::Rows;
use pgrx::pg_sys::{self, Datum, IndexInfo, IndexUniqueCheck, ItemPointerData, Relation, TupleTableSlot};
use std::ptr::null_mut;

const MOST_INDEXES: usize = 16;

/// New values of columns (numbers from 1).
pub type Changes = [(usize, Option<Datum>)];

/// Which indexes a new version of a row needs entries in.
#[cfg(feature = "pg15")]
pub type NewEntries = bool;
#[cfg(not(feature = "pg15"))]
pub type NewEntries = pg_sys::TU_UpdateIndexes::Type;

/// The indexes of a table, open for inserts.
///
/// All functions are called within a boundary (see `raw.rs`), while the table is open.
pub struct Indexes {
    open: [Relation; MOST_INDEXES],
    count: usize,
    /// State of each index's inserts.
    infos: *mut IndexInfo,
    /// Whether each of them is a B-tree or BRIN of columns and all rows, and checks uniqueness at once.
    pub are_plain: bool,
}

impl Indexes {
    /// # Safety
    /// The table must be open. Called within a boundary.
    pub unsafe fn open(table: Relation) -> Indexes {
        let mut indexes = Indexes { open: [null_mut(); MOST_INDEXES], count: 0, infos: null_mut(), are_plain: true };
        // SAFETY: the caller's promise; the list has the OIDs of indexes.
        unsafe {
            let list = raw::RelationGetIndexList(table);
            let count = if list.is_null() { 0 } else { (*list).length as usize };
            indexes.are_plain = count <= MOST_INDEXES;
            for n in 0..count.min(MOST_INDEXES) {
                let index = raw::index_open((*(*list).elements.add(n)).oid_value, pg_sys::RowExclusiveLock as i32);
                indexes.open[n] = index;
                indexes.count = n + 1;
                indexes.are_plain &= is_plain(index);
            }
            raw::list_free(list);
            // B-trees use none of it. BRIN stores here what it knows of the index.
            indexes.infos = raw::palloc0(indexes.count * size_of::<IndexInfo>()).cast();
            for n in 0..indexes.count {
                (*indexes.infos.add(n)).type_ = pg_sys::NodeTag::T_IndexInfo;
                (*indexes.infos.add(n)).ii_Context = pg_sys::CurrentMemoryContext;
            }
        }
        indexes
    }

    /// # Safety
    /// Called within a boundary.
    pub unsafe fn close(&self) {
        for n in 0..self.count {
            // SAFETY: the index is open.
            unsafe {
                raw::end_inserts(self.open[n], self.infos.add(n));
                raw::index_close(self.open[n], pg_sys::NoLock as i32);
            }
        }
        // SAFETY: it was allocated by `open`.
        unsafe { raw::pfree(self.infos.cast()) };
    }

    /// Whether the changes are of a unique key. Then foreign keys might have to follow.
    ///
    /// # Safety
    /// Called within a boundary.
    pub unsafe fn unique_key_has(&self, changes: &Changes) -> bool {
        // SAFETY: the indexes are open.
        (0..self.count).any(|n| unsafe { (*(*self.open[n]).rd_index).indisunique && has_any(self.open[n], changes) })
    }

    /// Inserts the entries of a new row version.
    ///
    /// # Safety
    /// The slot must have the version, of this table. Called within a boundary.
    pub unsafe fn insert_version(
        &self,
        table: Relation,
        row: *mut TupleTableSlot,
        changes: &Changes,
        new_entries: NewEntries,
    ) {
        for n in 0..self.count {
            // SAFETY: the caller's promise; the slot has a value and a flag for each column.
            unsafe {
                let index = self.open[n];
                if needs_entry(index, new_entries) {
                    let entry = Entry {
                        values: (*row).tts_values,
                        nulls: (*row).tts_isnull,
                        place: &raw mut (*row).tts_tid,
                        is_unchanged: !has_any(index, changes),
                    };
                    entry.insert(table, index, self.infos.add(n));
                }
            }
        }
    }

    /// Inserts the entries of new rows, an index after the other.
    ///
    /// # Safety
    /// The rows must be in the table. Called within a boundary.
    pub unsafe fn insert(&self, table: Relation, rows: &mut Rows) {
        for n in 0..self.count {
            // SAFETY: the caller's promise.
            unsafe {
                let index = self.open[n];
                for row in 0..rows.len() {
                    if pg_sys::InterruptPending != 0 {
                        raw::ProcessInterrupts();
                    }
                    let (values, nulls, place) = rows.parts(row);
                    Entry { values, nulls, place, is_unchanged: false }.insert(table, index, self.infos.add(n));
                }
            }
        }
    }
}

/// Returns column `n` of an index, from 0; 0 if it is an expression.
pub fn key(index: &pg_sys::FormData_pg_index, n: usize) -> usize {
    // SAFETY: an index has as many columns as it says.
    unsafe { *index.indkey.values.as_ptr().add(n) }.max(0) as usize
}

/// Opens a valid B-tree of all rows that suits; null if there is none.
///
/// # Safety
/// The table must be open. Called within a boundary, so the condition must hold no destructor.
pub unsafe fn open_btree(table: Relation, suits: impl Fn(&pg_sys::FormData_pg_index) -> bool) -> Relation {
    // SAFETY: the caller's promise. An index that is listed can be opened.
    unsafe {
        let list = raw::RelationGetIndexList(table);
        let count = if list.is_null() { 0 } else { (*list).length as usize };
        let mut found = null_mut();
        for n in 0..count {
            let index = raw::index_open((*(*list).elements.add(n)).oid_value, pg_sys::AccessShareLock as i32);
            let of = &*(*index).rd_index;
            if of.indisvalid
                && (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
                && suits(of)
                && raw::heap_attisnull((*index).rd_indextuple, pg_sys::Anum_pg_index_indpred as i32, null_mut())
            {
                found = index;
                break;
            }
            raw::index_close(index, pg_sys::NoLock as i32);
        }
        raw::list_free(list);
        found
    }
}

/// # Safety
/// The index must be open. Called within a boundary.
unsafe fn is_plain(index: Relation) -> bool {
    // SAFETY: the caller's promise; an index has a row in pg_index.
    unsafe {
        let of = &*(*index).rd_index;
        let method = (*(*index).rd_rel).relam;
        (method == pg_sys::BTREE_AM_OID || method == pg_sys::BRIN_AM_OID)
            && of.indisready
            && of.indimmediate
            && !of.indisexclusion
            && (0..of.indnatts as usize).all(|n| key(of, n) > 0)
            && raw::heap_attisnull((*index).rd_indextuple, pg_sys::Anum_pg_index_indpred as i32, null_mut())
    }
}

/// Whether any changed column is in an index.
///
/// # Safety
/// The index must be open.
unsafe fn has_any(index: Relation, changes: &Changes) -> bool {
    // SAFETY: the caller's promise.
    let of = unsafe { &*(*index).rd_index };
    (0..of.indnatts as usize).any(|n| changes.iter().any(|(column, _)| *column == key(of, n)))
}

/// Whether an index needs an entry for the new version of a row.
///
/// # Safety
/// The index must be open.
#[cfg(feature = "pg15")]
unsafe fn needs_entry(_index: Relation, new_entries: NewEntries) -> bool {
    new_entries
}

/// Whether an index needs an entry for the new version of a row.
///
/// # Safety
/// The index must be open.
#[cfg(not(feature = "pg15"))]
unsafe fn needs_entry(index: Relation, new_entries: NewEntries) -> bool {
    match new_entries {
        pg_sys::TU_UpdateIndexes::TU_None => false,
        // SAFETY: the caller's promise.
        pg_sys::TU_UpdateIndexes::TU_Summarizing => unsafe { (*(*index).rd_rel).relam == pg_sys::BRIN_AM_OID },
        _ => true,
    }
}

/// A row to insert into an index.
struct Entry {
    /// Of all the table's columns.
    values: *const Datum,
    nulls: *const bool,
    place: *mut ItemPointerData,
    /// Whether the row's last version has the same key.
    is_unchanged: bool,
}

impl Entry {
    /// # Safety
    /// The row must be in the table. Called within a boundary.
    unsafe fn insert(self, table: Relation, index: Relation, info: *mut IndexInfo) {
        let mut values = [Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
        let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
        // SAFETY: the caller's promise; an index has at most so many columns, each of the table.
        unsafe {
            let of = &*(*index).rd_index;
            for n in 0..of.indnatts as usize {
                values[n] = *self.values.add(key(of, n) - 1);
                nulls[n] = *self.nulls.add(key(of, n) - 1);
            }
            let check =
                if of.indisunique { IndexUniqueCheck::UNIQUE_CHECK_YES } else { IndexUniqueCheck::UNIQUE_CHECK_NO };
            let (values, nulls) = (values.as_mut_ptr(), nulls.as_mut_ptr());
            raw::index_insert(index, values, nulls, self.place, table, check, self.is_unchanged, info);
        }
    }
}
