//! Where a [relay](crate::relay) brings events: Redis, or a destination of your own.
//!
//! | publisher | promise |
//! |---|---|
//! | `RedisStream` | each event once in the stream, and at least once in the channel beside it, where one is named |
//! | `RedisChannel` | at least once |
//! | two at once, `(a, b)` | at least once in each |
//! | your own | once where it can tell where it ends and what it holds ([`Publisher::position`]), else at least once |
//!
//! Each relay has its place in the feed under a consumer's name. Where several stores are each to hold every event once,
//! each gets a relay with a consumer of its own.
//!
//! ```
//! use pg_workflow_client::Error;
//! use pg_workflow_client::event::Event;
//! use pg_workflow_client::publisher::{Position, Published, Publisher};
//! use tokio::io::{AsyncWrite, AsyncWriteExt};
//!
//! /// Writes each event as a line of JSON.
//! struct JsonLines<W>(W);
//!
//! impl<W: AsyncWrite + Unpin + Send> Publisher for JsonLines<W> {
//!     fn name(&self) -> String {
//!         "the file".to_owned()
//!     }
//!
//!     async fn publish(&mut self, events: &[Event], _: Option<Position>) -> Result<Published, Error> {
//!         let mut lines = Vec::new();
//!         for event in events {
//!             serde_json::to_writer(&mut lines, event)?;
//!             lines.push(b'\n');
//!         }
//!         self.0.write_all(&lines).await.map_err(Error::publisher)?;
//!         self.0.flush().await.map_err(Error::publisher)?;
//!         Ok(Published::Done)
//!     }
//! }
//! ```

mod both;
#[cfg(feature = "redis")]
mod entry_id;
mod event_ids;
#[cfg(feature = "redis")]
mod redis_channel;
#[cfg(feature = "redis")]
mod redis_connection;
#[cfg(feature = "redis")]
mod redis_stream;

use std::future::{Future, ready};

use crate::Error;
use crate::event::Event;

pub use event_ids::EventIds;
#[cfg(feature = "redis")]
pub use redis_channel::RedisChannel;
#[cfg(feature = "redis")]
pub use redis_stream::{RedisStream, StreamOptions};

/// A place in a store: it grows with each event that is added, compared by the first number and then by the second.
/// What the numbers are is the publisher's business; they are not negative.
pub type Position = [i64; 2];

/// What has become of events that were to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Published {
    /// They are there. Where the store ends cannot be told.
    Done,
    /// They are there, and the store ends here now.
    UpTo(Position),
    /// The store did not end where it was expected to, but here. Nothing was written.
    EndsAt(Position),
}

/// A destination of events, as the [relay](crate::relay) sees it.
///
/// The calls come one at a time. Any error is taken for an outage of the destination: it is said once, and after a pause
/// [`connect`](Publisher::connect) is called again. Each call but [`holds`](Publisher::holds) has 30 s; it is dropped
/// where it takes longer, and then too `connect` comes next.
pub trait Publisher: Send {
    /// What people call the destination: the log says "cannot reach NAME".
    fn name(&self) -> String;

    /// The destination at more length, for the log: which file, which address. Nothing secret.
    fn describe(&self) -> String {
        self.name()
    }

    /// Connects, with whatever was there before given up. Comes before everything else, and after each error.
    ///
    /// # Errors
    /// Any, see [`Error::publisher`].
    fn connect(&mut self) -> impl Future<Output = Result<(), Error>> + Send {
        ready(Ok(()))
    }

    /// Where the store ends. None where that cannot be told: events come at least once then, again after an error or a
    /// restart.
    ///
    /// # Errors
    /// Any, see [`Error::publisher`].
    fn position(&mut self) -> impl Future<Output = Result<Option<Position>, Error>> + Send {
        ready(Ok(None))
    }

    /// Which events the store holds after one position and up to another: they are not published again. Asked only where
    /// [`position`](Publisher::position) tells one.
    ///
    /// # Errors
    /// Any, see [`Error::publisher`].
    fn holds(&mut self, after: Position, up_to: Position) -> impl Future<Output = Result<EventIds, Error>> + Send {
        let _ = (after, up_to);
        ready(Ok(EventIds::default()))
    }

    /// Adds events in this order; they are there, as safely as it can be had, when this returns. `after` is where the
    /// store is expected to end, where that can be told: if it ends elsewhere nothing may be written. Comparing and
    /// adding must be one step for the store, so that of two relays only one can be right.
    ///
    /// # Errors
    /// Any, see [`Error::publisher`]. It may be unknown then whether the events were added.
    fn publish(
        &mut self,
        events: &[Event],
        after: Option<Position>,
    ) -> impl Future<Output = Result<Published, Error>> + Send;

    /// Sees whether the destination is there and takes events. Comes about once a second while there are none.
    ///
    /// # Errors
    /// Any, see [`Error::publisher`].
    fn check(&mut self) -> impl Future<Output = Result<(), Error>> + Send {
        ready(Ok(()))
    }

    /// An occasion to remove what is old, about once a second. What lies after `keep_after` must stay: it is what
    /// [`holds`](Publisher::holds) may be asked for.
    ///
    /// # Errors
    /// Any, see [`Error::publisher`].
    fn trim(&mut self, keep_after: Position) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = keep_after;
        ready(Ok(()))
    }
}
