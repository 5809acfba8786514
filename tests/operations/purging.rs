//! purge() beside workers: it waits for no session, and no session waits long for it.

use pg_workflow_tests::*;
use postgres::error::SqlState;
use postgres::{Client, Transaction};
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;
use xtask::stack::postgres::PRELOADED;

/// A run whose tasks and which itself have failed: purge() can take it at once, and a worker can run it again.
struct Failed {
    run: Uuid,
    tasks: Vec<Uuid>,
}

fn failed_run(client: &mut Client) -> Failed {
    let tasks = create_tasks(client, 3);
    let sql = "SELECT dag_run_id FROM workflow.task_instances WHERE id = $1";
    let run: Uuid = client.query_one(sql, &[&tasks[0]]).unwrap().get(0);
    client.query("SELECT workflow.append_task_log(t, 'a line') FROM unnest($1::uuid[]) AS t", &[&tasks]).unwrap();
    let fail = "SELECT workflow.transition_many('task_instance', $1, 'queued', 'failed')";
    client.query(fail, &[&tasks]).unwrap();
    client.query("SELECT workflow.transition('dag_run', $1, 'queued', 'failed')", &[&run]).unwrap();
    Failed { run, tasks }
}

/// The ways on which a worker locks rows of a run and of its tasks, in every order.
fn work(way: usize, at: &Failed, transaction: &mut Transaction<'_>) -> Result<(), postgres::Error> {
    let mut run = |sql: &str, id: &Uuid| transaction.execute(sql, &[id]).map(drop);
    let task = &at.tasks[way % 3];
    match way % 6 {
        0 => {
            run("SELECT workflow.transition('task_instance', $1, 'failed', 'running')", task)?;
            run("SELECT workflow.transition('dag_run', $1, 'failed', 'running')", &at.run)
        }
        1 => {
            run("UPDATE workflow.dag_runs SET state = 'running' WHERE id = $1", &at.run)?;
            run("UPDATE workflow.task_instances SET state = 'retrying' WHERE id = $1", task)
        }
        2 => {
            run("UPDATE workflow.task_instances SET state = 'running' WHERE dag_run_id = $1", &at.run)?;
            run("SELECT FROM workflow.create_task_instances($1, '{more}')", &at.run)
        }
        3 => {
            run("SELECT workflow.append_task_log($1, 'again')", task)?;
            run("SELECT workflow.transition('dag_run', $1, 'failed', 'running')", &at.run)
        }
        4 => {
            run("SELECT FROM workflow.task_instances WHERE id = $1 FOR UPDATE", task)?;
            run("UPDATE workflow.dag_runs SET conf = '{}' WHERE id = $1", &at.run)
        }
        _ => {
            run(
                "SELECT workflow.transition_many('task_instance', coalesce(array_agg(t.id), '{}'), 'failed', 'running')
                 FROM workflow.task_instances AS t WHERE t.dag_run_id = $1",
                &at.run,
            )?;
            run("SELECT workflow.transition('dag_run', $1, 'failed', 'running')", &at.run)
        }
    }
}

/// The run is gone, or another has changed it: what a worker expects.
fn is_expected(error: &postgres::Error) -> bool {
    let expected = [SqlState::NO_DATA_FOUND, SqlState::T_R_SERIALIZATION_FAILURE, SqlState::FOREIGN_KEY_VIOLATION];
    error.code().is_some_and(|code| expected.contains(code))
}

/// Each worker has runs of its own, so that it waits only for purge().
#[test]
fn workers_and_purge_wait_for_each_other_100_ms_at_most() {
    const WORKERS: usize = 4;
    const ROUNDS: usize = 150;
    let settings = [PRELOADED, ("log_lock_waits", "on"), ("deadlock_timeout", "100ms")];
    let (cluster, db) = own_cluster("purging", &settings);
    let done = AtomicBool::new(false);
    let removed = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let mut client = db.connect();
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let at = failed_run(&mut client);
                        let mut transaction = client.transaction().unwrap();
                        match work(round + worker, &at, &mut transaction) {
                            Ok(()) => transaction.commit().unwrap(),
                            Err(error) if is_expected(&error) => transaction.rollback().unwrap(),
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                })
            })
            .collect();
        let purging = scope.spawn(|| {
            let (mut client, mut removed) = (db.connect(), 0);
            while !done.load(Ordering::Acquire) {
                let sql = "SELECT rows FROM workflow.purge(clock_timestamp()) WHERE object = 'dag_runs'";
                removed += client.query_one(sql, &[]).unwrap().get::<_, i64>(0);
            }
            removed
        });
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Release);
        let removed = purging.join().unwrap();
        ended.into_iter().for_each(|ended| ended.unwrap());
        removed
    });
    assert!(removed > 20, "purge() took {removed} runs");
    let log = std::fs::read_to_string(cluster.log()).unwrap();
    let waits: Vec<&str> =
        log.lines().filter(|line| line.contains("deadlock") || line.contains("still waiting for")).collect();
    assert!(waits.is_empty(), "{waits:#?}");
}

