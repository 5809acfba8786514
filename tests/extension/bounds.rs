//! Bounds of what a caller sends: sizes of values, finite dates, numbers of elements, memory.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use serde_json::json;
use uuid::Uuid;
use xtask::stack::postgres::PRELOADED;
use xtask::stack::user;

/// A jsonb of 133 kB whose text has more than 1 GB, as an expression.
const POISON: &str = "('{\"a\": [' || repeat('1e131071,', 8299) || '1]}')::jsonb";

/// Creates a role with the rights of a writer, and a session of it.
fn writer(db: &Db) -> Client {
    let role = format!("writer_{}", Uuid::new_v4().simple());
    db.connect().batch_execute(&format!("CREATE ROLE {role}; GRANT workflow_writer TO {role}")).unwrap();
    db.connect_as(&role)
}

/// Runs statements that must fail, and checks the argument that each names.
fn assert_rejected(client: &mut Client, cases: &[(&str, String)]) {
    for (argument, sql) in cases {
        let failed = failure(client.execute(sql, &[]));
        let shown = (failed.sqlstate.as_str(), &failed.detail["argument"]);
        assert_eq!(shown, ("22023", &json!(argument)), "{sql:.200}: {failed:?}");
        assert!(failed.message.starts_with(argument) && !failed.hint.is_empty(), "{failed:?}");
    }
}

#[test]
fn values_beyond_the_bound_are_rejected_when_written() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    client.batch_execute("SET pg_workflow.max_field_size = 1024").unwrap();
    let (text, object) = ("repeat('x', 1025)", "jsonb_build_object('x', repeat('x', 1025))");
    let array = "jsonb_build_array(repeat('x', 1025))";
    let run = "(SELECT id FROM workflow.dag_runs)";
    let dag = "(SELECT id FROM workflow.dags)";
    assert_rejected(
        client,
        &[
            ("metadata", format!("SELECT workflow.transition_task_instance('{task}', 'queued', 'running', {object})")),
            ("metadata", format!("SELECT workflow.transition('dag_run', {run}, 'queued', 'running', {object})")),
            (
                "metadata",
                format!("SELECT workflow.transition_many('dag_run', ARRAY[{run}], NULL, 'running', {object})"),
            ),
            (
                "request_id",
                format!("SELECT workflow.transition_dag_run({run}, 'queued', 'running', request_id => {text})"),
            ),
            ("conf", format!("SELECT workflow.create_dag_run({dag}, conf => {object})")),
            ("conf", format!("UPDATE workflow.dag_runs SET conf = {object}")),
            ("description", format!("SELECT workflow.create_dag('d', {text})")),
            ("schedule", format!("SELECT workflow.create_dag('d', schedule => {text})")),
            ("tags", format!("SELECT workflow.create_dag('d', tags => {array})")),
            ("description", format!("UPDATE workflow.dags SET description = {text}")),
            ("schedule", format!("UPDATE workflow.dags SET schedule = {text}")),
            ("tags", format!("UPDATE workflow.dags SET tags = {array}")),
            ("error", format!("UPDATE workflow.task_instances SET error = {text}")),
            ("message", format!("SELECT workflow.append_task_log('{task}', {text})")),
        ],
    );
    let setting = failure(client.execute(&format!("UPDATE workflow.dags SET schedule = {text}"), &[])).detail;
    assert_eq!((&setting["max_bytes"], &setting["setting"]), (&json!(1024), &json!("pg_workflow.max_field_size")));
    // The bound itself fits.
    client.execute("UPDATE workflow.dags SET schedule = repeat('x', 1024)", &[]).unwrap();
}

