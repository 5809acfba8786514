//! The feed, as a named consumer.

use std::time::Duration;

use futures_util::TryStreamExt;
use uuid::Uuid;

use super::{BATCH, POLL};
use crate::Error;
use crate::connect::{PostgresServer, STATEMENT_TIMEOUT};
use crate::event::Event;
use crate::feed::Feed;

/// Duration of the lease. A subscriber reads or acknowledges at least every few seconds.
const LEASE: Duration = Duration::from_secs(10);
const STANDBY_INTERVAL: Duration = Duration::from_millis(500);

pub struct Consumer {
    server: PostgresServer,
    name: String,
    holder: String,
    feed: Option<Feed>,
    /// The consumer has existed. If it no longer does, a new one would skip events.
    is_known: bool,
    role: Role,
    unacknowledged: Option<i64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Unknown,
    Standby,
    Reader,
}

impl Consumer {
    pub fn new(server: PostgresServer, name: &str) -> Consumer {
        let holder = format!("subscriber, process {} ({})", std::process::id(), Uuid::now_v7().simple());
        let (feed, role, unacknowledged) = (None, Role::Unknown, None);
        Consumer { server, name: name.to_owned(), holder, feed, is_known: false, role, unacknowledged }
    }

    pub fn describe(&self) -> String {
        format!("the feed at {} as consumer \"{}\"", self.server, self.name)
    }

    pub async fn next(&mut self) -> Result<Vec<Event>, Error> {
        let feed = match &mut self.feed {
            Some(feed) => feed,
            None if self.is_known => self.feed.insert(Feed::reopen(&self.server, &self.name).await?),
            None => self.feed.insert(Feed::open(&self.server, &self.name).await?),
        };
        self.is_known = true;
        if self.role != Role::Reader {
            if !feed.lease(&self.holder, LEASE).await? {
                if self.role == Role::Unknown {
                    tracing::info!("another subscriber reads as consumer \"{}\"; waiting for its lease", self.name);
                    self.role = Role::Standby;
                }
                tokio::time::sleep(STANDBY_INTERVAL).await;
                return Ok(Vec::new());
            }
            self.role = Role::Reader;
        }
        let events = feed.ack_and_read(self.unacknowledged, BATCH, POLL).await?;
        self.unacknowledged = None;
        // The whole batch at once: a response that is read slowly keeps its statement open.
        let events = events.try_collect();
        tokio::time::timeout(STATEMENT_TIMEOUT, events).await.unwrap_or(Err(Error::Timeout(STATEMENT_TIMEOUT)))
    }

    pub fn handled(&mut self, event: &Event) {
        self.unacknowledged = Some(event.id);
    }

    pub async fn acknowledge(&mut self) -> Result<(), Error> {
        let Some(feed) = &self.feed else { return Ok(()) };
        match self.unacknowledged {
            Some(last) => {
                feed.ack(last).await?;
                self.unacknowledged = None;
            }
            // A read renews the lease.
            None if self.role == Role::Reader => {
                feed.read(1, Duration::ZERO).await?.try_collect::<Vec<Event>>().await?;
            }
            None => (),
        }
        Ok(())
    }

    pub async fn close(&mut self) -> Result<(), Error> {
        if self.unacknowledged.is_some() {
            self.acknowledge().await?;
        }
        match &mut self.feed {
            Some(feed) => feed.release().await,
            None => Ok(()),
        }
    }

    pub fn disconnect(&mut self) {
        self.feed = None;
        self.role = Role::Unknown;
        self.unacknowledged = None;
    }
}
