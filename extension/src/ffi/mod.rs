//! The unsafe ground: everything that touches PostgreSQL's C interface beyond pgrx's safe one.
//!
//! Values that come from PostgreSQL are `Datum`s here: a datum taken from a row, a plan or an argument may be handed
//! to a plan as it is, without being parsed on the way.

pub mod drop;
pub mod error;
pub mod insert;
pub mod jsonb;
pub mod latch;
pub mod notify;
pub mod partition;
pub mod plan;
pub mod session;
pub mod shared;
pub mod transaction;
pub mod trigger;
pub mod utility;
pub mod uuid;
pub mod values;
pub mod wal;
pub mod worker;
