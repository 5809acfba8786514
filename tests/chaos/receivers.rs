//! Subscribers that record the received events and the times without a subscription.

use anyhow::{Context, Result, bail};
use redis::Commands;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::event::Event;
use super::evidence::CHANNEL;
use crate::PATIENCE;

/// The message at the end of a run.
const MARKER: &str = "the end";

/// The record of one subscriber. Times are milliseconds since 1970.
#[derive(Debug, Clone, Default)]
pub struct Received {
    pub events: Vec<Event>,
    pub breaks: Vec<Break>,
    /// Messages that are not events.
    pub invalid: Vec<String>,
}

/// A time without a subscription, for which the relay is not to blame: Redis was down and lost the subscription.
#[derive(Debug, Clone, Copy)]
pub struct Break {
    /// The time of the last message before: later messages may have been lost with the connection.
    pub from: i64,
    pub to: i64,
}

/// A running subscriber.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    thread: JoinHandle<Received>,
}

#[derive(Debug, Default)]
struct Shared {
    subscribed: AtomicUsize,
    /// The next marker ends the receiver.
    done: AtomicBool,
}

impl Receiver {
    /// Subscribes, and subscribes again after each broken connection.
    pub fn start(redis_url: &str) -> Result<Receiver> {
        let client = redis::Client::open(redis_url)?;
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || receive(&client, &shared)
        });
        let receiver = Receiver { shared, thread };
        receiver.wait("subscribed", |receiver| receiver.shared.subscribed.load(Ordering::Acquire) > 0)?;
        Ok(receiver)
    }

    /// Waits until all messages of Redis have arrived, by publishing a marker, and ends.
    pub fn finish(self, redis_url: &str) -> Result<Received> {
        let mut redis = redis::Client::open(redis_url)?.get_connection()?;
        self.shared.done.store(true, Ordering::Release);
        let mut published: Option<Instant> = None;
        self.wait("reached by a message", |receiver| {
            // Repeatedly: the receiver may be between two subscriptions.
            if published.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
                published = Some(Instant::now());
                let _: redis::RedisResult<()> = redis.publish(CHANNEL, MARKER);
            }
            receiver.thread.is_finished()
        })?;
        self.thread.join().ok().context("a receiver panicked")
    }

    fn wait(&self, goal: &str, mut condition: impl FnMut(&Receiver) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            if Instant::now() >= deadline {
                bail!("a receiver was not {goal} within {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

fn receive(client: &redis::Client, shared: &Shared) -> Received {
    let mut received = Received::default();
    let mut last = now();
    // An error means that Redis is down; `follow` records the break.
    while follow(client, shared, &mut received, &mut last).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    received
}

fn follow(client: &redis::Client, shared: &Shared, received: &mut Received, last: &mut i64) -> redis::RedisResult<()> {
    let mut connection = client.get_connection()?;
    let mut channel = connection.as_pubsub();
    channel.subscribe(CHANNEL)?;
    if shared.subscribed.fetch_add(1, Ordering::Release) > 0 {
        received.breaks.push(Break { from: *last, to: now() });
    }
    loop {
        let payload: String = channel.get_message()?.get_payload()?;
        *last = now();
        if payload == MARKER {
            match shared.done.load(Ordering::Acquire) {
                true => return Ok(()),
                // The marker of another receiver.
                false => continue,
            }
        }
        match Event::from_json(&payload) {
            Ok(event) => received.events.push(event),
            Err(error) => received.invalid.push(format!("{error:#}")),
        }
    }
}

fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
