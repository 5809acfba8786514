//! The cost of dependencies in time and WAL, and how soon a task runs whose last parent has ended.

use std::fs;

use anyhow::{Context, Result};

use super::super::absolute::{Absolute, at_least, at_most, table};
use super::super::pgbench::Pgbench;
use super::super::ratio::{median, pairs};
use super::super::{Bench, Options, Report, script};
use super::{CLIENTS, MESHES, Shape, ends, live, mesh};
use crate::command::step;

type Measurement = fn(&Bench, &Options) -> Result<Vec<Absolute>>;
const MEASUREMENTS: [(&str, Measurement); 7] = [
    ("ready: an end that no other one waits for", alone),
    ("ready: the last end of a fan-in", last_end),
    ("ready: fan-out", fan_out),
    ("ready: WAL", wal_of_a_life),
    ("ready: creation", creation),
    ("ready: arrival", arrival),
    ("ready: collisions", collisions),
];

pub fn measure(bench: &Bench, options: &Options) -> Result<Report> {
    let mut figures = Vec::new();
    for (name, measure) in MEASUREMENTS {
        if options.selects(name) {
            figures.extend(step(name, || bench.without_disk(|| measure(bench, options)))?);
        }
    }
    Report::new("ready_figures", &figures, table(&figures))
}

fn alone(bench: &Bench, options: &Options) -> Result<Vec<Absolute>> {
    let ends::Alone { ratio, bytes } = ends::alone(bench, options.rounds * 5)?;
    Ok(vec![
        at_least("ready: an end that no other one waits for / where no task waits, CPU", ratio, "", 0.98),
        at_most("ready: WAL that such an end has more", bytes, "B", 0.0),
    ])
}

/// The median of so many rounds.
fn repeat(options: &Options, mut measure: impl FnMut() -> Result<f64>) -> Result<f64> {
    Ok(median((0..options.rounds).map(|_| measure()).collect::<Result<_>>()?))
}

fn last_end(bench: &Bench, options: &Options) -> Result<Vec<Absolute>> {
    let milliseconds = repeat(options, || ends::last_end(bench))?;
    Ok(vec![at_most("ready: the last end of a fan-in of 10,000", milliseconds, "ms", 20.0)])
}

fn fan_out(bench: &Bench, options: &Options) -> Result<Vec<Absolute>> {
    let mut bytes = Vec::new();
    let success = repeat(options, || {
        let ends::FanOut { milliseconds, bytes: of_a_child } = ends::fan_out(bench, "success")?;
        bytes.push(of_a_child);
        Ok(milliseconds)
    })?;
    let failed = repeat(options, || Ok(ends::fan_out(bench, "failed")?.milliseconds))?;
    Ok(vec![
        at_most("ready: fan-out of 10,000, the end of the root", success, "ms", 80.0),
        at_most("ready: WAL of it, for each child", median(bytes), "B", 270.0),
        at_most("ready: a failed root, and its 10,000 children", failed, "ms", 400.0),
    ])
}

fn wal_of_a_life(bench: &Bench, _: &Options) -> Result<Vec<Absolute>> {
    let life = |edges| Ok::<_, anyhow::Error>(live(bench, &MESHES, edges, CLIENTS, 10_000)?.bytes);
    let (with, without) = (life(true)?, life(false)?);
    println!("WAL of a life: {with:.0} bytes with 3 parents, {without:.0} without");
    Ok(vec![at_most("ready: WAL that a life with 3 parents has more", with - without, "B", 550.0)])
}

