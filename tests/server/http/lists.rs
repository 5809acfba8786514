//! The HTTP API's lists: filters, orders, ranges, fields, counts, logs and ETags.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use uuid::Uuid;

use super::Api;

/// Reads all rows of a list, page by page, and follows the links.
fn all(api: &Api, path: &str) -> Vec<Value> {
    let (mut rows, mut next) = (Vec::new(), path.to_owned());
    loop {
        let mut response = api.agent.get(format!("{}{next}", api.url)).call().unwrap();
        let link = response.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
        let mut page: Value = response.body_mut().read_json().unwrap();
        rows.append(page["items"].as_array_mut().unwrap_or_else(|| panic!("{next}: no list")));
        assert_eq!(link.is_some(), page["next_cursor"].is_string(), "{page}");
        let Some(link) = link else { return rows };
        let linked = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).expect("a link");
        next = linked.to_owned();
    }
}

fn column(rows: &[Value], name: &str) -> Vec<String> {
    rows.iter().map(|row| row[name].as_str().expect("text").to_owned()).collect()
}

#[test]
fn dags_are_filtered_by_prefix_and_sorted_by_name() {
    let db = Db::new();
    let client = &mut db.connect();
    for name in ["b_1", "b%2", "a", "bx", r"b\3", "é.ü", "B"] {
        client.query_one("SELECT workflow.create_dag($1)", &[&name]).unwrap();
    }
    let api = Api::without_relay(&db, &[]);
    let sorted = |condition: &str, direction: &str| -> Vec<String> {
        let sql = format!("SELECT name FROM workflow.dags WHERE {condition} ORDER BY name {direction}");
        db.connect().query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(column(&all(&api, "/api/v1/dags?order_by=name&limit=2"), "name"), sorted("true", ""));
    assert_eq!(column(&all(&api, "/api/v1/dags?order_by=-name&limit=3"), "name"), sorted("true", "DESC"));
    assert_eq!(
        column(&all(&api, "/api/v1/dags?name_prefix=b&order_by=name&limit=1"), "name"),
        sorted("name ^@ 'b'", "")
    );
    for (prefix, found) in [("b_", "b_1"), ("b%25", "b%2"), ("b%5C", r"b\3"), ("%C3%A9", "é.ü")] {
        assert_eq!(column(&api.list(&format!("/api/v1/dags?name_prefix={prefix}")).0, "name"), [found]);
    }
}

#[test]
fn runs_are_filtered_by_date_and_tasks_by_name() {
    let db = Db::new();
    let client = &mut db.connect();
    let dag: Uuid = client.query_one("SELECT workflow.create_dag('daily')", &[]).unwrap().get(0);
    // The order of creation differs from the order of the dates.
    for day in [3, 1, 4, 2, 5] {
        let sql = "SELECT workflow.create_dag_run($1, timestamptz '2026-11-01 00:00Z' + make_interval(days => $2))";
        let run: Uuid = client.query_one(sql, &[&dag, &day]).unwrap().get(0);
        client.query("SELECT workflow.create_task_instances($1, '{extract,load}')", &[&run]).unwrap();
    }
    let other: Uuid = client.query_one("SELECT workflow.create_dag('never')", &[]).unwrap().get(0);
    for date in ["infinity", "-infinity", "0044-03-15 BC"] {
        let run: Uuid =
            client.query_one("SELECT workflow.create_dag_run($1, clock_timestamp())", &[&other]).unwrap().get(0);
        // Older versions accepted infinite dates.
        let sql = "SET session_replication_role = replica;
            UPDATE workflow.dag_runs SET execution_date = '{date}' WHERE id = '{run}';
            RESET session_replication_role";
        client.batch_execute(&sql.replace("{date}", date).replace("{run}", &run.to_string())).unwrap();
    }
    let api = Api::without_relay(&db, &[]);

    let days = |rows: Vec<Value>| -> Vec<u32> {
        column(&rows, "execution_date").iter().map(|date| date[8..10].parse().unwrap()).collect()
    };
    assert_eq!(days(all(&api, &format!("/api/v1/dag-runs?dag_id={dag}&limit=2"))), [6, 5, 4, 3, 2]);
    assert_eq!(days(all(&api, &format!("/api/v1/dag-runs?dag_id={dag}&order_by=id&limit=2"))), [4, 2, 5, 3, 6]);
    let range = "execution_date_gte=2026-11-03T00:00:00Z&execution_date_lt=2026-11-05T00:00:00%2B00:00";
    assert_eq!(days(all(&api, &format!("/api/v1/dag-runs?{range}&limit=1"))), [4, 3]);
    assert_eq!(days(all(&api, &format!("/api/v1/dag-runs?{range}&state=queued&order_by=-id&limit=1"))), [3, 4]);
    let dates = column(&all(&api, "/api/v1/dag-runs?order_by=execution_date&limit=1"), "execution_date");
    assert_eq!((dates.len(), dates.is_sorted()), (8, true), "infinite dates are sorted too: {dates:?}");

    let names = column(&all(&api, "/api/v1/task-instances?task_id=load&limit=2"), "dag_run_id");
    let runs = column(&all(&api, &format!("/api/v1/dag-runs?dag_id={dag}&order_by=-id&limit=9")), "id");
    assert_eq!(names, runs, "tasks of one name are listed run by run");
    let by_name = all(&api, "/api/v1/task-instances?order_by=task_id&limit=3");
    assert_eq!(column(&by_name, "task_id"), ["extract", "load"].repeat(5));
    let counts = api.get(&format!("/api/v1/dag-runs/counts?dag_id={dag}")).1;
    assert_eq!((&counts["queued"], &counts["failed"], &counts["total"]), (&json!(5), &json!(0), &json!(5)));
    let counts = api.get(&format!("/api/v1/task-instances/counts?dag_run_id={}", runs[0])).1;
    assert_eq!(counts["total"], 2);
    assert_eq!(api.get("/api/v1/task-instances/counts").1["queued"], 10);
}

#[test]
fn pages_are_stable_while_rows_change() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 30);
    let api = Api::without_relay(&db, &[]);
    let mut seen = Vec::new();
    let mut path = "/api/v1/task-instances?limit=7".to_owned();
    loop {
        let (items, cursor) = api.list(&path);
        seen.extend(column(&items, "id"));
        let Some(cursor) = cursor else { break };
        // Adds a row before the page, and deletes the row that the cursor comes from.
        create_task(client);
        let last: Uuid = items.last().unwrap()["id"].as_str().unwrap().parse().unwrap();
        client.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&last]).unwrap();
        path = format!("/api/v1/task-instances?limit=7&cursor={cursor}");
    }
    assert_eq!(seen, tasks.iter().rev().map(Uuid::to_string).collect::<Vec<_>>());
}

