//! Transitions inside another statement: in a CTE, in an expression, in triggers of every kind.
//!
//! Each output delivers the events of an entity in the order of their versions, each with its own metadata and
//! idempotency key.

use fallible_iterator::FallibleIterator;
use pg_workflow_tests::*;
use postgres::Client;
use serde_json::Value;
use uuid::Uuid;

/// A database with a run, its task, and every output of events.
struct Outputs {
    db: Db,
    client: Client,
    listener: Client,
    heard: Vec<(Uuid, i64)>,
    position: String,
    run: Uuid,
    task: Uuid,
}

impl Outputs {
    fn new() -> Outputs {
        Outputs::of(Db::new())
    }

    fn of(db: Db) -> Outputs {
        let (mut client, mut listener) = (db.connect(), db.connect());
        listener.batch_execute("LISTEN workflow_events").unwrap();
        client.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
        let position = client.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
        let task = create_task(&mut client);
        let sql = "SELECT dag_run_id FROM workflow.task_instances WHERE id = $1";
        let run = client.query_one(sql, &[&task]).unwrap().get(0);
        Outputs { db, client, listener, heard: Vec::new(), position, run, task }
    }

    /// Runs SQL, in which `:task` and `:run` stand for the IDs.
    fn execute(&mut self, sql: &str) {
        self.try_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    fn try_execute(&mut self, sql: &str) -> Result<(), postgres::Error> {
        let [task, run] = [self.task, self.run].map(|id| format!("'{id}'"));
        self.client.batch_execute(&sql.replace(":task", &task).replace(":run", &run))
    }

    /// Creates a trigger on the tasks, with this body.
    fn trigger(&mut self, name: &str, firing: &str, body: &str) {
        self.trigger_on("task_instances", name, firing, body);
    }

    fn trigger_on(&mut self, table: &str, name: &str, firing: &str, body: &str) {
        let kind = if firing.contains("DEFERRABLE") { "CONSTRAINT TRIGGER" } else { "TRIGGER" };
        let (event, rest) = firing.split_once(' ').unwrap();
        let (event, rest) = match rest.split_once(' ') {
            Some((what, rest)) => (format!("{event} {what}"), rest),
            None => (format!("{event} {rest}"), ""),
        };
        self.execute(&format!(
            "CREATE FUNCTION public.{name}() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN {body} RETURN NULL; END $body$;
             CREATE {kind} {name} {event} ON workflow.{table} {rest} EXECUTE FUNCTION public.{name}()"
        ));
    }

    /// Compares the events of the task in every output: version, state, metadata `by`, idempotency key.
    fn expect(&mut self, events: &[&str]) {
        self.expect_of(self.task, events);
    }

    fn expect_of(&mut self, entity: Uuid, events: &[&str]) {
        let sql = "SELECT concat_ws(' ', version, new_state, coalesce(metadata->>'by', '-'), request_id)
                   FROM workflow.state_history WHERE entity_id = $1 ORDER BY id";
        let history: Vec<String> = self.client.query(sql, &[&entity]).unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(history, events, "history");

        let versions: Vec<i64> = (1..).take(events.len()).collect();
        let mut read = |sql: &str| -> Vec<i64> {
            self.client.query(sql, &[&entity]).unwrap().iter().map(|row| row.get(0)).collect()
        };
        let consumer = "SELECT version FROM workflow.read_events('reader') WITH ORDINALITY AS e WHERE entity_id = $1 ORDER BY ordinality";
        assert_eq!(read(consumer), versions, "consumer");
        let follower = format!(
            "SELECT version FROM workflow.follow_events('{}') WITH ORDINALITY AS e WHERE entity_id = $1 ORDER BY ordinality",
            self.position
        );
        assert_eq!(read(&follower), versions, "follower");
        assert_eq!(self.hear(entity, events.len()), versions, "listener");
    }

    /// Waits for notifications of the entity, and returns their versions.
    fn hear(&mut self, entity: Uuid, count: usize) -> Vec<i64> {
        loop {
            let versions: Vec<i64> = self.heard.iter().filter(|event| event.0 == entity).map(|event| event.1).collect();
            if versions.len() >= count {
                return versions;
            }
            let heard = self.listener.notifications().timeout_iter(PATIENCE).next().unwrap().expect("a notification");
            let event: Value = serde_json::from_str(heard.payload()).unwrap();
            let entity = event["entity_id"].as_str().unwrap().parse().unwrap();
            self.heard.push((entity, event["version"].as_i64().unwrap()));
        }
    }
}

/// An AFTER ROW trigger that retries at once.
const RETRY: &str = "IF NEW.state = 'failed' AND OLD.state = 'running' THEN
    UPDATE workflow.task_instances SET state = 'retrying' WHERE id = NEW.id; END IF;";
const AFTER_ROW: &str = "AFTER UPDATE FOR EACH ROW";
const RUN_AND_FAIL: &str = r#"SELECT workflow.transition_task_instance(:task, 'queued', 'running', '{"by": "worker"}', NULL, 'run');
    SELECT workflow.transition_task_instance(:task, 'running', 'failed', '{"by": "worker"}', NULL, 'fail')"#;
const RETRIED: [&str; 4] = ["1 queued -", "2 running worker run", "3 failed worker fail", "4 retrying -"];

#[test]
fn row_trigger_moves_the_row_again() {
    let mut outputs = Outputs::new();
    outputs.trigger("retry", AFTER_ROW, RETRY);
    outputs.execute(RUN_AND_FAIL);
    outputs.expect(&RETRIED);
}

#[test]
fn row_trigger_moves_the_row_without_preloading() {
    let (_cluster, db) = own_cluster("nested-absent", &[]);
    let mut outputs = Outputs::of(db);
    outputs.trigger("retry", AFTER_ROW, RETRY);
    outputs.execute(RUN_AND_FAIL);
    outputs.expect(&RETRIED);
}

#[test]
fn statement_triggers_of_any_name_move_the_row() {
    for name in ["aa", "zzz"] {
        let mut outputs = Outputs::new();
        let retry = "IF pg_trigger_depth() = 1 THEN UPDATE workflow.task_instances SET state = 'retrying' WHERE state = 'failed'; END IF;";
        outputs.trigger(name, "AFTER UPDATE FOR EACH STATEMENT", retry);
        outputs.execute(RUN_AND_FAIL);
        outputs.expect(&RETRIED);
    }
}

#[test]
fn deferred_trigger_moves_the_row_again() {
    let mut outputs = Outputs::new();
    outputs.trigger("retry", "AFTER UPDATE DEFERRABLE INITIALLY DEFERRED FOR EACH ROW", RETRY);
    outputs.execute(RUN_AND_FAIL);
    outputs.expect(&RETRIED);
}

#[test]
fn cte_feeds_a_transition_of_the_same_task() {
    let mut outputs = Outputs::new();
    outputs.execute(
        r#"WITH claimed AS (UPDATE workflow.task_instances SET state = 'running' WHERE id = :task RETURNING id)
           SELECT workflow.transition_task_instance(id, 'running', 'success', '{"by": "inner"}', NULL, 'key') FROM claimed"#,
    );
    outputs.expect(&["1 queued -", "2 running -", "3 success inner key"]);
}

#[test]
fn returning_expression_moves_the_row_again() {
    let mut outputs = Outputs::new();
    outputs.execute(
        r#"UPDATE workflow.task_instances SET state = 'running' WHERE id = :task
           RETURNING (SELECT version FROM workflow.transition_many('task_instance', ARRAY[id], 'running', 'failed', '{"by": "many"}')),
               workflow.transition_task_instance(id, 'failed', 'retrying', '{"by": "inner"}', NULL, 'key')"#,
    );
    outputs.expect(&["1 queued -", "2 running -", "3 failed many", "4 retrying inner key"]);
}

#[test]
fn chain_of_triggers_moves_the_row_three_times() {
    let mut outputs = Outputs::new();
    let chain = r#"
        IF NEW.state = 'running' AND NEW.version = 2 THEN
            PERFORM workflow.transition_task_instance(NEW.id, 'running', 'failed', '{"by": "first"}', NULL, 'a');
        ELSIF NEW.state = 'failed' THEN
            UPDATE workflow.task_instances SET state = 'retrying' WHERE id = NEW.id;
        ELSIF NEW.state = 'retrying' THEN
            PERFORM * FROM workflow.transition_many('task_instance', ARRAY[NEW.id], 'retrying', 'running', '{"by": "third"}');
        END IF;"#;
    outputs.trigger("chain", AFTER_ROW, chain);
    outputs.execute(
        r#"SELECT workflow.transition_task_instance(:task, 'queued', 'running', '{"by": "outer"}', NULL, 'o')"#,
    );
    outputs.expect(&["1 queued -", "2 running outer o", "3 failed first a", "4 retrying -", "5 running third"]);
}

#[test]
fn trigger_moves_every_row_of_a_batch_again() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 100);
    let mut outputs = Outputs::of(db);
    outputs.trigger(
        "finish",
        AFTER_ROW,
        "UPDATE workflow.task_instances SET state = 'success' WHERE state = 'running';",
    );
    let sql = r#"SELECT workflow.transition_many('task_instance', $1, 'queued', 'running', '{"by": "batch"}')"#;
    outputs.client.execute(sql, &[&tasks]).unwrap();
    let sql = "SELECT count(*) FILTER (WHERE version = 2 AND metadata->>'by' = 'batch'),
                   count(*) FILTER (WHERE version = 3 AND metadata = '{}')
               FROM workflow.state_history WHERE entity_id = ANY ($1)";
    let row = outputs.client.query_one(sql, &[&tasks]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (100, 100));
    // verify() compares the order of ids with the order of versions.
}

