//! The proof that nothing is lost: writers that remember what they were told, faults from a seed, and a comparison of
//! what was promised, what is in history, what is in the stream and what subscribers got.
//!
//! [`run::run`] does all of it. The parts are usable by themselves, so that the checker can be checked.

pub mod checker;
pub mod cluster;
pub mod event;
pub mod evidence;
pub mod fault;
pub mod holder;
pub mod inject;
pub mod link;
pub mod plan;
pub mod proxy;
pub mod receivers;
pub mod relay;
pub mod run;
pub mod session;
pub mod stand_in;
pub mod table;
pub mod world;
pub mod writer;
pub mod writers;