/// 59,700 and 1,000,000 dependencies.
fn creation(bench: &Bench, options: &Options) -> Result<Vec<Absolute>> {
    const NAMES: [&str; 3] = [
        "ready: creation of 20,000 tasks with 3 parents each / without",
        "ready: 10^6 dependencies in 100 joins, by depends_on / without",
        "ready: the same by add_dependencies() / without",
    ];
    let three = mesh(1, &[("layers", 200), ("width", 100), ("parents", 3)]);
    let all = mesh(1, &[("layers", 101), ("width", 100), ("parents", 100)]);
    let added = Shape { script: "ready_layers", variables: &[("layers", 101), ("width", 100)], runs: 1 };
    let ratio = |shape: &Shape| -> Result<f64> {
        let seconds = |edges| move || Ok(shape.create(bench, edges)?.seconds);
        let pairs = pairs(options.rounds, seconds(true), seconds(false))?;
        Ok(median(pairs.iter().map(|(with, without)| with / without).collect()))
    };
    let figure = |(name, shape, goal)| Ok(at_most(name, ratio(shape)?, "", goal));
    [(NAMES[0], &three, 1.6), (NAMES[1], &all, 1.2), (NAMES[2], &added, 1.2)].into_iter().map(figure).collect()
}

/// Sessions that wait, and ends of last parents per second.
const WAITERS: u32 = 32;
const ENDS: u32 = 100;
/// Seconds in which the sessions of workers plan and load everything for the first time.
const WARM_UP: u32 = 3;

/// From the end of the last parent, before its commit, to the claim of the child, in sessions that have claimed before.
fn arrival(bench: &Bench, options: &Options) -> Result<Vec<Absolute>> {
    let seconds = WARM_UP + options.seconds * options.rounds.min(5);
    let fill = fs::read_to_string(script("ready_fill"))? + &fs::read_to_string(script("ready_arrival_fill"))?;
    // pgbench may send a few more than the rate says.
    bench.cluster.psql("bench", &format!("\\set children {}\n{fill}", seconds * ENDS * 3 / 2))?;
    std::thread::scope(|scope| -> Result<()> {
        let workers = scope.spawn(|| Pgbench::of("ready_wait", WAITERS, seconds + 2).run(bench, "off"));
        Pgbench { rate: Some(ENDS), ..Pgbench::of("ready_end_last", 1, seconds) }.run(bench, "off")?;
        workers.join().expect("the thread that runs pgbench does not panic")?;
        Ok(())
    })?;
    let sql = format!(
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY milliseconds),
             percentile_cont(0.99) WITHIN GROUP (ORDER BY milliseconds), count(*)
         FROM arrivals WHERE at > (SELECT min(at) FROM arrivals) + '{WARM_UP} s';
         SELECT count(*) FROM last_parents JOIN workflow.task_instances AS p ON p.id = parent
             JOIN workflow.task_instances AS c ON c.id = child
         WHERE p.state = 'success' AND c.state = 'queued'"
    );
    let printed = bench.cluster.psql("bench", &sql)?;
    let mut numbers = printed.split(['|', '\n']).map(|field| field.trim().parse::<f64>());
    let mut next = || numbers.next().context("no task has arrived")?.context("no task has arrived");
    let (p50, p99, arrived, lost) = (next()?, next()?, next()?, next()?);
    println!("{arrived} tasks arrived, {ENDS} a second, at {WAITERS} waiting sessions");
    Ok(vec![
        at_most("ready: the last parent's end to the child's claim, p50", p50, "ms", 2.0),
        at_most("ready: the last parent's end to the child's claim, p99", p99, "ms", 5.0),
        at_most("ready: children that no waiting session has claimed", lost, "", 0.0),
    ])
}

fn collisions(bench: &Bench, options: &Options) -> Result<Vec<Absolute>> {
    let (mut lost, mut deadlocks) = (0.0, 0.0);
    for _ in 0..options.rounds {
        let [more_lost, more_deadlocks] = ends::collisions(bench)?;
        lost += more_lost;
        deadlocks += more_deadlocks;
    }
    Ok(vec![
        at_most("ready: six ends a transaction, 8 clients: children lost", lost, "", 0.0),
        at_most("ready: six ends a transaction, 8 clients: deadlocks", deadlocks, "", 0.0),
    ])
}
