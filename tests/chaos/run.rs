//! One run: start everything, inject the plan's faults while writers write, repair, and compare.

use anyhow::{Context, Result};
use chrono::Utc;
use postgres::{Client, NoTls};
use redis::Commands;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use xtask::workspace;

use super::checker::{Report, check};
use super::claims::{Claims, Crew};
use super::cluster::Crowd;
use super::evidence::{Evidence, STREAM};
use super::fault::Fault;
use super::graphs::{self, Graphs};
use super::holder::Holder;
use super::idlers::Idlers;
use super::inject::Injected;
use super::neighbors::Neighbors;
use super::plan::{Plan, Step};
use super::receivers::Receiver;
use super::table;
use super::witnesses::Witnesses;
use super::world::World;
use super::writers::{Counts, Load, Writers};
use crate::create_run;

/// The time without new entries after which a complete stream is compared: duplicates can be late.
const SETTLED: Duration = Duration::from_secs(3);
/// The time without new entries after which the missing entries of an incomplete stream count as lost.
const STALLED: Duration = Duration::from_secs(30);

/// As many workers as writers. All of them wait for their commits: a listener can hear of a commit that a crash then loses.
const CREW: Crew = Crew { workers: 8, pause: Duration::from_millis(30), asynchronous: 0, deletes: true };

/// Fewer of those that create and end tasks that depend on each other: each of their transactions ends several.
const GRAPHS: graphs::Crew = graphs::Crew { workers: 5, pause: Duration::from_millis(30) };

/// The parameters of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The seed of all faults.
    pub seed: u64,
    /// The time of the faults.
    pub time: Duration,
    pub load: Load,
    pub crowd: Crowd,
    /// Only faults whose name contains this.
    pub only: String,
    /// Keep the servers' logs even if nothing is wrong.
    pub keep_logs: bool,
}

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    pub report: Report,
    pub faults: Vec<Injection>,
    pub statistics: Statistics,
    /// The folder of the servers' logs; `None` if it was removed.
    pub logs: Option<PathBuf>,
}

/// A fault of the run, and whether there was a target for it.
#[derive(Debug, Clone, Copy)]
pub struct Injection {
    pub fault: Fault,
    pub injected: Injected,
}

/// Statistics of a run.
#[derive(Debug, Clone, Copy)]
pub struct Statistics {
    pub transitions_per_second: f64,
    pub writers: Counts,
    /// The time that the long transaction was open.
    pub held: Duration,
    /// The time that the relay needed to catch up at the end.
    pub catching_up: Duration,
}

/// Runs, and prints each fault with its time to standard output.
pub fn run(options: &Options) -> Result<Outcome> {
    let logs = workspace::target_dir()?.join("chaos").join(format!("seed-{}", options.seed));
    if logs.exists() {
        std::fs::remove_dir_all(&logs)?;
    }
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let world = World::start(&logs, options.crowd)?;
    let outcome = run_in(&world, options);
    world.keep_logs()?;
    let (report, faults, statistics) = outcome.with_context(|| format!("the logs are in {}", logs.display()))?;
    let keep = options.keep_logs || !report.is_clean();
    if !keep {
        std::fs::remove_dir_all(&logs)?;
    }
    let outcome = Outcome { report, faults, statistics, logs: keep.then_some(logs) };
    table::print(options, &outcome);
    Ok(outcome)
}

