//! Reads on a hot standby, in SQL and over HTTP.

use pg_workflow_tests::*;
use postgres::Client;
use serde_json::{Value, json};
use uuid::Uuid;
use xtask::stack::postgres::{PRELOADED, Postgres};
use xtask::stack::redis::Redis;

use crate::server::http::Api;

/// A primary and its standby, with runs, transitions, deleted entities, a consumer with a backlog, and counts that were
/// stored while a transaction was open.
struct Pair {
    // Fields are dropped in this order: clients before their server.
    writer: Client,
    _db: Db,
    standby: Postgres,
    primary: Postgres,
    dag: Uuid,
    run: Uuid,
    task: Uuid,
    /// A position in the feed.
    position: String,
}

impl Pair {
    fn start(name: &str) -> Pair {
        let (primary, db) = own_cluster(name, &[PRELOADED]);
        let mut writer = db.connect();
        let tasks = create_tasks(&mut writer, 5);
        writer.query("SELECT workflow.create_consumer('reader', true)", &[]).unwrap();
        writer.query("SELECT * FROM workflow.read_events('reader', 2)", &[]).unwrap();
        let mut late = db.connect();
        let mut late = late.transaction().unwrap();
        late.execute("UPDATE workflow.task_instances SET state = 'skipped' WHERE id = $1", &[&tasks[1]]).unwrap();
        writer.query("SELECT workflow.fold_state_counts()", &[]).unwrap();
        late.commit().unwrap();
        start_task(&mut writer, tasks[0]);
        writer.execute("SELECT workflow.append_task_log($1, 'hello')", &[&tasks[0]]).unwrap();
        let position = writer.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
        let of_task = "SELECT dag_id, dag_run_id FROM workflow.state_history WHERE entity_id = $1 LIMIT 1";
        let row = writer.query_one(of_task, &[&tasks[0]]).unwrap();
        let standby = primary.standby(name).unwrap();
        writer.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&tasks[2]]).unwrap();
        let (dag, run) = (row.get(0), row.get(1));
        let pair =
            Pair { writer, _db: db.without_verification(), standby, primary, dag, run, task: tasks[0], position };
        pair.catch_up();
        pair
    }

    /// Waits until the standby has replayed all of the primary's WAL.
    fn catch_up(&self) {
        let written = self.primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap();
        let has_all = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
        wait_until("the standby has caught up", || self.standby.psql("postgres", &has_all).unwrap() == "t");
    }
}

#[test]
fn reads_on_standby_equal_reads_on_primary() {
    let mut pair = Pair::start("standby-functions");
    let (dag, run, task) = (pair.dag, pair.run, pair.task);
    let reads = [
        format!("workflow.history('task_instance', '{task}')"),
        format!("workflow.state_at('task_instance', '{task}', now())"),
        format!("workflow.state_at('dag_run', '{run}', now() - interval '1 day')"),
        "workflow.event_id_at(now())".to_owned(),
        "workflow.event_id_at('2020-01-01')".to_owned(),
        "workflow.event_id_before(now())".to_owned(),
        "workflow.verify()".to_owned(),
        "workflow.verify('2020-01-01', now())".to_owned(),
        "(SELECT entity_id, last_progress, idle > '0' FROM workflow.stuck('0'))".to_owned(),
        "workflow.partitions".to_owned(),
        "workflow.dropped_partitions".to_owned(),
        "workflow.settings".to_owned(),
        format!("workflow.latest_dag_run('{dag}')"),
        format!("workflow.dag_run_graph('{run}')"),
        format!("workflow.why_waiting('{task}')"),
        "workflow.waiting".to_owned(),
        "workflow.states()".to_owned(),
        "workflow.can_transition('queued', 'running')".to_owned(),
        "workflow.next_states('running')".to_owned(),
        "workflow.is_terminal('success')".to_owned(),
        "workflow.is_finished('success')".to_owned(),
        "workflow.version()".to_owned(),
        "workflow.is_preloaded()".to_owned(),
        "workflow.state_counts".to_owned(),
        "(SELECT consumer, pending, oldest, lag > '0', last_active FROM workflow.consumer_lag)".to_owned(),
        "workflow.state_machine".to_owned(),
        "workflow.shows_all_tenants()".to_owned(),
        "workflow.dags".to_owned(),
        "workflow.dag_runs".to_owned(),
        "workflow.task_instances".to_owned(),
        "workflow.task_logs".to_owned(),
        "workflow.state_history".to_owned(),
    ];
    for read in &reads {
        let ask =
            |server: &Postgres| server.psql("workflow", &format!("SELECT * FROM {read} AS x ORDER BY x")).unwrap();
        assert_eq!(ask(&pair.standby), ask(&pair.primary), "{read}");
    }
    let ask = |sql: &str| pair.standby.psql("workflow", sql).unwrap();
    assert_eq!(ask("SELECT count(*) FROM workflow.verify()"), "0");
    assert_eq!(ask("SELECT pending FROM workflow.consumer_lag"), "9");
    assert_eq!(ask("SELECT sum(count) FROM workflow.state_counts"), "5");
    assert_eq!(ask("SELECT count(*) FROM workflow.notifier"), "0", "a standby has no notifier");
    assert_eq!(ask("SELECT count(DISTINCT workflow.uuid_v7()) FROM generate_series(1, 9)"), "9");

    // The list is complete.
    let stable = "SELECT DISTINCT p.proname FROM pg_proc AS p
                  WHERE p.pronamespace = 'workflow'::regnamespace AND p.provolatile <> 'v'
                    AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) AND obj_description(p.oid, 'pg_proc') NOT LIKE 'Internal:%'";
    for row in pair.writer.query(stable, &[]).unwrap() {
        let name: String = row.get(0);
        assert!(reads.iter().any(|read| read.contains(&format!("workflow.{name}("))), "{name} was not called");
    }
}

