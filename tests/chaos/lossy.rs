//! Faults in which the database itself loses events: a lagging standby is promoted, or an older backup is restored.
//!
//! Every client goes through one door, which the injector shuts at a loss. Then no client writes or reads, so the injector can
//! read the history that is about to be lost. With the history of each timeline, the checker knows which events each reader
//! may have.

pub mod checker;
pub mod consumer;
pub mod drop;
pub mod evidence;
pub mod fault;
pub mod follower;
pub mod intruder;
pub mod loss;
pub mod reader;
pub mod relays;
pub mod run;
pub mod sse;
pub mod table;
pub mod world;
pub mod writer;
