//! PostgreSQL's C interface, as far as pgrx does not wrap it: almost all unsafe code is here.
//!
//! Values from PostgreSQL stay `Datum`s: a datum from a row, a plan or an argument can be passed to a plan unparsed.

pub mod area;
mod block;
pub mod catalog;
pub mod cluster;
pub mod ddl;
pub mod definition;
pub mod drop;
pub mod error;
pub mod export;
pub mod flags;
pub mod guc;
pub mod heap;
mod indexes;
pub mod insert;
pub mod json_text;
pub mod jsonb;
pub mod lane;
pub mod latch;
pub mod leases;
pub mod levels;
pub mod matches;
pub mod member;
pub mod notify;
pub mod partition;
pub mod places;
pub mod plan;
pub mod prepared;
pub mod procedure;
mod raw;
pub mod rows;
pub mod scan;
pub mod sequence;
pub mod session;
pub mod shared;
mod signs;
pub mod snapshot;
pub mod table_cache;
pub mod transaction;
pub mod trigger;
pub mod utility;
pub mod uuid;
pub mod values;
pub mod waiters;
pub mod wal;
pub mod worker;
