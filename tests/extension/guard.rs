//! The guard trigger, on every way to change a row.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use serde_json::Value;
use std::time::SystemTime;
use uuid::Uuid;

const ENTITY_TYPES: [&str; 2] = ["dag_run", "task_instance"];

fn plain_update(client: &mut Client, entity_type: &str, id: Uuid, to: State) -> Result<u64, postgres::Error> {
    client.execute(&format!("UPDATE {} SET state = $2 WHERE id = $1", table(entity_type)), &[&id, &to.as_str()])
}

#[test]
fn guard_decides_each_state_pair_like_the_rust_machine() {
    let db = Db::new();
    let client = &mut db.connect();
    for entity_type in ENTITY_TYPES {
        for from in State::ALL {
            for to in State::ALL {
                for by_function in [true, false] {
                    let id = create_in_state(client, entity_type, from);
                    let (_, version) = state_of(client, entity_type, id);
                    let case = format!("{entity_type} {from} -> {to}, by function: {by_function}");
                    let result = if by_function {
                        Transition::of_type(entity_type, id).from(from).to(to).run(client)
                    } else {
                        plain_update(client, entity_type, id, to).map(|_| state_of(client, entity_type, id).1)
                    };
                    // An UPDATE to the same state is no transition; a call of transition() to the same state is an error.
                    let stays = from == to && !by_function;
                    if from.can_transition(to) {
                        assert_eq!(result.unwrap_or_else(|error| panic!("{case}: {error:?}")), version + 1, "{case}");
                    } else if !stays {
                        let failure = failure(result);
                        assert_eq!(failure.sqlstate, "23514", "{case}");
                        let next: Vec<&str> = from.next_states().iter().map(|state| state.as_str()).collect();
                        assert_eq!(failure.detail["next_states"], serde_json::json!(next), "{case}");
                        assert_eq!(failure.detail["entity_id"], id.to_string(), "{case}");
                    }
                    let moved = i64::from(from.can_transition(to));
                    let now = if moved == 1 { to } else { from };
                    assert_eq!(state_of(client, entity_type, id), (now.to_string(), version + moved), "{case}");
                    assert_eq!(history_len(client, id), version + moved, "{case}");
                }
            }
        }
    }
}

#[test]
fn state_machine_is_the_same_in_sql_and_rust() {
    let db = Db::new();
    let client = &mut db.connect();
    let rows = client.query("SELECT from_state, to_state FROM workflow.state_machine", &[]).unwrap();
    let mut in_sql: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut in_rust: Vec<(String, String)> = State::ALL
        .iter()
        .flat_map(|from| from.next_states().iter().map(|to| (from.to_string(), to.to_string())))
        .collect();
    in_sql.sort();
    in_rust.sort();
    assert_eq!(in_sql, in_rust);
    for state in State::ALL {
        let row = client
            .query_one("SELECT workflow.is_terminal($1), workflow.next_states($1) = '{}'", &[&state.as_str()])
            .unwrap();
        assert_eq!((row.get::<_, bool>(0), row.get::<_, bool>(1)), (state.is_terminal(), state.is_terminal()));
    }
    // A CHECK constraint lists the states.
    let sql = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname LIKE '%\\_state_check'";
    let constraints = client.query(sql, &[]).unwrap();
    assert_eq!(constraints.len(), 1);
    for row in constraints {
        let names = State::ALL.map(State::as_str).join(",");
        assert!(row.get::<_, String>(0).contains(&format!("{{{names}}}")), "{}", row.get::<_, String>(0));
    }
}

#[test]
fn guard_checks_upsert_and_merge() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let upsert = "INSERT INTO workflow.task_instances AS t (id, dag_run_id, task_id)
                  SELECT id, dag_run_id, task_id FROM workflow.task_instances WHERE id = $1
                  ON CONFLICT (id) DO UPDATE SET state = $2";
    assert_eq!(failure(client.execute(upsert, &[&task, &"success"])).sqlstate, "23514");
    client.execute(upsert, &[&task, &"running"]).unwrap();
    assert_eq!(state_of(client, "task_instance", task), ("running".into(), 2));

    let version: i32 = client.query_one("SHOW server_version_num", &[]).unwrap().get::<_, String>(0).parse().unwrap();
    if version >= 150_000 {
        let merge = "MERGE INTO workflow.task_instances AS t USING (SELECT $1::uuid AS id) AS s ON t.id = s.id
                     WHEN MATCHED THEN UPDATE SET state = $2";
        assert_eq!(failure(client.execute(merge, &[&task, &"queued"])).sqlstate, "23514");
        client.execute(merge, &[&task, &"failed"]).unwrap();
        assert_eq!(state_of(client, "task_instance", task), ("failed".into(), 3));
        assert_eq!(history_len(client, task), 3);
    }
}

