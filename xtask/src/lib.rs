//! The parts of `cargo xtask` as a library: the tests, the demo and the benchmarks use them too.
//!
//! - [`setup`] finds PostgreSQL, Redis and libclang, and installs them if they are missing;
//! - [`build`] builds the extension and the server, and installs the extension;
//! - [`scripts`] assembles the extension's SQL scripts;
//! - [`stack`] runs real, private servers that never outlive their owner.

pub mod bench;
pub mod build;
pub mod chaos;
pub mod circles;
pub mod cli;
pub mod command;
pub mod compose_test;
pub mod demo;
pub mod dev;
pub mod docs;
pub mod fuzz;
pub mod lint;
pub mod package;
pub mod scripts;
pub mod setup;
pub mod sqlsmith;
pub mod stack;
pub mod test;
pub mod workspace;
