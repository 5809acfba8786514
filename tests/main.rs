//! Every test runs against real servers, which it finds installed by `cargo xtask test`. Most share one PostgreSQL
//! cluster and have a database each; those that stop servers start their own.

mod chaos;
mod cli;
mod client;
mod counts;
mod creation;
mod errors;
mod events;
mod examples;
mod follow;
mod guard;
mod history;
mod http;
mod http_access;
mod http_events;
mod http_fuzz;
mod http_lists;
mod http_openapi;
mod many;
mod notifier;
mod page;
mod publisher;
mod races;
mod readme;
mod redis;
mod relay;
mod replay;
mod roles;
mod standby;
mod stream;
mod subscriber;
mod transition;
