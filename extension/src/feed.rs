//! Facts that the SQL functions of the event feed ask for.

use crate::ffi::export::export_function;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::{pg_extern, pg_sys};
use std::cell::Cell;

thread_local! {
    /// The last event of the query that `read_events()` has just run.
    static RETURNED: Cell<i64> = const { Cell::new(0) };
}

// Called for each event: by the interface of C, which costs a fifth of that of pg_extern.
export_function!(note_returned_event, pg_finfo_note_returned_event, |call| {
    // SAFETY: PostgreSQL calls the strict function with one bigint.
    let id = unsafe { (*call).args.as_slice(1)[0].value };
    RETURNED.set(id.value() as i64);
    id
});

#[pg_extern(sql = false)]
fn last_returned() -> i64 {
    RETURNED.get()
}

/// Tells an event from another one with the same ID, in 32 bits: FNV-1a. Positions outside the database hold it, so it
/// must be the same in every version.
#[pg_extern(sql = false)]
fn event_hash(id: i64, entity_id: pgrx::Uuid, version: i64, changed_at: TimestampWithTimeZone) -> i64 {
    let changed_at: pg_sys::TimestampTz = changed_at.into();
    let numbers = [id, version, changed_at].map(i64::to_be_bytes);
    let bytes = numbers.iter().flatten().chain(entity_id.as_bytes());
    bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)).into()
}