#[test]
fn managed_columns_cannot_be_set() {
    let db = Db::new();
    let [admin, client] = &mut [db.connect(), db.connect_as(&create_writer(&mut db.connect()))];
    let (_, other_run) = create_run(client);
    let task = create_in_state(client, "task_instance", State::Running);
    let run = create_run(client).1;
    let on_tasks = [
        ("id", "gen_random_uuid()".to_owned()),
        ("dag_run_id", format!("'{other_run}'")),
        ("task_id", "'another name'".to_owned()),
        ("version", "version + 1".to_owned()),
        ("try_number", "7".to_owned()),
        ("start_date", "now()".to_owned()),
        ("end_date", "now()".to_owned()),
        ("duration", "1.5".to_owned()),
        ("created_at", "now() - interval '1 day'".to_owned()),
    ];
    // Writers have no right to these.
    let by_admin = [
        ("join_id", "gen_random_uuid()"),
        ("worker", "'another worker'"),
        ("lease_expires_at", "now()"),
        ("cancel_requested_at", "now()"),
        ("uncounted_tries", "1"),
    ];
    let on_runs =
        [("id", "gen_random_uuid()"), ("dag_id", "gen_random_uuid()"), ("version", "9"), ("start_date", "now()")];
    let all = on_tasks.iter().map(|(column, value)| ("task_instance", task, *column, value.as_str()));
    let all = all.chain(on_runs.iter().map(|(column, value)| ("dag_run", run, *column, *value)));
    let by_admin = by_admin.map(|(column, value)| ("task_instance", task, column, value));
    let all = all.map(|case| (false, case)).chain(by_admin.map(|case| (true, case)));
    for (is_by_admin, (entity_type, id, column, value)) in all {
        let client = if is_by_admin { &mut *admin } else { &mut *client };
        // Also together with an allowed transition.
        for also in ["", ", state = CASE state WHEN 'queued' THEN 'running' ELSE 'failed' END"] {
            let sql = format!("UPDATE {} SET {column} = {value}{also} WHERE id = $1", table(entity_type));
            let failure = failure(client.execute(&sql, &[&id]));
            assert_eq!(failure.sqlstate, "428C9", "{sql}");
            assert_eq!(failure.detail["column"], column);
        }
    }
}

/// Writes a row back as an ORM does: every column, from the JSON that it has read.
fn write_back(client: &mut Client, entity_type: &str, row: &Value) -> Result<u64, postgres::Error> {
    let table = table(entity_type);
    let columns: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
    let columns = columns.join(", ");
    let sql = format!(
        "UPDATE {table} SET ({columns}) = (SELECT {columns} FROM jsonb_populate_record(NULL::{table}, $1)) WHERE id = ($1::jsonb->>'id')::uuid"
    );
    client.execute(&sql, &[row])
}

fn read_row(client: &mut Client, entity_type: &str, id: Uuid) -> Value {
    let sql = format!("SELECT to_jsonb(e) FROM {} AS e WHERE id = $1", table(entity_type));
    client.query_one(&sql, &[&id]).unwrap().get(0)
}

#[test]
fn writer_can_write_whole_rows_back() {
    let db = Db::new();
    let client = &mut db.connect_as(&create_writer(&mut db.connect()));
    for entity_type in ENTITY_TYPES {
        // Every managed column has a value.
        let id = create_in_state(client, entity_type, State::Failed);
        for state in [State::Failed, State::Retrying, State::Running, State::Success] {
            let mut row = read_row(client, entity_type, id);
            let unchanged = row["state"] == state.as_str();
            row["state"] = state.as_str().into();
            assert_eq!(write_back(client, entity_type, &row).unwrap(), 1);
            let version = row["version"].as_i64().unwrap() + i64::from(!unchanged);
            assert_eq!(state_of(client, entity_type, id), (state.to_string(), version));
            assert_eq!(history_len(client, id), version);
        }
    }
}

