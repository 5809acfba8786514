//! Claims in a large database, beside an open transaction, their renewal, waiting for them, and their WAL.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::super::absolute::{Absolute, at_least, at_most, table};
use super::super::cpu::PROCESSOR_NANOSECONDS;
use super::super::pgbench::{Length, Pgbench};
use super::super::ratio::{median, pairs};
use super::super::{Bench, Options, Report, script, wal};
use crate::command::step;

/// Tasks claimed and ended in a run beside an open transaction.
const LIVES: u32 = 300_000;
/// Claims held at a time, and how often their worker renews them, in seconds.
const HELD: u32 = 10_000;
const RENEWED_EVERY: f64 = 10.0;
/// Sessions that wait, and new tasks per second.
const WAITERS: u32 = 32;
const ARRIVALS: u32 = 100;

/// The databases: one with years of work, one with almost none.
const LARGE: &str = "claims_large";
const SMALL: &str = "claims_small";

type Measurement = fn(&Bench, &Options) -> Result<Vec<Absolute>>;
const MEASUREMENTS: [(&str, Measurement); 5] = [
    ("claims: beside an open transaction", beside_open_transaction),
    ("claims: large database", in_large_database),
    ("claims: renewal", renewal),
    ("claims: arrival", arrival),
    ("claims: WAL", wal_of_a_life),
];

pub fn measure(bench: &Bench, options: &Options) -> Result<Report> {
    let mut figures = Vec::new();
    for (name, measure) in MEASUREMENTS {
        if options.selects(name) {
            figures.extend(step(name, || bench.without_disk(|| measure(bench, options)))?);
        }
    }
    Report::new("claim_figures", &figures, table(&figures))
}

/// Two percent of the tasks are tried again after a minute; four priorities.
fn beside_open_transaction(bench: &Bench, _: &Options) -> Result<Vec<Absolute>> {
    let run = |is_open: bool| -> Result<(f64, f64, f64)> {
        fill(bench, LIVES + LIVES / 10)?;
        let mut other = is_open.then(|| open_transaction(bench)).transpose()?;
        let first = buffers_of_a_claim(bench)?;
        let clients = 8;
        let length = Length::Transactions(LIVES / clients);
        let speed = Pgbench { length, ..Pgbench::of("claim_mixed", clients, 0) }.run(bench, "off")?;
        let last = buffers_of_a_claim(bench)?;
        if let Some(other) = &mut other {
            other.kill()?;
            other.wait()?;
        }
        Ok((speed, first, last))
    };
    let (without, ..) = run(false)?;
    let (with, first, last) = run(true)?;
    Ok(vec![
        at_least("claims: 300,000 lives beside an open transaction / without", with / without, "", 0.9),
        at_most("claims: buffers of a claim then / at the beginning", last / first, "", 1.2),
    ])
}

/// Makes so many tasks wait, in four priorities, and no others.
fn fill(bench: &Bench, tasks: u32) -> Result<()> {
    let sql = format!("\\set tasks {tasks}\n{}", fs::read_to_string(script("claims_mixed_fill"))?);
    bench.cluster.psql("bench", &sql)?;
    Ok(())
}

/// A session whose snapshot keeps VACUUM from all that follows. It ends with the process.
fn open_transaction(bench: &Bench) -> Result<std::process::Child> {
    let mut psql = Command::new(bench.cluster.install().program("psql"));
    psql.args(["-XqAt", "-d", &bench.cluster.url("bench"), "-c"]);
    psql.arg("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; SELECT pg_sleep(3600)");
    let session = psql.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    while bench.cluster.psql("bench", waiting)?.trim() != "1" {}
    Ok(session)
}

/// Pages that a claim visits: the median of 21.
fn buffers_of_a_claim(bench: &Bench) -> Result<f64> {
    let claim = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) SELECT claim FROM workflow.claim_tasks('w1');\n";
    let printed = bench.cluster.psql("bench", &claim.repeat(26))?;
    let of_a_claim = |plan: &str| -> Option<f64> {
        let line = plan.lines().find(|line| line.trim_start().starts_with("Buffers:"))?;
        let counts = line.split(['=', ' ']).filter_map(|word| word.parse::<f64>().ok());
        // Hit, read: what was dirtied or written is among them.
        Some(counts.take(if line.contains("read=") { 2 } else { 1 }).sum())
    };
    // The first claims of a session also read the catalog.
    let counts: Vec<f64> = printed.split("Execution Time").filter_map(of_a_claim).skip(5).collect();
    anyhow::ensure!(counts.len() == 21, "EXPLAIN printed no buffers:\n{printed}");
    Ok(median(counts))
}

