//! A procedure's call: it ends its caller's transaction, so that it can wait without a snapshot and without locks.

use super::transaction::{Failure, failure};
use super::values;
use pgrx::FromDatum;
use pgrx::datum::Interval;
use pgrx::pg_sys::{self, Datum, NodeTag};
use pgrx::prelude::PgTryBuilder;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// A call of a procedure that may commit.
pub struct Call(pg_sys::FunctionCallInfo);

impl Call {
    /// Begins a procedure; `None` if the caller's transaction must not end here.
    ///
    /// # Safety
    /// PostgreSQL must be calling a procedure of this library with this argument.
    pub unsafe fn begin(call: pg_sys::FunctionCallInfo) -> Option<Call> {
        // SAFETY: the tag identifies the struct. An error unwinds, and the end of the transaction finishes SPI.
        unsafe {
            let context = (*call).context;
            let is_call = !context.is_null() && (*context).type_ == NodeTag::T_CallContext;
            if !is_call || (*context.cast::<pg_sys::CallContext>()).atomic {
                return None;
            }
            assert!(pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32) >= 0, "SPI_connect_ext failed");
            Some(Call(call))
        }
    }

    /// Commits, and begins a transaction that has no snapshot, and no lock but that on its own virtual ID.
    pub fn commit(&self) {
        // SAFETY: begun as non-atomic, and no snapshot of ours is active.
        unsafe { pg_sys::SPI_commit() };
    }

    /// The same; returns the error if the commit fails, in a new transaction, too.
    pub fn try_commit(&self) -> Result<(), Failure> {
        // SAFETY: a value of this process.
        let context = unsafe { pg_sys::CurrentMemoryContext };
        let commit = AssertUnwindSafe(|| {
            self.commit();
            Ok(())
        });
        // PostgreSQL has begun a new transaction before it raises the error again.
        let result = PgTryBuilder::new(commit).catch_others(|error| Err(failure(&error))).execute();
        // SAFETY: the procedure's memory, which outlives its transactions.
        unsafe { pg_sys::MemoryContextSwitchTo(context) };
        result
    }

    /// Runs `work` with a new snapshot.
    pub fn in_snapshot<R>(&self, work: impl FnOnce() -> R) -> R {
        // SAFETY: in a transaction; an error unwinds, and the end of the transaction drops the snapshot.
        unsafe {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let result = work();
            pg_sys::PopActiveSnapshot();
            result
        }
    }

    /// Ends the procedure. Returns its INOUT parameter, a boolean.
    pub fn finish(self, value: bool) -> Datum {
        // SAFETY: the row has the one column of its description; both live in the memory of the caller.
        unsafe {
            pg_sys::SPI_finish();
            let row = pg_sys::CreateTemplateTupleDesc(1);
            pg_sys::TupleDescInitEntry(row, 1, c"value".as_ptr(), pg_sys::BOOLOID, -1, 0);
            let row = pg_sys::BlessTupleDesc(row);
            let (mut values, mut nulls) = ([Datum::from(value)], [false]);
            let tuple = pg_sys::heap_form_tuple(row, values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
        }
    }

    /// Returns an argument that is a text; `None` if it is null. Copy it before you commit.
    ///
    /// # Safety
    /// The procedure must have a text there.
    pub unsafe fn text(&self, n: usize) -> Option<&str> {
        // SAFETY: the caller's promise.
        self.argument(n).map(|value| unsafe { values::text(value) })
    }

    /// Copies an argument that is a text[]; `None` if it or an element is null.
    ///
    /// # Safety
    /// The procedure must have a text[] there.
    pub unsafe fn texts(&self, n: usize) -> Option<Vec<String>> {
        // SAFETY: the caller's promise.
        let texts = unsafe { <Vec<Option<String>>>::from_datum(self.argument(n)?, false) };
        texts?.into_iter().collect()
    }

    /// Returns an argument that is an interval; `None` if it is null or negative.
    ///
    /// # Safety
    /// The procedure must have an interval there.
    pub unsafe fn duration(&self, n: usize) -> Option<Duration> {
        // SAFETY: the caller's promise.
        let interval = unsafe { Interval::from_datum(self.argument(n)?, false) }?;
        let microseconds = u128::try_from(values::microseconds(&interval)).ok()?;
        Some(Duration::from_micros(microseconds.try_into().unwrap_or(u64::MAX)))
    }

    fn argument(&self, n: usize) -> Option<Datum> {
        // SAFETY: the call lives as long as the procedure, and has this many arguments.
        unsafe {
            let call = &*self.0;
            assert!(n < call.nargs as usize);
            let argument = call.args.as_slice(call.nargs as usize)[n];
            (!argument.isnull).then_some(argument.value)
        }
    }
}