#[test]
fn writes_on_standby_fail_as_read_only() {
    let pair = Pair::start("standby-writes");
    let (dag, run, task) = (pair.dag, pair.run, pair.task);
    let mut client = Db::at(pair.standby.url("workflow")).without_verification().connect();
    let writes = [
        format!("workflow.transition('task_instance', '{task}', 'running', 'success')"),
        format!("workflow.transition_task_instance('{task}', 'running', 'success')"),
        format!("workflow.transition_dag_run('{run}', 'queued', 'running')"),
        format!("workflow.transition_many('task_instance', ARRAY['{task}'::uuid], 'running', 'success')"),
        "workflow.create_dag('other')".to_owned(),
        format!("workflow.create_dag_run('{dag}', '2020-01-01')"),
        format!("workflow.create_task_instances('{run}', ARRAY['other'])"),
        format!("workflow.add_dependencies('{run}', '{{a}}', '{{b}}')"),
        format!("workflow.rerun_tasks('{run}')"),
        format!("workflow.set_fails_on('{run}', 'leaves')"),
        format!("workflow.pause_dag('{dag}')"),
        format!("workflow.append_task_log('{task}', 'hello')"),
        "workflow.create_consumer('other')".to_owned(),
        "workflow.read_events('reader')".to_owned(),
        "workflow.ack_events('reader', 1)".to_owned(),
        "workflow.drop_consumer('reader')".to_owned(),
        "workflow.lease_consumer('reader', 'me')".to_owned(),
        "workflow.fold_state_counts()".to_owned(),
        "workflow.current_position()".to_owned(),
        format!("workflow.follow_events('{}')", pair.position),
    ];
    for write in writes {
        let error = client.batch_execute(&format!("SELECT * FROM {write}")).expect_err(&write);
        assert_eq!(error.code().map(|code| code.code()), Some("25006"), "{write}: {error:?}");
    }
    let waits = [
        "wait_for_events('reader', '1 min')".to_owned(),
        format!("wait_for_events_after('{}', '1 min')", pair.position),
    ];
    for wait in waits {
        assert_eq!(failure(client.batch_execute(&format!("CALL workflow.{wait}"))).sqlstate, "25006", "{wait}");
    }
}

