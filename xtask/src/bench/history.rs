//! The cost of 50,000,000 events of history for transitions, reads and purges.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Serialize;

use super::pgbench::Pgbench;
use super::ratio::{Ratio, median, pairs};
use super::{Bench, Options, Report, script};
use crate::command::step;

/// Months of history.
const PARTITIONS: u64 = 12;
/// Events in each.
const ROWS: u64 = 4_000_000;
/// Tasks that are not purged, with three events each.
const TASKS: u64 = 1_000_000;

/// The databases: one with all that, one with none of it.
const LARGE: &str = "history";
const SMALL: &str = "history_none";

/// A result of the measurement.
#[derive(Serialize)]
struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    /// Maximum; `None` without a goal.
    goal: Option<f64>,
}

pub fn measure(bench: &Bench, options: &Options) -> Result<Report> {
    let figures = if options.selects("history") { measure_all(bench, options)? } else { Vec::new() };
    Report::new("history", &figures, table(&figures))
}

fn measure_all(bench: &Bench, options: &Options) -> Result<Vec<Figure>> {
    for database in [SMALL, LARGE] {
        bench.cluster.create_database(database)?;
        bench.cluster.psql(database, &std::fs::read_to_string(script("setup"))?)?;
    }
    let total = PARTITIONS * ROWS + 3 * TASKS;
    step(&format!("writing {total} events"), || {
        let sql = std::fs::read_to_string(script("history"))?;
        let variables = format!("\\set partitions {PARTITIONS}\n\\set rows {ROWS}\n\\set tasks {TASKS}\n");
        bench.cluster.psql(LARGE, &(variables + &sql))
    })?;
    Ok(vec![
        ratio(bench, options, "a transition: time, against none", ["transition"; 2], Some(1.1))?,
        ratio(bench, options, "with a request_id: against one in none", ["transition_request"; 2], None)?,
        ratio(bench, options, "with a request_id: against without in none", WITH_REQUEST, Some(1.1))?,
        statement_ratio(bench, "read_events() of 1,000: time, against none", READ, Some(1.2))?,
        statement_ratio(bench, "history() of a task: time, against none", HISTORY, None)?,
        milliseconds(bench, "verify() of 1,000,000 tasks", VERIFY)?,
        milliseconds(bench, "creating a partition", "SELECT workflow.create_partition('state_history', 99)")?,
        milliseconds(bench, "dropping a month of 4,000,000 events with purge()", PURGE)?,
    ])
}

const READ: &str = "SELECT workflow.create_consumer('bench');
    SELECT count(*) FROM workflow.transition_many('task_instance',
        ARRAY(SELECT id FROM tasks WHERE n < 1000), NULL, 'failed');
    SELECT count(*) FROM workflow.transition_many('task_instance',
        ARRAY(SELECT id FROM tasks WHERE n < 1000), NULL, 'running');
    \\set ON_ERROR_STOP 1
    BEGIN;
    SELECT clock_timestamp() AS began \\gset
    SELECT count(*) FROM workflow.read_events('bench', 1000) \\g /dev/null
    SELECT extract(epoch FROM clock_timestamp() - :'began') * 1000 AS took;
    ROLLBACK;
    SELECT workflow.drop_consumer('bench') \\g /dev/null";
const HISTORY: &str = "SELECT id FROM tasks WHERE n = 7 \\gset
    SELECT count(*) FROM workflow.history('task_instance', :'id') \\g /dev/null
    SELECT clock_timestamp() AS began \\gset
    SELECT count(*) FROM workflow.history('task_instance', :'id') \\g /dev/null
    SELECT extract(epoch FROM clock_timestamp() - :'began') * 1000 AS took;";
const VERIFY: &str = "SELECT count(*) FROM workflow.verify(
    (SELECT min(created_at) FROM workflow.task_instances WHERE dag_run_id = (SELECT id FROM workflow.dag_runs WHERE execution_date = '2021-01-01Z')))";
const PURGE: &str = "SELECT object, rows, outcome FROM workflow.purge('2020-01-31Z')";

/// Script in the large database, and in the small one.
const WITH_REQUEST: [&str; 2] = ["transition_request", "transition"];

/// How much longer pgbench takes for a transaction of a script in the large database, than of another in the small one.
fn ratio(
    bench: &Bench,
    options: &Options,
    name: &'static str,
    [large, small]: [&str; 2],
    goal: Option<f64>,
) -> Result<Figure> {
    let throughput = |database, script| {
        bench.cluster.psql(database, RESET)?;
        Pgbench { database, ..Pgbench::of(script, 1, options.seconds) }.run(bench, "off")
    };
    let pairs = pairs(options.rounds, || throughput(SMALL, small), || throughput(LARGE, large))?;
    Ok(Figure { name, value: Ratio::of(&pairs).median, unit: "", goal })
}

/// The tasks are new ones: the event of their creation is in the current partition.
const RESET: &str = "SET session_replication_role = replica;
    UPDATE workflow.task_instances AS t SET state = 'running', version = 2 FROM tasks WHERE t.id = tasks.id;
    DELETE FROM workflow.state_history AS h USING tasks WHERE h.entity_id = tasks.id AND h.version > 1;
    UPDATE workflow.state_history AS h SET id = nextval('workflow.state_history_id_seq') FROM tasks
    WHERE h.entity_id = tasks.id AND h.id < workflow.current_partition('state_history') * workflow.partition_size();
    VACUUM ANALYZE workflow.task_instances;
    CHECKPOINT;";

/// The same for statements of which the last prints how many milliseconds it took.
fn statement_ratio(bench: &Bench, name: &'static str, sql: &str, goal: Option<f64>) -> Result<Figure> {
    let mut ratios = Vec::new();
    for _ in 0..15 {
        let [small, large] = [SMALL, LARGE].map(|database| took(&bench.cluster.psql(database, sql)?));
        ratios.push(large? / small?);
    }
    Ok(Figure { name, value: median(ratios), unit: "", goal })
}

fn milliseconds(bench: &Bench, name: &'static str, sql: &str) -> Result<Figure> {
    let timed = format!(
        "SELECT clock_timestamp() AS began \\gset\n{sql};\nSELECT extract(epoch FROM clock_timestamp() - :'began') * 1000;"
    );
    let printed = bench.cluster.psql(LARGE, &timed)?;
    println!("{}", printed.trim());
    Ok(Figure { name, value: took(&printed)?, unit: " ms", goal: None })
}

fn took(printed: &str) -> Result<f64> {
    printed.lines().last().and_then(|line| line.trim().parse().ok()).with_context(|| format!("no time in {printed:?}"))
}

fn table(figures: &[Figure]) -> String {
    let mut table = String::new();
    for Figure { name, value, unit, goal } in figures {
        let goal = goal.map_or_else(String::new, |goal| {
            format!("  goal {goal:.2}{}", if *value <= goal { "" } else { "  below target" })
        });
        let _ = writeln!(table, "{name:60} {value:>9.2}{unit}{goal}");
    }
    table
}
