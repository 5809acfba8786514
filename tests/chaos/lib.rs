//! The proof that no event is lost, that only the holder of a claim ends it, and that dependencies decide as their rules say:
//! writers and workers that record all answers,
//! faults from a seed, and a comparison of answers, history, stream and received events.
//!
//! [`run::run`] runs all of it. Each part works alone, so that the checker can be tested.

pub mod checker;
pub mod claims;
pub mod cluster;
pub mod consumer;
pub mod event;
pub mod evidence;
pub mod fault;
pub mod follower;
pub mod graphs;
pub mod holder;
pub mod idlers;
pub mod inject;
pub mod link;
pub mod listener;
pub mod lossy;
pub mod neighbors;
pub mod plan;
pub mod proxy;
pub mod receivers;
pub mod relay;
pub mod run;
pub mod session;
pub mod stand_in;
pub mod table;
pub mod tally;
pub mod testimony;
pub mod verdict;
pub mod web_follower;
pub mod witness;
pub mod witnesses;
pub mod world;
pub mod writer;
pub mod writers;
