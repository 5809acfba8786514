//! A Redis channel, and the feed for events that the channel misses.
//!
//! From which position must the feed be read after an outage? The relay may lag, so a recent position may be after
//! events that are not published yet. But the relay publishes in the order of the feed, and an event written after a
//! position was taken has a greater id than all events visible at it. So when such an event arrives, all events
//! before that position have arrived. `changed_at` and the database's clock at the position tell which events those
//! are. Of the positions confirmed in this way the last but one is used, because clocks are adjusted.

use std::collections::VecDeque;
use std::time::Duration;

use super::POLL;
use super::follower::Follower;
use super::subscription::{Mark, Subscription};
use super::versions::Versions;
use crate::Error;
use crate::connect::PostgresServer;
use crate::event::Event;
use crate::redis_server::RedisServer;

/// Maximum number of positions that wait for confirmation.
const MARKS: usize = 100;

pub struct Channel {
    redis: RedisServer,
    name: String,
    database: PostgresServer,
    /// Holds the position from which the feed is read after an outage.
    follower: Follower,
    subscription: Option<Subscription>,
    /// Whether the feed is being read up to now. Messages wait meanwhile.
    is_filling: bool,
    /// Positions that the channel has not confirmed, oldest first.
    marks: VecDeque<Mark>,
    /// Not delivered yet.
    events: VecDeque<Event>,
    known: Versions,
}

impl Channel {
    pub fn new(redis: RedisServer, name: &str, database: PostgresServer) -> Channel {
        Channel {
            redis,
            name: name.to_owned(),
            follower: Follower::new(database.clone(), None),
            database,
            subscription: None,
            is_filling: false,
            marks: VecDeque::new(),
            events: VecDeque::new(),
            known: Versions::default(),
        }
    }

    pub fn describe(&self) -> String {
        format!(
            "channel \"{}\" of Redis at {}, and for what it misses {}",
            self.name,
            self.redis,
            self.follower.describe()
        )
    }

    pub async fn next(&mut self) -> Result<Vec<Event>, Error> {
        loop {
            while let Some(event) = self.events.pop_front() {
                let events = self.in_its_place(event).await?;
                if !events.is_empty() {
                    return Ok(events);
                }
            }
            if self.subscription.is_none() {
                self.subscribe().await?;
            }
            if self.is_filling {
                self.events.extend(self.follower.next(Duration::ZERO).await?);
                self.is_filling = !self.events.is_empty();
            } else if !self.listen().await? {
                return Ok(Vec::new());
            }
        }
    }

    pub fn handled(&mut self, event: &Event) {
        self.known.note(event);
        // An event from the feed confirms nothing: the relay may not have published it yet.
        if self.is_filling {
            return;
        }
        let confirmed = self.marks.iter().take_while(|mark| mark.time < event.changed_at).count();
        if confirmed > 1 {
            let safe = self.marks.drain(..confirmed - 1).next_back();
            if let Some(mark) = safe {
                self.follower.continue_from(mark.position);
            }
        }
    }

    pub fn disconnect(&mut self) {
        self.subscription = None;
        self.follower.disconnect();
        self.events.clear();
    }

    /// Takes a position, subscribes, then reads the feed from the position to beyond the subscription.
    async fn subscribe(&mut self) -> Result<(), Error> {
        // Its connection may have been idle for days.
        self.follower.disconnect();
        self.follower.begin().await?;
        self.marks.clear();
        self.subscription = Some(Subscription::open(&self.redis, &self.name, &self.database).await?);
        self.is_filling = true;
        Ok(())
    }

    /// Receives from the channel; returns false if nothing arrived for a while.
    async fn listen(&mut self) -> Result<bool, Error> {
        let Some(subscription) = &mut self.subscription else { return Ok(true) };
        if self.marks.len() < MARKS {
            self.marks.extend(subscription.marks.try_recv());
        }
        match tokio::time::timeout(POLL, subscription.messages.recv()).await {
            Ok(Some(Ok(message))) => match serde_json::from_str(&message) {
                Ok(event) => self.events.push_back(event),
                Err(error) => {
                    tracing::warn!("message in channel \"{}\" is not an event: {error}; ignoring it", self.name)
                }
            },
            Ok(Some(Err(error))) => return Err(error),
            Ok(None) => {
                tracing::info!("the handler is slower than channel \"{}\"; reading the feed", self.name);
                self.subscription = None;
            }
            Err(_) => return Ok(false),
        }
        Ok(true)
    }

    /// Returns an event, preceded by those missing before it; nothing if it is known.
    async fn in_its_place(&mut self, event: Event) -> Result<Vec<Event>, Error> {
        let mut events = match self.known.of(event.entity_id) {
            Some(known) if known.includes(&event) => return Ok(Vec::new()),
            Some(known) if event.version != known.version + 1 => {
                let Event { entity_type, entity_id, version, .. } = event;
                tracing::debug!("{entity_type} {entity_id} continues with version {version} after {}", known.version);
                self.follower.history(entity_id, known, version).await?
            }
            _ => Vec::new(),
        };
        events.push(event);
        Ok(events)
    }
}