/// A run is deleted whole or not at all, and what stays is locked no longer than it takes to see that.
#[test]
fn purge_skips_runs_with_a_locked_task() {
    let db = Db::new();
    let client = &mut db.connect();
    let runs: Vec<Failed> = (0..3).map(|_| failed_run(client)).collect();
    let mut worker = db.connect();
    let mut locking = worker.transaction().unwrap();
    start_again(&mut locking, runs[1].tasks[2]);
    let mut purge = db.connect();
    let mut purging = purge.transaction().unwrap();
    purging.batch_execute("SET LOCAL statement_timeout = '20 s'").unwrap();
    let sql = "SELECT rows FROM workflow.purge(clock_timestamp()) ORDER BY object";
    // On a busy machine a call can end after one run.
    let mut removed = [0; 3];
    while removed[0] < 2 {
        let rows = purging.query(sql, &[]).unwrap();
        assert!(rows.len() == 3 && rows[0].get::<_, i64>(0) > 0, "it takes the others");
        removed.iter_mut().zip(&rows).for_each(|(removed, row)| *removed += row.get::<_, i64>(0));
    }
    assert_eq!(removed, [2, 6, 6], "runs, tasks and logs");
    // The worker continues while purge()'s transaction is open.
    locking.batch_execute("SET LOCAL lock_timeout = '10 s'").unwrap();
    let sql = "SELECT workflow.transition('dag_run', $1, 'failed', 'running')";
    locking.query(sql, &[&runs[1].run]).unwrap();
    locking.commit().unwrap();
    purging.commit().unwrap();
    let left: Uuid = client.query_one("SELECT id FROM workflow.dag_runs", &[]).unwrap().get(0);
    assert_eq!(left, runs[1].run);
}

fn start_again(transaction: &mut Transaction<'_>, task: Uuid) {
    let sql = "SELECT workflow.transition('task_instance', $1, 'failed', 'running')";
    transaction.query(sql, &[&task]).unwrap();
}

/// Rows of another table go with a run, and another session has locked them.
#[test]
fn purge_skips_runs_whose_dependent_rows_are_locked() {
    let db = Db::new();
    let client = &mut db.connect();
    let runs: Vec<Failed> = (0..2).map(|_| failed_run(client)).collect();
    client
        .batch_execute(
            "CREATE TABLE note (run uuid REFERENCES workflow.dag_runs (id) ON DELETE CASCADE);
             INSERT INTO note SELECT id FROM workflow.dag_runs",
        )
        .unwrap();
    let mut other = db.connect();
    let mut locking = other.transaction().unwrap();
    locking.query("SELECT FROM note WHERE run = $1 FOR UPDATE", &[&runs[0].run]).unwrap();
    client.batch_execute("SET statement_timeout = '20 s'").unwrap();
    let sql = "SELECT rows FROM workflow.purge(clock_timestamp()) WHERE object = 'dag_runs'";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 1);
    locking.commit().unwrap();
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 1);
}

