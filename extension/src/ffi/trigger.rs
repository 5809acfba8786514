//! A trigger call: which trigger it is, its rows, their columns, and its table.

use super::jsonb::Jsonb;
use super::uuid::Uuid;
use super::{member, values};
use pgrx::FromDatum;
use pgrx::datum::Interval;
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::{CStr, CString};

pub const BEFORE_UPDATE: u32 = pg_sys::TRIGGER_EVENT_BEFORE | pg_sys::TRIGGER_EVENT_UPDATE;
pub const BEFORE_INSERT: u32 = pg_sys::TRIGGER_EVENT_BEFORE | pg_sys::TRIGGER_EVENT_INSERT;
pub const AFTER_INSERT: u32 = pg_sys::TRIGGER_EVENT_AFTER | pg_sys::TRIGGER_EVENT_INSERT;
pub const AFTER_UPDATE: u32 = pg_sys::TRIGGER_EVENT_AFTER | pg_sys::TRIGGER_EVENT_UPDATE;
pub const AFTER_DELETE: u32 = pg_sys::TRIGGER_EVENT_AFTER | pg_sys::TRIGGER_EVENT_DELETE;
pub const AFTER_TRUNCATE: u32 = pg_sys::TRIGGER_EVENT_AFTER | pg_sys::TRIGGER_EVENT_TRUNCATE;

/// Returns how many triggers are running, each within the one before.
pub fn depth() -> i32 {
    // SAFETY: a built-in function without arguments, which returns an integer.
    let depth = unsafe { pgrx::direct_function_call_as_datum(pg_sys::pg_trigger_depth, &[]) };
    depth.map_or(0, |depth| depth.value() as i32)
}

/// A trigger that a trigger function is made for. Any role can create others on tables of its own: their rows have
/// other types, and their owners no right to what the function does.
pub struct Use {
    event: u32,
    table: &'static str,
    argument: Option<&'static str>,
    has_old_rows: bool,
    has_new_rows: bool,
}

impl Use {
    /// A trigger FOR EACH STATEMENT on a table of the extension, or on its partitions, with no argument and no transition
    /// tables.
    pub const fn new(event: u32, table: &'static str) -> Use {
        Use { event, table, argument: None, has_old_rows: false, has_new_rows: false }
    }

    pub const fn each_row(self) -> Use {
        Use { event: self.event | pg_sys::TRIGGER_EVENT_ROW, ..self }
    }

    pub const fn argument(self, argument: &'static str) -> Use {
        Use { argument: Some(argument), ..self }
    }

    pub const fn old_rows(self) -> Use {
        Use { has_old_rows: true, ..self }
    }

    pub const fn new_rows(self) -> Use {
        Use { has_new_rows: true, ..self }
    }

    /// Whether the call is of this trigger. Reads no row.
    fn is_of(&self, call: &pg_sys::TriggerData) -> bool {
        const EVENT: u32 = pg_sys::TRIGGER_EVENT_OPMASK | pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_TIMINGMASK;
        // SAFETY: tgargs holds tgnargs NUL-terminated texts; the relation is open while the trigger runs.
        unsafe {
            let trigger = &*call.tg_trigger;
            let has_argument = match self.argument {
                None => trigger.tgnargs == 0,
                Some(text) => trigger.tgnargs == 1 && CStr::from_ptr(*trigger.tgargs).to_bytes() == text.as_bytes(),
            };
            call.tg_event & EVENT == self.event
                && has_argument
                && self.has_old_rows != call.tg_oldtable.is_null()
                && self.has_new_rows != call.tg_newtable.is_null()
                && member::is_table((*call.tg_relation).rd_id, self.table)
        }
    }
}

/// A call of a trigger function that it is not made for.
pub enum Misuse {
    /// Not by a trigger.
    NoTrigger,
    Trigger {
        name: String,
        table: String,
    },
    EventTrigger,
}

/// A call of a trigger function, by a trigger that the function is made for.
#[derive(Clone, Copy)]
pub struct Trigger<'a>(&'a pg_sys::TriggerData, &'static Use);

