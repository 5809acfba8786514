//! The harness that all tests share.

#[path = "../chaos/lib.rs"]
pub mod chaos;

#[path = "../fuzz/lib.rs"]
pub mod fuzz;

pub mod attack;
mod buffers;
mod certificates;
mod cluster;
mod database;
mod entities;
mod failure;
mod log;
mod partitions;
mod path;
mod redis_subscriber;
mod server;
mod trace;
mod transition;
mod waiting;

pub use buffers::{buffers, buffers_in};
pub use certificates::Certificates;
pub use cluster::own_cluster;
pub use database::{Db, connect_with_warnings, create_writer};
pub use entities::{
    create_finished_tasks, create_in_state, create_run, create_task, create_tasks, history_len, state_of, table,
};
pub use failure::{Failure, failure};
pub use log::Log;
pub use partitions::{SPLIT, age, next_partition, open_partitions};
pub use path::is_statement_path;
pub use redis_subscriber::Subscriber;
pub use server::{log_of, serve, server_binary};
pub use trace::real_trace;
pub use transition::{Transition, start_task};
pub use waiting::{PATIENCE, SetOnDrop, wait_until};