#[test]
fn stale_whole_row_is_a_conflict() {
    let db = Db::new();
    let client = &mut db.connect_as(&create_writer(&mut db.connect()));
    for entity_type in ENTITY_TYPES {
        let id = create_in_state(client, entity_type, State::Queued);
        let mut row = read_row(client, entity_type, id);
        Transition::of_type(entity_type, id).run(client).unwrap();
        for state in ["queued", "running", "skipped"] {
            row["state"] = state.into();
            let failed = failure(write_back(client, entity_type, &row));
            assert_eq!(failed.sqlstate, "40001", "{failed:?}");
            let detail = serde_json::json!({
                "entity_type": entity_type, "entity_id": id.to_string(), "from": null, "to": state,
                "expected_version": 1, "current_state": "running", "current_version": 2,
            });
            assert_eq!(failed.detail, detail);
        }
        assert_eq!(history_len(client, id), 2);
    }
}

#[test]
fn transitions_set_dates_attempts_and_error() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let check = |client: &mut Client, to: State, expected: &str| {
        let from: State = state_of(client, "task_instance", task).0.parse().unwrap();
        Transition::of(task).from(from).to(to).metadata(serde_json::json!({"error": "boom"})).run(client).unwrap();
        let sql = "SELECT concat_ws(' ', try_number, start_date IS NOT NULL, end_date IS NOT NULL,
                          duration = extract(epoch FROM end_date - start_date), error, updated_at >= start_date)
                   FROM workflow.task_instances WHERE id = $1";
        assert_eq!(client.query_one(sql, &[&task]).unwrap().get::<_, String>(0), expected, "{from} -> {to}");
    };
    check(client, State::Running, "1 t f t");
    check(client, State::Failed, "1 t t t boom t");
    check(client, State::Retrying, "1 t t t boom t");
    check(client, State::Running, "2 t f t");
    check(client, State::UpstreamFailed, "2 t t t boom t");
    check(client, State::Queued, "2 f f boom");
    check(client, State::Skipped, "2 f t boom");

    // The task never ran, so it has no duration.
    let skipped = create_in_state(client, "task_instance", State::Skipped);
    let sql = "SELECT start_date IS NULL AND end_date IS NOT NULL AND duration IS NULL
               FROM workflow.task_instances WHERE id = $1";
    assert!(client.query_one(sql, &[&skipped]).unwrap().get::<_, bool>(0));
}

#[test]
fn waiting_is_no_part_of_an_attempt() {
    let db = Db::new();
    let client = &mut db.connect();
    let dates = |client: &mut Client, task: Uuid| -> (Option<SystemTime>, Option<f64>) {
        let sql = "SELECT end_date, duration FROM workflow.task_instances WHERE id = $1";
        let row = client.query_one(sql, &[&task]).unwrap();
        (row.get(0), row.get(1))
    };
    let ways = [
        [State::Retrying, State::Failed].as_slice(),
        &[State::Retrying, State::Success],
        &[State::Failed, State::Retrying, State::Failed, State::Retrying, State::Success],
    ];
    for way in ways {
        let task = create_in_state(client, "task_instance", State::Running);
        let mut from = State::Running;
        let mut ended = None;
        for to in way {
            Transition::of(task).from(from).to(*to).run(client).unwrap();
            from = *to;
            let now = dates(client, task);
            assert!(now.0.is_some() && now.1.is_some(), "{way:?}, {to}");
            assert_eq!(*ended.get_or_insert(now), now, "{way:?}, {to}");
        }
    }
    // One that never started has no attempt: it ends when it is given up.
    let task = create_in_state(client, "task_instance", State::Failed);
    let failed = dates(client, task);
    assert_eq!(failed.1, None);
    Transition::of(task).from(State::Failed).to(State::Retrying).run(client).unwrap();
    Transition::of(task).from(State::Retrying).to(State::Failed).run(client).unwrap();
    let given_up = dates(client, task);
    assert!(given_up.0 > failed.0 && given_up.1.is_none(), "{failed:?}, {given_up:?}");
}