#[test]
fn read_only_server_works_on_standby_and_after_promotion() {
    let pair = Pair::start("standby-http");
    // Lists of claims and queues have a row.
    pair.primary
        .psql(
            "workflow",
            "SELECT workflow.enqueue_task_instances(ARRAY(
                 SELECT id FROM workflow.task_instances WHERE state = 'queued' LIMIT 1));
             SELECT workflow.claim_tasks('w-7')",
        )
        .unwrap();
    pair.catch_up();
    let redis = Redis::start("standby-http").unwrap();
    let url = pair.standby.url("workflow");
    let arguments = ["--read-only", "--database-url", &url, "--redis-url", &redis.url()];
    let api = Api::with(&arguments);
    let description = api.get("/openapi.json").1;
    for path in description["paths"]
        .as_object()
        .unwrap()
        .keys()
        .filter(|path| !["/metrics", "/api/v1/events"].contains(&path.as_str()))
    {
        let id = if path.contains("/dags/") {
            pair.dag
        } else if path.contains("/dag-runs/") {
            pair.run
        } else {
            pair.task
        };
        let (status, body) = api.get(&path.replace("{id}", &id.to_string()));
        assert_eq!(status, 200, "{path}: {body}");
        assert!(
            // No task of this run waits for another one.
            path.ends_with("/waits-for")
                || body.get("items").is_none_or(|items| items.as_array().is_some_and(|items| !items.is_empty())),
            "{path}"
        );
    }
    assert_eq!(api.get(&format!("/api/v1/task-instances/{}", pair.task)).1["state"], "running");
    assert_eq!(api.get("/api/v1/task-instances/counts").1["skipped"], 1);
    for path in ["/api/v1/events", "/api/v1/events?last_event_id=1.2.3"] {
        let (status, body) = api.get(path);
        assert_eq!((status, &body["error"]["code"]), (503, &json!("unavailable")), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains("reads from the primary"), "{body}");
    }

    let (status, health) = api.get("/health");
    assert_eq!((status, &health["relay"], &health["redis"]), (200, &Value::Null, &json!(true)), "{health}");
    assert_eq!(health["standby"]["in_recovery"], true);
    assert!(metrics(&api).contains("\nworkflow_standby_in_recovery 1.0\n"));
    let last_commit = |health: &Value| health["standby"]["last_commit"].as_str().unwrap().to_owned();
    let before = last_commit(&health);
    pair.primary.psql("workflow", "SELECT workflow.create_dag('later')").unwrap();
    wait_until("the new DAG", || !api.list("/api/v1/dags?name=later").0.is_empty());
    wait_until("the next check", || last_commit(&api.get("/health").1) > before);

    let folded_at =
        |server: &Postgres| server.psql("workflow", "SELECT folded_at FROM workflow.state_count_place").unwrap();
    let before = folded_at(&pair.primary);
    pair.primary.kill().unwrap();
    pair.standby.promote().unwrap();
    wait_until("the next check", || {
        let (status, health) = api.get("/health");
        (status, &health["standby"]["in_recovery"]) == (200, &json!(false))
    });
    assert_eq!(api.get("/api/v1/task-instances?state=running").0, 200);
    // The server has written nothing, neither in PostgreSQL nor in Redis.
    assert_eq!(folded_at(&pair.standby), before);
    assert_eq!(
        pair.standby.psql("workflow", "SELECT string_agg(name, ',') FROM workflow.consumers").unwrap(),
        "reader"
    );
    assert_eq!(redis.command::<i64>(&["XLEN", "workflow:stream"]).unwrap(), 0);
}

/// A holder whose renewals the primary had in memory gets a lease from the promotion on, whatever a session asked the standby before.
#[test]
fn claims_get_another_lease_after_a_promotion() {
    let mut pair = Pair::start("standby-leases");
    let client = &mut pair.writer;
    let run = pair.run;
    client.query("SELECT workflow.create_task_instances($1, '{a,b,c}', queue => 'default')", &[&run]).unwrap();
    let claims = "SELECT array_agg(claim) FROM workflow.claim_tasks('w', max => 3, lease => '1 s')";
    let claims: Vec<String> = client.query_one(claims, &[]).unwrap().get(0);
    let renew = "SELECT array_agg(outcome) FROM workflow.renew_claims($1)";
    assert_eq!(client.query_one(renew, &[&claims]).unwrap().get::<_, Vec<String>>(0), ["renewed"; 3]);
    pair.catch_up();

    let mut standby = Db::at(pair.standby.url("workflow")).without_verification().connect();
    let expired = "SELECT count(*) FROM workflow.task_instances AS t
                   WHERE worker IS NOT NULL AND workflow.has_expired(t.id, t.version, t.start_date, t.lease_expires_at)";
    let expired = |standby: &mut Client| standby.query_one(expired, &[]).unwrap().get::<_, i64>(0);
    assert_eq!(expired(&mut standby), 0);
    standby.query("SELECT pg_sleep_until(clock_timestamp() + '1100 ms')", &[]).unwrap();
    assert_eq!(expired(&mut standby), 0, "a standby knows no renewals");
    assert_eq!(failure(standby.query("SELECT FROM workflow.reap_claims()", &[])).sqlstate, "25006");
    assert_eq!(failure(standby.query(renew, &[&claims])).sqlstate, "25006");

    pair.primary.kill().unwrap();
    pair.standby.promote().unwrap();
    assert!(standby.query("SELECT * FROM workflow.reap_claims()", &[]).unwrap().is_empty());
    assert_eq!(standby.query_one(renew, &[&claims]).unwrap().get::<_, Vec<String>>(0), ["renewed"; 3]);
}

#[test]
fn reads_use_first_reachable_host() {
    let pair = Pair::start("standby-hosts");
    for (ports, in_recovery) in [([&pair.standby, &pair.primary], true), ([&pair.primary, &pair.standby], false)] {
        let [first, second] = ports.map(|server| server.port());
        let url = format!("postgres://postgres@127.0.0.1:{first},127.0.0.1:{second}/workflow");
        let api = Api::with(&["--read-only", "--database-url", &url]);
        assert_eq!(api.get("/health").1["standby"]["in_recovery"], in_recovery);
        assert_eq!(api.get("/api/v1/dags").0, 200);
    }
}

fn metrics(api: &Api) -> String {
    api.agent.get(format!("{}/metrics", api.url)).call().unwrap().body_mut().read_to_string().unwrap()
}
