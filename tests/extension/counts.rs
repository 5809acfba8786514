//! The counts per state are exact at any time, during transitions, deletions, refreshes and resets.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::{Client, GenericClient, IsolationLevel};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use uuid::Uuid;
use xtask::stack::postgres::PRELOADED;
use xtask::stack::process::clean_environment;

/// Checks that the view has all states of both entity types, with exactly the counts of the tables.
fn assert_exact(client: &mut impl GenericClient) {
    let sql = "SELECT format('%s %s: %s, but %s', c.entity_type, c.state, c.count, coalesce(t.count, 0)),
                      c.count IS DISTINCT FROM coalesce(t.count, 0)
               FROM workflow.state_counts AS c
               FULL JOIN (
                   SELECT 'dag_run' AS entity_type, state, count(*) FROM workflow.dag_runs GROUP BY state
                   UNION ALL SELECT 'task_instance', state, count(*) FROM workflow.task_instances GROUP BY state
               ) AS t USING (entity_type, state)";
    let rows = client.query(sql, &[]).unwrap();
    let wrong: Vec<String> = rows.iter().filter(|row| row.get(1)).map(|row| row.get(0)).collect();
    assert_eq!(wrong, [""; 0]);
    assert_eq!(rows.len(), 14);
}

fn refresh(client: &mut impl GenericClient) -> bool {
    client.query_one("SELECT workflow.fold_state_counts()", &[]).unwrap().get(0)
}

/// Tells whether the view adds to stored counts instead of counting the tables.
fn is_stored(client: &mut impl GenericClient) -> bool {
    let sql = "SELECT snapshot IS NOT NULL AND system_identifier = workflow.origin()
               FROM workflow.state_count_place";
    client.query_one(sql, &[]).unwrap().get(0)
}

fn count(client: &mut impl GenericClient, state: &str) -> i64 {
    let sql = "SELECT count FROM workflow.state_counts WHERE entity_type = 'task_instance' AND state = $1";
    client.query_one(sql, &[&state]).unwrap().get(0)
}

#[test]
fn counts_are_exact_during_concurrent_writes_and_refreshes() {
    let db = &Db::new();
    let (done, refreshed, read) = (&AtomicBool::new(false), &AtomicU32::new(0), &AtomicU32::new(0));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..6).map(|writer| scope.spawn(move || write(db, writer))).collect();
        let refresher = || {
            let client = &mut db.connect();
            while !done.load(Ordering::Acquire) {
                refreshed.fetch_add(refresh(client).into(), Ordering::Relaxed);
            }
        };
        let reader = |level| {
            move || {
                let client = &mut db.connect();
                while !done.load(Ordering::Acquire) {
                    let mut transaction = client.build_transaction().isolation_level(level).start().unwrap();
                    for _ in 0..4 {
                        assert_exact(&mut transaction);
                        read.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        };
        let others = [
            scope.spawn(refresher),
            scope.spawn(refresher),
            scope.spawn(reader(IsolationLevel::ReadCommitted)),
            scope.spawn(reader(IsolationLevel::RepeatableRead)),
        ];
        let written: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Release);
        others.into_iter().for_each(|other| other.join().unwrap());
        written.into_iter().for_each(|result| result.unwrap());
    });
    assert!(refreshed.load(Ordering::Relaxed) > 3 && read.load(Ordering::Relaxed) > 50, "{refreshed:?}, {read:?}");
    let client = &mut db.connect();
    assert!(is_stored(client));
    assert_exact(client);
}

/// Creates, moves and deletes tasks in transactions of several steps, some of which are rolled back.
fn write(db: &Db, writer: usize) {
    let client = &mut db.connect();
    for round in 0..60 {
        let tasks = create_tasks(client, 8);
        let mut transaction = client.transaction().unwrap();
        for task in &tasks[..6] {
            start_task(&mut transaction, *task);
        }
        if round % 3 == 0 {
            assert_exact(&mut transaction);
        }
        let mut inner = transaction.savepoint("part").unwrap();
        inner.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&tasks[round % 8]]).unwrap();
        if round % 4 == 0 {
            inner.rollback().unwrap()
        } else {
            inner.commit().unwrap()
        }
        if round % 5 == writer % 5 {
            transaction.rollback().unwrap()
        } else {
            transaction.commit().unwrap()
        }
        if round % 7 == 0 {
            let sql = "DELETE FROM workflow.dags WHERE id = (
                           SELECT r.dag_id FROM workflow.dag_runs AS r JOIN workflow.task_instances AS t ON t.dag_run_id = r.id
                           WHERE t.id = $1)";
            client.execute(sql, &[&tasks[7 - round % 7]]).unwrap();
        }
    }
}

