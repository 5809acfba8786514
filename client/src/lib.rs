//! Client of pg_workflow, the workflow state store inside PostgreSQL.
//!
//! State and its rules live in the database; this crate reads and forwards them:
//!
//! | module | what it does |
//! |---|---|
//! | [`connect`] | connections that notice when the server is gone |
//! | [`event`], [`feed`] | the durable event feed: every change at least once, in order within an entity |
//! | [`watch`] | changes as they happen, for people; what happens while nobody listens is not shown |
//! | [`model`], [`list`] | DAGs, runs, tasks and history, page by page |
//! | [`wfformat`], [`replay`] | a recorded workflow, and running it again through the database's functions |
//! | [`redis_server`] | where Redis is, alone, in a cluster or behind Sentinel (feature `server`) |
//! | [`relay`], [`http`] | the two halves of `workflow-server serve` (feature `server`, on by default) |
//!
//! ```no_run
//! use std::time::Duration;
//! use futures_util::TryStreamExt;
//! use pg_workflow_client::{connect, feed::Feed};
//!
//! # async fn example() -> Result<(), pg_workflow_client::Error> {
//! let config = connect::config("postgres://postgres@127.0.0.1/workflow")?;
//! let feed = Feed::open(&config, "my-reader").await?;
//! let events: Vec<_> = feed.read(100, Duration::from_secs(1)).await?.try_collect().await?;
//! for event in &events {
//!     println!("{} is now {}", event.entity_id, event.new_state);
//! }
//! if let Some(last) = events.last() {
//!     feed.ack(last.id).await?;
//! }
//! # Ok(())
//! # }
//! ```

pub mod connect;
mod error;
pub mod event;
pub mod feed;
#[cfg(feature = "server")]
pub mod http;
mod json;
pub mod list;
pub mod model;
mod outage;
#[cfg(feature = "server")]
pub mod redis_server;
#[cfg(feature = "server")]
pub mod relay;
pub mod replay;
pub mod watch;
pub mod wfformat;

pub use error::Error;
pub use pg_workflow_state_machine as state_machine;