impl<'a> Trigger<'a> {
    /// Fails if the call is none of `uses`, before anything trusts the rows.
    ///
    /// # Safety
    /// PostgreSQL must have passed `fcinfo` to the function.
    pub unsafe fn from_call(fcinfo: pg_sys::FunctionCallInfo, uses: &'static [Use]) -> Result<Trigger<'a>, Misuse> {
        // SAFETY: the caller's promise; the context is a TriggerData if called_as_trigger says so.
        let call = unsafe {
            if !pgrx::trigger_support::called_as_trigger(fcinfo) {
                return Err(Misuse::NoTrigger);
            }
            &*(*fcinfo).context.cast::<pg_sys::TriggerData>()
        };
        let made_for = uses.iter().find(|made_for| made_for.is_of(call));
        made_for.map(|made_for| Trigger(call, made_for)).ok_or_else(|| {
            let trigger = Trigger(call, &uses[0]);
            Misuse::Trigger { name: trigger.name(), table: trigger.table_name() }
        })
    }

    fn name(self) -> String {
        // SAFETY: a trigger has a NUL-terminated name.
        unsafe { CStr::from_ptr((*self.0.tg_trigger).tgname) }.to_string_lossy().into_owned()
    }

    /// Returns the argument of CREATE TRIGGER; empty if there is none.
    pub fn argument(self) -> &'static str {
        self.1.argument.unwrap_or_default()
    }

    /// Returns the table's name, without its schema.
    pub fn table_name(self) -> String {
        // SAFETY: the relation is open while the trigger runs.
        unsafe { CStr::from_ptr((*(*self.0.tg_relation).rd_rel).relname.data.as_ptr()) }.to_string_lossy().into_owned()
    }

    pub fn is_truncate(self) -> bool {
        self.1.event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_TRUNCATE
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

    /// Returns the table.
    pub fn table(self) -> Oid {
        // SAFETY: as above.
        unsafe { (*self.0.tg_relation).rd_id }
    }

    /// Returns the number of a column, from 1.
    pub fn column(self, name: &str) -> usize {
        self.find_column(name).unwrap_or_else(|| panic!("table {} has no column {name}", self.table_name()))
    }

    /// Returns the number of a column, from 1; `None` if there is none of this name.
    pub fn find_column(self, name: &str) -> Option<usize> {
        let c_name = CString::new(name).unwrap_or_default();
        // SAFETY: the descriptor lives while the trigger runs.
        let number = unsafe { pg_sys::SPI_fnumber(self.descriptor(), c_name.as_ptr()) };
        usize::try_from(number).ok().filter(|number| *number > 0)
    }

    /// Returns OLD and NEW of a row trigger on UPDATE. They live during the call.
    pub fn old_and_new(self) -> (Row, Row) {
        assert_eq!(self.1.event, BEFORE_UPDATE | pg_sys::TRIGGER_EVENT_ROW);
        (Row(self.0.tg_trigslot), Row(self.0.tg_newslot))
    }

    /// Returns NEW of a row trigger on INSERT. It lives during the call.
    pub fn inserted(self) -> Row {
        assert_eq!(self.1.event, BEFORE_INSERT | pg_sys::TRIGGER_EVENT_ROW);
        Row(self.0.tg_trigslot)
    }

    /// Returns NEW of a row trigger on INSERT, unchanged, as the trigger's result.
    pub fn inserted_tuple(self) -> Datum {
        Datum::from(self.0.tg_trigtuple)
    }

    /// Whether the trigger is on this table of the extension, or on its partitions.
    pub fn is_on(self, table: &str) -> bool {
        self.1.table == table
    }

    /// Returns NEW with these columns set (numbers from 1), as the trigger's result.
    pub fn new_with(self, changes: &[(usize, Option<Datum>)]) -> Datum {
        let mut numbers: Vec<i32> = changes.iter().map(|(number, _)| *number as i32).collect();
        let mut values: Vec<Datum> = changes.iter().map(|(_, value)| value.unwrap_or(Datum::null())).collect();
        let mut nulls: Vec<bool> = changes.iter().map(|(_, value)| value.is_none()).collect();
        let is_insert = self.1.event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_INSERT;
        // SAFETY: the arrays have the given length, and the values have their columns' types.
        Datum::from(unsafe {
            pg_sys::heap_modify_tuple_by_cols(
                if is_insert { self.0.tg_trigtuple } else { self.0.tg_newtuple },
                self.descriptor(),
                changes.len() as i32,
                numbers.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            )
        })
    }

    /// Calls `visit` with each deleted row of a statement trigger. The row lives only during the call.
    pub fn for_each_deletion(self, mut visit: impl FnMut(&Row)) {
        assert!(self.1.has_old_rows);
        // SAFETY: the trigger has the transition table, which holds minimal tuples. After an error the memory context
        // frees the slot.
        unsafe {
            let old = pg_sys::MakeSingleTupleTableSlot(self.descriptor(), &raw const pg_sys::TTSOpsMinimalTuple);
            pg_sys::tuplestore_rescan(self.0.tg_oldtable);
            while pg_sys::tuplestore_gettupleslot(self.0.tg_oldtable, true, false, old) {
                visit(&Row(old));
            }
            pg_sys::ExecDropSingleTupleTableSlot(old);
        }
    }

    /// Calls `visit` with each updated row of a statement trigger, old and new. The rows live only during the call.
    pub fn for_each_update(self, mut visit: impl FnMut(&Row, &Row)) {
        assert!(self.1.has_old_rows && self.1.has_new_rows);
        // SAFETY: the trigger has both transition tables, which PostgreSQL fills in step. They hold minimal tuples.
        // After an error the memory context frees the slots.
        unsafe {
            let [old_rows, new_rows] = [self.0.tg_oldtable, self.0.tg_newtable];
            let [old, new] = [(); 2]
                .map(|()| pg_sys::MakeSingleTupleTableSlot(self.descriptor(), &raw const pg_sys::TTSOpsMinimalTuple));
            pg_sys::tuplestore_rescan(old_rows);
            pg_sys::tuplestore_rescan(new_rows);
            while pg_sys::tuplestore_gettupleslot(old_rows, true, false, old)
                && pg_sys::tuplestore_gettupleslot(new_rows, true, false, new)
            {
                visit(&Row(old), &Row(new));
            }
            pg_sys::ExecDropSingleTupleTableSlot(old);
            pg_sys::ExecDropSingleTupleTableSlot(new);
        }
    }
}

/// A row of the table. Columns are numbered from 1.
pub struct Row(*mut pg_sys::TupleTableSlot);

impl Row {
    /// The row in a slot, which must outlive it.
    pub(super) fn of(slot: *mut pg_sys::TupleTableSlot) -> Row {
        Row(slot)
    }

