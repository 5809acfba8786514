//! Dependencies: tasks that wait for others, beside the same tasks without dependencies.

mod ends;
mod figures;

use std::fs;

use anyhow::{Context, Result};

use super::pgbench::{Length, Pgbench};
use super::ratio::pairs;
use super::throughput::{Throughput, table};
use super::{Bench, Options, Report, lines, script};
use crate::command::step;

pub use figures::measure as measure_figures;

/// Runs to create, and a script in `xtask/bench` that describes their tasks.
struct Shape {
    script: &'static str,
    /// Of the script.
    variables: &'static [(&'static str, u32)],
    runs: u32,
}

/// Each task depends on three of the layer before.
const MESHES: Shape = mesh(10, &[("layers", 20), ("width", 100), ("parents", 3)]);
const CHAIN: Shape = mesh(1, &[("layers", 2000), ("width", 1), ("parents", 1)]);
const FAN_IN: Shape = Shape { script: "ready_fan_in", variables: &[("parents", 10_000)], runs: 1 };

const fn mesh(runs: u32, variables: &'static [(&'static str, u32)]) -> Shape {
    Shape { script: "ready_mesh", variables, runs }
}

/// What the creation of the tasks took.
struct Created {
    seconds: f64,
    /// Of WAL.
    bytes: f64,
    tasks: f64,
}

impl Shape {
    /// Creates the tasks, with or without their dependencies; there are no others.
    fn create(&self, bench: &Bench, edges: bool) -> Result<Created> {
        let mut sql = format!("\\set edges {edges}\n\\set runs {}\n", self.runs);
        self.variables.iter().for_each(|(name, value)| sql += &format!("\\set {name} {value}\n"));
        for name in ["ready_fill", self.script, "ready_create"] {
            sql += &fs::read_to_string(script(name))?;
        }
        let printed = bench.cluster.psql("bench", &sql)?;
        let last = printed.lines().last().unwrap_or_default();
        let numbers: Vec<f64> = last.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [seconds, bytes, tasks] = numbers[..] else { anyhow::bail!("no figures in {printed:?}") };
        Ok(Created { seconds, bytes, tasks })
    }
}

/// Clients of all lines but that of the chain.
const CLIENTS: u32 = 8;
const FAN_IN_LINE: &str = "ready: fan-in of 10,000 / the same ends without dependencies";
const FAN_IN_SLOWLY: &str = "ready: fan-in of 10,000 / the same, 2 ms commit";
const LIFE: &str = "ready: a life with 3 parents / without";
const CHAIN_LIFE: &str = "ready: a life in a chain / without dependencies";

pub fn measure(bench: &Bench, options: &Options) -> Result<Report> {
    let mut figures = Vec::new();
    let fan_in = |rounds| move || pairs(rounds, || ends::fan_in(bench, true), || ends::fan_in(bench, false));
    if options.selects(FAN_IN_LINE) {
        let title = format!("{FAN_IN_LINE}, {CLIENTS} clients, {} pairs", options.rounds);
        let pairs = step(&title, || bench.without_disk(fan_in(options.rounds)))?;
        figures.push(Throughput::of(FAN_IN_LINE, CLIENTS, 0.95, &pairs));
    }
    if options.selects(FAN_IN_SLOWLY) {
        // Each run depends on the disk, and is short.
        let rounds = options.rounds * 2;
        lines::set_commit_delay(bench, 2000)?;
        let title = format!("{FAN_IN_SLOWLY}, {CLIENTS} clients, {rounds} pairs");
        figures.push(Throughput::of(FAN_IN_SLOWLY, CLIENTS, 0.95, &step(&title, fan_in(rounds))?));
        lines::set_commit_delay(bench, 0)?;
    }
    // Of the tasks of the meshes half are claimed: there are always some that can be.
    for (name, shape, clients, tasks, goal) in [(LIFE, MESHES, CLIENTS, 10_000, 0.8), (CHAIN_LIFE, CHAIN, 1, 2000, 0.9)]
    {
        if options.selects(name) {
            let life = |edges| {
                let shape = &shape;
                move || Ok(live(bench, shape, edges, clients, tasks)?.speed)
            };
            let title = format!("{name}, {clients} clients, {} pairs of {tasks} lives", options.rounds);
            let compare = || bench.without_disk(|| pairs(options.rounds, life(true), life(false)));
            figures.push(Throughput::of(name, clients, goal, &step(&title, compare)?));
        }
    }
    Report::new("ready", &figures, table(&figures))
}

/// The lives of tasks: their creation all at once, and a claim and an end each, a transaction each.
struct Lives {
    /// Tasks per second.
    speed: f64,
    /// Bytes of WAL of a life.
    bytes: f64,
}

fn live(bench: &Bench, shape: &Shape, edges: bool, clients: u32, tasks: u32) -> Result<Lives> {
    let created = shape.create(bench, edges)?;
    let length = Length::Transactions(tasks / clients);
    let begin = position(bench)?;
    let worked = Pgbench { length, ..Pgbench::of("claim", clients, 0) }.run(bench, "off")?;
    let bytes = (position(bench)? - begin) / f64::from(tasks);
    let speed = 1.0 / (created.seconds / created.tasks + 1.0 / worked);
    Ok(Lives { speed, bytes: created.bytes / created.tasks + bytes })
}

/// The position in the WAL, in bytes.
fn position(bench: &Bench) -> Result<f64> {
    position_in(bench, "bench")
}

fn position_in(bench: &Bench, database: &str) -> Result<f64> {
    let printed = bench.cluster.psql(database, "SELECT pg_current_wal_insert_lsn() - '0/0'")?;
    printed.trim().parse().context("no position in the WAL")
}
