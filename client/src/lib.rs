//! Client of pg_workflow, which stores the state of a workflow orchestrator in PostgreSQL.
//!
//! The database stores the state and enforces its rules. This crate calls the database, follows its events, and relays
//! them:
//!
//! | module | purpose |
//! |---|---|
//! | [`connect`], [`pool`], [`database`] | connect to a server, share connections, read from a replica |
//! | [`Dags`], [`DagRuns`], [`TaskInstances`], [`TaskLogs`] | create, read, change and list rows, on a connection or in a transaction |
//! | [`Claims`] | claim tasks from queues, and end claims |
//! | [`History`] | reads the audit trail |
//! | [`StateMachine`], [`State`], [`TriggerRule`] | the transitions and trigger rules of the database, without a database |
//! | [`model`], [`list`], [`session`] | rows; filters, orders and pages; connections that run statements |
//! | [`Error`] | typed errors, with a hint for the operator |
//! | [`event`], [`feed`] | the event feed for consumers, whose position the database stores |
//! | [`position`] | the event feed for followers, who store their own position |
//! | [`subscriber`] | delivers each event to your handler, from the feed or from Redis, and reconnects |
//! | [`relay`], [`publisher`] | write every event to Redis or to a destination of your own (feature `relay`) |
//! | [`redis_server`] | connects to Redis (feature `redis`) |
//! | [`worker`] | claims tasks, calls your handler for each, renews its leases and reports how it ended |
//! | [`outage`] | waits for an unavailable server, and logs the outage once |
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

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

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
pub mod worker;

/// The Redis driver, whose types this crate's errors and connections expose.
#[cfg(feature = "redis")]
pub use redis;
/// The PostgreSQL driver, whose types this crate's errors, connections and transactions expose.
pub use tokio_postgres;

pub use entity::{Entity, EntityType, UnknownEntityType};
pub use error::Error;
pub use model::{ClaimedTask, Dag, DagRun, LogLevel, Queue, RerunTasks, StateCounts, TaskInstance, TaskLog};
pub use pg_workflow_state_machine::{State, StateMachine, TriggerRule, UnknownRule, UnknownState};
pub use repository::{
    ClaimTasks, Claims, DagChanges, DagRunChanges, DagRuns, Dags, Disagreement, Enqueue, FailedClaim, Failure, Finish,
    History, NewDag, NewDagRun, NewTaskInstances, NewTaskLog, Outcome, Queues, Retry, TaskInstanceChanges,
    TaskInstances, TaskLogs, Transition, TransitionMany, TransitionResult,
};

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
