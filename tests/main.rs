//! Every test runs against real servers, which it finds installed by `cargo xtask test`. Most share one PostgreSQL
//! cluster and have a database each; those that stop servers start their own.

mod chaos;
mod creation;
mod errors;
mod events;
mod follow;
mod guard;
mod history;
mod http;
mod many;
mod notifier;
mod races;
mod readme;
mod redis;
mod relay;
mod replay;
mod roles;
mod stream;
mod transition;
