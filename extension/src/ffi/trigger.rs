//! A trigger call: its rows, their columns, and its table.

use super::jsonb::Jsonb;
use super::uuid::Uuid;
use super::values;
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::{CStr, CString};

/// A call of a trigger function.
#[derive(Clone, Copy)]
pub struct Trigger<'a>(&'a pg_sys::TriggerData);

impl<'a> Trigger<'a> {
    /// # Safety
    /// PostgreSQL must have passed `fcinfo` to the function. Panics if the function is not called as a trigger.
    pub unsafe fn from_call(fcinfo: pg_sys::FunctionCallInfo) -> Trigger<'a> {
        // SAFETY: the caller's promise; the context is a TriggerData, which called_as_trigger checks.
        unsafe {
            assert!(pgrx::trigger_support::called_as_trigger(fcinfo), "must be called as a trigger");
            Trigger(&*(*fcinfo).context.cast::<pg_sys::TriggerData>())
        }
    }

    /// Returns the first argument of CREATE TRIGGER; empty if there is none.
    pub fn argument(self) -> &'a str {
        // SAFETY: tgargs holds tgnargs NUL-terminated texts.
        unsafe {
            let trigger = &*self.0.tg_trigger;
            if trigger.tgnargs == 0 { "" } else { CStr::from_ptr(*trigger.tgargs).to_str().unwrap_or_default() }
        }
    }

    /// Returns the table's name, without its schema.
    pub fn table_name(self) -> String {
        // SAFETY: the relation is open while the trigger runs.
        unsafe { CStr::from_ptr((*(*self.0.tg_relation).rd_rel).relname.data.as_ptr()) }.to_string_lossy().into_owned()
    }

    /// Returns the role that owns the table.
    pub fn table_owner(self) -> Oid {
        // SAFETY: as above.
        unsafe { (*(*self.0.tg_relation).rd_rel).relowner }
    }

    fn descriptor(self) -> pg_sys::TupleDesc {
        // SAFETY: as above.
        unsafe { (*self.0.tg_relation).rd_att }
    }

    /// Returns a key of the table's shape: its OID and the number of columns that it has ever had.
    pub fn table_shape(self) -> (Oid, i32) {
        // SAFETY: as above.
        unsafe { ((*self.0.tg_relation).rd_id, (*self.descriptor()).natts) }
    }

    /// Returns the number of a column, from 1.
    pub fn column(self, name: &str) -> usize {
        let c_name = CString::new(name).unwrap_or_default();
        // SAFETY: the descriptor lives while the trigger runs.
        let number = unsafe { pg_sys::SPI_fnumber(self.descriptor(), c_name.as_ptr()) };
        assert!(number > 0, "table {} has no column {name}", self.table_name());
        number as usize
    }

    /// Returns OLD and NEW of a row trigger on UPDATE.
    pub fn old_and_new(self) -> (Row, Row) {
        (self.deform(self.0.tg_trigtuple), self.deform(self.0.tg_newtuple))
    }

    fn deform(self, tuple: pg_sys::HeapTuple) -> Row {
        // SAFETY: a row trigger on UPDATE has both tuples, of the table's shape; deforming fills natts entries.
        unsafe {
            let width = (*self.descriptor()).natts as usize;
            let mut row = Row { values: vec![Datum::null(); width], nulls: vec![true; width] };
            pg_sys::heap_deform_tuple(tuple, self.descriptor(), row.values.as_mut_ptr(), row.nulls.as_mut_ptr());
            row
        }
    }

    /// Returns NEW with these columns set (numbers from 1), as the trigger's result.
    pub fn new_with(self, changes: &[(usize, Option<Datum>)]) -> Datum {
        let mut numbers: Vec<i32> = changes.iter().map(|(number, _)| *number as i32).collect();
        let mut values: Vec<Datum> = changes.iter().map(|(_, value)| value.unwrap_or(Datum::null())).collect();
        let mut nulls: Vec<bool> = changes.iter().map(|(_, value)| value.is_none()).collect();
        // SAFETY: the arrays have the given length, and the values have their columns' types.
        Datum::from(unsafe {
            pg_sys::heap_modify_tuple_by_cols(
                self.0.tg_newtuple,
                self.descriptor(),
                changes.len() as i32,
                numbers.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            )
        })
    }

    /// Calls `visit` with each updated row of a statement trigger, old and new. The rows live only during the call.
    pub fn for_each_update(self, mut visit: impl FnMut(&SlotRow, &SlotRow)) {
        // SAFETY: the trigger is declared with both transition tables, which PostgreSQL fills in step. They hold
        // minimal tuples. After an error the memory context frees the slots.
        unsafe {
            let [old_rows, new_rows] = [self.0.tg_oldtable, self.0.tg_newtable];
            assert!(!old_rows.is_null() && !new_rows.is_null(), "the trigger must declare both transition tables");
            let [old, new] = [(); 2]
                .map(|()| pg_sys::MakeSingleTupleTableSlot(self.descriptor(), &raw const pg_sys::TTSOpsMinimalTuple));
            pg_sys::tuplestore_rescan(old_rows);
            pg_sys::tuplestore_rescan(new_rows);
            while pg_sys::tuplestore_gettupleslot(old_rows, true, false, old)
                && pg_sys::tuplestore_gettupleslot(new_rows, true, false, new)
            {
                visit(&SlotRow(old), &SlotRow(new));
            }
            pg_sys::ExecDropSingleTupleTableSlot(old);
            pg_sys::ExecDropSingleTupleTableSlot(new);
        }
    }
}

