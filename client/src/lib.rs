//! Client of pg_workflow, the workflow state store inside PostgreSQL.
//!
//! State and its rules live in the database; this crate asks, follows and forwards them:
//!
//! | module | what it does |
//! |---|---|
//! | [`connect`], [`pool`], [`database`] | connections that notice when the server is gone; to share; to a primary and a replica |
//! | [`Dags`], [`DagRuns`], [`TaskInstances`], [`TaskLogs`] | what programs do with these, on a connection or in a transaction |
//! | [`History`] | what happened |
//! | [`StateMachine`], [`State`] | the rules, offline: the same definition that the database enforces |
//! | [`model`], [`list`], [`session`] | rows; filters, orders and pages; what statements run on |
//! | [`Error`] | what the database refuses, as an enum |
//! | [`event`], [`feed`] | the durable event feed: every change at least once, in order within an entity |
//! | [`position`] | the feed for followers, who store their own position |
//! | [`subscriber`] | delivers each event to your code: from the feed, a Redis channel or a Redis stream; reconnects by itself |
//! | [`relay`], [`publisher`] | bringing every event elsewhere: to Redis, or to a destination of your own (feature `relay`) |
//! | [`redis_server`] | where Redis is (feature `redis`) |
//! | [`outage`] | waiting for a server that is unavailable, with one log line about it |
//!
//! ```no_run
//! use pg_workflow_client::connect::PostgresServer;
//! use pg_workflow_client::pool::{Options, Pool};
//! use pg_workflow_client::{DagRuns, Dags, NewDag, NewDagRun, State};
//!
//! # async fn example() -> Result<(), pg_workflow_client::Error> {
//! let pool = Pool::new(PostgresServer::parse("postgres://alice@db.example/workflow")?, Options::default());
//! let mut connection = pool.get().await?;
//! let transaction = connection.transaction().await?;
//! let dag = Dags::new(&transaction).create(&NewDag::named("orders")).await?;
//! let runs = DagRuns::new(&transaction);
//! let run = runs.create(&NewDagRun::of(dag)).await?;
//! runs.transition(run, State::Queued, State::Running).await?;
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```

pub mod connect;
pub mod database;
mod entity;
mod error;
pub mod event;
pub mod feed;
mod json;
pub mod list;
pub mod model;
pub mod outage;
pub mod pool;
pub mod position;
#[cfg(feature = "relay")]
pub mod publisher;
mod record;
#[cfg(feature = "redis")]
pub mod redis_server;
#[cfg(feature = "relay")]
pub mod relay;
mod repository;
pub mod session;
pub mod subscriber;

#[cfg(feature = "redis")]
pub use redis;
pub use tokio_postgres;

pub use entity::{Entity, EntityType, UnknownEntityType};
pub use error::Error;
pub use model::{Dag, DagRun, LogLevel, StateCounts, TaskInstance, TaskLog};
pub use pg_workflow_state_machine::{State, StateMachine, UnknownState};
pub use repository::{
    DagChanges, DagRunChanges, DagRuns, Dags, Disagreement, History, NewDag, NewDagRun, NewTaskInstances, NewTaskLog,
    Outcome, TaskInstanceChanges, TaskInstances, TaskLogs, Transition, TransitionMany, TransitionResult,
};

/// The README's Rust compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