fn run_in(world: &World, options: &Options) -> Result<(Report, Vec<Injection>, Statistics)> {
    let redis_url = world.redis.url();
    let began_at = Utc::now().timestamp_millis();
    let url = world.undisturbed.database_url();
    let _idlers = Idlers::start(&url, options.crowd.idle)?;
    let receivers = [Receiver::start(&redis_url)?, Receiver::start(&redis_url)?];
    let mut witnesses = Witnesses::start(&world.readers.database_url(), &world.pooled_url())?;
    witnesses.follow_over_http([world.relays[0].address, world.relays[1].address])?;
    let writers = Writers::start(&world.writers.database_url(), options.seed, options.load)?;
    let workers = Claims::start(&world.workers.database_url(), options.seed, CREW)?;
    let graphs = Graphs::start(&world.workers.database_url(), options.seed, GRAPHS)?;
    // After the triggers, which need the tables for themselves.
    let holder = Holder::start(&url)?;
    let neighbors = Neighbors::start(&url, options.crowd.databases)?;
    let begin = Instant::now();
    let faults = inject_all(world, options, begin);
    let (transitions, elapsed) = (writers.transitions(), begin.elapsed());
    println!("{}  everything runs again: finishing, and waiting for the stream", clock(begin));
    neighbors.finish()?;
    let mut written = writers.finish()?;
    let held = holder.finish()?;
    let counts = written.counts;
    written.add(held.written);
    let faults = faults?;
    let claims = workers.finish(&url)?;
    let graphs = graphs.finish(&url)?;
    written.complaints.extend(claims.complaints().chain(graphs.complaints()));
    let last = create_run(&mut Client::connect(&world.database_url()?, NoTls)?).1;
    written.acknowledged.push((last, 1));
    let catching_up = catch_up(world)?;
    let witnessed = witnesses.finish(last)?;
    let received = receivers.into_iter().map(|one| one.finish(&redis_url)).collect::<Result<_>>()?;
    let mut evidence = Evidence::gather(&world.database_url()?, &redis_url, written, received)?;
    evidence.witnesses = witnessed;
    evidence.claims = claims;
    evidence.graphs = graphs;
    evidence.began_at = Some(began_at);
    let transitions_per_second = transitions as f64 / elapsed.as_secs_f64();
    let statistics = Statistics { transitions_per_second, writers: counts, held: held.open, catching_up };
    Ok((check(&evidence), faults, statistics))
}

/// Injects the plan's faults until the time is up.
fn inject_all(world: &World, options: &Options, begin: Instant) -> Result<Vec<Injection>> {
    let mut injections = Vec::new();
    for step in Plan::only(options.seed, &options.only) {
        let left = options.time.saturating_sub(begin.elapsed());
        std::thread::sleep(step.quiet.min(left));
        if left <= step.quiet {
            break;
        }
        injections.extend(inject_step(world, &step, begin)?);
    }
    Ok(injections)
}

/// Injects one step of the plan.
fn inject_step(world: &World, step: &Step, begin: Instant) -> Result<Vec<Injection>> {
    let inject = |fault: Fault| {
        println!("{}  {fault}", clock(begin));
        let injected = fault.inject(world).with_context(|| fault.to_string())?;
        let nothing = if injected == Injected::NoTarget { ": no target" } else { "" };
        println!("{}      over: {}{nothing}", clock(begin), fault.kind());
        anyhow::Ok(Injection { fault, injected })
    };
    std::thread::scope(|scope| {
        let second = step.meanwhile.map(|(delay, fault)| {
            scope.spawn(move || {
                std::thread::sleep(delay);
                inject(fault)
            })
        });
        let first = inject(step.fault);
        let second = second.map(|thread| thread.join().expect("no panic in a fault")).transpose();
        Ok(std::iter::once(first?).chain(second?).collect())
    })
}

/// Waits until the stream has as many entries as the history has rows, or gets no more entries.
fn catch_up(world: &World) -> Result<Duration> {
    let mut database = Client::connect(&world.database_url()?, NoTls)?;
    let goal: i64 = database.query_one("SELECT count(*) FROM workflow.state_history", &[])?.get(0);
    let mut redis = redis::Client::open(world.redis.url())?.get_connection()?;
    let begin = Instant::now();
    let (mut length, mut since) = (0, begin);
    loop {
        let now: i64 = redis.xlen(STREAM)?;
        if now != length {
            (length, since) = (now, Instant::now());
        }
        let patience = if length >= goal { SETTLED } else { STALLED };
        if since.elapsed() > patience {
            return Ok(since - begin);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Formats the time of day, as in the logs, and the time since the beginning.
pub(super) fn clock(begin: Instant) -> String {
    format!("{}  {:6.1} s", Utc::now().format("%H:%M:%S%.3f"), begin.elapsed().as_secs_f64())
}