#[test]
fn direct_inserts_of_writers_meet_the_bounds() {
    let db = Db::new();
    create_task(&mut db.connect());
    let dag = "INSERT INTO workflow.dags (name, {column}) VALUES ('d', {value})";
    let log = "INSERT INTO workflow.task_logs (task_instance_id, try_number, level, {column}) ";
    let mega = "repeat('x', 1048577)";
    let dag = |column: &str, value: &str| dag.replace("{column}", column).replace("{value}", value);
    let log = |columns: &str, values: &str| {
        log.replace("{column}", columns) + &format!("SELECT id, 1, 'INFO', {values} FROM workflow.task_instances")
    };
    assert_rejected(
        &mut writer(&db),
        &[
            ("description", dag("description", mega)),
            ("schedule", dag("schedule", mega)),
            ("tags", dag("tags", &format!("jsonb_build_array({mega})"))),
            ("start_date", dag("start_date", "'infinity'")),
            ("message", log("message", mega)),
            ("logged_at", log("message, logged_at", "'m', '-infinity'")),
        ],
    );
    writer(&db).execute(&log("message", "'m'"), &[]).unwrap();
}

#[test]
fn infinite_dates_are_rejected() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let mut cases = Vec::new();
    for date in ["infinity", "-infinity"] {
        cases.extend([
            ("execution_date", format!("SELECT workflow.create_dag_run(id, '{date}') FROM workflow.dags")),
            ("execution_date", format!("UPDATE workflow.dag_runs SET execution_date = '{date}'")),
            ("start_date", format!("SELECT workflow.create_dag('d', start_date => '{date}')")),
            ("start_date", format!("UPDATE workflow.dags SET start_date = '{date}'")),
            ("logged_at", format!("SELECT workflow.append_task_log('{task}', 'm', 'INFO', '{date}')")),
        ]);
    }
    assert_rejected(client, &cases);
}

#[test]
fn stuck_survives_stored_infinities() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_in_state(client, "task_instance", State::Running);
    for date in ["infinity", "-infinity"] {
        let sql = format!(
            "INSERT INTO workflow.task_logs (task_instance_id, try_number, logged_at, message)
             VALUES ('{task}', 1, '{date}', 'm')"
        );
        client.execute(&sql, &[]).expect("a restore inserts as the owner");
    }
    let stuck = client.query("SELECT entity_id FROM workflow.stuck('0 s')", &[]).unwrap();
    assert_eq!(stuck.iter().map(|row| row.get(0)).collect::<Vec<Uuid>>(), [task]);
}

/// A restore inserts as the owner, and a later UPDATE of another column does not touch the value.
#[test]
fn stored_values_beyond_a_lowered_bound_stay() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let large = "repeat('xyz ', 700)";
    client
        .batch_execute(&format!(
            "UPDATE workflow.dag_runs SET conf = jsonb_build_object('x', {large});
             UPDATE workflow.task_instances SET error = {large};
             SET pg_workflow.max_field_size = 1024;
             INSERT INTO workflow.dags (name, description, start_date) VALUES ('restored', {large}, '-infinity')"
        ))
        .unwrap();
    start_task(client, task);
    client
        .batch_execute(
            "UPDATE workflow.dags SET is_paused = true;
             UPDATE workflow.dags SET description = description || '' WHERE name = 'restored';
             UPDATE workflow.dag_runs SET state = 'running', conf = (conf::text)::jsonb",
        )
        .expect("the values are the same");
}

#[test]
fn bound_is_exact_for_the_text_of_jsonb() {
    let db = Db::new();
    let client = &mut db.connect();
    create_run(client);
    client.batch_execute("SET pg_workflow.max_field_size = 1024").unwrap();
    for document in [
        r#"{}"#,
        r#"[]"#,
        r#"[[], {}, [[1]], {"a": {"b": [null, true, false]}}]"#,
        r#"{"a": [1, 2], "b": {"c": []}, "d": "e"}"#,
        r#"["\"\\\b\f\n\r\t\u0001\u001f\u007f", "äöü€😀", "/"]"#,
        r#"[0, -0, 1.50, -0.001, 1e20, 1e-20, 12345678901234567890.123456789, 1e500, 99999, 10000, 0.0]"#,
        r#"[1e300, [1e300]]"#,
        r#""text""#,
    ] {
        let pad = "jsonb_build_object('document', $1::text::jsonb, 'pad', repeat('x', $2))";
        let length = format!("SELECT octet_length(({pad})::text)");
        let used: i32 = client.query_one(&length, &[&document, &0]).unwrap().get(0);
        let update = format!("UPDATE workflow.dag_runs SET conf = {pad}");
        client.execute(&update, &[&document, &(1024 - used)]).expect(document);
        assert_eq!(failure(client.execute(&update, &[&document, &(1025 - used)])).sqlstate, "22023", "{document}");
    }
}

