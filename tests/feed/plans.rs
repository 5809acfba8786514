//! The cost of a call depends on its result, not on the age of the statistics or of the session's plans: PostgreSQL analyzes
//! a new partition late, and a session keeps the plans that it made before.

mod all;

use crate::feed::follow::current_position;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;

const TASKS: usize = 1_000;

/// A database whose statistics are from its first transaction, and whose history has grown since by 100,000 events.
fn grown() -> (Db, Vec<Uuid>) {
    let db = Db::new();
    let client = &mut db.connect();
    client
        .batch_execute(
            "ALTER TABLE workflow.state_history_0 SET (autovacuum_enabled = false);
             ALTER TABLE workflow.task_instances SET (autovacuum_enabled = false);
             ALTER TABLE workflow.dag_runs SET (autovacuum_enabled = false)",
        )
        .unwrap();
    let tasks = create_tasks(client, TASKS);
    client.batch_execute("ANALYZE; SELECT workflow.create_consumer('reader')").unwrap();
    (db, tasks)
}

fn grow(client: &mut Client, tasks: &[Uuid]) {
    for n in 0..100 {
        let to = ["running", "retrying"][n % 2];
        let sql = "SELECT count(*) FROM workflow.transition_many('task_instance', $1, null, $2)";
        client.query_one(sql, &[&tasks, &to]).unwrap();
    }
}

/// Reads all that the consumer has not had.
fn drain(client: &mut Client) {
    let read = "SELECT max(id) FROM workflow.read_events('reader', 10000)";
    while let Some(last) = client.query_one(read, &[]).unwrap().get::<_, Option<i64>>(0) {
        client.query_one("SELECT workflow.ack_events('reader', $1)", &[&last]).unwrap();
    }
}

/// Calls for these tasks, which are queued, and for the readers.
fn calls(client: &mut Client, tasks: &[Uuid], position: &str) -> Vec<String> {
    let (task, several) = (tasks[0], tasks[..10].iter().map(Uuid::to_string).collect::<Vec<_>>().join(","));
    let sql =
        "SELECT r.id, r.dag_id FROM workflow.task_instances AS t JOIN workflow.dag_runs AS r ON r.id = t.dag_run_id
               WHERE t.id = $1";
    let row = client.query_one(sql, &[&task]).unwrap();
    let (run, dag): (Uuid, Uuid) = (row.get(0), row.get(1));
    vec![
        "SELECT * FROM workflow.read_events('reader', 10)".to_owned(),
        "SELECT workflow.ack_events('reader', e.id) FROM workflow.read_events('reader', 1) AS e".to_owned(),
        format!("SELECT * FROM workflow.follow_events('{position}', 10)"),
        "SELECT workflow.consumer_has_events('reader')".to_owned(),
        format!("SELECT workflow.position_has_events('{position}')"),
        "SELECT workflow.current_position()".to_owned(),
        "SELECT * FROM workflow.consumer_lag".to_owned(),
        format!("SELECT workflow.transition('task_instance', '{task}', 'queued', 'running')"),
        format!("SELECT workflow.transition('task_instance', '{task}', 'queued', 'running', request_id => 'r')"),
        format!("SELECT workflow.transition('dag_run', '{run}', 'queued', 'running', request_id => 'r')"),
        format!("SELECT * FROM workflow.transition_many('task_instance', '{{{several}}}', null, 'running')"),
        format!(
            "SELECT * FROM workflow.transition_many('task_instance', '{{{several}}}', null, 'running', dry_run => true)"
        ),
        format!("SELECT workflow.create_dag_run('{dag}')"),
        format!("SELECT * FROM workflow.create_task_instances('{run}', '{{one,two}}')"),
        format!("SELECT workflow.append_task_log('{task}', 'a line')"),
        format!("UPDATE workflow.task_instances SET state = 'running' WHERE id = '{task}'"),
        format!("DELETE FROM workflow.task_instances WHERE id = '{task}'"),
        format!("SELECT workflow.state_at('task_instance', '{task}', now())"),
        format!("SELECT * FROM workflow.history('task_instance', '{task}')"),
        format!("SELECT * FROM workflow.state_history WHERE entity_id = '{task}' ORDER BY version DESC LIMIT 10"),
        "SELECT * FROM workflow.state_history ORDER BY id DESC LIMIT 10".to_owned(),
    ]
}

