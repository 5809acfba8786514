//! `cargo xtask bench`: what the extension costs, always as a ratio to the same work by hand in the same run.
//!
//! The machine is noisy, so nothing absolute is claimed: pgbench runs the two sides by turns, each pair of runs gives
//! a ratio, and the median of the ratios is the figure.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::command::{output, step};
use crate::stack::postgres::{Postgres, Shutdown};
use crate::{build, setup, workspace};

/// How long and how often.
#[derive(clap::Args)]
pub struct Options {
    /// Seconds that each run of pgbench takes
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Pairs of runs for each figure
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only lines whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Also write the figures to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A pgbench script in `xtask/bench`, and what moves announce while it runs.
#[derive(Clone, Copy)]
struct Side {
    script: &'static str,
    announce: &'static str,
}

const fn side(script: &'static str) -> Side {
    Side { script, announce: "off" }
}

/// A figure to reach: `ours` at least `goal` times as fast as `theirs`.
struct Line {
    name: &'static str,
    ours: Side,
    theirs: Side,
    clients: &'static [u32],
    goal: f64,
    /// Microseconds added to each commit, as on a cloud disk.
    commit_delay: u32,
    /// Why it may fall short.
    note: &'static str,
}

const NOT_YET: &str = "needs the event worker: NOTIFY is sent in the transaction for now";

const TRANSITION: Side = side("transition");
const WITH_EVENT: Side = Side { script: "transition", announce: "events" };

const LINES: &[Line] = &[
    line("transition, no event / UPDATE + INSERT by hand", TRANSITION, side("transition_bare"), &[1, 8, 32], 0.90),
    line("a task's life, no event / by hand", side("life"), side("life_bare"), &[1, 8, 32], 0.85),
    line("transition_many of 10,000, no event / by hand", side("many"), side("many_bare"), &[1], 0.80),
    line("transition, no event / by hand with pg_notify", TRANSITION, side("transition_notify"), &[32], 3.0),
    slow_commit(
        "transition, no event / by hand with pg_notify, 2 ms commit",
        TRANSITION,
        side("transition_notify"),
        15.0,
    ),
    line("transition, no event / as an ORM does it", TRANSITION, side("transition_orm"), &[32], 5.0),
    Line {
        note: NOT_YET,
        ..line("transition with its event / by hand with pg_notify", WITH_EVENT, side("transition_notify"), &[32], 3.0)
    },
    Line {
        note: NOT_YET,
        ..slow_commit(
            "transition with its event / by hand with pg_notify, 2 ms commit",
            WITH_EVENT,
            side("transition_notify"),
            15.0,
        )
    },
    Line {
        note: NOT_YET,
        ..line("transition with its event / as an ORM does it", WITH_EVENT, side("transition_orm"), &[32], 5.0)
    },
];

const fn line(name: &'static str, ours: Side, theirs: Side, clients: &'static [u32], goal: f64) -> Line {
    Line { name, ours, theirs, clients, goal, commit_delay: 0, note: "" }
}

const fn slow_commit(name: &'static str, ours: Side, theirs: Side, goal: f64) -> Line {
    Line { commit_delay: 2000, ..line(name, ours, theirs, &[32], goal) }
}

/// What was measured.
#[derive(Serialize)]
struct Figure {
    name: &'static str,
    clients: u32,
    /// Median of the ratios, ours / theirs.
    ratio: f64,
    lowest: f64,
    highest: f64,
    goal: f64,
    reached: bool,
    /// Medians, in transactions of the script per second.
    ours_tps: f64,
    theirs_tps: f64,
    note: &'static str,
}

/// Runs every line and prints the table.
pub fn run(options: &Options) -> Result<()> {
    let toolchain = setup::ensure()?;
    build::build_and_install(toolchain)?;
    let cluster = step("starting a private PostgreSQL (durable: fsync and synchronous_commit are on)", start)?;
    let mut figures = Vec::new();
    for delay in [0, 2000] {
        let lines = LINES.iter().filter(|line| line.commit_delay == delay && line.name.contains(&options.only));
        let lines: Vec<&Line> = lines.collect();
        if !lines.is_empty() {
            set_commit_delay(&cluster, delay)?;
        }
        for line in lines {
            for &clients in line.clients {
                let name =
                    format!("{}, {clients} clients, {} pairs of {} s", line.name, options.rounds, options.seconds);
                figures.push(step(&name, || measure(&cluster, line, clients, options))?);
            }
        }
    }
    print_table(&figures);
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&figures)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn start() -> Result<Postgres> {
    let settings =
        [("shared_buffers", "1GB"), ("max_wal_size", "8GB"), ("max_connections", "100"), ("autovacuum", "off")];
    let cluster = Postgres::start("bench", &settings)?;
    cluster.create_database("bench")?;
    let setup = std::fs::read_to_string(script("setup"))?;
    cluster.psql("bench", &setup)?;
    Ok(cluster)
}

/// With commit_siblings 0 every commit waits this long before it flushes.
fn set_commit_delay(cluster: &Postgres, microseconds: u32) -> Result<()> {
    cluster.configure(&[("commit_delay", &microseconds.to_string()), ("commit_siblings", "0")])?;
    cluster.stop(Shutdown::Fast)?;
    cluster.start_again()
}

fn measure(cluster: &Postgres, line: &Line, clients: u32, options: &Options) -> Result<Figure> {
    let mut pairs = Vec::new();
    for round in 0..options.rounds {
        // By turns, and each first as often as the other.
        let ours_first = round % 2 == 0;
        let [first, second] = if ours_first { [line.ours, line.theirs] } else { [line.theirs, line.ours] };
        let [first, second] = [pgbench(cluster, first, clients, options)?, pgbench(cluster, second, clients, options)?];
        pairs.push(if ours_first { (first, second) } else { (second, first) });
    }
    let ratios: Vec<f64> = pairs.iter().map(|(ours, theirs)| ours / theirs).collect();
    let ratio = median(ratios.clone());
    Ok(Figure {
        name: line.name,
        clients,
        ratio,
        lowest: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        highest: ratios.iter().copied().fold(0.0, f64::max),
        goal: line.goal,
        reached: ratio >= line.goal,
        ours_tps: median(pairs.iter().map(|pair| pair.0).collect()),
        theirs_tps: median(pairs.iter().map(|pair| pair.1).collect()),
        note: line.note,
    })
}

/// One run; transactions per second.
fn pgbench(cluster: &Postgres, side: Side, clients: u32, options: &Options) -> Result<f64> {
    cluster.psql("bench", &std::fs::read_to_string(script("reset"))?)?;
    let mut pgbench = std::process::Command::new(cluster.install().program("pgbench"));
    pgbench.env("PGOPTIONS", format!("-c pg_workflow.announce={}", side.announce));
    // Over the Unix socket: the network's own cost would hide part of the difference.
    pgbench.arg("-h").arg(cluster.socket_dir()).args(["-U", "postgres", "-p", &cluster.port().to_string()]);
    pgbench.args(["-n", "-M", "prepared", "-D", "k=0", "-j", "2", "-c", &clients.to_string()]);
    pgbench.args(["-T", &options.seconds.to_string(), "-f"]).arg(script(side.script)).arg("bench");
    let printed = output(&mut pgbench)?;
    if !printed.contains("number of failed transactions: 0 ") && printed.contains("number of failed transactions") {
        bail!("pgbench counted failed transactions in {}:\n{printed}", side.script);
    }
    let tps = printed.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    tps.with_context(|| format!("pgbench printed no figure:\n{printed}"))
}

fn script(name: &str) -> PathBuf {
    workspace::root().join("xtask/bench").join(name).with_extension("sql")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print_table(figures: &[Figure]) {
    println!(
        "{:66} {:>7} {:>7} {:>15} {:>6}  {:>7} {:>7}",
        "", "clients", "ratio", "(lowest-highest)", "goal", "ours/s", "hand/s"
    );
    for figure in figures {
        let Figure { name, clients, ratio, lowest, highest, goal, ours_tps, theirs_tps, .. } = figure;
        let verdict = match (figure.reached, figure.note) {
            (true, _) => String::new(),
            (false, note) => format!("  falls short. {note}"),
        };
        let range = format!("({lowest:.2}-{highest:.2})");
        println!(
            "{name:66} {clients:>7} {ratio:>7.2} {range:>15} {goal:>6.2}  {ours_tps:>7.0} {theirs_tps:>7.0}{verdict}"
        );
    }
}
