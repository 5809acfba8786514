//! The library finds its tables by name, and each session remembers them: a table that gets another name meanwhile.

use crate::extension::roles::member_of;
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

/// PostgreSQL tells no table that its schema has another name.
#[test]
fn schema_of_another_role_under_a_known_name_is_foreign() {
    let db = Db::new();
    let owner = &mut db.connect();
    let (dag, _) = create_run(owner);
    let writer = member_of(&db, "workflow_writer");
    owner
        .batch_execute(&format!(
            "DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO {writer}', current_database()); END $$;
             CREATE SCHEMA strange AUTHORIZATION {writer};
             CREATE FUNCTION strange.trap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''as %'', CURRENT_USER; END';
             CREATE TABLE strange.dags AS SELECT * FROM workflow.dags;
             CREATE TABLE strange.dag_runs (LIKE workflow.dag_runs INCLUDING DEFAULTS);
             CREATE TRIGGER trap BEFORE INSERT ON strange.dag_runs FOR EACH ROW EXECUTE FUNCTION strange.trap();
             GRANT USAGE ON SCHEMA strange TO PUBLIC;
             GRANT ALL ON ALL TABLES IN SCHEMA strange TO PUBLIC"
        ))
        .unwrap();
    let client = &mut db.connect_as(&writer);
    client.execute("SELECT workflow.create_dag_run($1, '2026-01-01Z')", &[&dag]).unwrap();
    owner.batch_execute("ALTER SCHEMA workflow RENAME TO renamed").unwrap();
    client.batch_execute("ALTER SCHEMA strange RENAME TO workflow").unwrap();
    let failed = failure(client.execute("SELECT renamed.create_dag_run($1, '2026-01-02Z')", &[&dag]));
    owner.batch_execute("ALTER SCHEMA workflow RENAME TO strange; ALTER SCHEMA renamed RENAME TO workflow").unwrap();
    assert_eq!(failed.sqlstate, "55000", "{failed:?}");
    client.execute("SELECT workflow.create_dag_run($1, '2026-01-03Z')", &[&dag]).unwrap();
}
