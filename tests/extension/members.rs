//! The library finds its tables by name, and each session remembers them: a table that gets another name meanwhile.

use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;

const HIDE: &str = "ALTER TABLE workflow.state_history RENAME TO hidden";
const SHOW: &str = "ALTER TABLE workflow.hidden RENAME TO state_history";

/// Moves a task between two states.
fn toggle(client: &mut Client, task: Uuid) -> Result<u64, postgres::Error> {
    let sql = "SELECT workflow.transition('task_instance', t.id, t.state, CASE t.state WHEN 'running' THEN 'retrying' ELSE 'running' END)
               FROM workflow.task_instances AS t WHERE t.id = $1";
    client.execute(sql, &[&task])
}

#[test]
fn foreign_table_with_a_known_name_gets_no_event() {
    let db = Db::new();
    let (client, owner) = (&mut db.connect(), &mut db.connect());
    let task = create_task(client);
    for path in ["on", "off"] {
        client.batch_execute(&format!("SET pg_workflow.direct_path = {path}")).unwrap();
        toggle(client, task).unwrap();
        owner.batch_execute(HIDE).unwrap();
        assert_eq!(failure(toggle(client, task)).sqlstate, "55000");
        owner.batch_execute("CREATE TABLE workflow.state_history (LIKE workflow.hidden)").unwrap();
        assert_eq!(failure(toggle(client, task)).sqlstate, "55000");
        let run = "SELECT workflow.create_dag_run(d.id, now()) FROM workflow.dags AS d";
        assert_eq!(failure(client.execute(run, &[])).sqlstate, "55000");
        owner.batch_execute("DROP TABLE workflow.state_history").unwrap();
        owner.batch_execute(SHOW).unwrap();
        toggle(client, task).unwrap();
    }
}

#[test]
fn name_is_looked_up_again_after_a_rollback() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    for (begin, undo) in [("BEGIN", "ROLLBACK"), ("BEGIN; SAVEPOINT s", "ROLLBACK TO s; COMMIT")] {
        toggle(client, task).unwrap();
        client.batch_execute(&format!("{begin}; {HIDE}")).unwrap();
        let code = "DO $$ BEGIN UPDATE workflow.task_instances SET state = 'retrying' WHERE state = 'running';
                    RAISE 'recorded'; EXCEPTION WHEN SQLSTATE '55000' THEN NULL; END $$";
        client.batch_execute(code).unwrap();
        client.batch_execute(undo).unwrap();
        toggle(client, task).unwrap();
    }
}

#[test]
fn table_that_is_renamed_during_a_wait_gets_no_event() {
    let db = Db::new();
    let (client, owner) = (&mut db.connect(), &mut db.connect());
    let task = create_task(client);
    toggle(client, task).unwrap();
    let mut rename = owner.transaction().unwrap();
    rename.batch_execute(HIDE).unwrap();
    let process: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let code = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| failure(toggle(client, task)).sqlstate);
        let waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1";
        let observer = &mut db.connect();
        wait_until("the lock", || {
            observer.query_one(waits, &[&process]).unwrap().get::<_, Option<bool>>(0) == Some(true)
        });
        rename.commit().unwrap();
        waiting.join().unwrap()
    });
    assert_eq!(code, "55000");
    owner.batch_execute(SHOW).unwrap();
    toggle(client, task).unwrap();
}
