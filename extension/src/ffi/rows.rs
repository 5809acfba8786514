//! Rows to insert: their values, and then their places.

use pgrx::pg_sys::{self, Datum, ItemPointerData, TupleTableSlot};

/// Rows of one table, in PostgreSQL's memory: if that is exhausted, PostgreSQL raises the error.
pub struct Rows {
    /// The number of columns.
    width: usize,
    len: usize,
    most: usize,
    values: *mut Datum,
    nulls: *mut bool,
    places: *mut ItemPointerData,
}

impl Rows {
    /// No rows of a table with this many columns, with room for `most`.
    pub fn new(width: usize, most: usize) -> Rows {
        let (values, nulls) = (allocate(width * most), allocate(width * most));
        Rows { width, len: 0, most, values, nulls, places: allocate(most) }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds a row with these values (columns from 1), which must outlive its insert. All other columns are null.
    pub fn push(&mut self, values: &[(usize, Datum)]) {
        assert!(self.len < self.most);
        // SAFETY: there is room for the row.
        unsafe { std::slice::from_raw_parts_mut(self.nulls.add(self.len * self.width), self.width).fill(true) };
        self.len += 1;
        self.set(values);
    }

    /// Sets more values of the row that was added last.
    pub fn set(&mut self, values: &[(usize, Datum)]) {
        assert!(self.len > 0);
        let first = (self.len - 1) * self.width;
        // SAFETY: there is such a row, and the columns are the table's.
        unsafe {
            for (column, value) in values {
                *self.values.add(first + column - 1) = *value;
                *self.nulls.add(first + column - 1) = false;
            }
        }
    }

    /// Frees the memory. After an error the end of the statement does.
    pub fn free(self) {
        // SAFETY: it was allocated by `new`.
        unsafe {
            pg_sys::pfree(self.values.cast());
            pg_sys::pfree(self.nulls.cast());
            pg_sys::pfree(self.places.cast());
        }
    }

    /// Copies row `n` to a slot.
    ///
    /// # Safety
    /// There must be such a row, and the slot must have room for it.
    pub unsafe fn fill(&self, n: usize, slot: *mut TupleTableSlot) {
        // SAFETY: the caller's promise.
        unsafe {
            std::ptr::copy_nonoverlapping(self.values.add(n * self.width), (*slot).tts_values, self.width);
            std::ptr::copy_nonoverlapping(self.nulls.add(n * self.width), (*slot).tts_isnull, self.width);
        }
    }

    /// Stores where row `n` is.
    ///
    /// # Safety
    /// There must be such a row.
    pub unsafe fn set_place(&mut self, n: usize, place: ItemPointerData) {
        // SAFETY: the caller's promise.
        unsafe { *self.places.add(n) = place };
    }

    /// Returns the values, the flags and the place of row `n`.
    ///
    /// # Safety
    /// There must be such a row.
    pub unsafe fn parts(&mut self, n: usize) -> (*const Datum, *const bool, *mut ItemPointerData) {
        // SAFETY: the caller's promise.
        unsafe { (self.values.add(n * self.width), self.nulls.add(n * self.width), self.places.add(n)) }
    }
}

/// Allocates zeroed memory for values of a type of PostgreSQL.
fn allocate<T>(count: usize) -> *mut T {
    let flags = (pg_sys::MCXT_ALLOC_HUGE | pg_sys::MCXT_ALLOC_ZERO) as i32;
    // SAFETY: raises an error if memory is exhausted. All bits zero are a value of these types.
    unsafe { pg_sys::palloc_extended(count.max(1) * size_of::<T>(), flags).cast() }
}
