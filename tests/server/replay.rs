//! Replaying recorded workflows through all parts: functions, history, feed, relay, Redis.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_workflow_tests::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use uuid::Uuid;
use xtask::stack::redis::Redis;
use xtask::stack::server::Server;

fn replay(db: &Db, file: &Path, args: &[&str]) -> Output {
    Command::new(server_binary())
        .arg("replay")
        .arg(file)
        .args(args)
        .env("DATABASE_URL", db.url())
        .output()
        .expect("it runs")
}

fn own_example() -> PathBuf {
    xtask::workspace::root().join("client/examples/traces/etl.json")
}

#[test]
fn real_workflows_finish_and_every_transition_is_received() {
    let names = [
        "1000genome-chameleon-8ch-250k-001.json",
        "blast-chameleon-medium-001.json",
        "montage-chameleon-2mass-01d-001.json",
        "rnaseq-dirt02-001.json",
    ];
    let traces = names.iter().filter_map(|name| real_trace(name)).chain([own_example()]);
    let db = Db::new();
    let redis = Redis::start("replay").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    let client = &mut db.connect();
    wait_until("the relay's consumer", || {
        client.query_one("SELECT count(*) FROM workflow.consumers", &[]).unwrap().get::<_, i64>(0) == 1
    });
    let subscriber = Subscriber::start(&redis.url());
    let mut tasks = 0;
    for trace in traces {
        let done = replay(&db, &trace, &["--within", "2"]);
        assert!(done.status.success(), "{}: {}", trace.display(), String::from_utf8_lossy(&done.stderr));
        let recorded: Value = serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap();
        tasks += recorded["workflow"]["specification"]["tasks"].as_array().unwrap().len();
    }
    let sql = "SELECT count(*) FILTER (WHERE state = 'success'), count(*) FROM workflow.task_instances";
    let row = client.query_one(sql, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (tasks as i64, tasks as i64));
    let unfinished = "SELECT count(*) FROM workflow.dag_runs WHERE state <> 'success'";
    assert_eq!(client.query_one(unfinished, &[]).unwrap().get::<_, i64>(0), 0);

    let written: i64 = client.query_one("SELECT count(*) FROM workflow.state_history", &[]).unwrap().get(0);
    wait_until("every event", || subscriber.len() as i64 >= written);
    let mut keys: Vec<(String, i64)> = subscriber
        .events()
        .iter()
        .map(|event| (event["entity_id"].as_str().unwrap().to_owned(), event["version"].as_i64().unwrap()))
        .collect();
    keys.sort();
    keys.dedup();
    assert_eq!((keys.len() as i64, subscriber.len() as i64), (written, written), "each transition exactly once");
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn tasks_start_after_their_parents_finish() {
    let db = Db::new();
    let file = own_example();
    assert!(replay(&db, &file, &["--within", "1"]).status.success());
    // A second replay adds a run to the same DAG.
    assert!(replay(&db, &file, &["--within", "0.2", "--quiet"]).status.success());
    let client = &mut db.connect();
    let row = client
        .query_one("SELECT (SELECT count(*) FROM workflow.dags), (SELECT count(*) FROM workflow.dag_runs)", &[])
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 2));

    let recorded: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let mut edges = 0;
    for task in recorded["workflow"]["specification"]["tasks"].as_array().unwrap() {
        for parent in task["parents"].as_array().into_iter().flatten() {
            let sql = "SELECT bool_and(child.start_date >= parent.end_date), count(*)
                       FROM workflow.task_instances AS child
                       JOIN workflow.task_instances AS parent USING (dag_run_id)
                       WHERE child.task_id = $1 AND parent.task_id = $2";
            let row = client.query_one(sql, &[&task["id"].as_str().unwrap(), &parent.as_str().unwrap()]).unwrap();
            assert_eq!((row.get(0), row.get(1)), (Some(true), 2_i64), "{} after {parent}", task["id"]);
            edges += 1;
        }
    }
    assert!(edges > 20);
}