#[test]
fn history_is_filtered_by_time_and_logs_by_task() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let time_now = |client: &mut postgres::Client| -> String {
        let sql = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        client.query_one(sql, &[]).unwrap().get(0)
    };
    let before = time_now(client);
    start_task(client, task);
    let after = time_now(client);
    Transition::of(task).from(State::Running).to(State::Success).run(client).unwrap();
    for (message, level) in [("one", "INFO"), ("two", "ERROR"), ("three", "DEBUG")] {
        client.execute("SELECT workflow.append_task_log($1, $2, $3)", &[&task, &message, &level]).unwrap();
    }
    let api = Api::without_relay(&db, &[]);

    let states = |path: &str| column(&all(&api, path), "new_state");
    assert_eq!(states(&format!("/api/v1/history?changed_at_gte={before}&changed_at_lt={after}")), ["running"]);
    assert_eq!(states(&format!("/api/v1/history?changed_at_gte={after}&limit=1")), ["success"]);
    assert_eq!(states(&format!("/api/v1/history?changed_at_lt={before}&order_by=id&limit=1")), ["queued", "queued"]);
    let of_task = format!("/api/v1/history?entity_id={task}&changed_at_gte={before}&order_by=id&limit=1");
    assert_eq!(states(&of_task), ["running", "success"]);
    let run: Uuid = client.query_one("SELECT dag_run_id FROM workflow.task_instances", &[]).unwrap().get(0);
    let (other_dag, _) = create_run(client);
    let of_run = format!("/api/v1/history?dag_run_id={run}&order_by=id&limit=2");
    assert_eq!(states(&of_run), ["queued", "queued", "running", "success"]);
    assert_eq!(states(&format!("{of_run}&entity_type=dag_run")), ["queued"]);
    assert_eq!(states(&format!("/api/v1/history?dag_id={other_dag}")), ["queued"]);
    assert_eq!(states("/api/v1/history?actor=postgres&limit=2").len(), 5);
    assert_eq!(states("/api/v1/history?actor=nobody"), [""; 0]);

    let logs = format!("/api/v1/task-instances/{task}/logs");
    assert_eq!(column(&all(&api, &format!("{logs}?limit=2")), "message"), ["one", "two", "three"]);
    assert_eq!(
        column(&all(&api, &format!("{logs}?limit=2&order_by=-id&try_number=1")), "message"),
        ["three", "two", "one"]
    );
    assert_eq!(api.list(&format!("{logs}?try_number=2")).0.len(), 0);
    for levels in ["level=ERROR,DEBUG", "level=DEBUG&level=ERROR"] {
        assert_eq!(column(&all(&api, &format!("{logs}?{levels}&limit=1")), "message"), ["two", "three"]);
    }
    assert_eq!(api.get(&format!("/api/v1/task-instances/{}/logs", Uuid::nil())).0, 404);
}

