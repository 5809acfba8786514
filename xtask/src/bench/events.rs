//! How soon and how fast events arrive.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::absolute::{Absolute, at_least, at_most, table};
use super::pgbench::Pgbench;
use super::{Bench, Options, Report};
use crate::command::step;
use crate::stack::Server;

const STREAM: &str = "workflow:stream";
/// How long a relay may take to catch up.
const PATIENCE: Duration = Duration::from_secs(120);
const RATE: u32 = 1000;
const BACKLOG: usize = 1_000_000;

/// The part of an event that is measured.
#[derive(Deserialize)]
struct Event {
    changed_at: DateTime<Utc>,
}

/// A relay to a stream that was emptied before it.
pub struct Relay {
    server: Server,
    redis: redis::Client,
}

impl Relay {
    pub fn start(bench: &Bench) -> Result<Relay> {
        let redis = redis::Client::open(bench.redis.url())?;
        // Not DEL: the stream would seem to have been lost, and be written again.
        let _: usize = redis::cmd("XTRIM").arg(STREAM).arg("MAXLEN").arg(0).query(&mut redis.get_connection()?)?;
        let url = bench.cluster.url("bench");
        let envs = [("DATABASE_URL", url.as_str()), ("REDIS_URL", &bench.redis.url()), ("WORKFLOW_NO_HTTP", "1")];
        let server = Server::start("bench-relay", &bench.server_binary, &["serve"], &envs)?;
        server.wait_line("became leader", PATIENCE)?;
        Ok(Relay { server, redis })
    }

    /// Waits until every event is in the stream; returns how long that took.
    pub fn wait_until_in_redis(&self, bench: &Bench) -> Result<Duration> {
        let began = Instant::now();
        let written = bench.cluster.psql("bench", "SELECT count(*) FROM workflow.state_history")?;
        let asked = began.elapsed();
        self.wait_for_length(written.trim().parse()?)?;
        // Counting them is not the relay's time.
        Ok(began.elapsed().saturating_sub(asked))
    }

    fn wait_for_length(&self, length: usize) -> Result<()> {
        let mut redis = self.redis.get_connection()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let has: usize = redis::cmd("XLEN").arg(STREAM).query(&mut redis)?;
            if has >= length {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("after {PATIENCE:?} the stream has {has} of {length} events");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The most memory that it has had resident so far, in MiB.
    fn peak_memory(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc")?;
        let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kibibytes / 1024.0)
    }
}

pub fn measure(bench: &Bench, options: &Options) -> Result<Report> {
    let mut figures = Vec::new();
    if options.selects("arrival at 1,000 events/s") {
        figures.extend(step("arrival at a subscriber of Redis at 1,000 events/s", || arrival(bench, options))?);
    }
    if options.selects("backlog of 1,000,000") {
        figures.extend(step("a backlog of 1,000,000 events", || backlog(bench))?);
    }
    Report::new("events", &figures, table(&figures))
}

/// From the transition's own clock, so before its commit, to a subscriber.
fn arrival(bench: &Bench, options: &Options) -> Result<[Absolute; 2]> {
    bench.reset()?;
    let _relay = Relay::start(bench)?;
    let (stop, received) = subscribe(&bench.redis.url())?;
    let seconds = options.seconds * options.rounds.min(5);
    Pgbench { rate: Some(RATE), ..Pgbench::of("transition", 8, seconds) }.run(bench, "off")?;
    stop.store(true, Ordering::Release);
    let mut delays = received.recv()?;
    delays.sort();
    let percentile = |percent: usize| {
        let delay = delays.get(delays.len() * percent / 100).and_then(TimeDelta::num_microseconds);
        delay.map(|micros| micros as f64 / 1e3).context("no event has arrived")
    };
    Ok([
        at_most("arrival at 1,000 events/s, commit included, p50", percentile(50)?, "ms", 2.0),
        at_most("arrival at 1,000 events/s, commit included, p99", percentile(99)?, "ms", 5.0),
    ])
}

/// Notes how long each event took, until told to stop.
fn subscribe(url: &str) -> Result<(Arc<AtomicBool>, mpsc::Receiver<Vec<TimeDelta>>)> {
    let (stop, (sender, receiver)) = (Arc::new(AtomicBool::new(false)), mpsc::channel());
    let told = stop.clone();
    let mut connection = redis::Client::open(url)?.get_connection()?;
    connection.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (ready, subscribed) = mpsc::channel();
    std::thread::spawn(move || -> redis::RedisResult<()> {
        let mut delays = Vec::new();
        let mut channel = connection.as_pubsub();
        channel.subscribe("workflow:events")?;
        ready.send(()).ok();
        while !told.load(Ordering::Acquire) {
            match channel.get_message() {
                Ok(message) => {
                    let now = Utc::now();
                    if let Ok(event) = serde_json::from_slice::<Event>(message.get_payload_bytes()) {
                        delays.push(now - event.changed_at);
                    }
                }
                Err(error) if error.is_timeout() => {}
                Err(error) => return Err(error),
            }
        }
        sender.send(delays).ok();
        Ok(())
    });
    subscribed.recv().context("cannot subscribe in Redis")?;
    Ok((stop, receiver))
}

/// Written while no relay runs; then one takes it all.
fn backlog(bench: &Bench) -> Result<[Absolute; 2]> {
    bench.reset()?;
    let idle = Relay::start(bench)?;
    idle.server.terminate()?;
    let tasks = bench.cluster.psql("bench", "SELECT count(*) FROM tasks")?.trim().parse::<usize>()?;
    for round in 0..BACKLOG.div_ceil(tasks) {
        let [from, to] = if round % 2 == 0 { ["running", "retrying"] } else { ["retrying", "running"] };
        let sql = format!(
            "SELECT count(*) FROM workflow.transition_many('task_instance', ARRAY(SELECT id FROM tasks), '{from}', '{to}')"
        );
        bench.cluster.psql("bench", &sql)?;
    }
    let written: usize = bench.cluster.psql("bench", "SELECT count(*) FROM workflow.state_history")?.trim().parse()?;
    let relay = Relay::start(bench)?;
    let began = Instant::now();
    relay.wait_for_length(written)?;
    let rate = written as f64 / began.elapsed().as_secs_f64();
    Ok([
        at_least("backlog of 1,000,000, relayed", rate, "/s", 50_000.0),
        at_most("backlog of 1,000,000, the relay's peak memory", relay.peak_memory()?, "MiB", 32.0),
    ])
}
