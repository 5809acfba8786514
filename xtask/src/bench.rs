//! `cargo xtask bench`: the cost of the extension, as a ratio to the same work by hand in the same run.
//!
//! The machine is noisy, so speed is not claimed absolutely: pgbench runs the two sides by turns, each pair of runs
//! gives a ratio, and the median of the ratios is the result. The latency of events, the speed of relaying a backlog
//! and the WAL of a life are absolute. Lists and the cost of history are compared with themselves, in a small and in a
//! large database.

mod absolute;
mod claims;
mod cpu;
mod events;
mod history;
mod lines;
mod listener;
mod lists;
mod peers;
mod pgbench;
mod ratio;
mod ready;
mod tenants;
mod throughput;
mod wal;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::build::{self, Profile};
use crate::command::step;
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
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only lines whose name contains this; `peers` compares with job queues instead
    #[arg(long, default_value = "")]
    only: String,
    /// Also write the figures to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Options {
    fn selects(&self, name: &str) -> bool {
        name.contains(&self.only)
    }
}

/// Each measures the lines of its subject that the options select.
const MEASUREMENTS: [fn(&Bench, &Options) -> Result<Report>; 12] = [
    lines::measure,
    claims::measure,
    claims::measure_figures,
    ready::measure,
    ready::measure_figures,
    cpu::measure,
    wal::measure,
    events::measure,
    lists::measure,
    history::measure,
    tenants::measure,
    peers::measure,
];

/// The results of a measurement.
struct Report {
    /// Its key in the JSON file.
    name: &'static str,
    figures: Value,
    table: String,
}

impl Report {
    fn new(name: &'static str, figures: &impl Serialize, table: String) -> Result<Report> {
        Ok(Report { name, figures: serde_json::to_value(figures)?, table })
    }
}

/// Runs every measurement and prints the tables.
pub fn run(options: &Options) -> Result<()> {
    let toolchain = setup::ensure()?;
    let artifacts = build::build_and_install(toolchain, Profile::Release)?;
    let title = "starting a private PostgreSQL (durable: fsync and synchronous_commit are on) and Redis";
    let bench = step(title, || Bench::start(artifacts.server.clone()))?;
    let reports: Vec<Report> = MEASUREMENTS.iter().map(|measure| measure(&bench, options)).collect::<Result<_>>()?;
    println!("{}", bench.settings()?);
    for report in &reports {
        print!("{}", report.table);
    }
    if let Some(path) = &options.json {
        let figures: Map<String, Value> =
            reports.into_iter().map(|report| (report.name.to_owned(), report.figures)).collect();
        let json = serde_json::to_string_pretty(&figures)?;
        fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The servers that run during a measurement.
struct Bench {
    // Fields are dropped in this order: clients of a server before the server.
    redis: Redis,
    cluster: Postgres,
    server_binary: PathBuf,
    /// Whether a session has listened to events since the server's start.
    was_heard: AtomicBool,
}

impl Bench {
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
        for name in ["setup", "lean"] {
            cluster.psql("bench", &fs::read_to_string(script(name))?)?;
        }
        Ok(Bench { redis: Redis::start("bench")?, cluster, server_binary, was_heard: AtomicBool::new(false) })
    }

    /// Makes every run begin alike.
    fn reset(&self) -> Result<()> {
        self.cluster.psql("bench", &fs::read_to_string(script("reset"))?)?;
        Ok(())
    }

    fn restart_with(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.cluster.configure(settings)?;
        self.cluster.stop(Shutdown::Fast)?;
        self.was_heard.store(false, Ordering::Relaxed);
        self.cluster.start_again()
    }

    /// Restarts the server if a session has listened to events: it may have left something behind.
    fn forget_listeners(&self) -> Result<()> {
        if self.was_heard.load(Ordering::Relaxed) { self.restart_with(&[]) } else { Ok(()) }
    }

    /// Works without waiting for the disk and without images of full pages, which would hide the rest.
    fn without_disk<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.restart_with(&[("fsync", "off"), ("full_page_writes", "off")])?;
        let result = work();
        self.restart_with(&[("fsync", "on"), ("full_page_writes", "on")])?;
        result
    }

    /// The settings on which the figures depend, as they are now.
    fn settings(&self) -> Result<String> {
        let sql = "SELECT string_agg(name || ' = ' || current_setting(name), ', ' ORDER BY name) FROM pg_settings
                   WHERE name = ANY ('{server_version,fsync,synchronous_commit,full_page_writes,shared_buffers,
                       max_wal_size,autovacuum,shared_preload_libraries,pg_workflow.announce}')";
        self.cluster.psql("bench", sql)
    }
}

fn script(name: &str) -> PathBuf {
    workspace::root().join("xtask/bench").join(name).with_extension("sql")
}
