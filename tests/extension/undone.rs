//! A trigger moves the row that its statement is moving, and its transition is kept, undone or skipped.
//!
//! After each, the outer event has its own metadata and idempotency key, and its request can be repeated.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;

/// What becomes of the trigger's transition.
const ENDINGS: [&str; 5] = ["kept", "kept after a column", "undone", "undone with a column", "skipped"];

/// How the trigger makes it, with the metadata and the idempotency key of its event.
const INNER: [(&str, &str); 3] = [("request", "inner inner"), ("many", "inner -"), ("update", "- -")];

/// The statement around it, which leads to version 2, with the metadata and the idempotency key of its event.
const OUTER: [(&str, &str); 5] = [
    (
        r#"SELECT workflow.transition_task_instance($1::uuid, 'queued', 'running', '{"by": "outer"}', NULL, 'key')"#,
        "outer key",
    ),
    (
        r#"SELECT * FROM workflow.transition_many('task_instance', ARRAY[$1::uuid], 'queued', 'running', '{"by": "outer"}')"#,
        "outer -",
    ),
    ("UPDATE workflow.task_instances SET state = 'running' WHERE id = $1::uuid", "- -"),
    (
        r#"UPDATE workflow.task_instances SET state = 'running' WHERE id = $1::uuid
           RETURNING workflow.transition_task_instance(id, 'running', 'failed', '{"by": "next"}', NULL, 'next')"#,
        "- -",
    ),
    (
        r#"WITH moved AS (UPDATE workflow.task_instances SET state = 'running' WHERE id = $1::uuid RETURNING id)
           SELECT workflow.transition_task_instance(id, 'running', 'failed', '{"by": "next"}', NULL, 'next') FROM moved"#,
        "- -",
    ),
];

/// A trigger before the row's update tries the same transition, another one the next transition.
const TRIGGERS: &str = r#"
    CREATE FUNCTION public.try() RETURNS trigger LANGUAGE plpgsql AS $body$
    DECLARE
        task uuid := current_setting('test.task');
        ending text := current_setting('test.ending');
        source text := CASE TG_WHEN WHEN 'BEFORE' THEN 'queued' ELSE 'running' END;
        target text := CASE TG_WHEN WHEN 'BEFORE' THEN 'running' ELSE 'failed' END;
    BEGIN
        IF current_setting('test.is_inside') = 'yes' OR (TG_LEVEL = 'ROW' AND NEW.state = OLD.state) THEN
            RETURN NEW;
        END IF;
        PERFORM set_config('test.is_inside', 'yes', true);
        BEGIN
            IF ending = 'kept after a column' THEN
                UPDATE workflow.task_instances SET max_tries = 7 WHERE id = task;
            END IF;
            CASE current_setting('test.form')
            WHEN 'request' THEN
                PERFORM workflow.transition_task_instance(task, source, target, '{"by": "inner"}', NULL, 'inner');
            WHEN 'many' THEN
                PERFORM * FROM workflow.transition_many('task_instance', ARRAY[task], source, target, '{"by": "inner"}');
            ELSE
                UPDATE workflow.task_instances SET state = target WHERE id = task AND state = source;
            END CASE;
            IF ending = 'undone with a column' THEN
                UPDATE workflow.task_instances SET max_tries = 7 WHERE id = task;
            END IF;
            IF ending LIKE 'undone%' THEN
                RAISE 'undo';
            END IF;
        EXCEPTION WHEN raise_exception OR serialization_failure THEN
            NULL;
        END;
        PERFORM set_config('test.is_inside', 'no', true);
        RETURN NEW;
    END $body$;
    CREATE FUNCTION public.skip() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        IF current_setting('test.ending') = 'skipped' AND current_setting('test.is_inside') = 'yes' THEN
            RETURN NULL;
        END IF;
        RETURN NEW;
    END $body$;
    CREATE TRIGGER zzzz_skip BEFORE UPDATE ON workflow.task_instances FOR EACH ROW EXECUTE FUNCTION public.skip();"#;