    fn get(&self, column: usize) -> Option<Datum> {
        // SAFETY: the slot holds a row of the table; deforming it up to the column fills that entry.
        unsafe {
            if usize::try_from((*self.0).tts_nvalid).unwrap_or(0) < column {
                pg_sys::slot_getsomeattrs_int(self.0, column as i32);
            }
            (!*(*self.0).tts_isnull.add(column - 1)).then(|| *(*self.0).tts_values.add(column - 1))
        }
    }

    pub fn uuid(&self, column: usize) -> Option<Uuid> {
        // SAFETY: called only for uuid columns.
        self.get(column).map(|value| unsafe { Uuid::from_datum(value) })
    }

    /// Returns the elements of a uuid[]; none if it is null.
    pub fn uuids(&self, column: usize) -> &[[u8; 16]] {
        // SAFETY: called only for uuid[] columns; the slot holds the row until the next one.
        self.get(column).map_or(&[], |value| unsafe { values::uuids(value) })
    }

    pub fn text(&self, column: usize) -> Option<&str> {
        // SAFETY: called only for text columns; the slot holds the row until the next one.
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

    /// For types of 8 bytes, which PostgreSQL passes by value.
    pub fn i64(&self, column: usize) -> Option<i64> {
        self.get(column).map(|value| value.value() as i64)
    }

    pub fn i32(&self, column: usize) -> Option<i32> {
        self.get(column).map(|value| value.value() as i32)
    }

    pub fn i16(&self, column: usize) -> Option<i16> {
        self.get(column).map(|value| value.value() as i16)
    }

    pub fn bool(&self, column: usize) -> Option<bool> {
        self.get(column).map(|value| value.value() != 0)
    }

    pub fn interval(&self, column: usize) -> Option<Interval> {
        // SAFETY: called only for interval columns.
        self.get(column).and_then(|value| unsafe { Interval::from_datum(value, false) })
    }
}

/// Exports a function, as `rights::export_trigger` describes. `$checked` raises an error for a misuse.
macro_rules! export_trigger_call {
    ($symbol:ident, $info:ident, $function:ident, $uses:expr, $checked:path) => {
        $crate::ffi::export::export_function!($symbol, $info, |fcinfo| {
            const USES: &[$crate::ffi::trigger::Use] = &$uses;
            // SAFETY: PostgreSQL passed it.
            let call = unsafe { $crate::ffi::trigger::Trigger::from_call(fcinfo, USES) };
            $function($checked(stringify!($function), call))
        });
    };
}
pub(crate) use export_trigger_call;
