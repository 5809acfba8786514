//! `cargo xtask demo`: a recorded workflow runs through the whole, from workers that claim its tasks, and are killed, to a
//! subscriber of Redis.

mod faults;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use crate::build::{self, Profile};
use crate::command::step;
use crate::stack::postgres::{PRELOADED, Postgres};
use crate::stack::redis::Redis;
use crate::stack::roles;
use crate::stack::server::Server;
use crate::{setup, workspace};
use faults::Faults;

const DATABASE: &str = "workflow";

/// How long the last events may take to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// Traces in WfFormat 1.5 [default: one of ../shared/traces, or the repository's own example]
    files: Vec<PathBuf>,
    /// How long each is to take, in seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Leave everything running to look around, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Starts the servers, replays, and prints the fate of every transition.
pub fn run(options: &Options) -> Result<()> {
    if !(options.seconds.is_finite() && options.seconds > 0.0) {
        bail!("--seconds must be more than 0");
    }
    let files = if options.files.is_empty() { vec![default_trace()?] } else { options.files.clone() };
    // Before the build, which takes minutes.
    if let Some(missing) = files.iter().find(|file| !file.is_file()) {
        bail!("cannot find the file {}", missing.display());
    }

    let artifacts = build::build_and_install(setup::ensure()?, Profile::Quick)?;
    let stack = step("Starting a private PostgreSQL, Redis and workflow-server", || Stack::start(&artifacts.server))?;
    let mut faults = Faults::default();
    for file in &files {
        let (seconds, workers) = (options.seconds.to_string(), faults::WORKERS.to_string());
        step(&format!("Replaying {} within {seconds} s, and the time that lost workers cost", file.display()), || {
            let mut replay = Command::new(&artifacts.server);
            replay.arg("replay").arg(file).args(["--within", &seconds, "--processes", &workers]);
            replay.env("DATABASE_URL", stack.postgres.url_as(roles::SCHEDULER, DATABASE));
            faults.replay(&mut replay, &stack.postgres)
        })?;
    }
    let lost = print_result(&stack, &faults)?;
    if options.keep {
        stack.invite();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(tokio::signal::ctrl_c())?;
    }
    if lost > 0 {
        bail!("{lost} events were not received");
    }
    Ok(())
}

fn default_trace() -> Result<PathBuf> {
    let folder = workspace::root().join("../shared/traces");
    let real = glob::glob(&folder.join("*.json").to_string_lossy())?.flatten().next();
    if real.is_none() {
        eprintln!("  there is no {}: taking the repository's own example", folder.display());
    }
    Ok(real.unwrap_or_else(|| workspace::root().join("client/examples/traces/etl.json")))
}

/// The servers, and a subscriber that counts.
struct Stack {
    // Fields are dropped in this order: clients of a server before the server.
    server: Server,
    url: String,
    received: Arc<Mutex<Vec<Received>>>,
    redis: Redis,
    postgres: Postgres,
}

/// The part of an event that the demo reads.
#[derive(Deserialize)]
struct Event {
    changed_at: DateTime<Utc>,
}

/// An event that arrived at the subscriber, and how long after its transition (commit included).
struct Received {
    after: TimeDelta,
}

impl Stack {
    fn start(binary: &Path) -> Result<Stack> {
        let postgres = Postgres::start("demo", &[PRELOADED])?;
        postgres.create_database(DATABASE)?;
        postgres.psql(DATABASE, "CREATE EXTENSION pg_workflow")?;
        roles::create(&postgres, DATABASE)?;
        let database = postgres.url_as(roles::SERVER, DATABASE);
        // The server would create it too, but perhaps after the first event.
        postgres.psql(DATABASE, "SET ROLE server; SELECT workflow.create_consumer('relay')")?;
        let redis = Redis::start("demo")?;
        let received = subscribe(&redis.url())?;
        let (server, url) = Server::serve("demo-server", binary, &database, &redis.url())?;
        // The first events would wait for the relay's start, and count as slow.
        server.wait_line("became leader", PATIENCE)?;
        Ok(Stack { server, url, received, redis, postgres })
    }

    fn invite(&self) {
        println!();
        println!("  psql     {}", self.postgres.url_as(roles::SCHEDULER, DATABASE));
        println!("  Redis    redis-cli -u {} subscribe workflow:events", self.redis.url());
        println!("  HTTP     {}/health", self.url);
        println!("           {}/api/v1/task-instances?limit=5", self.url);
        println!("  log      {}", self.server.log().display());
        println!("Ctrl-C stops and removes everything.");
    }

    fn received(&self) -> std::sync::MutexGuard<'_, Vec<Received>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that a query returns.
    fn count(&self, sql: &str) -> Result<usize> {
        let printed =
            self.postgres.psql(DATABASE, &format!("\\pset tuples_only on\n\\pset format unaligned\n{sql}"))?;
        let number = printed.lines().next_back().unwrap_or_default().trim();
        number.parse().with_context(|| format!("{sql} returned {number:?}"))
    }
}

