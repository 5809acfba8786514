//! One run: lose events again and again while writers write, and compare every reader with the history of each timeline.

use anyhow::{Context, Result, ensure};
use redis::Commands;
use redis::streams::StreamRangeReply;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use uuid::Uuid;
use xtask::workspace;

use super::checker::{Report, check};
use super::consumer;
use super::evidence::{Evidence, Records};
use super::fault::{Fault, Plan};
use super::follower::{self, Style};
use super::intruder::intrude;
use super::loss::lose;
use super::reader::{End, Reading};
use super::sse;
use super::table;
use super::world::World;
use super::writer::Writers;
use crate::chaos::claims::{Claims, Crew};
use crate::chaos::event::Event;
use crate::chaos::evidence::STREAM;
use crate::chaos::receivers::Receiver;
use crate::chaos::run::{Options, clock};
use crate::{PATIENCE, create_task};

/// The time without new entries after which the stream is compared: duplicates can be late.
const SETTLED: Duration = Duration::from_secs(3);

/// Slower workers than in other runs, because of the dumps. They delete nothing: a reader that begins again learns from the tables
/// which events it has missed.
const CREW: Crew = Crew { workers: 8, pause: Duration::from_millis(100), asynchronous: 4, deletes: false };

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    pub report: Report,
    pub evidence: Evidence,
    pub faults: Vec<Fault>,
    /// The folder of the servers' logs; `None` if it was removed.
    pub logs: Option<PathBuf>,
}

/// Runs, and prints each fault with its time to standard output.
pub fn run(options: &Options) -> Result<Outcome> {
    let logs = workspace::target_dir()?.join("chaos").join(format!("lossy-seed-{}", options.seed));
    if logs.exists() {
        std::fs::remove_dir_all(&logs)?;
    }
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let mut world = World::start(&logs)?;
    let outcome = run_in(&mut world, options);
    world.keep_logs()?;
    let (evidence, faults) = outcome.with_context(|| format!("the logs are in {}", logs.display()))?;
    let report = check(&evidence);
    let keep = options.keep_logs || !report.is_clean();
    if !keep {
        std::fs::remove_dir_all(&logs)?;
    }
    let outcome = Outcome { report, evidence, faults, logs: keep.then_some(logs) };
    table::print(options, &outcome);
    Ok(outcome)
}

fn run_in(world: &mut World, options: &Options) -> Result<(Evidence, Vec<Fault>)> {
    let (url, redis_url, end) = (world.url(), world.redis.url(), End::default());
    let receiver = Receiver::start(&redis_url)?;
    let consumer = consumer::start(url.clone(), end.clone());
    let readers: Vec<JoinHandle<Result<Reading>>> = vec![
        follower::start(url.clone(), Style::Prompt, end.clone()),
        follower::start(url.clone(), Style::Slow, end.clone()),
        sse::start(world.http_address.clone(), url.clone(), end.clone()),
    ];
    let writers = Writers::start(&url, options.seed, options.load)?;
    let workers = Claims::start(&url, options.seed, CREW)?;
    let begin = Instant::now();
    let faults = inject_all(world, options, begin);
    println!("{}  everything runs again: finishing, and waiting for the readers", clock(begin));
    let written = writers.finish()?;
    let faults = faults?;
    let claims = workers.finish(&url)?;
    let last = create_task(&mut world.connect()?);
    end.set(last);
    catch_up(world, last)?;
    let complaints = consumer.join().ok().context("the consumer panicked")??;
    let readings =
        readers.into_iter().map(|one| one.join().ok().context("a reader panicked")?).collect::<Result<_>>()?;
    wait_healthy(world)?;
    let receivers = vec![receiver.finish(&redis_url)?];
    let evidence = Evidence::gather(world, Records { written, receivers, readings, claims, complaints })?;
    Ok((evidence, faults))
}

/// Injects the plan's faults until the time is up.
fn inject_all(world: &mut World, options: &Options, begin: Instant) -> Result<Vec<Fault>> {
    let mut faults = Vec::new();
    for step in Plan::new(options.seed, &options.only) {
        std::thread::sleep(step.quiet);
        if begin.elapsed() > options.time {
            break;
        }
        println!("{}  {}", clock(begin), step.fault);
        match step.fault {
            Fault::Loss(loss) => lose(world, &step.fault, loss),
            Fault::Intruder { cluster, stay } => intrude(world, cluster, stay),
        }
        .with_context(|| step.fault.to_string())?;
        println!("{}      over: {}", clock(begin), step.fault.kind());
        faults.push(step.fault);
    }
    Ok(faults)
}

/// Waits until the stream has the last event, and gets no more.
fn catch_up(world: &World, last: Uuid) -> Result<()> {
    let mut redis = redis::Client::open(world.redis.url())?.get_connection()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let newest: StreamRangeReply = redis.xrevrange_count(STREAM, "+", "-", 10)?;
        let is_last = |json: &String| Event::from_json(json).is_ok_and(|event| event.entity == last);
        if newest.ids.iter().filter_map(|entry| entry.get("event")).any(|json| is_last(&json)) {
            break;
        }
        ensure!(Instant::now() < deadline, "the relays did not write the last event within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(SETTLED);
    Ok(())
}

/// The relays have nothing to complain of at the end.
fn wait_healthy(world: &World) -> Result<()> {
    super::loss::wait("the relays are healthy again", || {
        Ok(world.relays.health()?.iter().all(|(status, _)| *status == 200))
    })
}