fn in_large_database(bench: &Bench, options: &Options) -> Result<Vec<Absolute>> {
    for (database, finished, others, queued) in [(SMALL, 0, 0, 1000), (LARGE, 10_000_000, 1_000_000, 1_000_000)] {
        bench.cluster.create_database(database)?;
        bench.cluster.psql(database, "CREATE EXTENSION pg_workflow")?;
        let variables = format!("\\set finished {finished}\n\\set others {others}\n\\set queued {queued}\n");
        bench.cluster.psql(database, &(variables + &fs::read_to_string(script("claims_large"))?))?;
    }
    let park = "SELECT clock_timestamp() AS began \\gset
        DO $$ BEGIN
            FOR n IN 1..12000 LOOP
                PERFORM FROM workflow.claim_tasks('w1');
                COMMIT;
            END LOOP;
        END $$;
        SELECT extract(epoch FROM clock_timestamp() - :'began')";
    let parked = bench.cluster.psql(LARGE, park)?;
    println!("12,000 claims in the large database, which set 1,000,000 tasks of a paused DAG aside: {parked}");
    let claim = |database: &'static str| {
        move || -> Result<f64> {
            // The small database has enough for each run.
            bench.cluster.psql(
                database,
                "SELECT count(*) FROM workflow.transition_many(
                     'task_instance', ARRAY(SELECT id FROM workflow.claims), 'running', 'retrying')",
            )?;
            let length = Length::Transactions(900);
            Pgbench { database, length, ..Pgbench::of("claim_only", 1, 0) }.run(bench, "off")
        }
    };
    let pairs = pairs(options.rounds, claim(SMALL), claim(LARGE))?;
    let ratio = median(pairs.iter().map(|(small, large)| small / large).collect());
    let name = "claims: time beside 10,000,000 ended and 4,000,000 tasks / 1,000";
    Ok(vec![at_most(name, ratio, "", 1.2)])
}

fn renewal(bench: &Bench, _: &Options) -> Result<Vec<Absolute>> {
    fill(bench, HELD + 1280)?;
    let cpu = format!("{PROCESSOR_NANOSECONDS} / 1e9");
    let sql = format!(
        "CREATE TEMPORARY TABLE held AS SELECT claim FROM workflow.claim_tasks('w1', max => {HELD}, lease => '1 hour');
         SELECT count(*) FROM workflow.renew_claims(ARRAY(SELECT claim FROM held));
         CHECKPOINT;
         SELECT {cpu} AS began, pg_current_wal_insert_lsn() AS lsn \\gset
         SELECT count(*) FROM workflow.renew_claims(ARRAY(SELECT claim FROM held)) WHERE outcome = 'renewed';
         SELECT {cpu} - :began, pg_current_wal_insert_lsn() - :'lsn'"
    );
    let printed = bench.cluster.psql("bench", &sql)?;
    let mut lines = printed.lines().rev();
    let (seconds, bytes) = lines.next().and_then(|line| line.split_once('|')).context("psql printed no figures")?;
    anyhow::ensure!(lines.next() == Some(&HELD.to_string()), "not every claim was renewed:\n{printed}");
    let share = seconds.parse::<f64>()? / RENEWED_EVERY * 100.0;
    Ok(vec![
        at_most("claims: WAL of a renewal of 10,000", bytes.parse()?, "B", 0.0),
        at_most("claims: 10,000 renewed every 10 s, share of a core", share, "%", 1.0),
    ])
}

/// Seconds in which the sessions of workers plan and load everything for the first time.
const WARM_UP: u32 = 3;

/// From the beginning of the transaction that creates a task to the end of its claim, in sessions that have claimed before.
fn arrival(bench: &Bench, options: &Options) -> Result<Vec<Absolute>> {
    bench.cluster.psql(
        "bench",
        "CREATE UNLOGGED TABLE IF NOT EXISTS arrivals (
                            milliseconds float8, at timestamptz DEFAULT clock_timestamp()); TRUNCATE arrivals",
    )?;
    fill(bench, 0)?;
    let seconds = WARM_UP + options.seconds * options.rounds.min(5);
    std::thread::scope(|scope| -> Result<()> {
        let workers = scope.spawn(|| Pgbench::of("claim_wait", WAITERS, seconds + 2).run(bench, "off"));
        Pgbench { rate: Some(ARRIVALS), ..Pgbench::of("claim_create", 1, seconds) }.run(bench, "off")?;
        workers.join().expect("the thread that runs pgbench does not panic")?;
        Ok(())
    })?;
    let sql = format!(
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY milliseconds),
             percentile_cont(0.99) WITHIN GROUP (ORDER BY milliseconds), count(*)
         FROM arrivals WHERE at > (SELECT min(at) FROM arrivals) + '{WARM_UP} s'"
    );
    let printed = bench.cluster.psql("bench", &sql)?;
    let mut fields = printed.trim().split('|').map(str::parse::<f64>);
    let mut next = || fields.next().context("no task has arrived")?.context("no task has arrived");
    let (p50, p99, arrived) = (next()?, next()?, next()?);
    println!("{arrived} tasks arrived, {ARRIVALS} a second, at {WAITERS} waiting sessions");
    Ok(vec![
        at_most("claims: new task to a waiting worker, p50", p50, "ms", 2.0),
        at_most("claims: new task to a waiting worker, p99", p99, "ms", 5.0),
    ])
}

fn wal_of_a_life(bench: &Bench, _: &Options) -> Result<Vec<Absolute>> {
    let by_hand = wal::bytes(bench, "life")?;
    let by_claims = wal::bytes(bench, "life_claims")?;
    println!("WAL of a life: {by_claims:.0} bytes by claims, {by_hand:.0} by hand-made moves");
    Ok(vec![at_most("claims: WAL of a life / by hand-made moves", by_claims / by_hand, "", 1.13)])
}