/// Compares the history of windows over HTTP with the table: half seconds, and all before and after.
fn compare_windows(client: &mut postgres::Client, api: &Api) {
    let sql = "SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), t, t + interval '0.5 s'
               FROM (SELECT generate_series(min(changed_at), max(changed_at), greatest(interval '0.5 s',
                   (max(changed_at) - min(changed_at)) / 40)) FROM workflow.state_history) AS w (t)";
    let times = client.query(sql, &[]).unwrap();
    let expected = |client: &mut postgres::Client, sql: &str| -> Vec<i64> {
        let sql = format!("SELECT id FROM workflow.state_history WHERE {sql} ORDER BY id DESC");
        client.query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    assert!(times.len() > 3);
    for pair in times.windows(2) {
        let [from, until]: [String; 2] = [0, 1].map(|n| pair[n].get(0));
        for (path, sql) in [
            (
                format!("changed_at_gte={from}&changed_at_lt={until}"),
                format!("changed_at >= '{from}' AND changed_at < '{until}'"),
            ),
            (format!("changed_at_gte={from}"), format!("changed_at >= '{from}'")),
            (format!("changed_at_lt={until}"), format!("changed_at < '{until}'")),
        ] {
            let found = all(api, &format!("/api/v1/history?limit=1000&{path}"));
            let found: Vec<i64> = found.iter().map(|event| event["id"].as_i64().unwrap()).collect();
            assert_eq!(found, expected(client, &sql), "{path}");
        }
    }
}

#[test]
fn history_window_has_events_beside_a_waiting_statement() {
    let db = Db::new();
    let client = &mut db.connect();
    let (batch, singles) = (create_tasks(client, 300), create_tasks(client, 25));
    let mut blocker = db.connect();
    let mut held = blocker.transaction().unwrap();
    held.execute("SELECT FROM workflow.task_instances WHERE id = $1 FOR UPDATE", &[&batch[299]]).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let sql = "UPDATE workflow.task_instances SET state = 'skipped' WHERE id = ANY ($1)";
            db.connect().execute(sql, &[&batch]).unwrap()
        });
        wait_until("the statement waits", || {
            let sql = "SELECT FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                       OR NOT granted AND locktype = 'transactionid'";
            !client.query(sql, &[]).unwrap().is_empty()
        });
        for task in singles {
            client
                .execute("SELECT workflow.transition_task_instance($1, 'queued', 'running'), pg_sleep(0.12)", &[&task])
                .unwrap();
        }
        held.rollback().unwrap();
        assert_eq!(waiting.join().unwrap(), 300);
    });
    compare_windows(client, &Api::without_relay(&db, &[]));
}

#[test]
fn history_window_has_events_of_a_clock_that_jumped() {
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    for _ in 0..20 {
        create_tasks(client, 20);
    }
    // An hour ahead for some events, an hour back for others, and one event a year ahead.
    client
        .batch_execute(
            "SET session_replication_role = replica;
             UPDATE workflow.state_history SET changed_at = changed_at + CASE
                 WHEN id BETWEEN 50 AND 90 THEN interval '1 hour' WHEN id BETWEEN 200 AND 260 THEN interval '-1 hour'
                 WHEN id = 300 THEN interval '1 year' ELSE id * interval '2 s' END;
             RESET session_replication_role",
        )
        .unwrap();
    compare_windows(client, &Api::without_relay(&db, &[]));
}

#[test]
fn fields_are_selected_and_keep_their_text() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let sql = "SELECT workflow.transition('task_instance', $1, 'queued', 'running', '{\"n\": 1e400, \"m\": 1.10}')";
    client.execute(sql, &[&task]).unwrap();
    let api = Api::without_relay(&db, &[]);
    let path = format!("{}/api/v1/history?entity_id={task}&limit=1&fields=version,metadata", api.url);
    let text = api.agent.get(path).call().unwrap().body_mut().read_to_string().unwrap();
    let expected: String =
        client.query_one("SELECT metadata::text FROM workflow.state_history WHERE version = 2", &[]).unwrap().get(0);
    assert!(text.starts_with(&format!(r#"{{"items":[{{"version":2,"metadata":{expected}}}]"#)), "{text}");
    let keys: BTreeSet<String> =
        api.list("/api/v1/task-instances?fields=state,id").0[0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["id", "state"].map(str::to_owned).into());
}

#[test]
fn unchanged_response_is_not_sent_again() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let api = Api::without_relay(&db, &[]);
    let path = format!("{}/api/v1/task-instances/{task}", api.url);
    let first = api.agent.get(&path).call().unwrap();
    let tag = first.headers()["etag"].clone();
    let again = |api: &Api| api.agent.get(&path).header("if-none-match", &tag).call().unwrap();
    let mut unchanged = again(&api);
    assert_eq!((unchanged.status().as_u16(), unchanged.body_mut().read_to_string().unwrap()), (304, String::new()));
    client.execute("UPDATE workflow.task_instances SET state = 'running' WHERE id = $1", &[&task]).unwrap();
    let changed = again(&api);
    assert_eq!(changed.status(), 200);
    assert_ne!(changed.headers()["etag"], tag);
    assert_eq!(changed.headers()["cache-control"], "private, no-cache");
}
