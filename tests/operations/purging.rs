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
    let rows: Vec<i64> = purging.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(rows, [2, 6, 6], "runs, tasks and logs");
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
