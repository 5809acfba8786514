//! WAL of a life, without images of full pages: those depend on the checkpoints.

use std::fmt::Write;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use super::pgbench::{Length, Pgbench};
use super::{Bench, Options, Report};
use crate::command::{output, step};

const LIVES: u32 = 2000;

/// A result of the measurement.
#[derive(Serialize)]
struct Figure {
    name: &'static str,
    bytes: f64,
    /// Maximum; `None` without a goal.
    goal: Option<f64>,
}

pub fn measure(bench: &Bench, options: &Options) -> Result<Report> {
    let sides = [
        ("WAL of a life, full pages aside", "life", Some(2600.0)),
        ("WAL of a life, full pages aside, lean by hand", "life_lean", None),
    ];
    let sides: Vec<_> = sides.into_iter().filter(|(name, ..)| options.selects(name)).collect();
    let mut figures = Vec::new();
    if !sides.is_empty() {
        let lives =
            || sides.into_iter().map(|(name, life, goal)| Ok(Figure { name, bytes: bytes(bench, life)?, goal }));
        figures = step(&format!("WAL of {LIVES} lives"), || bench.without_disk(|| lives().collect()))?;
    }
    Report::new("wal", &figures, table(&figures))
}

/// Bytes of WAL records a life.
pub fn bytes(bench: &Bench, life: &str) -> Result<f64> {
    bench.reset()?;
    let position = || bench.cluster.psql("bench", "SELECT pg_current_wal_flush_lsn()");
    let start = position()?;
    let length = Length::Transactions(LIVES);
    Pgbench { length, ..Pgbench::of(life, 1, 0) }.run(bench, "events")?;
    // Not pg_stat_wal: a session adds to it when it ends, and images of full pages with the rest.
    let mut waldump = Command::new(bench.cluster.install().program("pg_waldump"));
    waldump.arg("--stats").arg("--path").arg(bench.cluster.data().join("pg_wal"));
    waldump.args(["--start", &start, "--end", &position()?]);
    Ok(record_bytes(&output(&mut waldump)?)? / f64::from(LIVES))
}

/// The total of the records that `pg_waldump --stats` printed, without full pages.
fn record_bytes(printed: &str) -> Result<f64> {
    let total = printed.lines().find_map(|line| line.strip_prefix("Total")?.split_whitespace().nth(1));
    let bytes = total.and_then(|bytes| bytes.parse().ok());
    bytes.with_context(|| format!("pg_waldump printed no total:\n{printed}"))
}

fn table(figures: &[Figure]) -> String {
    let mut table = String::new();
    for Figure { name, bytes, goal } in figures {
        let goal = goal.map_or_else(String::new, |goal| {
            format!("  goal {goal:.0}{}", if *bytes <= goal { "" } else { "  above target" })
        });
        let _ = writeln!(table, "{name:66} {bytes:>7.0} bytes{goal}");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_is_read_without_full_pages() {
        let printed = "\
Type            N      (%)          Record size      (%)             FPI size      (%)        Combined size      (%)
----            -      ---          -----------      ---             --------      ---        -------------      ---
Heap            6 ( 60.00)                  500 ( 62.50)                 8192 (100.00)                 8692 ( 96.67)
Btree           4 ( 40.00)                  300 ( 37.50)                    0 (  0.00)                  300 (  3.33)
         --------                      --------                      --------                      --------
Total          10                           800 [8.90%]                  8192 [91.10%]                 8992 [100%]";
        assert_eq!(record_bytes(printed).unwrap(), 800.0);
        assert!(record_bytes("").is_err());
    }
}
