//! Creating runs and tasks while another transaction changes their parent. By the direct path and by SQL statements.

use pg_workflow_tests::*;
use postgres::Client;
use std::sync::Barrier;
use std::thread;
use uuid::Uuid;

const PATHS: [&str; 2] = ["on", "off"];

fn connect(db: &Db, path: &str) -> Client {
    let mut client = db.connect();
    client.batch_execute(&format!("SET pg_workflow.direct_path = {path}")).unwrap();
    client
}

fn create(client: &mut Client, run: Uuid, names: &[String]) -> Result<usize, postgres::Error> {
    client.query("SELECT FROM workflow.create_task_instances($1, $2)", &[&run, &names]).map(|rows| rows.len())
}

/// Waits until a session waits for a lock.
fn wait_for_blocked(client: &mut Client) {
    let sql = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    wait_until("a session waits for a lock", || !client.query(sql, &[]).unwrap().is_empty());
}

#[test]
fn parent_that_is_being_deleted_is_missing() {
    let db = Db::new();
    let deleter = &mut db.connect();
    for path in PATHS {
        for creation in ["create_task_instances($1, ARRAY['a'])", "create_dag_run($1, '2026-01-01')"] {
            let (dag, run) = create_run(deleter);
            let (table, parent) = if creation.contains("dag_run(") { ("dags", dag) } else { ("dag_runs", run) };
            let creator = &mut connect(&db, path);
            deleter.batch_execute("BEGIN").unwrap();
            deleter.execute(&format!("DELETE FROM workflow.{table} WHERE id = $1"), &[&parent]).unwrap();
            let refused = thread::scope(|scope| {
                let created = scope.spawn(|| creator.query(&format!("SELECT workflow.{creation}"), &[&parent]));
                wait_for_blocked(deleter);
                deleter.batch_execute("COMMIT").unwrap();
                failure(created.join().unwrap())
            });
            assert_eq!(refused.sqlstate, "P0002", "direct_path {path}, {creation}: {}", refused.message);
        }
    }
}

#[test]
fn run_that_was_deleted_is_missing_without_names() {
    let db = Db::new();
    for path in PATHS {
        let client = &mut connect(&db, path);
        let (_, run) = create_run(client);
        assert_eq!(create(client, run, &["a".to_owned()]).unwrap(), 1);
        assert_eq!(create(client, run, &[]).unwrap(), 0);
        client.execute("DELETE FROM workflow.dag_runs WHERE id = $1", &[&run]).unwrap();
        assert_eq!(failure(create(client, run, &[])).sqlstate, "P0002", "direct_path {path}");
    }
}

#[test]
fn run_stays_while_its_tasks_are_created() {
    let db = Db::new();
    for path in PATHS {
        let [mover, creator, deleter] = &mut [(); 3].map(|()| connect(&db, path));
        let (_, run) = create_run(mover);
        mover.batch_execute("BEGIN").unwrap();
        mover.query("SELECT workflow.transition_dag_run($1, 'queued', 'running')", &[&run]).unwrap();
        creator.batch_execute("BEGIN").unwrap();
        assert_eq!(create(creator, run, &["a".to_owned()]).unwrap(), 1, "a transition of the run delays nothing");
        // The lock holds for the version that the transition has written.
        mover.batch_execute("COMMIT").unwrap();
        deleter.batch_execute("SET lock_timeout = '100ms'").unwrap();
        let delete = "DELETE FROM workflow.dag_runs WHERE id = $1";
        assert_eq!(failure(deleter.execute(delete, &[&run])).sqlstate, "55P03", "direct_path {path}");
        creator.batch_execute("COMMIT").unwrap();
        assert_eq!(deleter.execute(delete, &[&run]).unwrap(), 1);
    }
}

#[test]
fn same_names_in_another_order_do_not_deadlock() {
    let db = Db::new();
    let owner = &mut db.connect();
    let names: Vec<String> = (0..2000).map(|n| format!("task_{n:04}")).collect();
    for path in ["on", "off"].repeat(5) {
        let (_, run) = create_run(owner);
        let start = Barrier::new(2);
        let results = thread::scope(|scope| {
            let orders = [names.clone(), names.iter().rev().cloned().collect::<Vec<_>>()];
            let (db, start) = (&db, &start);
            let sessions = orders.map(|names| {
                scope.spawn(move || {
                    let mut client = connect(db, path);
                    start.wait();
                    create(&mut client, run, &names).map_err(|error| error.code().map(|code| code.code().to_owned()))
                })
            });
            sessions.map(|session| session.join().unwrap())
        });
        let [won, lost] = [true, false].map(|is_won| results.iter().filter(|result| result.is_ok() == is_won).count());
        assert_eq!((won, lost), (1, 1), "{results:?}");
        assert!(results.contains(&Err(Some("23505".to_owned()))), "{results:?}");
    }
}