/// In 0.2.0 a task that came back into the queue kept the dates of its last attempt.
#[test]
fn queued_task_of_an_older_version_has_no_attempt() {
    let db = Db::new();
    let client = &mut db.connect();
    for to in [State::Failed, State::Skipped] {
        let task = create_task(client);
        let old = format!(
            "SET session_replication_role = replica;
             UPDATE workflow.task_instances SET start_date = now() - interval '2 h', end_date = now() - interval '1 h', duration = 3600
             WHERE id = '{task}';
             RESET session_replication_role"
        );
        client.batch_execute(&old).unwrap();
        Transition::of(task).from(State::Queued).to(to).run(client).unwrap();
        let sql =
            "SELECT start_date IS NULL AND duration IS NULL AND end_date = updated_at FROM workflow.task_instances
                   WHERE id = $1";
        assert!(client.query_one(sql, &[&task]).unwrap().get::<_, bool>(0), "{to}");
    }
}

#[test]
fn return_to_the_queue_clears_what_an_attempt_left() {
    let db = Db::new();
    let client = &mut db.connect();
    for (kind, columns) in
        [("task_instance", "start_date, end_date, duration, error"), ("dag_run", "start_date, end_date")]
    {
        let id = create_in_state(client, kind, State::UpstreamFailed);
        let sql = format!("SELECT num_nonnulls({columns}) FROM {} WHERE id = $1", table(kind));
        assert!(client.query_one(&sql, &[&id]).unwrap().get::<_, i32>(0) >= 2, "{kind}");
        Transition::of_type(kind, id).from(State::UpstreamFailed).to(State::Queued).run(client).unwrap();
        assert_eq!(client.query_one(&sql, &[&id]).unwrap().get::<_, i32>(0), 0, "{kind}");
        // A task that is skipped then has no duration.
        Transition::of_type(kind, id).from(State::Queued).to(State::Skipped).run(client).unwrap();
        assert_eq!(client.query_one(&sql, &[&id]).unwrap().get::<_, i32>(0), 1, "{kind}");
    }
}

#[test]
fn run_that_waits_for_its_next_attempt_has_not_ended() {
    let db = Db::new();
    let client = &mut db.connect();
    let run = create_in_state(client, "dag_run", State::Failed);
    let has_ended = "SELECT end_date IS NOT NULL FROM workflow.dag_runs WHERE id = $1";
    assert!(client.query_one(has_ended, &[&run]).unwrap().get::<_, bool>(0));
    for (from, to, ended) in [(State::Failed, State::Retrying, false), (State::Retrying, State::Failed, true)] {
        Transition::of_run(run).from(from).to(to).run(client).unwrap();
        assert_eq!(client.query_one(has_ended, &[&run]).unwrap().get::<_, bool>(0), ended, "{to}");
    }
}

/// A start in the future is what a clock set back by an hour leaves.
#[test]
fn attempt_never_ends_before_its_start() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_in_state(client, "task_instance", State::Running);
    client
        .batch_execute(
            "SET session_replication_role = replica;
             UPDATE workflow.task_instances SET start_date = start_date + interval '1 hour';
             RESET session_replication_role",
        )
        .unwrap();
    Transition::of(task).from(State::Running).to(State::Success).run(client).unwrap();
    let sql = "SELECT end_date = start_date AND duration = 0 FROM workflow.task_instances WHERE id = $1";
    assert!(client.query_one(sql, &[&task]).unwrap().get::<_, bool>(0));
}

#[test]
fn update_without_transition_writes_no_event() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let sql = "UPDATE workflow.task_instances SET max_tries = 5, state = state WHERE id = $1
               RETURNING updated_at > created_at";
    assert!(client.query_one(sql, &[&task]).unwrap().get::<_, bool>(0));
    assert_eq!(state_of(client, "task_instance", task), ("queued".into(), 1));
    assert_eq!(history_len(client, task), 1);
}

#[test]
fn statement_transitions_all_its_rows_or_none() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 100);
    let start = "UPDATE workflow.task_instances SET state = 'running' WHERE id = ANY($1)";
    assert_eq!(client.execute(start, &[&tasks]).unwrap(), 100);
    Transition::of(tasks[99]).from(State::Running).to(State::Success).run(client).unwrap();

    // One of the tasks is terminal, so no task changes.
    let fail = "UPDATE workflow.task_instances SET state = 'failed' WHERE id = ANY($1)";
    assert_eq!(failure(client.execute(fail, &[&tasks])).sqlstate, "23514");
    assert_eq!(state_of(client, "task_instance", tasks[0]), ("running".into(), 2));
    assert_eq!(client.execute(fail, &[&&tasks[..99]]).unwrap(), 99);
    let sql = "SELECT count(*), count(DISTINCT entity_id) FROM workflow.state_history WHERE new_state = 'failed'";
    let row = client.query_one(sql, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (99, 99));
}