#[test]
fn counts_include_transactions_open_during_a_refresh() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 20);
    assert!(refresh(client));
    // First a transaction ID below the snapshot's end, because later transactions have committed; then one beyond it.
    for (task, others) in [(0, 5), (10, 0)] {
        let late = &mut db.connect();
        let mut open = late.transaction().unwrap();
        start_task(&mut open, tasks[task]);
        start_task(&mut open, tasks[task + 1]);
        for other in 0..others {
            start_task(client, tasks[task + 2 + other]);
        }
        assert!(refresh(client));
        assert_exact(client);
        assert_exact(&mut open);
        let before = count(client, "running");
        start_task(&mut open, tasks[task + 9]);
        open.commit().unwrap();
        assert_exact(client);
        assert_eq!(count(client, "running"), before + 3);
        assert!(refresh(client) && is_stored(client));
        assert_exact(client);
    }
}

#[test]
fn refresh_is_skipped_if_counts_would_be_wrong() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 3);
    assert!(refresh(client));
    assert!(!refresh(client), "no event since the last refresh");
    // The refreshing transaction has transitions of its own.
    let mut transaction = client.transaction().unwrap();
    start_task(&mut transaction, tasks[0]);
    assert!(!refresh(&mut transaction));
    assert_exact(&mut transaction);
    transaction.commit().unwrap();
    let mut transaction = client.transaction().unwrap();
    assert!(refresh(&mut transaction));
    start_task(&mut transaction, tasks[1]);
    assert!(!refresh(&mut db.connect()), "another session is refreshing");
    assert_exact(&mut transaction);
    assert_exact(&mut db.connect());
    transaction.commit().unwrap();
    assert_exact(client);
    assert!(is_stored(client));
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        let mut transaction = client.build_transaction().isolation_level(level).start().unwrap();
        assert!(!refresh(&mut transaction));
    }
    // A refresh that is rolled back.
    let mut transaction = client.transaction().unwrap();
    assert!(refresh(&mut transaction));
    transaction.rollback().unwrap();
    assert_exact(client);
    assert!(refresh(client));
    assert_exact(client);
}

#[test]
fn counts_exclude_deleted_entities() {
    let db = Db::new();
    let client = &mut db.connect();
    for state in State::ALL {
        create_in_state(client, "task_instance", state);
        create_in_state(client, "dag_run", state);
    }
    let (dag, run) = create_run(client);
    let names: Vec<String> = (0..50).map(|i| format!("task_{i}")).collect();
    client.query("SELECT workflow.create_task_instances($1, $2)", &[&run, &names]).unwrap();
    assert!(refresh(client));
    let late = &mut db.connect();
    let mut open = late.transaction().unwrap();
    assert_eq!(open.execute("DELETE FROM workflow.dags WHERE id = $1", &[&dag]).unwrap(), 1);
    assert_exact(&mut open);
    assert_exact(client);
    create_task(client);
    assert!(refresh(client), "a refresh waits for no transaction");
    open.rollback().unwrap();
    assert_exact(client);
    let before = count(client, "queued");
    client.execute("DELETE FROM workflow.dags WHERE id = $1", &[&dag]).unwrap();
    assert_exact(client);
    assert_eq!(count(client, "queued"), before - 50);
    assert!(refresh(client) && is_stored(client));
    assert_exact(client);
    assert_eq!(client.query("TABLE workflow.state_count_changes", &[]).unwrap().len(), 0);
}

