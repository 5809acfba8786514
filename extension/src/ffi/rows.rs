//! Rows to insert: their values, and then their places.

use crate::memory;
use pgrx::pg_sys::{Datum, ItemPointerData, TupleTableSlot};

/// Rows of one table.
pub struct Rows {
    /// The number of columns.
    width: usize,
    values: Vec<Datum>,
    nulls: Vec<bool>,
    places: Vec<ItemPointerData>,
}

impl Rows {
    /// No rows of a table with this many columns.
    pub const fn new(width: usize) -> Rows {
        Rows { width, values: Vec::new(), nulls: Vec::new(), places: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Adds a row with these values (columns from 1), which must outlive its insert. All other columns are null.
    pub fn push(&mut self, values: &[(usize, Datum)]) {
        let first = self.values.len();
        memory::extend(&mut self.values, Datum::null(), self.width);
        memory::extend(&mut self.nulls, true, self.width);
        memory::push(&mut self.places, ItemPointerData::default());
        for (column, value) in values {
            self.values[first + column - 1] = *value;
            self.nulls[first + column - 1] = false;
        }
    }

    /// Copies row `n` to a slot.
    ///
    /// # Safety
    /// There must be such a row, and the slot must have room for it.
    pub unsafe fn fill(&self, n: usize, slot: *mut TupleTableSlot) {
        // SAFETY: the caller's promise.
        unsafe {
            std::ptr::copy_nonoverlapping(self.values.as_ptr().add(n * self.width), (*slot).tts_values, self.width);
            std::ptr::copy_nonoverlapping(self.nulls.as_ptr().add(n * self.width), (*slot).tts_isnull, self.width);
        }
    }

    /// Stores where row `n` is.
    ///
    /// # Safety
    /// There must be such a row.
    pub unsafe fn set_place(&mut self, n: usize, place: ItemPointerData) {
        // SAFETY: the caller's promise.
        unsafe { *self.places.as_mut_ptr().add(n) = place };
    }

    /// Returns the values, the flags and the place of row `n`.
    ///
    /// # Safety
    /// There must be such a row.
    pub unsafe fn parts(&mut self, n: usize) -> (*const Datum, *const bool, *mut ItemPointerData) {
        // SAFETY: the caller's promise.
        unsafe {
            (
                self.values.as_ptr().add(n * self.width),
                self.nulls.as_ptr().add(n * self.width),
                self.places.as_mut_ptr().add(n),
            )
        }
    }
}