#[test]
fn stale_statistics_make_no_call_read_the_history() {
    let (db, tasks) = grown();
    let client = &mut db.connect();
    let (late, others) = tasks.split_at(2);
    // These have no dead row versions, which PostgreSQL would have to pass.
    let (calm, others) = others.split_at(20);
    // They began before the history grew, and their events come late.
    let mut holders = [db.connect(), db.connect()];
    for (holder, task) in holders.iter_mut().zip(late) {
        holder.batch_execute("BEGIN").unwrap();
        start_task(holder, *task);
    }
    grow(client, others);
    drain(client);
    let position = current_position(client);
    let pages: i64 =
        client.query_one("SELECT pg_relation_size('workflow.state_history_0') / 8192", &[]).unwrap().get(0);
    let calls = calls(client, calm, &position);
    let mut report = Vec::new();
    // In a new session each, which has no plans yet.
    for moment in ["in progress", "committed"] {
        for call in &calls {
            report.push((buffers(&mut db.connect(), call), format!("{moment}: {call}")));
        }
        holders.iter_mut().for_each(|holder| holder.batch_execute("COMMIT").unwrap());
    }
    report.iter().for_each(|(used, call)| eprintln!("{used:7} of {pages}: {}", &call[..call.len().min(110)]));
    let costly: Vec<_> = report.iter().filter(|(used, _)| *used > pages / 4).collect();
    assert!(costly.is_empty(), "{costly:#?}");
}

/// Creates a run with a task, and finishes both.
fn create_finished_run(client: &mut Client) {
    let task = create_tasks(client, 1)[0];
    let sql = "UPDATE workflow.dag_runs SET state = $2 WHERE id = (
                   SELECT dag_run_id FROM workflow.task_instances WHERE id = $1)";
    for state in ["running", "success"] {
        client.execute("UPDATE workflow.task_instances SET state = $2 WHERE id = $1", &[&task, &state]).unwrap();
        client.execute(sql, &[&task, &state]).unwrap();
    }
}

/// Compares a session that made its plans while the tables had a few rows with new sessions.
fn compare_kept_plans(is_analyzed: bool) {
    let db = Db::new();
    let client = &mut db.connect();
    for table in ["state_history_0", "task_logs_0", "task_instances", "dag_runs", "dags"] {
        client.batch_execute(&format!("ALTER TABLE workflow.{table} SET (autovacuum_enabled = false)")).unwrap();
    }
    client.batch_execute("SELECT workflow.create_consumer('reader', from_beginning => true)").unwrap();
    let with_maintenance = |client: &mut Client, tasks: &[Uuid]| {
        let position = current_position(client);
        let mut all = calls(client, tasks, &position);
        all.extend(
            [
                "SELECT * FROM workflow.stuck()",
                "SELECT * FROM workflow.purge(now(), max_runs => 1)",
                "SELECT * FROM workflow.state_counts",
                "SELECT workflow.fold_state_counts()",
            ]
            .map(str::to_owned),
        );
        all
    };
    let few = create_tasks(client, 10);
    create_finished_run(client);
    client.batch_execute("SELECT workflow.fold_state_counts()").unwrap();
    if is_analyzed {
        client.batch_execute("ANALYZE").unwrap();
    }
    let old = &mut db.connect();
    // PostgreSQL makes another plan after each of these.
    for change in ["", "ANALYZE workflow.state_history_0", "SET search_path = pg_catalog"] {
        if is_analyzed || !change.starts_with("ANALYZE") {
            old.batch_execute(change).unwrap();
        }
        for call in with_maintenance(client, &few) {
            // PL/pgSQL keeps a plan from the sixth run on.
            (0..3).for_each(|_| _ = buffers(old, &call));
        }
    }

    // Its event comes late, so that readers look for it apart.
    let holder = &mut db.connect();
    holder.batch_execute("BEGIN").unwrap();
    create_task(holder);

    let grow_tables = "SELECT count(workflow.create_dag_run(d.id, '2026-01-01Z'::timestamptz + n * interval '1 hour'))
                       FROM generate_series(1, 2000) AS n, LATERAL (SELECT id FROM workflow.dags LIMIT 1) AS d";
    client.query_one(grow_tables, &[]).unwrap();
    let tasks = create_tasks(client, 3_000);
    let logs = "SELECT count(workflow.append_task_log(id, 'a line')) FROM workflow.task_instances";
    client.query_one(logs, &[]).unwrap();
    let (calm, others) = tasks.split_at(20);
    for to in ["running", "retrying", "running", "retrying", "running", "success"] {
        let sql = "SELECT count(*) FROM workflow.transition_many('task_instance', $1, null, $2)";
        client.query_one(sql, &[&others, &to]).unwrap();
    }
    create_in_state(client, "task_instance", State::Running);
    client.batch_execute("SELECT workflow.fold_state_counts()").unwrap();
    drain(client);
    holder.batch_execute("COMMIT").unwrap();

    let costs = with_maintenance(client, calm).into_iter().map(|call| {
        let (kept, new) = (buffers(old, &call), buffers(&mut db.connect(), &call));
        eprintln!("{kept:7} with kept plans, {new:7} with new ones: {}", &call[..call.len().min(110)]);
        (kept, new, call)
    });
    let costly: Vec<_> = costs.filter(|(kept, new, _)| *kept > 2 * new + 20).collect();
    assert!(costly.is_empty(), "{costly:#?}");
}

