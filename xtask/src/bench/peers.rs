//! `--only peers`: the same life through job queues for PostgreSQL, in one cluster beside ours.
//!
//! A life is created, started and finished, in a transaction each. Every client creates jobs and works on the oldest
//! one. Each run of a queue and its neighbor, a run of the lean baseline, give a ratio.

mod known;
mod package;

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use super::lines::{LEAN, heard, unheard};
use super::pgbench::{Length, Pgbench};
use super::ratio::{Ratio, median, pairs};
use super::{Bench, Options, Report};
use crate::command::step;
use known::{PEERS, Peer, Sending, UNAVAILABLE};

const CLIENTS: [u32; 3] = [1, 8, 32];
/// The database of a run: a copy of the queue's template.
const DATABASE: &str = "peer";

/// A queue, sent in one way.
#[derive(Serialize)]
struct Row {
    /// With its version.
    name: &'static str,
    sent: &'static str,
    /// One for each number of clients; none if it was not measured.
    figures: Vec<Figure>,
    /// Why it was not measured.
    missing: Option<String>,
}

#[derive(Serialize)]
struct Figure {
    clients: u32,
    /// Of throughput, to the lean baseline.
    #[serde(flatten)]
    ratio: Ratio,
    /// Median, in lives per second.
    tps: f64,
}

pub fn measure(bench: &Bench, options: &Options) -> Result<Report> {
    let mut rows = Vec::new();
    // Only if it is asked for: it takes long, and installs packages.
    if options.only == "peers" {
        for (name, life) in
            [("pg_workflow, no listener", unheard("life")), ("pg_workflow, events heard", heard("life"))]
        {
            let run = |clients| life.throughput(bench, clients, options.seconds);
            rows.push(Row { name, sent: "prepared", figures: compare(bench, options, name, run)?, missing: None });
        }
        for peer in PEERS {
            rows.extend(measure_peer(bench, options, peer));
        }
        rows.extend(UNAVAILABLE.iter().map(|(name, reason)| Row::missing(name, (*reason).to_owned())));
    }
    Report::new("peers", &rows, table(&rows))
}

/// A row for each way to send it, or one with the reason why there is none.
fn measure_peer(bench: &Bench, options: &Options, peer: &Peer) -> Vec<Row> {
    let name = peer.package.spec();
    let rows = Template::create(bench, peer).and_then(|template| {
        let row = |&Sending { protocol, note }: &Sending| {
            let run = |clients| template.throughput(bench, protocol, clients, options.seconds);
            let figures = compare(bench, options, &format!("{name}, {note}"), run)?;
            Ok(Row { name, sent: note, figures, missing: None })
        };
        peer.sendings.iter().map(row).collect()
    });
    rows.unwrap_or_else(|error| vec![Row::missing(name, format!("{error:#}"))])
}

impl Row {
    fn missing(name: &'static str, reason: String) -> Row {
        eprintln!("  {name} is not measured: {reason}");
        Row { name, sent: "", figures: Vec::new(), missing: Some(reason) }
    }
}

fn compare(bench: &Bench, options: &Options, title: &str, run: impl Fn(u32) -> Result<f64>) -> Result<Vec<Figure>> {
    let figure = |clients| {
        let lean = || LEAN.throughput(bench, clients, options.seconds);
        let title = format!("{title}, {clients} clients, {} pairs of {} s", options.rounds, options.seconds);
        let pairs = step(&title, || pairs(options.rounds, || run(clients), lean))?;
        Ok(Figure { clients, ratio: Ratio::of(&pairs), tps: median(pairs.iter().map(|pair| pair.0).collect()) })
    };
    CLIENTS.into_iter().map(figure).collect()
}

/// A database with a queue's tables, filled and analyzed, and the script of a life.
struct Template {
    database: String,
    life: PathBuf,
}

impl Template {
    fn create(bench: &Bench, peer: &Peer) -> Result<Template> {
        let package::Scripts { schema, create, life } = package::prepare(peer)?;
        let database = format!("template of {}", peer.program);
        step(&format!("Creating the tables of {}", peer.package.spec()), || {
            bench.cluster.psql("postgres", &format!("DROP DATABASE IF EXISTS {DATABASE}"))?;
            bench.cluster.create_database(DATABASE)?;
            let schema = fs::read_to_string(&schema).with_context(|| schema.display().to_string())?;
            bench.cluster.psql(DATABASE, &schema)?;
            // More waiting jobs than clients: a client whose snapshot is older than a job must find another one.
            for script in [create, life.clone()] {
                pgbench(script, 8, Length::Transactions(100)).run_as_configured(bench)?;
            }
            bench.cluster.psql(DATABASE, "VACUUM ANALYZE")?;
            bench.cluster.psql("postgres", &format!("CREATE DATABASE \"{database}\" TEMPLATE {DATABASE}"))
        })?;
        Ok(Template { database, life })
    }

    /// One run; lives per second.
    fn throughput(&self, bench: &Bench, protocol: &'static str, clients: u32, seconds: u32) -> Result<f64> {
        let copy = format!(
            "DROP DATABASE {DATABASE};\nCREATE DATABASE {DATABASE} TEMPLATE \"{}\";\nCHECKPOINT;",
            self.database
        );
        bench.cluster.psql("postgres", &copy)?;
        let pgbench = pgbench(self.life.clone(), clients, Length::Seconds(seconds));
        Pgbench { protocol, ..pgbench }.run_as_configured(bench)
    }
}

fn pgbench(script: PathBuf, clients: u32, length: Length) -> Pgbench {
    Pgbench { database: DATABASE, script, length, ..Pgbench::of("life", clients, 0) }
}

fn table(rows: &[Row]) -> String {
    let mut table = String::new();
    if rows.is_empty() {
        return table;
    }
    let [one, eight, many] = CLIENTS.map(|clients| format!("{clients} clients"));
    let _ = writeln!(table, "{:27} {one:>18} {eight:>18} {many:>18}", "a life / lean by hand");
    for Row { name, sent, figures, missing } in rows {
        let _ = write!(table, "{name:27}");
        for Figure { ratio, .. } in figures {
            let _ = write!(table, " {ratio:>18}");
        }
        let _ = match missing {
            Some(reason) => writeln!(table, " not measured: {}", on_one_line(reason)),
            None => writeln!(table, "  {sent}"),
        };
    }
    for Peer { package, settings, keeps, lacks, .. } in PEERS {
        let _ = writeln!(table, "{}: {settings}. It keeps {keeps}; it does not record {lacks}.", package.spec());
    }
    table
}

/// The beginning of a reason, which can have the whole output of a program. All of it was printed before.
fn on_one_line(reason: &str) -> String {
    let words = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(200) {
        Some((end, _)) => format!("{} …", &words[..end]),
        None => words,
    }
}