/// A deformed row. Columns are numbered from 1.
pub struct Row {
    values: Vec<Datum>,
    nulls: Vec<bool>,
}

impl Row {
    pub fn get(&self, column: usize) -> Option<Datum> {
        (!self.nulls[column - 1]).then_some(self.values[column - 1])
    }

    pub fn uuid(&self, column: usize) -> Option<Uuid> {
        // SAFETY: called only for uuid columns.
        self.get(column).map(|value| unsafe { Uuid::from_datum(value) })
    }

    pub fn text(&self, column: usize) -> Option<&str> {
        // SAFETY: called only for text columns; the tuple outlives the row.
        self.get(column).map(|value| unsafe { values::text(value) })
    }

    pub fn jsonb(&self, column: usize) -> Option<Jsonb> {
        // SAFETY: called only for jsonb columns.
        self.get(column).map(|value| unsafe { Jsonb::from_raw(value) })
    }

    /// Returns the size of a text; 0 if it is null. Reads no value that is stored elsewhere.
    pub fn text_size(&self, column: usize) -> usize {
        // SAFETY: called only for text columns.
        let size = self.get(column).map(|value| unsafe { pg_sys::toast_raw_datum_size(value) });
        size.unwrap_or(0).saturating_sub(size_of::<i32>())
    }

    /// Whether both rows store a value as the same bytes, perhaps a reference to the same place.
    pub fn has_same_image(&self, other: &Row, column: usize) -> bool {
        // SAFETY: called only for columns of variable length.
        self.compare(other, column, |one, other| unsafe { pg_sys::datumIsEqual(one, other, false, -1) })
    }

    /// Whether both rows have the same bytes, wherever they are stored.
    pub fn is_identical(&self, other: &Row, column: usize) -> bool {
        // SAFETY: called only for columns of variable length.
        self.compare(other, column, |one, other| unsafe { pg_sys::datum_image_eq(one, other, false, -1) })
    }

    fn compare(&self, other: &Row, column: usize, is_equal: impl FnOnce(Datum, Datum) -> bool) -> bool {
        match (self.get(column), other.get(column)) {
            (Some(one), Some(other)) => is_equal(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    pub fn i64(&self, column: usize) -> Option<i64> {
        self.get(column).map(|value| value.value() as i64)
    }

    pub fn i32(&self, column: usize) -> Option<i32> {
        self.get(column).map(|value| value.value() as i32)
    }
}

/// A row of a transition table.
pub struct SlotRow(*mut pg_sys::TupleTableSlot);

impl SlotRow {
    fn get(&self, column: usize) -> Datum {
        // SAFETY: the slot holds a row; deforming it up to the column fills that entry. The columns are NOT NULL in
        // their tables.
        unsafe {
            if usize::try_from((*self.0).tts_nvalid).unwrap_or(0) < column {
                pg_sys::slot_getsomeattrs_int(self.0, column as i32);
            }
            *(*self.0).tts_values.add(column - 1)
        }
    }

    pub fn uuid(&self, column: usize) -> Uuid {
        // SAFETY: called only for uuid columns.
        unsafe { Uuid::from_datum(self.get(column)) }
    }

    pub fn text(&self, column: usize) -> &str {
        // SAFETY: called only for text columns; the slot holds the row until the next one.
        unsafe { values::text(self.get(column)) }
    }

    pub fn i64(&self, column: usize) -> i64 {
        self.get(column).value() as i64
    }
}

/// Exports a function `fn(Trigger) -> Datum`. Its result is a tuple, or null if PostgreSQL ignores the result.
macro_rules! export_trigger {
    ($symbol:ident, $info:ident, $function:path) => {
        $crate::ffi::export::export_function!($symbol, $info, |fcinfo| {
            // SAFETY: PostgreSQL passed it.
            $function(unsafe { $crate::ffi::trigger::Trigger::from_call(fcinfo) })
        });
    };
}
pub(crate) use export_trigger;
