//! The proof that the direct path does the same as SQL statements: the same steps in two databases, of which one has
//! `pg_workflow.direct_path = off`, give the same responses and leave the same rows, history and indexes.

pub mod changes;
pub mod forms;
pub mod generate;
pub mod names;
pub mod pair;
pub mod run;
pub mod session;
pub mod shrink;
pub mod side;
pub mod state;
pub mod step;
