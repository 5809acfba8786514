//! transition_many(): one statement with an outcome for each id.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;

type Outcome = (Uuid, String, Option<String>, Option<i64>);

fn transition_many(
    client: &mut Client,
    ids: &[Uuid],
    from: Option<&str>,
    to: &str,
    dry_run: bool,
) -> Result<Vec<Outcome>, postgres::Error> {
    let sql = "SELECT * FROM workflow.transition_many('task_instance', $1, $2, $3, '{\"why\": \"batch\"}', $4)";
    let rows = client.query(sql, &[&ids, &from, &to, &dry_run])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect())
}

fn outcome(id: Uuid, outcome: &str, state: &str, version: i64) -> Outcome {
    (id, outcome.into(), Some(state.into()), Some(version))
}

#[test]
fn outcomes_follow_the_order_of_ids() {
    let db = Db::new();
    let client = &mut db.connect();
    let queued = create_task(client);
    let running = create_in_state(client, "task_instance", State::Running);
    let ended = create_in_state(client, "task_instance", State::Success);
    let missing = Uuid::new_v4();
    let ids = [ended, queued, missing, running, queued];

    let expected = [
        outcome(ended, "stale", "success", 3),
        outcome(queued, "applied", "running", 2),
        (missing, "missing".into(), None, None),
        outcome(running, "stale", "running", 2),
    ];
    let mut dry = expected.clone();
    dry[1] = outcome(queued, "applied", "queued", 1);
    assert_eq!(transition_many(client, &ids, Some("queued"), "running", true).unwrap(), dry);
    assert_eq!(history_len(client, queued), 1, "a dry run changes nothing");
    assert_eq!(transition_many(client, &ids, Some("queued"), "running", false).unwrap(), expected);

    // From any state.
    let expected = [
        outcome(ended, "illegal", "success", 3),
        outcome(queued, "applied", "failed", 3),
        (missing, "missing".into(), None, None),
        outcome(running, "applied", "failed", 3),
    ];
    assert_eq!(transition_many(client, &ids, None, "failed", false).unwrap(), expected);

    // The state machine has no such transition.
    let expected = [outcome(ended, "illegal", "success", 3), outcome(queued, "stale", "failed", 3)];
    assert_eq!(transition_many(client, &[ended, queued], Some("success"), "queued", false).unwrap(), expected);
    assert_eq!(transition_many(client, &[], None, "failed", false).unwrap(), []);
}

#[test]
fn transition_many_handles_ten_thousand_tasks() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 10_000);
    let outcomes = transition_many(client, &tasks, Some("queued"), "running", false).unwrap();
    assert_eq!(outcomes.len(), 10_000);
    assert!(outcomes.iter().zip(&tasks).all(|(got, id)| *got == outcome(*id, "applied", "running", 2)));
    let sql = "SELECT count(*), count(DISTINCT transaction_id), bool_and(metadata = '{\"why\": \"batch\"}'),
                      count(DISTINCT task_id), count(DISTINCT dag_id)
               FROM workflow.state_history WHERE version = 2";
    let row = client.query_one(sql, &[]).unwrap();
    let told: (i64, i64, bool, i64, i64) = (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
    assert_eq!(told, (10_000, 1, true, 10_000, 1));
}

#[test]
fn transition_many_handles_runs() {
    let db = Db::new();
    let client = &mut db.connect();
    let runs: Vec<Uuid> = (0..3).map(|_| create_run(client).1).collect();
    let sql = "SELECT outcome FROM workflow.transition_many('dag_run', $1, 'queued', 'running')";
    let outcomes: Vec<String> = client.query(sql, &[&runs]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(outcomes, ["applied"; 3]);
    let sql = "SELECT count(*) FROM workflow.state_history
               WHERE version = 2 AND dag_run_id = entity_id AND task_id IS NULL
                 AND dag_id = (SELECT dag_id FROM workflow.dag_runs WHERE id = entity_id)";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 3);
}

#[test]
fn batches_in_opposite_orders_do_not_deadlock() {
    let db = Db::new();
    let tasks = create_tasks(&mut db.connect(), 500);
    transition_many(&mut db.connect(), &tasks, Some("queued"), "running", false).unwrap();
    let backwards: Vec<Uuid> = tasks.iter().rev().copied().collect();
    std::thread::scope(|scope| {
        for ids in [&tasks, &backwards, &tasks, &backwards] {
            scope.spawn(|| {
                let client = &mut db.connect();
                for _ in 0..20 {
                    transition_many(client, ids, Some("running"), "retrying", false).expect("no deadlock");
                    transition_many(client, ids, Some("retrying"), "running", false).expect("no deadlock");
                }
            });
        }
    });
}

/// Each event has the metadata of the call: the session holds only as much of it as it writes at a time.
#[test]
fn memory_does_not_grow_with_metadata_times_tasks() {
    // The buffers that a session touches count as its memory.
    let (_cluster, db) = own_cluster("memory", &[("shared_buffers", "8MB")]);
    for path in ["on", "off"] {
        let mut client = db.connect();
        let tasks = create_tasks(&mut client, 1000);
        client.batch_execute(&format!("SET pg_workflow.direct_path = {path}")).unwrap();
        let start = "SELECT FROM workflow.transition_many('task_instance', $1, 'queued', 'running')";
        assert_eq!(client.query(start, &[&tasks]).unwrap().len(), 1000);
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        let before = peak_kilobytes(pid);
        let sql = "SELECT FROM workflow.transition_many('task_instance', $1, 'running', 'failed',
                       jsonb_build_object('error', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 3000) AS n)))";
        assert_eq!(client.query(sql, &[&tasks]).unwrap().len(), 1000);
        let used = peak_kilobytes(pid) - before;
        assert!(used < 60_000, "direct_path {path}: {used} kB for 1,000 times 96 kB");
    }
}

fn peak_kilobytes(pid: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}