/// A backlog is one window, in which a consumer can be for hours.
#[test]
fn acknowledged_part_of_a_window_costs_nothing() {
    let (db, tasks) = grown();
    let client = &mut db.connect();
    grow(client, &tasks);
    let mut costs = Vec::new();
    for acknowledged in [100, 90_000] {
        let sql = "SELECT max(id) FROM workflow.read_events('reader', $1)";
        let last: i64 = client.query_one(sql, &[&acknowledged]).unwrap().get(0);
        client.query_one("SELECT workflow.ack_events('reader', $1)", &[&last]).unwrap();
        let needs =
            "SELECT workflow.needs_history(workflow.position_of(c), 1000000000000) FROM workflow.consumers AS c";
        costs.push([needs, "SELECT * FROM workflow.consumer_lag"].map(|sql| buffers(&mut db.connect(), sql)));
    }
    eprintln!("needs_history and consumer_lag: {costs:?}");
    let [[needs, lag], [later_needs, later_lag]] = costs[..] else { panic!() };
    assert!(later_needs <= needs + 20 && later_lag < lag / 5, "{costs:?}");
}

/// Without sequential scans a plan can seem so dear that PostgreSQL compiles it, for longer than it runs. So can a plan for
/// any range of times, as that of verify().
#[test]
fn functions_with_plans_that_seem_dear_are_not_compiled() {
    let sql = "SELECT string_agg(p.oid::regprocedure::text, ', ') FROM pg_proc AS p
               WHERE (p.proconfig @> '{enable_seqscan=off}' OR p.oid = 'workflow.verify'::regproc)
                   AND NOT coalesce(p.proconfig, '{}') @> '{jit=off}'";
    let row = Db::new().connect().query_one(sql, &[]).unwrap();
    assert_eq!(row.get::<_, Option<String>>(0), None);
}

#[test]
fn kept_plans_of_empty_tables_suit_grown_ones() {
    compare_kept_plans(false);
}

#[test]
fn kept_plans_of_small_analyzed_tables_suit_grown_ones() {
    compare_kept_plans(true);
}

/// Before its first ANALYZE a partition has no statistics, and the planner takes its rows for few.
#[test]
fn batch_of_a_partition_without_statistics_reads_few_pages() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("ALTER TABLE workflow.state_history_0 SET (autovacuum_enabled = false)").unwrap();
    client.batch_execute("SELECT workflow.create_consumer('reader', true)").unwrap();
    let tasks = create_tasks(client, TASKS);
    let position: String = client.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
    grow(client, &tasks);
    let read = format!("SELECT * FROM workflow.follow_events('{position}', 1000)");
    for read in ["SELECT * FROM workflow.read_events('reader', 1000)", &read] {
        let read = buffers(client, read);
        assert!(read < 500, "{read} buffers");
    }
}
