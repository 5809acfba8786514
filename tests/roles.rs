//! An ordinary role can work, and cannot forge.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use std::io::Write;
use uuid::Uuid;

/// A role that may do what a worker needs, and a good deal more than it should be granted.
fn create_worker(client: &mut postgres::Client) -> String {
    let role = format!("worker_{}", Uuid::new_v4().simple());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role};
             GRANT USAGE ON SCHEMA workflow TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON workflow.dag_runs, workflow.task_instances TO {role};
             GRANT SELECT ON workflow.state_history TO {role};
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA workflow TO {role};"
        ))
        .unwrap();
    role
}

#[test]
fn a_worker_moves_tasks_and_its_login_is_recorded() {
    let db = Db::new();
    let owner = &mut db.connect();
    let role = create_worker(owner);
    let worker = &mut db.connect_as(&role);
    let (_, run) = create_run(owner);
    let sql = "SELECT id FROM workflow.create_task_instances($1, ARRAY['t'])";
    let task: Uuid = worker.query_one(sql, &[&run]).unwrap().get(0);
    transition(worker, "task_instance", task, State::Queued, State::Running).unwrap();
    worker.execute("UPDATE workflow.task_instances SET state = 'failed' WHERE id = $1", &[&task]).unwrap();
    let sql = "SELECT actor FROM workflow.history('task_instance', $1)";
    let actors: Vec<String> = worker.query(sql, &[&task]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(actors, [role.as_str(); 3]);
    // Its rights are its own again afterwards.
    assert_eq!(worker.query_one("SELECT current_user::text", &[]).unwrap().get::<_, String>(0), role);
}

#[test]
fn no_entity_appears_without_its_history() {
    let db = Db::new();
    let owner = &mut db.connect();
    let role = create_worker(owner);
    let task = create_task(owner);
    let worker = &mut db.connect_as(&role);
    let insert = "INSERT INTO workflow.task_instances (dag_run_id, task_id, state)
                  SELECT dag_run_id, 'forged', 'success' FROM workflow.task_instances WHERE id = $1";
    let failed = failure(worker.execute(insert, &[&task]));
    assert_eq!(failed.sqlstate, "42501");
    assert!(failed.hint.contains("create_task_instances"), "{}", failed.hint);
    let upsert = format!("{insert} ON CONFLICT (id) DO UPDATE SET state = 'success'");
    assert_eq!(failure(worker.execute(&upsert, &[&task])).sqlstate, "42501");
    let insert_run = "INSERT INTO workflow.dag_runs (dag_id) SELECT dag_id FROM workflow.dag_runs";
    assert!(failure(worker.execute(insert_run, &[])).hint.contains("create_dag_run"));

    let copied =
        worker.copy_in("COPY workflow.task_instances (dag_run_id, task_id, state) FROM STDIN").and_then(|mut copy| {
            copy.write_all(format!("{}\tforged\tsuccess\n", Uuid::nil()).as_bytes()).ok();
            copy.finish()
        });
    assert_eq!(failure(copied).sqlstate, "42501");
}

#[test]
fn history_is_append_only_and_only_for_the_database() {
    let db = Db::new();
    let owner = &mut db.connect();
    let role = create_worker(owner);
    create_task(owner);
    let worker = &mut db.connect_as(&role);
    for forgery in [
        "UPDATE workflow.state_history SET new_state = 'success'",
        "DELETE FROM workflow.state_history",
        "TRUNCATE workflow.state_history",
        "INSERT INTO workflow.state_history SELECT * FROM workflow.state_history",
        "SELECT nextval('workflow.state_history_id_seq')",
        "UPDATE workflow.consumers SET acked_id = 0",
    ] {
        assert_eq!(failure(worker.execute(forgery, &[])).sqlstate, "42501", "{forgery}");
    }
}

#[test]
fn a_stranger_may_do_nothing() {
    let db = Db::new();
    let owner = &mut db.connect();
    let role = format!("stranger_{}", Uuid::new_v4().simple());
    owner.batch_execute(&format!("CREATE ROLE {role}; GRANT USAGE ON SCHEMA workflow TO {role}")).unwrap();
    let task = create_task(owner);
    let stranger = &mut db.connect_as(&role);
    assert_eq!(failure(transition(stranger, "task_instance", task, State::Queued, State::Running)).sqlstate, "42501");
    for sql in [
        "SELECT workflow.create_dag('x')",
        "SELECT workflow.create_dag_run(gen_random_uuid())",
        "SELECT workflow.create_task_instances(gen_random_uuid(), ARRAY['t'])",
        "SELECT workflow.create_consumer('x')",
        "SELECT workflow.read_events('x')",
        "SELECT workflow.ack_events('x', 1)",
        "SELECT workflow.current_position()",
        "SELECT workflow.follow_events('x')",
        "SELECT workflow.fold_state_counts()",
        "SELECT workflow.forget_state_counts()",
        "TABLE workflow.state_counts",
        "SELECT workflow.drop_consumer('x')",
        "SELECT workflow.verify()",
    ] {
        assert_eq!(failure(stranger.execute(sql, &[])).sqlstate, "42501", "{sql}");
    }
    // The rules are for everyone.
    stranger.query_one("SELECT workflow.can_transition('queued', 'running')", &[]).unwrap();
}

#[test]
fn a_hostile_search_path_changes_nothing() {
    let db = Db::new();
    let owner = &mut db.connect();
    let task = create_task(owner);
    owner
        .batch_execute(
            "CREATE SCHEMA evil;
             CREATE FUNCTION evil.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT 1 / 0 = 1';
             CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never);
             CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT (1 / 0)::text::timestamptz';
             CREATE FUNCTION evil.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE sql AS 'SELECT $1[1 / 0]';
             CREATE FUNCTION evil.count(*) RETURNS bigint LANGUAGE sql AS 'SELECT 1';"
                .replace("CREATE FUNCTION evil.count(*) RETURNS bigint LANGUAGE sql AS 'SELECT 1';", "")
                .as_str(),
        )
        .unwrap();
    owner.batch_execute("SET search_path = evil, pg_catalog, public").unwrap();
    transition(owner, "task_instance", task, State::Queued, State::Running).unwrap();
    let tasks = create_tasks(owner, 2);
    let moved = owner
        .query("SELECT outcome FROM workflow.transition_many('task_instance', $1, 'queued', 'running')", &[&tasks]);
    assert_eq!(moved.unwrap().len(), 2);
    owner.batch_execute("SELECT workflow.create_consumer('c', true); SELECT workflow.read_events('c'); SELECT workflow.follow_events(workflow.current_position()); TABLE workflow.consumer_lag; TABLE workflow.state_machine; TABLE workflow.state_counts; SELECT workflow.fold_state_counts(); DELETE FROM workflow.dags; TABLE workflow.state_counts").unwrap();
}
