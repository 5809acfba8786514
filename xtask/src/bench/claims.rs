//! Claiming and finishing tasks, beside the same by hand with FOR UPDATE SKIP LOCKED.

mod figures;

use std::fs;

use anyhow::Result;

use super::pgbench::{Length, Pgbench};
use super::ratio::pairs;
use super::throughput::{Throughput, table};
use super::{Bench, Options, Report, script};
use crate::command::step;

/// Tasks that wait at the beginning of each run: see claims_fill.sql.
const WAITING: u32 = 80_000;

/// A figure to reach: ours at least so many times as fast as by hand.
struct Line {
    name: &'static str,
    /// Scripts in `xtask/bench`.
    ours: &'static str,
    theirs: &'static str,
    /// Tasks of a transaction.
    batch: u32,
    /// Tasks of a run, all clients together.
    tasks: u32,
    clients: &'static [u32],
}

const GOAL: f64 = 1.0;
const LINES: [Line; 2] = [
    Line {
        name: "claims: claim one, finish one / by hand",
        ours: "claim",
        theirs: "claim_lean",
        batch: 1,
        tasks: 10_000,
        clients: &[1, 8, 32],
    },
    Line {
        name: "claims: claim 100, finish 100 / by hand",
        ours: "claim_100",
        theirs: "claim_100_lean",
        batch: 100,
        tasks: 60_000,
        clients: &[1, 8],
    },
];

pub use figures::measure as measure_figures;

pub fn measure(bench: &Bench, options: &Options) -> Result<Report> {
    let mut figures = Vec::new();
    let lines: Vec<&Line> = LINES.iter().filter(|line| options.selects(line.name)).collect();
    if !lines.is_empty() {
        bench.cluster.psql("bench", &fs::read_to_string(script("claims"))?)?;
    }
    for line in lines {
        for &clients in line.clients {
            let name = format!("{}, {clients} clients, {} pairs of {} tasks", line.name, options.rounds, line.tasks);
            figures.push(step(&name, || compare(bench, line, clients, options.rounds))?);
        }
    }
    Report::new("claims", &figures, table(&figures))
}

fn compare(bench: &Bench, line: &Line, clients: u32, rounds: u32) -> Result<Throughput> {
    assert!(line.tasks <= WAITING);
    let run = |name: &'static str| {
        move || -> Result<f64> {
            bench.cluster.psql("bench", &fs::read_to_string(script("claims_fill"))?)?;
            let length = Length::Transactions(line.tasks / line.batch / clients);
            let tps = Pgbench { length, ..Pgbench::of(name, clients, 0) }.run(bench, "off")?;
            Ok(tps * f64::from(line.batch))
        }
    };
    let pairs = pairs(rounds, run(line.ours), run(line.theirs))?;
    Ok(Throughput::of(line.name, clients, GOAL, &pairs))
}
