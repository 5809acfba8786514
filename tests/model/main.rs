//! A model of the event feed: every interleaving of writers, readers and failures, at small bounds.
//!
//! The model has the terms of `sql/08_snapshot.sql` to `sql/15_checkpoints.sql`, and its functions do what those do.
//! `check.rs` visits every state that the model can reach. Each rule of the design is a field of [`rules::Rules`]. Without
//! the rule, the checker must find a counterexample: the tests in `mutants.rs` show that no rule is superfluous.
//!
//! `docs/decisions/feed-model.md` tells the bounds, the results, and the command.
//!
//! `places.rs`, `joins.rs` and `late.rs` are models of their own: where claims begin, how a group of tasks waits for its
//! parents, and how a run ends while tasks are created in it.

mod check;
mod database;
mod design;
mod feed;
mod joins;
mod late;
mod mutants;
mod places;
mod position;
mod reading;
mod relay;
mod relaying;
mod rules;
mod writers;