#[test]
fn untracked_changes_reset_stored_counts() {
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    for statement in [
        "INSERT INTO workflow.task_instances (dag_run_id, task_id) SELECT id, 'by hand' FROM workflow.dag_runs LIMIT 1",
        "INSERT INTO workflow.dag_runs (dag_id, execution_date) SELECT id, '2020-01-01' FROM workflow.dags LIMIT 1",
        "DELETE FROM workflow.state_history WHERE version = 2",
        "UPDATE workflow.state_history SET new_state = 'skipped'",
        "TRUNCATE workflow.state_history",
        "TRUNCATE workflow.task_instances CASCADE",
        "TRUNCATE workflow.dags CASCADE",
    ] {
        create_in_state(client, "task_instance", State::Failed);
        refresh(client);
        assert!(is_stored(client));
        create_in_state(client, "task_instance", State::Success);
        let mut transaction = client.transaction().unwrap();
        transaction.batch_execute(statement).unwrap();
        assert_exact(&mut transaction);
        assert!(!is_stored(&mut transaction), "{statement}");
        // A refresh would wait for the tables that TRUNCATE has locked.
        if !statement.starts_with("TRUNCATE") {
            assert!(!refresh(&mut db.connect()), "no counts are stored before the commit: {statement}");
        }
        transaction.commit().unwrap();
        assert_exact(client);
        assert!(refresh(client) && is_stored(client), "{statement}");
        assert_exact(client);
    }
    // Other changes keep the stored counts.
    create_in_state(client, "task_instance", State::Success);
    client.batch_execute("UPDATE workflow.dags SET description = 'x'; DELETE FROM workflow.task_instances").unwrap();
    assert!(is_stored(client));
    assert_exact(client);
}

#[test]
fn stored_counts_are_reset_in_another_cluster() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 60);
    assert!(refresh(client));
    client
        .batch_execute(
            "UPDATE workflow.state_count_place SET system_identifier = 1;
             UPDATE workflow.state_counts_at SET count = 99;
             INSERT INTO workflow.state_count_changes VALUES ('dag_run', 'queued', 7)",
        )
        .unwrap();
    assert_exact(client);
    // The transaction IDs in the history are IDs that new transactions get here.
    client
        .batch_execute(
            "UPDATE workflow.state_history SET transaction_id = (pg_current_xact_id()::text::bigint + id)::text::xid8",
        )
        .unwrap();
    let mut sessions: Vec<Client> = (0..5).map(|_| db.connect()).collect();
    let mut open: Vec<_> = sessions.iter_mut().map(|session| session.transaction().unwrap()).collect();
    for (transaction, task) in open.iter_mut().zip(&tasks) {
        start_task(transaction, *task);
    }
    start_task(client, tasks[50]);
    assert!(refresh(client) && is_stored(client));
    assert_exact(client);
    open.into_iter().for_each(|transaction| transaction.commit().unwrap());
    assert_exact(client);
    start_task(client, tasks[51]);
    assert!(refresh(client));
    assert_exact(client);
}

#[test]
fn refresh_during_restore_keeps_counts_exact() {
    let (cluster, db) = own_cluster("counts-restored", &[PRELOADED]);
    let client = &mut db.connect();
    let tasks = create_tasks(client, 3000);
    for task in &tasks[..300] {
        start_task(client, *task);
    }
    refresh(client);
    let restored = Db::at(cluster.create_database("restored").unwrap());
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(xtask::setup::toolchain().unwrap().postgres.program(program));
        clean_environment(&mut command);
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let file = std::env::temp_dir().join(format!("pg_workflow-{}.sql", Uuid::new_v4()));
    let path = file.to_str().unwrap();
    run("pg_dump", &["--dbname", db.url(), "--file", path]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let refresher = scope.spawn(|| {
            let client = &mut restored.connect();
            while !done.load(Ordering::Acquire) {
                // The function does not exist before it is restored.
                let _ = client.query_one("SELECT workflow.fold_state_counts()", &[]);
            }
        });
        run("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "--dbname", restored.url(), "--file", path]);
        done.store(true, Ordering::Release);
        refresher.join().unwrap();
    });
    std::fs::remove_file(file).unwrap();
    let client = &mut restored.connect();
    assert_exact(client);
    refresh(client);
    for task in &tasks[300..320] {
        start_task(client, *task);
    }
    assert!(is_stored(client));
    assert_exact(client);
}

#[test]
fn read_only_transaction_reads_exact_counts() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    refresh(client);
    start_task(client, task);
    client.batch_execute("SET default_transaction_read_only = on").unwrap();
    assert_eq!((count(client, "running"), count(client, "queued")), (1, 0));
    assert_exact(client);
}
