//! `cargo xtask bench`: the cost of the extension, as a ratio to the same work by hand in the same run.
//!
//! The machine is noisy, so speed is not claimed absolutely: pgbench runs the two sides by turns, each pair of runs
//! gives a ratio, and the median of the ratios is the result. The latency of events and the speed of relaying a backlog
//! are absolute. Lists and the cost of history are compared with themselves, in a small and in a large database.

mod events;
mod history;
mod lists;
mod tenants;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::build::{self, Profile};
use crate::command::{output, step};
use crate::stack::Redis;
use crate::stack::postgres::{PRELOADED, Postgres, Shutdown};
use crate::{setup, workspace};

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

/// A pgbench script in `xtask/bench`, and the receiver of its events while it runs.
#[derive(Clone, Copy)]
struct Side {
    script: &'static str,
    told: Told,
}

#[derive(Clone, Copy, PartialEq)]
enum Told {
    /// No session listens.
    Nobody,
    /// A session that listens, by the notifier (or by the script's own pg_notify).
    Listener,
    /// Redis, by a relay; the time until it has everything counts.
    Redis,
}

const fn side(script: &'static str) -> Side {
    Side { script, told: Told::Nobody }
}

/// A session also listens to the notifications that the script itself sends.
const fn heard(script: &'static str) -> Side {
    Side { script, told: Told::Listener }
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
}

const TRANSITION: Side = side("transition");
const WITH_EVENT: Side = heard("transition");
const WITH_REDIS: Side = Side { script: "transition", told: Told::Redis };

const LINES: &[Line] = &[
    line("transition, no reader / UPDATE + INSERT by hand", TRANSITION, side("transition_bare"), &[1, 8, 32], 0.90),
    line("transition, all events in Redis / by hand, no event", WITH_REDIS, side("transition_bare"), &[1, 8, 32], 0.80),
    line("a task's life, no reader / by hand", side("life"), side("life_bare"), &[1, 8, 32], 0.85),
    line("transition_many of 10,000, no reader / by hand", side("many"), side("many_bare"), &[1], 0.80),
    line("transition with its event / by hand with pg_notify", WITH_EVENT, heard("transition_notify"), &[32], 3.0),
    slow_commit("transition with its event / by hand with pg_notify, 2 ms commit", heard("transition_notify"), 15.0),
    line("transition with its event / as an ORM does it", WITH_EVENT, heard("transition_orm"), &[32], 5.0),
];

const fn line(name: &'static str, ours: Side, theirs: Side, clients: &'static [u32], goal: f64) -> Line {
    Line { name, ours, theirs, clients, goal, commit_delay: 0 }
}

const fn slow_commit(name: &'static str, theirs: Side, goal: f64) -> Line {
    Line { commit_delay: 2000, ..line(name, WITH_EVENT, theirs, &[32], goal) }
}

/// A result of the measurement.
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
}

/// The servers that run during a measurement.
struct Bench {
    // Fields are dropped in this order: clients of a server before the server.
    redis: Redis,
    cluster: Postgres,
    server_binary: PathBuf,
}

/// Runs every line and prints the table.
pub fn run(options: &Options) -> Result<()> {
    let toolchain = setup::ensure()?;
    let artifacts = build::build_and_install(toolchain, Profile::Release)?;
    let title = "starting a private PostgreSQL (durable: fsync and synchronous_commit are on) and Redis";
    let bench = step(title, || start(artifacts.server.clone()))?;
    let mut figures = Vec::new();
    for delay in [0, 2000] {
        let lines = LINES.iter().filter(|line| line.commit_delay == delay && line.name.contains(&options.only));
        let lines: Vec<&Line> = lines.collect();
        if !lines.is_empty() {
            set_commit_delay(&bench.cluster, delay)?;
        }
        for line in lines {
            for &clients in line.clients {
                let name =
                    format!("{}, {clients} clients, {} pairs of {} s", line.name, options.rounds, options.seconds);
                figures.push(step(&name, || measure(&bench, line, clients, options))?);
            }
        }
    }
    set_commit_delay(&bench.cluster, 0)?;
    let absolute = events::measure(&bench, options)?;
    let lists = lists::measure(&bench, options)?;
    let history = history::measure(&bench, options)?;
    let tenants = tenants::measure(&bench, options)?;
    print_table(&figures);
    events::print_table(&absolute);
    lists::print_table(&lists);
    history::print_table(&history);
    tenants::print_table(&tenants);
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(
            &serde_json::json!({ "ratios": figures, "events": absolute, "lists": lists, "history": history, "tenants": tenants }),
        )?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn start(server_binary: PathBuf) -> Result<Bench> {
    let settings = [
        ("shared_buffers", "1GB"),
        ("max_wal_size", "8GB"),
        ("max_connections", "100"),
        ("autovacuum", "off"),
        PRELOADED,
    ];
    let cluster = Postgres::start("bench", &settings)?;
    cluster.create_database("bench")?;
    let setup = std::fs::read_to_string(script("setup"))?;
    cluster.psql("bench", &setup)?;
    Ok(Bench { redis: Redis::start("bench")?, cluster, server_binary })
}

/// With commit_siblings 0 every commit waits this long before it flushes.
fn set_commit_delay(cluster: &Postgres, microseconds: u32) -> Result<()> {
    cluster.configure(&[("commit_delay", &microseconds.to_string()), ("commit_siblings", "0")])?;
    cluster.stop(Shutdown::Fast)?;
    cluster.start_again()
}

fn measure(bench: &Bench, line: &Line, clients: u32, options: &Options) -> Result<Figure> {
    let mut pairs = Vec::new();
    for round in 0..options.rounds {
        // By turns, and each first as often as the other.
        let ours_first = round % 2 == 0;
        let [first, second] = if ours_first { [line.ours, line.theirs] } else { [line.theirs, line.ours] };
        let [first, second] =
            [throughput(bench, first, clients, options)?, throughput(bench, second, clients, options)?];
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
    })
}

