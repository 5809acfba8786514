//! Processor time of the backend for a life. Unlike throughput, it does not depend on the disk, nor on the clients.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::pgbench::{Length, Pgbench};
use super::ratio::lower_quartile;
use super::{Bench, Options, Report, script};
use crate::command::step;

/// Lives of a phase that are measured, after others that fill the backend's caches.
const LIVES: u32 = 1000;
const WARM_UP: u32 = 200;
/// How often a phase runs its script.
pub const RUNS: u32 = WARM_UP + LIVES;
/// Creates what the measured database needs.
pub const TABLE: &str = "CREATE UNLOGGED TABLE IF NOT EXISTS cpu (microseconds float8);\n";
/// Phases of each side for each round of the options: a phase is short.
const PHASES_A_ROUND: u32 = 5;
const GOAL: f64 = 1.0;
/// An SQL expression: the time that the backend has been on a processor.
pub const PROCESSOR_NANOSECONDS: &str = "split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::float8";

/// A result of the measurement.
#[derive(Serialize)]
struct Figure {
    name: &'static str,
    /// Of the lower quartiles, ours to the lean baseline.
    ratio: f64,
    goal: f64,
    reached: bool,
    /// Lower quartiles.
    ours_microseconds: f64,
    lean_microseconds: f64,
}

pub fn measure(bench: &Bench, options: &Options) -> Result<Report> {
    let name = "CPU of the backend a life, no listener, 1 client / lean by hand";
    let mut figures = Vec::new();
    if options.selects(name) {
        let phases = options.rounds * PHASES_A_ROUND;
        let title = format!("{name}, {phases} phases of {LIVES} lives");
        figures.push(step(&title, || bench.without_disk(|| compare(bench, name, phases)))?);
    }
    Report::new("cpu", &figures, table(&figures))
}

fn compare(bench: &Bench, name: &'static str, phases: u32) -> Result<Figure> {
    bench.cluster.psql("bench", TABLE)?;
    bench.reset()?;
    let (mut ours, mut lean) = (Vec::new(), Vec::new());
    // By turns. Both sides fill their tables alike, so nothing is reset between the phases.
    for number in 0..phases {
        let k = number * RUNS;
        ours.push(phase(bench, "bench", "life", k)?);
        lean.push(phase(bench, "bench", "life_lean", k)?);
    }
    let [ours_microseconds, lean_microseconds] = [ours, lean].map(lower_quartile);
    let ratio = ours_microseconds / lean_microseconds;
    Ok(Figure { name, ratio, goal: GOAL, reached: ratio <= GOAL, ours_microseconds, lean_microseconds })
}

/// Microseconds a life. Names of tasks begin after `k`.
pub fn phase(bench: &Bench, database: &'static str, life: &str, k: u32) -> Result<f64> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(metered(&fs::read_to_string(script(life))?, k).as_bytes())?;
    let length = Length::Transactions(RUNS);
    Pgbench { database, script: file.path().to_owned(), length, k, ..Pgbench::of(life, 1, 0) }.run(bench, "events")?;
    let sql = "DELETE FROM cpu RETURNING microseconds";
    let total: f64 = bench.cluster.psql(database, sql)?.trim().parse()?;
    Ok(total / f64::from(LIVES))
}

/// The script, whose backend writes down its own processor time between the warm-up and the last life.
fn metered(life: &str, k: u32) -> String {
    let cpu = format!("{PROCESSOR_NANOSECONDS} / 1000");
    let (first, last) = (k + WARM_UP, k + WARM_UP + LIVES);
    format!(
        "\\if :k = {first}\nSELECT {cpu} AS began \\gset\n\\endif\n{life}\n\
         \\if :k = {last}\nINSERT INTO cpu SELECT {cpu} - :began;\n\\endif\n"
    )
}

fn table(figures: &[Figure]) -> String {
    let mut table = String::new();
    for Figure { name, ratio, goal, ours_microseconds, lean_microseconds, reached } in figures {
        let verdict = if *reached { "" } else { "  above target" };
        let _ = writeln!(
            table,
            "{name:66} {ratio:>7.2} goal {goal:.2}  {ours_microseconds:>5.0} µs {lean_microseconds:>5.0} µs{verdict}"
        );
    }
    table
}
