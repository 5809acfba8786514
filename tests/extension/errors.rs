//! Invalid input: each call fails with the documented error and changes nothing.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use serde_json::json;
use uuid::Uuid;

#[test]
fn invalid_argument_error_names_argument() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_in_state(client, "task_instance", State::Running);
    let (dag, run) = create_run(client);
    let long = "x".repeat(501);
    let cases = [
        ("entity_type", "transition('task', '{task}', 'running', 'failed')"),
        ("entity_type", "transition(NULL, '{task}', 'running', 'failed')"),
        ("id", "transition('task_instance', NULL, 'running', 'failed')"),
        ("old_state", "transition('task_instance', '{task}', 'runing', 'failed')"),
        ("old_state", "transition('task_instance', '{task}', NULL, 'failed')"),
        ("new_state", "transition('task_instance', '{task}', 'running', 'FAILED')"),
        ("new_state", "transition_task_instance('{task}', 'running', NULL)"),
        ("new_state", "transition_dag_run('{run}', 'queued', '')"),
        ("metadata", "transition('task_instance', '{task}', 'running', 'failed', '[]')"),
        ("metadata", "transition('task_instance', '{task}', 'running', 'failed', '\"text\"')"),
        ("metadata", "transition('task_instance', '{task}', 'running', 'failed', NULL)"),
        ("request_id", "transition('task_instance', '{task}', 'running', 'failed', request_id => '')"),
        ("request_id", "transition('task_instance', '{task}', 'running', 'failed', request_id => 'claim 2')"),
        ("queue", "create_task_instances('{run}', ARRAY['a'], queue => ' ')"),
        ("queue", "create_task_instances('{run}', ARRAY['a'], not_before => now())"),
        ("priority", "create_task_instances('{run}', ARRAY['a'], queue => 'q', priority => 10)"),
        ("timeout", "create_task_instances('{run}', ARRAY['a'], queue => 'q', timeout => '0')"),
        ("entity_type", "transition_many('dags', ARRAY['{task}']::uuid[], NULL, 'failed')"),
        ("ids", "transition_many('task_instance', NULL, NULL, 'failed')"),
        ("ids", "transition_many('task_instance', ARRAY['{task}', NULL]::uuid[], NULL, 'failed')"),
        ("old_state", "transition_many('task_instance', ARRAY['{task}']::uuid[], 'x', 'failed')"),
        ("new_state", "transition_many('task_instance', ARRAY['{task}']::uuid[], NULL, NULL)"),
        ("metadata", "transition_many('task_instance', ARRAY['{task}']::uuid[], NULL, 'failed', '1')"),
        ("dry_run", "transition_many('task_instance', ARRAY['{task}']::uuid[], NULL, 'failed', '{}', NULL)"),
        ("from", "can_transition('x', 'running')"),
        ("to", "can_transition('running', 'x')"),
        ("state", "next_states('x')"),
        ("state", "is_terminal('')"),
        ("name", "create_dag(NULL)"),
        ("name", "create_dag('')"),
        ("name", "create_dag(E' \\t\\n')"),
        ("name", "create_dag('{long}')"),
        ("tags", "create_dag('bad', tags => '{\"a\": 1}')"),
        ("tags", "create_dag('bad', tags => '[\"a\", 1]')"),
        ("tags", "create_dag('bad', tags => '[[\"a\"]]')"),
        ("tags", "create_dag('bad', tags => 'null')"),
        ("tags", "create_dag('bad', tags => NULL)"),
        ("is_paused", "create_dag('bad', is_paused => NULL)"),
        ("dag_id", "create_dag_run(NULL)"),
        ("execution_date", "create_dag_run('{dag}', NULL)"),
        ("conf", "create_dag_run('{dag}', '2026-01-01', '[]')"),
        ("conf", "create_dag_run('{dag}', '2026-01-01', NULL)"),
        ("dag_run_id", "create_task_instances(NULL, ARRAY['a'])"),
        ("task_ids", "create_task_instances('{run}', NULL)"),
        ("task_ids", "create_task_instances('{run}', ARRAY['a', NULL])"),
        ("task_ids", "create_task_instances('{run}', ARRAY['a', ' '])"),
        ("task_ids", "create_task_instances('{run}', ARRAY['{long}'])"),
        ("max_tries", "create_task_instances('{run}', ARRAY['a'], -1)"),
        ("max_tries", "create_task_instances('{run}', ARRAY['a'], NULL)"),
        ("task_instance_id", "append_task_log(NULL, 'x')"),
        ("message", "append_task_log('{task}', NULL)"),
        ("level", "append_task_log('{task}', 'x', 'info')"),
        ("logged_at", "append_task_log('{task}', 'x', 'INFO', NULL)"),
        ("entity_type", "history('x', '{task}')"),
        ("id", "history('task_instance', NULL)"),
        ("max", "history('task_instance', '{task}', -1)"),
        ("max", "history('task_instance', '{task}', NULL)"),
        ("entity_type", "state_at(NULL, '{task}', now())"),
        ("id", "state_at('task_instance', NULL, now())"),
        ("at", "state_at('task_instance', '{task}', NULL)"),
        ("consumer", "create_consumer('')"),
        ("consumer", "create_consumer(NULL)"),
        ("max", "read_events('c', 0)"),
        ("max", "read_events('c', NULL)"),
        ("wait", "read_events('c', 1, '-1 s')"),
        ("wait", "read_events('c', 1, NULL)"),
        ("position", "follow_events(NULL)"),
        ("position", "follow_events('c')"),
        ("max", "follow_events('c', 0)"),
        ("max", "follow_events('c', NULL)"),
        ("wait", "follow_events('c', 1, '-1 s')"),
        ("wait", "follow_events('c', 1, NULL)"),
        ("up_to", "ack_events('c', 0)"),
        ("up_to", "ack_events('c', NULL)"),
    ];
    client.batch_execute("SELECT workflow.create_consumer('c')").unwrap();
    let rows = "SELECT (SELECT count(*) FROM workflow.dags) + (SELECT count(*) FROM workflow.dag_runs)
                     + (SELECT count(*) FROM workflow.task_instances) + (SELECT count(*) FROM workflow.task_logs)
                     + (SELECT count(*) FROM workflow.state_history) + (SELECT count(*) FROM workflow.consumers)";
    let before: i64 = client.query_one(rows, &[]).unwrap().get(0);
    for (argument, call) in cases {
        let call = call.replace("{task}", &task.to_string()).replace("{run}", &run.to_string());
        let call = call.replace("{dag}", &dag.to_string()).replace("{long}", &long);
        let failed = failure(client.query(&format!("SELECT workflow.{call}"), &[]));
        assert_eq!(
            (failed.sqlstate.as_str(), &failed.detail["argument"]),
            ("22023", &json!(argument)),
            "{call}: {failed:?}"
        );
        assert!(!failed.hint.is_empty() && !failed.message.is_empty(), "{call}");
    }
    assert_eq!(client.query_one(rows, &[]).unwrap().get::<_, i64>(0), before);
}