#[test]
fn trigger_before_the_statement_has_its_own_metadata() {
    let mut outputs = Outputs::new();
    let other = create_task(&mut outputs.client);
    let start = format!(
        "IF pg_trigger_depth() = 1 THEN UPDATE workflow.task_instances SET state = 'running' WHERE id = '{other}'; END IF;"
    );
    outputs.trigger("start", "BEFORE UPDATE FOR EACH STATEMENT", &start);
    let sql =
        r#"SELECT outcome FROM workflow.transition_many('task_instance', $1, 'queued', 'running', '{"by": "batch"}')"#;
    let ids = [outputs.task, other];
    let outcomes: Vec<String> = outputs.client.query(sql, &[&&ids[..]]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(outcomes, ["applied", "stale"]);
    outputs.expect(&["1 queued -", "2 running batch"]);
}

#[test]
fn rolled_back_inner_transition_leaves_the_outer_one() {
    let mut outputs = Outputs::new();
    let body = r#"
        IF NEW.version = 2 THEN
            FOR attempt IN 1 .. 3 LOOP
                BEGIN
                    PERFORM workflow.transition_task_instance(NEW.id, 'running', 'failed', '{"by": "inner"}');
                    IF attempt < 3 THEN RAISE 'roll back'; END IF;
                EXCEPTION WHEN raise_exception THEN NULL;
                END;
            END LOOP;
        ELSIF NEW.version = 3 THEN
            BEGIN
                UPDATE workflow.task_instances SET state = 'retrying' WHERE id = NEW.id;
                RAISE 'roll back';
            EXCEPTION WHEN raise_exception THEN NULL;
            END;
        END IF;"#;
    outputs.trigger("attempts", AFTER_ROW, body);
    outputs.execute(
        r#"SELECT workflow.transition_task_instance(:task, 'queued', 'running', '{"by": "outer"}', NULL, 'o')"#,
    );
    outputs.expect(&["1 queued -", "2 running outer o", "3 failed inner"]);
}

#[test]
fn savepoints_leave_no_trace_in_later_transitions() {
    let mut outputs = Outputs::new();
    outputs.trigger("retry", AFTER_ROW, RETRY);
    outputs.execute(
        r#"BEGIN; SAVEPOINT s;
           SELECT workflow.transition_task_instance(:task, 'queued', 'running', '{"by": "lost"}', NULL, 'lost');
           SELECT workflow.transition_task_instance(:task, 'running', 'failed', '{"by": "lost"}');
           ROLLBACK TO s;
           UPDATE workflow.task_instances SET state = 'running' WHERE id = :task;
           UPDATE workflow.task_instances SET max_tries = 5 WHERE id = :task;
           SELECT workflow.transition_task_instance(:task, 'running', 'failed', '{"by": "kept"}', NULL, 'kept');
           COMMIT"#,
    );
    outputs.expect(&["1 queued -", "2 running -", "3 failed kept kept", "4 retrying -"]);
}

#[test]
fn trigger_on_insert_moves_the_new_rows() {
    let mut outputs = Outputs::new();
    outputs.trigger_on(
        "dag_runs",
        "start_run",
        "AFTER INSERT FOR EACH ROW",
        r#"PERFORM workflow.transition_dag_run(NEW.id, 'queued', 'running', '{"by": "trigger"}');
           PERFORM workflow.create_task_instances(NEW.id, ARRAY['a', 'b']);"#,
    );
    outputs.trigger(
        "start_task",
        "AFTER INSERT FOR EACH STATEMENT",
        "
        UPDATE workflow.task_instances SET max_tries = 2 WHERE id IN (SELECT id FROM new_rows);
        UPDATE workflow.task_instances SET state = 'running' WHERE id IN (SELECT id FROM new_rows);",
    );
    outputs.execute(
        "DROP TRIGGER start_task ON workflow.task_instances;
         CREATE TRIGGER start_task AFTER INSERT ON workflow.task_instances REFERENCING NEW TABLE AS new_rows
         FOR EACH STATEMENT EXECUTE FUNCTION public.start_task()",
    );
    let run: Uuid =
        outputs.client.query_one("SELECT workflow.create_dag_run(workflow.create_dag('new'))", &[]).unwrap().get(0);
    let tasks = outputs.client.query("SELECT id FROM workflow.task_instances WHERE dag_run_id = $1", &[&run]).unwrap();
    assert_eq!(tasks.len(), 2);
    for task in tasks {
        outputs.expect_of(task.get(0), &["1 queued -", "2 running -"]);
    }
    let sql = "SELECT string_agg(version::text, ' ' ORDER BY id) FROM workflow.state_history WHERE entity_id = $1";
    assert_eq!(outputs.client.query_one(sql, &[&run]).unwrap().get::<_, &str>(0), "1 2");
}

#[test]
fn trigger_of_a_task_moves_its_run_again() {
    let mut outputs = Outputs::new();
    outputs.trigger(
        "finish_run",
        AFTER_ROW,
        "
        UPDATE workflow.dag_runs SET state = 'running' WHERE id = NEW.dag_run_id AND state = 'queued';
        IF NEW.state = 'success' THEN
            PERFORM workflow.transition_dag_run(NEW.dag_run_id, 'running', 'success', '{\"by\": \"trigger\"}');
        END IF;",
    );
    outputs.trigger_on(
        "dag_runs",
        "touch_task",
        AFTER_ROW,
        "
        UPDATE workflow.task_instances SET state = 'success' WHERE dag_run_id = NEW.id AND state = 'running';",
    );
    outputs.execute(r#"SELECT workflow.transition_task_instance(:task, 'queued', 'running', '{"by": "worker"}')"#);
    outputs.expect(&["1 queued -", "2 running worker", "3 success -"]);
    let sql = "SELECT string_agg(version::text, ' ' ORDER BY id) FROM workflow.state_history WHERE entity_id = $1";
    assert_eq!(outputs.client.query_one(sql, &[&outputs.run]).unwrap().get::<_, &str>(0), "1 2 3");
}

#[test]
fn merge_and_upsert_move_rows_that_triggers_move_again() {
    let merge = "MERGE INTO workflow.task_instances AS t USING (VALUES (:task::uuid)) AS v (id) ON t.id = v.id
                 WHEN MATCHED THEN UPDATE SET state = 'failed'";
    let upsert = "INSERT INTO workflow.task_instances (id, dag_run_id, task_id)
                  SELECT id, dag_run_id, task_id FROM workflow.task_instances WHERE id = :task
                  ON CONFLICT (id) DO UPDATE SET state = 'failed'";
    for statement in [merge, upsert] {
        let mut outputs = Outputs::new();
        let version: i32 =
            outputs.client.query_one("SELECT current_setting('server_version_num')::int", &[]).unwrap().get(0);
        if version < 150_000 && statement == merge {
            continue;
        }
        outputs.trigger("retry", AFTER_ROW, RETRY);
        outputs.execute("UPDATE workflow.task_instances SET state = 'running' WHERE id = :task");
        outputs.execute(statement);
        outputs.expect(&["1 queued -", "2 running -", "3 failed -", "4 retrying -"]);
    }
}

#[test]
fn trigger_deletes_the_row_that_its_statement_moves() {
    let mut outputs = Outputs::new();
    outputs.trigger("delete_it", AFTER_ROW, "DELETE FROM workflow.task_instances WHERE id = NEW.id;");
    outputs.execute(
        r#"SELECT workflow.transition_task_instance(:task, 'queued', 'skipped', '{"by": "worker"}', NULL, 'skip')"#,
    );
    outputs.expect(&["1 queued -", "2 skipped worker skip", "3 -"]);
}

#[test]
fn inner_transition_keeps_the_error_of_the_outer_one() {
    let mut outputs = Outputs::new();
    outputs.trigger(
        "retry",
        AFTER_ROW,
        "IF NEW.state = 'running' THEN
        UPDATE workflow.task_instances SET state = 'failed', error = NULL WHERE id = NEW.id; END IF;",
    );
    outputs.execute(
        r#"SELECT workflow.transition_task_instance(:task, 'queued', 'running', '{"by": "w", "error": "outer"}')"#,
    );
    outputs.expect(&["1 queued -", "2 running w", "3 failed -"]);
    let sql = "SELECT error FROM workflow.task_instances WHERE id = $1";
    assert_eq!(outputs.client.query_one(sql, &[&outputs.task]).unwrap().get::<_, Option<String>>(0), None);
}

#[test]
fn each_event_names_the_role_that_acted() {
    let mut outputs = Outputs::new();
    let writer = create_writer(&mut outputs.client);
    outputs.trigger("retry", AFTER_ROW, RETRY);
    outputs.execute("ALTER FUNCTION public.retry() SECURITY DEFINER");
    let session = &mut outputs.db.connect_as(&writer);
    let task = outputs.task;
    session.execute("UPDATE workflow.task_instances SET state = 'running' WHERE id = $1", &[&task]).unwrap();
    session.execute("UPDATE workflow.task_instances SET state = 'failed' WHERE id = $1", &[&task]).unwrap();
    let sql =
        "SELECT version, actor, acted_as FROM workflow.state_history WHERE entity_id = $1 AND version > 2 ORDER BY id";
    let rows = outputs.client.query(sql, &[&task]).unwrap();
    let told: Vec<(i64, String, Option<String>)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(told, [(3, writer.clone(), None), (4, writer, Some("postgres".to_owned()))]);
}

#[test]
fn failed_transition_is_never_recorded() {
    let mut outputs = Outputs::new();
    // It sorts before zz_record: the guard has allowed the transition, and nothing records it.
    let fail = "IF current_setting('test.fail', true) = 'on' THEN RAISE 'no'; END IF;";
    outputs.trigger("fail", "AFTER UPDATE FOR EACH STATEMENT", fail);
    outputs.execute("BEGIN; SAVEPOINT s; SET LOCAL test.fail = 'on'");
    let start =
        r#"SELECT workflow.transition_task_instance(:task, 'queued', 'running', '{"by": "lost"}', NULL, 'lost')"#;
    assert!(outputs.try_execute(start).is_err());
    outputs.execute("ROLLBACK TO s");
    // Another session makes the same version.
    start_task(&mut outputs.db.connect(), outputs.task);
    outputs.execute("UPDATE workflow.task_instances SET state = 'failed' WHERE id = :task; COMMIT");
    outputs.expect(&["1 queued -", "2 running -", "3 failed -"]);
}

#[test]
fn unrecorded_transition_of_an_earlier_call_is_rejected() {
    let mut outputs = Outputs::new();
    outputs.execute(
        r#"BEGIN; ALTER TABLE workflow.task_instances DISABLE TRIGGER zz_record;
           SELECT workflow.transition_task_instance(:task, 'queued', 'running', '{"by": "lost"}', NULL, 'lost')"#,
    );
    let moved = outputs.try_execute("UPDATE workflow.task_instances SET state = 'success' WHERE id = :task");
    assert_eq!(failure(moved).sqlstate, "55000");
    outputs.execute("ROLLBACK");
}
