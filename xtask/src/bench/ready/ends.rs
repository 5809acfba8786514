//! Ends of tasks: of many parents of one, of one parent of many, of some in each transaction, and of tasks that no other one waits for.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::super::cpu;
use super::super::pgbench::{Length, Pgbench};
use super::super::ratio::{lower_quartile, median};
use super::super::{Bench, script};
use super::{CLIENTS, FAN_IN, Shape, position_in};

/// Parents that are left when the clients have ended.
const LEFT: u32 = 16;

/// Ends almost all parents of a task, in random order; ends per second.
pub fn fan_in(bench: &Bench, edges: bool) -> Result<f64> {
    FAN_IN.create(bench, edges)?;
    start_parents(bench)?;
    let length = Length::Transactions((10_000 - LEFT) / CLIENTS);
    Pgbench { length, ..Pgbench::of("ready_end", CLIENTS, 0) }.run(bench, "off")
}

/// Starts the parents, and numbers them at random.
pub fn start_parents(bench: &Bench) -> Result<()> {
    bench.cluster.psql("bench", &fs::read_to_string(script("ready_parents"))?)?;
    Ok(())
}

/// Milliseconds that the end of the last of 10,000 parents takes, in a session that has ended others.
pub fn last_end(bench: &Bench) -> Result<f64> {
    fan_in(bench, true)?;
    let end = |n: u32| {
        format!(
            "SELECT workflow.transition_task_instance((SELECT id FROM parents WHERE n = {n}), 'running', 'success');\n"
        )
    };
    let others: String = (10_000 - LEFT..9_999).map(end).collect();
    let [milliseconds, waiting] = timed(bench, &others, &end(9_999))?;
    ensure!(waiting == 0.0, "the task still waits after its last parent has ended");
    Ok(milliseconds)
}

/// The end of one parent of 10,000 tasks.
pub struct FanOut {
    pub milliseconds: f64,
    /// Bytes of WAL for each of them.
    pub bytes: f64,
}

pub fn fan_out(bench: &Bench, end: &str) -> Result<FanOut> {
    Shape { script: "ready_fan_out", variables: &[("children", 10_000)], runs: 2 }.create(bench, true)?;
    let sql = |order: &str| {
        format!(
            "SELECT id AS root FROM workflow.task_instances WHERE task_id = 'root' ORDER BY id {order} LIMIT 1 \\gset
             SELECT workflow.transition_task_instance(:'root', 'queued', 'running');"
        )
    };
    let end = format!("SELECT workflow.transition_task_instance(:'root', 'running', '{end}');\n");
    let (first, last) = (sql("ASC"), sql("DESC"));
    let before = format!("{first}{end}{last}CHECKPOINT;\nSELECT pg_current_wal_insert_lsn() AS lsn \\gset\n");
    let after = format!("{end}SELECT pg_current_wal_insert_lsn() - :'lsn' AS bytes \\gset\n");
    let [milliseconds, waiting, bytes] = timed_with(bench, &before, &after, ":bytes")?;
    ensure!(waiting == 0.0, "{waiting} tasks still wait after their parent has ended");
    Ok(FanOut { milliseconds, bytes: bytes / 10_000.0 })
}

/// Milliseconds of the last statements, and the number of tasks that wait then.
fn timed(bench: &Bench, before: &str, sql: &str) -> Result<[f64; 2]> {
    timed_with(bench, before, sql, "")
}

fn timed_with<const N: usize>(bench: &Bench, before: &str, sql: &str, more: &str) -> Result<[f64; N]> {
    let sql = format!(
        "SET pg_workflow.announce = off;
         {before}SELECT clock_timestamp() AS began \\gset
         {sql}SELECT extract(epoch FROM clock_timestamp() - :'began') * 1000 AS took \\gset
         SELECT count(*) AS waiting FROM workflow.waiting \\gset
         \\echo :took :waiting {more}"
    );
    let printed = bench.cluster.psql("bench", &sql)?;
    let numbers = printed.lines().last().into_iter().flat_map(|line| line.split_whitespace());
    let numbers: Vec<f64> = numbers.filter_map(|word| word.parse().ok()).collect();
    <[f64; N]>::try_from(numbers).ok().with_context(|| format!("no figures in {printed:?}"))
}

/// The ends of six parents in each transaction, in random order, by several clients: how many of their children wait for
/// nothing after a look, and how many transactions have met in a deadlock.
pub fn collisions(bench: &Bench) -> Result<[f64; 2]> {
    const PARENTS: u32 = 9_600;
    let deadlocks = || -> Result<f64> {
        let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = 'bench'";
        Ok(bench.cluster.psql("bench", sql)?.trim().parse()?)
    };
    let before = deadlocks()?;
    Shape { script: "ready_pairs", variables: &[("parents", PARENTS)], runs: 1 }.create(bench, true)?;
    start_parents(bench)?;
    let length = Length::Transactions(PARENTS / 6 / CLIENTS);
    Pgbench { length, tries: 1000, ..Pgbench::of("ready_end_six", CLIENTS, 0) }.run(bench, "off")?;
    // What two transactions have left to each other, the next look decides.
    let sql = "SELECT workflow.look_at_joins();\n SELECT count(*) FROM workflow.waiting";
    let lost = bench.cluster.psql("bench", sql)?;
    let lost = lost.lines().last().context("no number of tasks")?.trim().parse()?;
    Ok([lost, deadlocks()? - before])
}

/// The ends of tasks that no other one waits for.
pub struct Alone {
    /// How many times as fast, by the processor's time of the backend, as where no task waits.
    pub ratio: f64,
    /// Bytes of WAL more.
    pub bytes: f64,
}

/// The databases: in one, many other tasks wait.
const WITHOUT: &str = "ready_without";
const WITH: &str = "ready_with";

pub fn alone(bench: &Bench, phases: u32) -> Result<Alone> {
    for (database, edges) in [(WITHOUT, false), (WITH, true)] {
        bench.cluster.create_database(database)?;
        let tasks = phases * cpu::RUNS;
        let sql =
            format!("\\set edges {edges}\n\\set tasks {tasks}\n{}", fs::read_to_string(script("ready_alone_fill"))?);
        bench.cluster.psql(database, &format!("{}{sql}", cpu::TABLE))?;
    }
    let phase = |database, number: u32| -> Result<(f64, f64)> {
        let begin = position_in(bench, database)?;
        let took = cpu::phase(bench, database, "ready_alone", number * cpu::RUNS)?;
        Ok((took, (position_in(bench, database)? - begin) / f64::from(cpu::RUNS)))
    };
    let [mut with, mut without] = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for number in 0..phases {
        let mut sides = [(WITH, &mut with), (WITHOUT, &mut without)];
        if number % 2 > 0 {
            sides.reverse();
        }
        for (database, (took, bytes)) in sides {
            let measured = phase(database, number)?;
            took.push(measured.0);
            bytes.push(measured.1);
        }
    }
    let ratio = lower_quartile(without.0) / lower_quartile(with.0);
    // A few records of the server itself are among them.
    let bytes = (median(with.1) - median(without.1)).round().max(0.0);
    Ok(Alone { ratio, bytes })
}