/// A log partition has a foreign key, so its removal locks the tasks, too.
#[test]
fn freed_partition_stops_no_reader_behind_an_open_transaction() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    next_partition(client);
    next_partition(client);
    let purge = |client: &mut Client| -> Vec<(String, String)> {
        let sql =
            "SELECT object, outcome FROM workflow.purge(now() - interval '1 hour') WHERE object LIKE 'task_logs_%'";
        client.query(sql, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let read = |client: &mut Client| {
        client
            .batch_execute(
                "BEGIN; SELECT count(*) FROM workflow.task_instances; SELECT count(*) FROM workflow.task_logs",
            )
            .unwrap();
    };
    client.batch_execute("SET statement_timeout = '20 s'").unwrap();
    let is_in_use = |outcomes: Vec<(String, String)>| {
        assert!(outcomes.iter().all(|(_, outcome)| outcome == "kept: the table is in use, try again"), "{outcomes:?}");
        !outcomes.is_empty()
    };
    let mut reader = db.connect();
    // The partition itself, then its files.
    read(&mut reader);
    assert!(is_in_use(purge(client)));
    reader.batch_execute("COMMIT; BEGIN").unwrap();
    reader.batch_execute("SELECT count(*) FROM workflow.task_logs_0").unwrap();
    assert!(is_in_use(purge(client)[..1].to_vec()));
    reader.batch_execute("COMMIT").unwrap();
    let outcomes = purge(client);
    assert!(outcomes.iter().all(|(_, outcome)| ["dropped", "freed"].contains(&&**outcome)), "{outcomes:?}");
    let mut other = db.connect();
    other.batch_execute("SET lock_timeout = '5 s'").unwrap();
    reader.batch_execute("BEGIN; SELECT count(*) FROM workflow.task_instances").unwrap();
    assert!(purge(client).iter().all(|(_, outcome)| outcome == "freed"));
    start_task(&mut other, task);
    reader.batch_execute("COMMIT").unwrap();
}

#[test]
fn two_purges_at_once_drop_a_partition_once() {
    let db = Db::new();
    let client = &mut db.connect();
    create_task(client);
    next_partition(client);
    next_partition(client);
    let mut holder = db.connect();
    for _ in 0..3 {
        holder.batch_execute("BEGIN; SELECT count(*) FROM workflow.task_logs").unwrap();
        let sql = "SELECT object, outcome FROM workflow.purge(now() - interval '1 hour')";
        let outcomes: Vec<String> = std::thread::scope(|scope| {
            let purge = || db.connect().query(sql, &[]).unwrap().iter().map(|row| row.get(1)).collect::<Vec<String>>();
            let purges = [scope.spawn(purge), scope.spawn(purge)];
            let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            wait_until("both wait, or have given up", || {
                client.query_one(waiting, &[]).unwrap().get::<_, i64>(0) == 2
                    || purges.iter().any(|purge| purge.is_finished())
            });
            holder.batch_execute("COMMIT").unwrap();
            purges.into_iter().flat_map(|purge| purge.join().unwrap()).collect()
        });
        let is_known = |outcome: &String| {
            outcome == "removed" || outcome == "dropped" || outcome == "freed" || outcome.starts_with("kept: ")
        };
        assert!(outcomes.iter().all(is_known), "{outcomes:?}");
    }
    let left: Vec<i64> = client
        .query("SELECT number FROM workflow.partitions WHERE table_name = 'task_logs' AND role = 'past'", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(left.len() < 2, "{left:?}");
}

/// A batch looks at ten runs, however many there are.
#[test]
fn purge_reads_only_the_runs_that_it_deletes() {
    let db = Db::new();
    let client = &mut db.connect();
    client
        .batch_execute(
            "ALTER TABLE workflow.dag_runs SET (autovacuum_enabled = false);
             ALTER TABLE workflow.task_instances SET (autovacuum_enabled = false);
             ANALYZE",
        )
        .unwrap();
    client
        .batch_execute(
            "CREATE TABLE run AS SELECT r.id FROM workflow.create_dag('many') AS d (id)
             CROSS JOIN LATERAL (SELECT workflow.create_dag_run(d.id, timestamptz '2026-01-01' + n * interval '1 s') AS id
                 FROM generate_series(1, 3000) AS n) AS r;
             SELECT count(*) FROM run CROSS JOIN LATERAL workflow.create_task_instances(run.id, '{a,b,c,d,e}');
             SELECT count(*) FROM workflow.transition_many('task_instance',
                 ARRAY(SELECT t.id FROM workflow.task_instances AS t), 'queued', 'failed');
             SELECT count(*) FROM workflow.transition_many('dag_run', ARRAY(SELECT run.id FROM run), 'queued', 'failed')",
        )
        .unwrap();
    for statistics in ["SELECT", "ANALYZE"] {
        client.batch_execute(statistics).unwrap();
        let sql = "SELECT workflow.next_finished_runs(clock_timestamp(), 1000, '-infinity', '{}')";
        let used = buffers(client, sql);
        assert!(used < 500, "{used} buffers after {statistics}");
    }
}

#[test]
fn purge_deletes_its_own_old_rows() {
    let db = Db::new();
    let client = &mut db.connect();
    let purge = "SELECT count(*) FROM workflow.purge(clock_timestamp() - interval '1 hour')";
    failed_run(client);
    client.query("SELECT workflow.purge(clock_timestamp())", &[]).unwrap();
    client.query(purge, &[]).unwrap();
    let count =
        |client: &mut Client| -> i64 { client.query_one("SELECT count(*) FROM workflow.purges", &[]).unwrap().get(0) };
    assert_eq!(count(client), 1);
    client.execute("UPDATE workflow.purges SET purged_at = purged_at - interval '2 hours'", &[]).unwrap();
    client.query(purge, &[]).unwrap();
    assert_eq!(count(client), 0);
}