#[test]
fn not_found_error_names_entity() {
    let db = Db::new();
    let client = &mut db.connect();
    let id = Uuid::new_v4();
    let cases = [
        ("task_instance", "transition('task_instance', '{id}', 'queued', 'running')"),
        ("task_instance", "transition('task_instance', '{id}', 'queued', 'running', request_id => 'r')"),
        ("dag_run", "transition_dag_run('{id}', 'queued', 'running')"),
        ("dag", "pause_dag('{id}')"),
        ("dag", "unpause_dag('{id}')"),
        ("dag", "create_dag_run('{id}')"),
        ("dag_run", "create_task_instances('{id}', ARRAY['a'])"),
        ("task_instance", "append_task_log('{id}', 'x')"),
        ("consumer", "read_events('{id}')"),
        ("consumer", "ack_events('{id}', 1)"),
        ("consumer", "drop_consumer('{id}')"),
    ];
    for (kind, call) in cases {
        let call = call.replace("{id}", &id.to_string());
        let failed = failure(client.query(&format!("SELECT workflow.{call}"), &[]));
        assert_eq!(failed.sqlstate, "P0002", "{call}: {failed:?}");
        assert_eq!(failed.detail, json!({"entity_type": kind, "entity_id": id.to_string()}), "{call}");
        assert!(!failed.hint.is_empty());
    }
}

#[test]
fn plain_update_rejects_unknown_state() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    for value in ["'bogus'", "''", "NULL", "'Running'"] {
        let failed = failure(client.execute(&format!("UPDATE workflow.task_instances SET state = {value}"), &[]));
        assert_eq!((failed.sqlstate.as_str(), &failed.detail["argument"]), ("22023", &json!("state")), "{value}");
        assert!(failed.hint.contains("upstream_failed"), "{}", failed.hint);
    }
    assert_eq!(state_of(client, "task_instance", task), ("queued".into(), 1));
}

#[test]
fn direct_writes_meet_constraints() {
    let db = Db::new();
    let client = &mut db.connect();
    create_task(client);
    let cases = [
        ("INSERT INTO workflow.dags (name) VALUES (' ')", "dags_name_check"),
        ("INSERT INTO workflow.dags (name, tags) VALUES ('x', '[[\"a\"]]')", "dags_tags_check"),
        ("UPDATE workflow.dag_runs SET conf = '[]'", "dag_runs_conf_check"),
    ];
    for (sql, constraint) in cases {
        let error = client.execute(sql, &[]).expect_err("a violation");
        let error = error.as_db_error().unwrap();
        assert_eq!((error.code().code(), error.constraint()), ("23514", Some(constraint)), "{sql}");
    }
    // A function checks these columns and names the column.
    for (sql, argument) in [
        ("UPDATE workflow.task_instances SET max_tries = -1", "max_tries"),
        (
            "INSERT INTO workflow.task_instances (dag_run_id, task_id) SELECT id, E'\\t' FROM workflow.dag_runs",
            "task_id",
        ),
        (
            "INSERT INTO workflow.task_instances (dag_run_id, task_id) SELECT id, repeat('x', 501) FROM workflow.dag_runs",
            "task_id",
        ),
        (
            "INSERT INTO workflow.task_instances (dag_run_id, task_id, state) SELECT id, 'x', 'x' FROM workflow.dag_runs",
            "state",
        ),
    ] {
        let failed = failure(client.execute(sql, &[]));
        assert_eq!((failed.sqlstate.as_str(), &failed.detail["argument"]), ("22023", &json!(argument)), "{sql}");
    }
    // Every constraint has an explicit name: names that PostgreSQL generates end in a number if they clash.
    let sql =
        "SELECT conname::text FROM pg_constraint WHERE connamespace = 'workflow'::regnamespace AND conname ~ '[0-9]$'";
    assert_eq!(client.query(sql, &[]).unwrap().len(), 0);
}

#[test]
fn error_detail_is_json_without_backtrace() {
    let db = Db::new();
    let client = &mut db.connect();
    let failed = failure(Transition::of(Uuid::nil()).from(State::Queued).to(State::Running).run(client));
    assert!(failed.detail.is_object(), "DETAIL is JSON and nothing else: {}", failed.detail);
}