/// Subscribes in Redis and notes every event, in a thread that ends with Redis.
fn subscribe(url: &str) -> Result<Arc<Mutex<Vec<Received>>>> {
    let received = Arc::new(Mutex::new(Vec::new()));
    let noted = received.clone();
    let mut connection = redis::Client::open(url)?.get_connection()?;
    let (ready, subscribed) = std::sync::mpsc::channel();
    std::thread::spawn(move || -> redis::RedisResult<()> {
        let mut channel = connection.as_pubsub();
        channel.subscribe("workflow:events")?;
        ready.send(()).ok();
        loop {
            let payload: Vec<u8> = channel.get_message()?.get_payload()?;
            let now: DateTime<Utc> = Utc::now();
            if let Ok(event) = serde_json::from_slice::<Event>(&payload) {
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(Received { after: now - event.changed_at });
            }
        }
    });
    subscribed.recv().context("cannot subscribe in Redis")?;
    Ok(received)
}

/// Waits for the last events and prints the table; returns how many were lost.
fn print_result(stack: &Stack, faults: &Faults) -> Result<usize> {
    let written = stack.count("SELECT count(*) FROM workflow.state_history;")?;
    let deadline = Instant::now() + PATIENCE;
    while stack.received().len() < written && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let pending = stack.count("SELECT pending FROM workflow.consumer_lag WHERE consumer = 'relay';")?;
    let problems = stack.count("SELECT count(*) FROM workflow.verify();")?;
    let mut delays: Vec<TimeDelta> = stack.received().iter().map(|event| event.after).collect();
    delays.sort();
    let tasks = stack.count("SELECT count(*) FROM workflow.task_instances;")?;
    let transitions = stack.count("SELECT count(*) FROM workflow.state_history WHERE old_state IS NOT NULL;")?;
    let lost = written.saturating_sub(delays.len());
    let verified = if problems == 0 { "clean".to_owned() } else { format!("{problems} disagreements") };
    let claims = count_claims(stack)?;
    let runs = count_runs(stack)?;
    let rows = [
        ("tasks", tasks.to_string()),
        ("workers killed; frozen for longer than a lease", format!("{}; {}", faults.killed, faults.frozen)),
        ("claims", claims.made.to_string()),
        ("claims expired", claims.expired.to_string()),
        ("refused words of the dead", faults.refused.to_string()),
        ("tasks run twice at once", claims.twice.to_string()),
        ("tasks lost", claims.lost.to_string()),
        ("runs; ended by themselves", format!("{}; {}", runs.all, runs.ended)),
        ("transitions", transitions.to_string()),
        ("events written (creations and transitions)", written.to_string()),
        ("events relayed", (written - pending).to_string()),
        ("events received", delays.len().to_string()),
        ("events lost", lost.to_string()),
        ("verify()", verified),
        ("transition to subscriber, with commit, p50", milliseconds(&delays, 50)),
        ("transition to subscriber, with commit, p99", milliseconds(&delays, 99)),
    ];
    println!();
    for (name, value) in rows {
        println!("  {name:46} {value:>12}");
    }
    if claims.twice + claims.lost > 0 {
        bail!("{} tasks ran twice at once, {} are lost", claims.twice, claims.lost);
    }
    if runs.ended < runs.all {
        bail!("{} of {} runs have not ended by themselves", runs.all - runs.ended, runs.all);
    }
    if problems > 0 {
        bail!("verify() found {problems} disagreements between history and rows");
    }
    Ok(lost)
}

/// The claims of all tasks, from their history.
struct Claims {
    made: usize,
    expired: usize,
    /// Tasks that began while they ran.
    twice: usize,
    /// Tasks that have not succeeded.
    lost: usize,
}

fn count_claims(stack: &Stack) -> Result<Claims> {
    let events = |condition: &str| {
        stack.count(&format!("SELECT count(*) FROM workflow.state_history WHERE task_id IS NOT NULL AND {condition};"))
    };
    Ok(Claims {
        made: events("new_state = 'running' AND metadata ? 'worker'")?,
        expired: events("metadata->>'reason' = 'lease expired'")?,
        twice: stack.count(
            "SELECT count(DISTINCT entity_id) FROM (
                 SELECT entity_id, new_state, lag(new_state) OVER (PARTITION BY entity_id ORDER BY version) AS last_state
                 FROM workflow.state_history
             ) AS h WHERE new_state = 'running' AND last_state = 'running';",
        )?,
        lost: stack.count("SELECT count(*) FROM workflow.task_instances WHERE state <> 'success';")?,
    })
}

/// The runs, and those of them that the database has ended with success.
struct Runs {
    all: usize,
    ended: usize,
}

fn count_runs(stack: &Stack) -> Result<Runs> {
    Ok(Runs {
        all: stack.count("SELECT count(*) FROM workflow.dag_runs;")?,
        // Joins with the id of a run end it.
        ended: stack.count(
            "SELECT count(*) FROM workflow.dag_runs AS r JOIN workflow.joins AS j ON j.id = r.id
             WHERE r.state = 'success' AND NOT EXISTS (SELECT FROM workflow.waits AS w WHERE w.join_id = j.id);",
        )?,
    })
}

fn milliseconds(sorted: &[TimeDelta], percent: usize) -> String {
    let delay = sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)));
    delay
        .and_then(|delay| delay.num_microseconds())
        .map_or("-".to_owned(), |micros| format!("{:.2} ms", micros as f64 / 1e3))
}