/// One run; transactions per second.
fn throughput(bench: &Bench, side: Side, clients: u32, options: &Options) -> Result<f64> {
    reset(bench)?;
    let pgbench = Pgbench::of(side.script, clients, options.seconds);
    match side.told {
        Told::Nobody => pgbench.run(bench, "off"),
        Told::Listener => events::while_listening(&bench.cluster, || pgbench.run(bench, "events")),
        Told::Redis => {
            let relay = events::Relay::start(bench)?;
            let tps = pgbench.run(bench, "off")?;
            let transactions = tps * f64::from(options.seconds);
            let late = relay.wait_until_in_redis(bench)?;
            Ok(transactions / (f64::from(options.seconds) + late.as_secs_f64()))
        }
    }
}

fn reset(bench: &Bench) -> Result<()> {
    bench.cluster.psql("bench", &std::fs::read_to_string(script("reset"))?)?;
    Ok(())
}

/// A run of pgbench.
struct Pgbench {
    database: &'static str,
    user: &'static str,
    script: &'static str,
    clients: u32,
    seconds: u32,
    /// Transactions a second, rather than as many as it can.
    rate: Option<u32>,
}

impl Pgbench {
    /// As fast as it can, in the database `bench`.
    fn of(script: &'static str, clients: u32, seconds: u32) -> Pgbench {
        Pgbench { database: "bench", user: "postgres", script, clients, seconds, rate: None }
    }

    /// Transactions per second, with this value of `pg_workflow.announce`.
    fn run(&self, bench: &Bench, announce: &str) -> Result<f64> {
        self.run_with(bench, &format!("-c pg_workflow.announce={announce}"))
    }

    /// The same, with the `pg_workflow.announce` of the database.
    fn run_as_configured(&self, bench: &Bench) -> Result<f64> {
        self.run_with(bench, "")
    }

    fn run_with(&self, bench: &Bench, settings: &str) -> Result<f64> {
        let mut pgbench = std::process::Command::new(bench.cluster.install().program("pgbench"));
        pgbench.env("PGOPTIONS", settings);
        // Over the Unix socket: the network's own cost would hide part of the difference.
        let (socket, port) = (bench.cluster.socket_dir(), bench.cluster.port().to_string());
        pgbench.arg("-h").arg(socket).args(["-U", self.user, "-p", &port]);
        pgbench.args(["-n", "-M", "prepared", "-D", "k=0", "-j", "2", "-c", &self.clients.to_string()]);
        if let Some(rate) = self.rate {
            pgbench.args(["-R", &rate.to_string()]);
        }
        pgbench.args(["-T", &self.seconds.to_string(), "-f"]).arg(script(self.script)).arg(self.database);
        let printed = output(&mut pgbench)?;
        if !printed.contains("number of failed transactions: 0 ") && printed.contains("number of failed transactions") {
            bail!("pgbench counted failed transactions in {}:\n{printed}", self.script);
        }
        let tps = printed.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        tps.with_context(|| format!("pgbench printed no figure:\n{printed}"))
    }
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
        let verdict = if figure.reached { "" } else { "  below target" };
        let range = format!("({lowest:.2}-{highest:.2})");
        println!(
            "{name:66} {clients:>7} {ratio:>7.2} {range:>15} {goal:>6.2}  {ours_tps:>7.0} {theirs_tps:>7.0}{verdict}"
        );
    }
}