/// Its tasks go to the other processes, and none of them ends before the replay.
#[test]
fn tasks_of_a_killed_worker_process_run_again() {
    let db = Db::new();
    let client = &mut db.connect();
    let replaying = Command::new(server_binary())
        .arg("replay")
        .arg(own_example())
        .args(["--within", "2", "--processes", "3"])
        .env("DATABASE_URL", db.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let holder = "SELECT id, substring(worker FROM '[0-9]+$')::int FROM workflow.claims LIMIT 1";
    let mut killed = None;
    wait_until("a worker holds a task", || {
        killed = client.query_opt(holder, &[]).unwrap().map(|row| (row.get::<_, Uuid>(0), row.get::<_, i32>(1)));
        killed.is_some()
    });
    let (task, process) = killed.unwrap();
    kill(Pid::from_raw(process), Signal::SIGKILL).unwrap();
    let replayed = replaying.wait_with_output().unwrap();
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    let unfinished = "SELECT count(*) FROM workflow.task_instances WHERE state <> 'success'";
    assert_eq!(client.query_one(unfinished, &[]).unwrap().get::<_, i64>(0), 0);
    let tries = "SELECT try_number FROM workflow.task_instances WHERE id = $1";
    assert_eq!(client.query_one(tries, &[&task]).unwrap().get::<_, i32>(0), 2);
    wait_until("the worker processes have ended", || {
        let sessions =
            "SELECT FROM pg_stat_activity WHERE application_name = 'workflow-server' AND datname = current_database()";
        client.query(sessions, &[]).unwrap().is_empty()
    });
}

/// Returns the ids and versions of the tasks that have succeeded.
fn succeeded(client: &mut postgres::Client) -> Vec<(Uuid, i64)> {
    let sql = "SELECT id, version FROM workflow.task_instances WHERE state = 'success' ORDER BY id";
    client.query(sql, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn run_of_a_killed_replay_continues() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut replaying = Command::new(server_binary())
        .arg("replay")
        .arg(own_example())
        .args(["--within", "4", "--processes", "2"])
        .env("DATABASE_URL", db.url())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    wait_until("some tasks have succeeded, and others run", || {
        let held = "SELECT FROM workflow.claims";
        succeeded(client).len() > 5 && !client.query(held, &[]).unwrap().is_empty()
    });
    replaying.kill().unwrap();
    wait_until("the worker processes have ended, too", || {
        let sessions = "SELECT FROM pg_stat_activity
                        WHERE application_name = 'workflow-server' AND datname = current_database()";
        client.query(sessions, &[]).unwrap().is_empty()
    });
    let row = client.query_one("SELECT id, state FROM workflow.dag_runs", &[]).unwrap();
    let (run, state): (Uuid, String) = (row.get(0), row.get(1));
    assert_eq!(state, "running");
    let mut log = String::new();
    std::io::Read::read_to_string(&mut replaying.stderr.take().unwrap(), &mut log).unwrap();
    assert!(log.contains(&format!("--resume {run}")), "{log}");
    replaying.wait().unwrap();
    let before = succeeded(client);

    let run = run.to_string();
    let resumed = replay(&db, &own_example(), &["--resume", &run]);
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    let after = succeeded(client);
    assert!(before.len() < after.len() && before.iter().all(|task| after.contains(task)), "{before:?} {after:?}");
    let unfinished = "SELECT FROM workflow.task_instances WHERE state <> 'success'";
    assert!(client.query(unfinished, &[]).unwrap().is_empty());
    let states = client.query("SELECT state FROM workflow.dag_runs", &[]).unwrap();
    assert_eq!(states.iter().map(|row| row.get(0)).collect::<Vec<&str>>(), ["success"]);

    let again = replay(&db, &own_example(), &["--resume", &run]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(succeeded(client), after);
}

#[test]
fn only_runs_of_the_same_trace_are_resumed() {
    let db = Db::new();
    let client = &mut db.connect();
    assert!(replay(&db, &own_example(), &["--within", "0.2"]).status.success());
    let first = "SELECT d.name, r.conf FROM workflow.dag_runs AS r JOIN workflow.dags AS d ON d.id = r.dag_id";
    let row = client.query_one(first, &[]).unwrap();
    let (name, conf): (String, Value) = (row.get(0), row.get(1));
    let mut new_run = |name: &str, conf: &Value, tasks: &[&str], depends_on: Option<Value>| {
        let sql = "SELECT workflow.create_dag_run(id, conf => $2) FROM workflow.dags WHERE name = $1";
        let run: Uuid = client.query_one(sql, &[&name, conf]).unwrap().get(0);
        let sql = "SELECT count(*) FROM workflow.create_task_instances($1, $2, depends_on => $3)";
        client.query_one(sql, &[&run, &tasks, &depends_on]).unwrap();
        run.to_string()
    };
    let cases = [
        (new_run(&name, &conf, &["other"], Some(json!({}))), "it has no task"),
        (new_run(&name, &conf, &["other"], None), "before 0.3.0"),
        (new_run(&name, &json!({}), &["other"], Some(json!({}))), "no replay has created it"),
    ];
    for (run, expected) in &cases {
        let refused = replay(&db, &own_example(), &["--resume", run]);
        let message = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{message}");
        assert!(message.contains(expected) && message.contains(run), "{message}");
    }
    client.execute("UPDATE workflow.dags SET name = 'another'", &[]).unwrap();
    let refused = replay(&db, &own_example(), &["--resume", &cases[0].0]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("it is a run of \"another\""));
    let unknown = Uuid::new_v4().to_string();
    let refused = replay(&db, &own_example(), &["--resume", &unknown]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&format!("no run {unknown}")));
    for pace in ["--speed", "--within"] {
        assert_eq!(replay(&db, &own_example(), &["--resume", &unknown, pace, "2"]).status.code(), Some(2));
    }
}

#[test]
fn failed_task_fails_the_replay_when_the_run_has_ended() {
    let db = Db::new();
    let client = &mut db.connect();
    let replaying = Command::new(server_binary())
        .arg("replay")
        .arg(own_example())
        .args(["--within", "2"])
        .env("DATABASE_URL", db.url())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut failed: Option<String> = None;
    wait_until("a waiting task has failed", || {
        let sql = "SELECT t.task_id, workflow.transition_task_instance(t.id, 'queued', 'failed')
                   FROM (SELECT id FROM workflow.waiting ORDER BY id DESC LIMIT 1) AS w JOIN workflow.task_instances AS t USING (id)";
        failed = client.query_opt(sql, &[]).unwrap().map(|row| row.get(0));
        failed.is_some()
    });
    let failed = failed.unwrap();
    let done = replaying.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{message}");
    assert!(message.contains(&format!("task \"{failed}\" is failed")), "{message}");
    let open = "SELECT FROM workflow.task_instances WHERE state NOT IN ('success', 'failed')
                UNION ALL SELECT FROM workflow.dag_runs WHERE state <> 'failed'";
    assert!(client.query(open, &[]).unwrap().is_empty(), "the run has ended itself");
}

#[test]
fn invalid_file_is_rejected_before_any_write() {
    let tasks = |tasks: Value| {
        json!({"name": "w", "schemaVersion": "1.5", "workflow": {"specification": {"tasks": tasks}}}).to_string()
    };
    let task = |id: &str, parents: &[&str]| json!({"id": id, "name": id, "parents": parents, "children": []});
    let cases = [
        ("not json", "{".to_owned(), "JSON"),
        ("not WfFormat", json!({"hello": "world"}).to_string(), "WfFormat"),
        ("an older version", json!({"name": "w", "workflow": {"tasks": [{"name": "a"}]}}).to_string(), "WfFormat"),
        ("no tasks", tasks(json!([])), "task"),
        (
            "a cycle",
            tasks(json!([task("alpha", &["gamma"]), task("beta", &["alpha"]), task("gamma", &["beta"])])),
            "beta",
        ),
        ("an unknown parent", tasks(json!([task("alpha", &["nobody"])])), "nobody"),
        ("an id twice", tasks(json!([task("alpha", &[]), task("alpha", &[])])), "alpha"),
        ("an empty id", tasks(json!([task("", &[])])), "id"),
    ];
    let db = Db::new();
    let dir = std::env::temp_dir().join(format!("pg-workflow-traces-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for (case, text, names) in cases {
        let file = dir.join("trace.json");
        std::fs::write(&file, text).unwrap();
        let refused = replay(&db, &file, &[]);
        let message = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{case}: {message}");
        assert!(message.contains(names) && message.contains("trace.json"), "{case}: {message}");
        assert!(!message.contains("panicked"), "{case}: {message}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
    let missing = replay(&db, Path::new("/nonexistent.json"), &[]);
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(replay(&db, &own_example(), &["--speed", "-1"]).status.code(), Some(2));
    assert_eq!(db.connect().query("SELECT FROM workflow.dags", &[]).unwrap().len(), 0);
}

#[test]
fn watch_shows_transitions_live() {
    let db = Db::new();
    let client = &mut db.connect();
    let watch = Server::start("watch", &server_binary(), &["watch", "--json"], &[("DATABASE_URL", db.url())]).unwrap();
    // The test cannot see whether `watch` listens yet, so it makes events until one is shown.
    let shown = || std::fs::read_to_string(watch.log()).unwrap();
    wait_until("the first line", || {
        create_task(client);
        shown().contains('\n')
    });
    let event: Value = serde_json::from_str(shown().lines().next().unwrap()).unwrap();
    assert_eq!((&event["new_state"], &event["version"]), (&json!("queued"), &json!(1)));
    assert_eq!(watch.terminate().unwrap().code(), Some(0));
}
