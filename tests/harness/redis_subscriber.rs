//! A subscriber of the Redis channel.

use crate::wait_until;
use serde_json::Value;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// Collects all messages of the Redis channel until the test process ends, across restarts of Redis.
pub struct Subscriber {
    events: Arc<Mutex<Vec<Value>>>,
    /// The number of its subscriptions so far.
    subscriptions: Arc<AtomicU32>,
}

impl Subscriber {
    pub fn start(redis_url: &str) -> Subscriber {
        let (events, subscriptions) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU32::new(0)));
        let subscriber = Subscriber { events: events.clone(), subscriptions: subscriptions.clone() };
        let client = redis::Client::open(redis_url).expect("a Redis URL");
        std::thread::spawn(move || {
            loop {
                let _: redis::RedisResult<()> = follow(&client, &events, &subscriptions);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        subscriber.wait_subscribed(1);
        subscriber
    }

    pub fn wait_subscribed(&self, times: u32) {
        wait_until("a subscription", || self.subscriptions.load(Ordering::Acquire) >= times);
    }

    /// Waits until all messages that Redis has accepted so far have arrived. Publishes a marker and waits for it.
    pub fn catch_up(&self, redis_url: &str) {
        let marker = Uuid::new_v4().to_string();
        let payload = serde_json::json!({ "marker": marker }).to_string();
        let client = redis::Client::open(redis_url).expect("a Redis URL");
        let mut connection = client.get_connection().expect("a connection");
        redis::Commands::publish::<_, _, ()>(&mut connection, "workflow:events", payload).expect("Redis accepts it");
        wait_until("the marker", || self.events().iter().rev().any(|event| event["marker"] == marker.as_str()));
    }

    pub fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn len(&self) -> usize {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn follow(client: &redis::Client, events: &Mutex<Vec<Value>>, subscriptions: &AtomicU32) -> redis::RedisResult<()> {
    let mut connection = client.get_connection()?;
    let mut channel = connection.as_pubsub();
    channel.subscribe("workflow:events")?;
    subscriptions.fetch_add(1, Ordering::Release);
    loop {
        let payload: String = channel.get_message()?.get_payload()?;
        let event = serde_json::from_str(&payload).expect("an event is JSON");
        events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}
