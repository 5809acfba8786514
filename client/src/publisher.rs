//! Destinations of a [relay](crate::relay): Redis, or your own.
//!
//! | publisher | guarantee |
//! |---|---|
//! | `RedisStream` | each event exactly once in the stream, and at least once in the optional channel |
//! | `RedisChannel` | at least once |
//! | a pair, `(a, b)` | at least once in each |
//! | your own | exactly once if it knows its end and its events ([`Publisher::position`]), otherwise at least once |
//!
//! The database stores the position of each relay under its consumer's name. If several destinations must each hold
//! every event exactly once, run a relay with its own consumer for each.
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
mod event_set;
#[cfg(feature = "redis")]
mod redis_channel;
#[cfg(feature = "redis")]
mod redis_connection;
#[cfg(feature = "redis")]
mod redis_stream;

use std::future::{Future, ready};

use crate::Error;
use crate::event::Event;

pub use event_set::EventSet;
pub(crate) use event_set::Held;
#[cfg(feature = "redis")]
pub use redis_channel::RedisChannel;
#[cfg(feature = "redis")]
pub use redis_stream::{RedisStream, StreamOptions};

/// A position in a destination.
///
/// It grows with each event, compared by the first number and then by the second.
///
/// The publisher chooses the numbers; they are not negative.
pub type Position = [i64; 2];

/// The result of publishing events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Published {
    /// The destination holds them. It does not know its end.
    Done,
    /// The destination holds them, and now ends at this position.
    UpTo(Position),
    /// The destination ended at this position, not at the expected one. Nothing was written.
    EndsAt(Position),
}

/// A destination of events, as the [relay](crate::relay) sees it.
///
/// The relay makes one call at a time. It treats any error as an outage of the destination: it logs the outage once,
/// waits, and calls [`connect`](Publisher::connect) again. Each call except [`holds`](Publisher::holds) has a time
/// limit of 30 s, and one second more for each MiB that it publishes. A call that takes longer is dropped, and `connect`
/// is called next.
pub trait Publisher: Send {
    /// Returns a short name for the log: "cannot reach NAME".
    fn name(&self) -> String;

    /// Describes the destination for the log: which file, which address. Must not contain secrets.
    fn describe(&self) -> String {
        self.name()
    }

    /// Connects, and drops a previous connection. Called first, and after each error.
    ///
    /// # Errors
    /// Returns any error, see [`Error::publisher`].
    fn connect(&mut self) -> impl Future<Output = Result<(), Error>> + Send {
        ready(Ok(()))
    }

    /// Receives the source of the events: a short text that differs for each database. Called after
    /// [`connect`](Publisher::connect).
    ///
    /// A destination that stores it beside each event can refuse the events of another database.
    ///
    /// # Errors
    /// Returns any error, see [`Error::publisher`].
    fn begin(&mut self, source: &str) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = source;
        ready(Ok(()))
    }

    /// Returns the end of the destination; `None` if it does not know its end.
    ///
    /// Called at the start, and about once a second while there are no events: a destination that has lost events gets
    /// them again.
    ///
    /// Without an end, events are delivered at least once: they are repeated after an error or a restart.
    ///
    /// # Errors
    /// Returns any error, see [`Error::publisher`].
    fn position(&mut self) -> impl Future<Output = Result<Option<Position>, Error>> + Send {
        ready(Ok(None))
    }

    /// Returns the events that the destination holds after one position and up to another: they are not published
    /// again.
    ///
    /// The first call for a destination begins at `[0, 0]`, which is before its first event.
    ///
    /// Called only if [`position`](Publisher::position) returns one.
    ///
    /// # Errors
    /// Returns any error, see [`Error::publisher`].
    fn holds(&mut self, after: Position, up_to: Position) -> impl Future<Output = Result<EventSet, Error>> + Send {
        let _ = (after, up_to);
        ready(Ok(EventSet::default()))
    }

    /// Returns whether events of this source have been published here, also if they have all been removed since.
    ///
    /// Called after [`holds`](Publisher::holds). The relay then creates no consumer, which would skip events.
    fn has_published(&self) -> bool {
        false
    }

    /// Appends events in this order, as durably as the destination can.
    ///
    /// `after` is the expected end of the destination, if it knows its end: if it ends elsewhere, nothing may be
    /// written. Comparing and appending must be one step for the destination, so that only one of two relays
    /// succeeds.
    ///
    /// # Errors
    /// Returns any error, see [`Error::publisher`]. The events may have been appended all the same.
    fn publish(
        &mut self,
        events: &[Event],
        after: Option<Position>,
    ) -> impl Future<Output = Result<Published, Error>> + Send;

    /// Checks that the destination accepts events. Called about once a second while there are none.
    ///
    /// # Errors
    /// Returns any error, see [`Error::publisher`].
    fn check(&mut self) -> impl Future<Output = Result<(), Error>> + Send {
        ready(Ok(()))
    }

    /// Removes old events. Called at the start, so that a full destination becomes usable, and about once a second.
    ///
    /// Events after `keep_after` must stay: [`holds`](Publisher::holds) may be called for them.
    ///
    /// # Errors
    /// Returns any error, see [`Error::publisher`].
    fn trim(&mut self, keep_after: Position) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = keep_after;
        ready(Ok(()))
    }
}