#[test]
fn numbers_that_are_long_as_text_are_rejected() {
    let db = Db::new();
    let client = &mut db.connect();
    create_run(client);
    assert_rejected(
        client,
        &[
            (
                "metadata",
                format!(
                    "SELECT workflow.transition('dag_run', id, 'queued', 'running', {POISON}) FROM workflow.dag_runs"
                ),
            ),
            ("conf", format!("SELECT workflow.create_dag_run(id, conf => {POISON}) FROM workflow.dags")),
        ],
    );
}

/// A superuser can still store such a number: it must not stop the feed.
#[test]
fn stored_poison_stops_neither_notifier_nor_feed() {
    let (_cluster, db) = own_cluster("poison", &[PRELOADED]);
    let client = &mut db.connect();
    let tasks = create_tasks(client, 3);
    let mut listener = db.connect();
    listener.batch_execute("LISTEN workflow_events; SELECT workflow.create_consumer('c')").unwrap();
    for (task, numbers) in [(tasks[0], 1_900), (tasks[1], 8_299)] {
        let mut transaction = client.transaction().unwrap();
        start_task(&mut transaction, task);
        let poison = format!("('{{\"a\": [' || repeat('1e131071,', {numbers}) || '1]}}')::jsonb");
        let sql = format!("UPDATE workflow.state_history SET metadata = {poison} WHERE entity_id = $1 AND version = 2");
        transaction.execute(&sql, &[&task]).unwrap();
        transaction.commit().unwrap();
    }
    start_task(client, tasks[2]);
    let mut notifications = listener.notifications();
    let mut waiting = notifications.timeout_iter(PATIENCE);
    for task in &tasks {
        use fallible_iterator::FallibleIterator;
        let payload = waiting.next().unwrap().expect("a notification").payload().to_owned();
        let event: serde_json::Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(event["entity_id"], json!(task.to_string()));
        assert_eq!(event["metadata_omitted"] == json!(true), *task != tasks[2]);
    }
    let pid: i32 = client.query_one("SELECT pid FROM workflow.notifier", &[]).unwrap().get(0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    assert!(peak.parse::<u32>().unwrap() < 150_000, "the notifier used {peak} kB");
    let read = client.query("SELECT id FROM workflow.read_events('c')", &[]).unwrap();
    assert_eq!(read.len(), 3);
    client.execute("SELECT workflow.ack_events('c', $1)", &[&read[2].get::<_, i64>(0)]).unwrap();
    drop(db.without_verification());
}

#[test]
fn number_of_elements_is_limited() {
    let db = Db::new();
    let client = &mut db.connect();
    create_run(client);
    let ids = "array_fill('00000000-0000-0000-0000-000000000000'::uuid, ARRAY[1000001])";
    assert_rejected(
        client,
        &[
            ("ids", format!("SELECT workflow.transition_many('dag_run', {ids}, NULL, 'running')")),
            (
                "task_ids",
                "SELECT workflow.create_task_instances(id, array_fill('t'::text, ARRAY[1000001])) FROM workflow.dag_runs"
                    .to_owned(),
            ),
        ],
    );
    client.batch_execute("SELECT workflow.create_consumer('c')").unwrap();
    let entry = "array_fill(0::bigint, ARRAY[1000001])";
    assert_rejected(
        client,
        &[
            ("position", format!("SELECT workflow.save_checkpoint('c', {entry})")),
            ("position", format!("SELECT workflow.rewind_consumer('c', {entry})")),
        ],
    );
    let at_most = ids.replace("1000001", "1000000");
    let sql = format!("SELECT count(*) FROM workflow.transition_many('dag_run', {at_most}, NULL, 'running')");
    assert_eq!(client.query_one(&sql, &[]).unwrap().get::<_, i64>(0), 1);
}

/// Rust aborts if an allocation fails, and PostgreSQL then restarts all sessions.
#[test]
fn memory_limit_fails_a_statement_and_not_the_server() {
    let (cluster, db) = own_cluster("memory", &[PRELOADED]);
    let client = &mut db.connect();
    create_tasks(client, 1);
    client.batch_execute("CREATE ROLE reader; GRANT workflow_reader TO reader").unwrap();
    let started = "SELECT pg_postmaster_start_time()::text";
    let before = cluster.psql("postgres", started).unwrap();
    let postmaster = cluster.pid().unwrap().to_string();
    let repeated = "array_fill('00000000-0000-0000-0000-000000000000'::uuid, ARRAY[12000000])";
    let distinct = "(SELECT array_agg(md5(n::text)::uuid) FROM generate_series(1, 1000000) AS n)";
    // More IDs than allowed; then the most that are allowed, with less memory in each turn, so that another allocation
    // fails.
    let cases = [(700, repeated), (500, repeated), (400, distinct), (360, distinct), (320, distinct), (280, distinct)];
    for (megabytes, ids) in cases {
        // The soft limit, which the user of the process may change. New sessions inherit it.
        let limit = format!("--as={}:", megabytes << 20);
        let mut set = user::command("prlimit", user::for_postgres().unwrap().as_ref());
        assert!(set.args(["--pid", &postmaster, &limit]).status().expect("prlimit").success());
        let mut session = db.connect_as("reader");
        let sql = format!(
            "SELECT count(*) FROM workflow.transition_many('task_instance', {ids}, NULL, 'running', '{{}}', true)"
        );

        match session.query_one(&sql, &[]) {
            Ok(row) => assert_eq!((ids, row.get::<_, i64>(0)), (distinct, 1_000_000)),
            Err(error) => {
                let failed = failure::<()>(Err(error));
                let expected = ["22023", "53200"];
                assert!(expected.contains(&failed.sqlstate.as_str()), "{megabytes} MB: {failed:?}");
            }
        }
        let text = format!("CALL workflow.wait_for_events_after(repeat('x', {}), '0')", (megabytes << 20) / 3);
        let failed = failure(session.batch_execute(&text));
        assert!(["22023", "53200"].contains(&failed.sqlstate.as_str()), "{megabytes} MB: {failed:?}");
    }
    assert_eq!(cluster.psql("postgres", started).unwrap(), before);
    let log = std::fs::read_to_string(cluster.log()).unwrap();
    assert!(!log.contains("was terminated by signal"), "{log}");
}

/// Every function, with 5 MB in each argument that can be so long.
#[test]
fn errors_do_not_repeat_large_arguments() {
    let db = Db::new();
    let client = &mut db.connect();
    let calls: Vec<String> = client
        .query(
            "SELECT format('%s %s(%s)', CASE p.prokind WHEN 'p' THEN 'CALL' ELSE 'SELECT' END, p.oid::regproc, (
                 SELECT string_agg(CASE
                     WHEN a.n <> b.n THEN format('NULL::%s', a.type::regtype)
                     WHEN a.type = 'jsonb'::regtype THEN 'jsonb_build_object(''argument'', repeat(''x'', 5000000))'
                     ELSE format('repeat(''x'', 5000000)::%s', a.type::regtype)
                 END, ', ' ORDER BY a.n)
                 FROM unnest(p.proargtypes) WITH ORDINALITY AS a (type, n)))
             FROM pg_proc AS p, unnest(p.proargtypes) WITH ORDINALITY AS b (type, n)
             WHERE p.pronamespace = 'workflow'::regnamespace AND b.type IN ('text'::regtype, 'jsonb'::regtype)
                 -- PostgreSQL's own errors of a cast.
                 AND p.proname NOT IN ('parse_snapshot', 'purge')",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(calls.len() > 50, "{}", calls.len());
    let mut rejected = 0;
    for call in calls {
        let mut transaction = client.transaction().unwrap();
        if let Err(error) = transaction.query(&call, &[]) {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{call}: {error}"));
            let parts = [Some(error.message()), error.detail(), error.hint()];
            let length: usize = parts.into_iter().flatten().map(str::len).sum();
            assert!(length < 2_000, "{call}: {} bytes: {:.300}", length, error.message());
            rejected += 1;
        }
        transaction.rollback().unwrap();
    }
    assert!(rejected > 30, "{rejected}");
}