#[test]
fn later_trigger_cannot_bypass_guard() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    client
        .batch_execute(
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.state := 'success'; RETURN NEW; END $$;
             CREATE TRIGGER zzz_late BEFORE UPDATE ON workflow.task_instances
             FOR EACH ROW EXECUTE FUNCTION late();",
        )
        .unwrap();
    let failed = failure(Transition::of(task).from(State::Queued).to(State::Running).run(client));
    assert_eq!(failed.sqlstate, "23514");
    assert!(failed.message.contains("after the guard"), "{}", failed.message);

    // A trigger whose name sorts before the guard trigger is checked as any other change.
    client.batch_execute("ALTER TRIGGER zzz_late ON workflow.task_instances RENAME TO early").unwrap();
    let failed = failure(Transition::of(task).from(State::Queued).to(State::Running).run(client));
    assert!(failed.message.contains("cannot move from queued to success"), "{}", failed.message);
    client.batch_execute("DROP TRIGGER early ON workflow.task_instances").unwrap();
    start_task(client, task);
}

#[test]
fn later_trigger_cannot_change_what_guard_decides() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let (_, run) = create_run(client);
    client
        .batch_execute(
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
             CREATE TRIGGER zzz_late BEFORE UPDATE ON workflow.task_instances FOR EACH ROW EXECUTE FUNCTION late()",
        )
        .unwrap();
    let changes = [
        // Another allowed target: its dates would be those of the first.
        "NEW.state := 'skipped'".to_owned(),
        "NEW.state := 'queued'".to_owned(),
        "NEW.version := 9".to_owned(),
        "NEW.try_number := 9".to_owned(),
        "NEW.start_date := now() - interval '1 day'".to_owned(),
        "NEW.end_date := now() - interval '1 day'".to_owned(),
        "NEW.duration := 9".to_owned(),
        "NEW.created_at := now() - interval '1 day'".to_owned(),
        "NEW.updated_at := OLD.updated_at - interval '1 second'".to_owned(),
        "NEW.task_id := 'another name'".to_owned(),
        format!("NEW.dag_run_id := '{run}'"),
    ];
    for change in changes {
        client
            .batch_execute(&format!(
                "CREATE OR REPLACE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {change}; RETURN NEW; END $$"
            ))
            .unwrap();
        for update in ["state = 'running'", "max_tries = 2"] {
            let result =
                client.execute(&format!("UPDATE workflow.task_instances SET {update} WHERE id = $1"), &[&task]);
            // The trigger sets the state that the task has.
            if update == "max_tries = 2" && change == "NEW.state := 'queued'" {
                assert_eq!(result.unwrap(), 1);
                continue;
            }
            let failed = failure(result);
            assert_eq!(failed.sqlstate, "23514", "{change} after {update}: {failed:?}");
        }
    }
    client.batch_execute("DROP TRIGGER zzz_late ON workflow.task_instances").unwrap();
    assert_eq!(history_len(client, task), 1);
}

#[test]
fn transition_in_user_trigger_has_its_own_metadata() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    client
        .batch_execute(
            "CREATE FUNCTION start_run() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN UPDATE workflow.dag_runs SET state = 'running' WHERE id = NEW.dag_run_id AND state = 'queued';
             RETURN NULL; END $$;
             CREATE TRIGGER start_run AFTER UPDATE ON workflow.task_instances
             FOR EACH ROW EXECUTE FUNCTION start_run();",
        )
        .unwrap();
    let start = Transition::of(task).from(State::Queued).to(State::Running);
    start.metadata(serde_json::json!({"worker": 7})).request("once").run(client).unwrap();
    let rows = client
        .query(
            "SELECT entity_type, metadata, request_id FROM workflow.state_history WHERE version = 2 ORDER BY id",
            &[],
        )
        .unwrap();
    let told: Vec<_> =
        rows.iter()
            .map(|row| (row.get(0), row.get(1), row.get(2)))
            .collect::<Vec<(String, serde_json::Value, Option<String>)>>();
    assert_eq!(
        told,
        [
            ("dag_run".into(), serde_json::json!({}), None),
            ("task_instance".into(), serde_json::json!({"worker": 7}), Some("once".into())),
        ]
    );
}
