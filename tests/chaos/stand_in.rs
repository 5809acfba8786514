//! Stand-ins for the relay, which test the checker.

use anyhow::{Context, Result};
use postgres::{Client, NoTls};
use redis::Commands;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::event::{Event, to_json};
use super::evidence::{CHANNEL, STREAM};

/// The way that a stand-in follows the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// As a consumer of the feed, which is correct without faults.
    Feed,
    /// With `id > last`, which skips events of late commits.
    Ids,
}

/// A running stand-in, which writes each event to the stream and the channel.
#[derive(Debug)]
pub struct StandIn {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl StandIn {
    pub fn start(database_url: &str, redis_url: &str, follows: Follows) -> Result<StandIn> {
        let mut database = Client::connect(database_url, NoTls)?;
        database.batch_execute("SELECT workflow.create_consumer('stand-in', true)")?;
        let mut redis = redis::Client::open(redis_url)?.get_connection()?;
        let done = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let done = done.clone();
            move || relay(&mut database, &mut redis, follows, &done)
        });
        Ok(StandIn { done, thread })
    }

    /// Lets the stand-in read to the end.
    pub fn finish(self) -> Result<()> {
        self.done.store(true, Ordering::Release);
        self.thread.join().ok().context("the stand-in panicked")?
    }
}

fn relay(database: &mut Client, redis: &mut redis::Connection, follows: Follows, done: &AtomicBool) -> Result<()> {
    let source = match follows {
        Follows::Feed => "workflow.read_events('stand-in', 500) WHERE $1 >= 0::bigint",
        Follows::Ids => "workflow.state_history WHERE id > $1 ORDER BY id LIMIT 500",
    };
    let sql = format!("SELECT {} FROM {source}", Event::COLUMNS);
    let mut last: i64 = 0;
    loop {
        let is_over = done.load(Ordering::Acquire);
        let rows = database.query(&sql, &[&last])?;
        for row in &rows {
            let event = to_json(row);
            redis.xadd::<_, _, _, _, ()>(STREAM, "*", &[("event", &event)])?;
            redis.publish::<_, _, ()>(CHANNEL, &event)?;
        }
        if let Some(row) = rows.last() {
            last = row.get(0);
            if follows == Follows::Feed {
                database.execute("SELECT workflow.ack_events('stand-in', $1)", &[&last])?;
            }
        } else if is_over {
            return Ok(());
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
