//! The extension's version, UUIDs, and facts about the cluster, as SQL functions.

use crate::errors;
use crate::ffi::sequence::Sequence;
use crate::ffi::uuid::Uuid;
use crate::ffi::{cluster, transaction, wal};
use crate::rights;
use pgrx::pg_extern;

#[pg_extern(sql = false)]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

#[pg_extern(sql = false)]
fn uuid_v7() -> pgrx::Uuid {
    pgrx::Uuid::from_bytes(Uuid::new().0)
}

#[pg_extern(sql = false)]
fn system_identifier() -> i64 {
    cluster::system_identifier().cast_signed()
}

#[pg_extern(sql = false)]
fn origin() -> i64 {
    let mark = rights::as_owner_of(c"database_mark", || Sequence::find(c"database_mark").map(|mark| mark.last_value()));
    mark.unwrap_or_else(|| errors::not_a_member("sequence workflow.database_mark"))
}

/// Refuses a transaction block.
#[pg_extern(sql = false)]
fn refuse_block(tried: &str) {
    if transaction::is_block() {
        errors::in_transaction_block(errors::cut(tried));
    }
}

#[pg_extern(sql = false)]
fn timeline() -> i64 {
    reject_on_standby();
    cluster::timeline().into()
}

/// The log up to here has what every committed transaction has written.
#[pg_extern(sql = false)]
fn wal_end() -> i64 {
    reject_on_standby();
    wal::inserted_end().cast_signed()
}

#[pg_extern(sql = false)]
fn timeline_end(timeline: i64) -> Option<i64> {
    reject_on_standby();
    let timeline = u32::try_from(timeline).ok()?;
    wal::timeline_end(timeline).map(u64::cast_signed)
}

#[pg_extern(sql = false)]
fn next_transaction_id() -> i64 {
    reject_on_standby();
    // An xid8 is passed like a 64-bit integer.
    cluster::next_transaction_id().cast_signed()
}

/// The snapshots of a standby do not list the transactions in progress as the snapshots of a primary do.
fn reject_on_standby() {
    if cluster::is_standby() {
        errors::on_standby();
    }
}