/// Runs each outer statement with each inner one and each ending. `trigger`: its name, its time, its level.
fn check_with(trigger: &str) {
    let db = Db::new();
    let client = &mut db.connect();
    let (kind, firing) = match trigger.split_once(" DEFERRED ") {
        Some((start, level)) => (
            "CONSTRAINT TRIGGER",
            format!("{start} UPDATE ON workflow.task_instances DEFERRABLE INITIALLY DEFERRED {level}"),
        ),
        None => ("TRIGGER", trigger.replacen(" FOR", " UPDATE ON workflow.task_instances FOR", 1)),
    };
    client.batch_execute(&format!("{TRIGGERS} CREATE {kind} {firing} EXECUTE FUNCTION public.try()")).unwrap();
    for (ending, (inner, inner_marks)) in ENDINGS.iter().flat_map(|ending| INNER.map(|inner| (*ending, inner))) {
        for (outer, outer_marks) in OUTER {
            let is_kept = ending.starts_with("kept");
            let mut events = vec!["1 queued - -".to_owned(), format!("2 running {outer_marks}")];
            if outer.contains("next") {
                events.push("3 failed next next".to_owned());
            } else if is_kept {
                events.push(format!("3 failed {inner_marks}"));
            }
            // PostgreSQL itself rejects an update of a row that a trigger before it has updated.
            let is_rejected = is_kept && trigger.contains("BEFORE");
            // Alone, and after the same statement in a savepoint that is rolled back.
            for savepoints in [0, 1] {
                let case = format!("trigger {trigger}, {inner} {ending}, in {outer}, savepoints: {savepoints}");
                let settings = format!("SET test.ending = '{ending}'; SET test.form = '{inner}'");
                client.batch_execute(&settings).unwrap();
                check(client, outer, savepoints, (!is_rejected).then_some(&events), &case);
            }
        }
    }
}

fn check(client: &mut Client, outer: &str, savepoints: usize, expected: Option<&Vec<String>>, case: &str) {
    let task = create_task(client);
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute(&format!("SET LOCAL test.task = '{task}'; SET LOCAL test.is_inside = 'no'")).unwrap();
    for _ in 0..savepoints {
        let mut savepoint = transaction.transaction().unwrap();
        let moved = savepoint.query(outer, &[&task]);
        assert_eq!(moved.is_ok(), expected.is_some(), "{case}: {moved:?}");
        savepoint.rollback().unwrap();
    }
    let moved = transaction.query(outer, &[&task]);
    let Some(expected) = expected else {
        assert_eq!(failure(moved).sqlstate, "27000", "{case}");
        return;
    };
    moved.and_then(|_| transaction.commit()).unwrap_or_else(|error| panic!("{case}: {error:?}"));
    assert_eq!(&events_of(client, task), expected, "{case}");
    if outer.contains("'key'") {
        let again = client.query_one(outer, &[&task]).unwrap_or_else(|error| panic!("{case}, again: {error:?}"));
        assert_eq!(again.get::<_, i64>(0), 2, "{case}");
    }
}

/// Returns the events of a task in the order of their IDs. At the end, verify() checks all of them.
fn events_of(client: &mut Client, task: Uuid) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', version, new_state, coalesce(metadata->>'by', '-'), coalesce(request_id, '-'))
               FROM workflow.state_history WHERE entity_id = $1 ORDER BY id";
    client.query(sql, &[&task]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn trigger_before_the_guard_leaves_the_outer_event() {
    check_with("aaa BEFORE FOR EACH ROW");
}

#[test]
fn trigger_after_the_guard_leaves_the_outer_event() {
    check_with("zzz BEFORE FOR EACH ROW");
}

#[test]
fn trigger_after_the_row_leaves_the_outer_event() {
    check_with("aab AFTER FOR EACH ROW");
}

#[test]
fn statement_trigger_before_record_leaves_the_outer_event() {
    check_with("aab AFTER FOR EACH STATEMENT");
}

#[test]
fn statement_trigger_after_record_leaves_the_outer_event() {
    check_with("zzzz AFTER FOR EACH STATEMENT");
}

#[test]
fn deferred_trigger_leaves_the_outer_event() {
    check_with("aab AFTER DEFERRED FOR EACH ROW");
}

#[test]
fn trigger_that_changes_the_time_is_rejected() {
    let db = Db::new();
    let client = &mut db.connect();
    // Its next transition sets no date.
    let task = create_in_state(client, "task_instance", State::Failed);
    let sql = "CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN
                   NEW.updated_at := NEW.updated_at + interval '1 second'; RETURN NEW; END $body$;
               CREATE TRIGGER zzz BEFORE UPDATE ON workflow.task_instances FOR EACH ROW EXECUTE FUNCTION public.late()";
    client.batch_execute(sql).unwrap();
    let move_it = "SELECT workflow.transition_task_instance($1, 'failed', 'retrying', '{\"by\": \"w\"}', NULL, 'key')";
    let rejected = failure(client.execute(move_it, &[&task]));
    assert_eq!(rejected.sqlstate, "23514");
    assert!(rejected.hint.contains("zz_guard"), "{}", rejected.hint);
    client.batch_execute("ALTER TRIGGER zzz ON workflow.task_instances RENAME TO aaa").unwrap();
    client.execute(move_it, &[&task]).unwrap();
    assert_eq!(events_of(client, task).last().unwrap(), "3 retrying w key");
}
