//! Random graphs, ends, routes, rollbacks and isolation levels, by many sessions at once: what becomes of each task is what
//! the pure function says.

use super::*;
use fastrand::Rng;
use pg_workflow_state_machine::{Fate, Parents, State, TriggerRule};
use postgres::error::SqlState;
use serde_json::json;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use xtask::stack::postgres::PRELOADED;

const SESSIONS: u64 = 16;
/// How a task ends if it runs. Its name says so.
const ENDS: [State; 4] = [State::Success, State::Success, State::Failed, State::Skipped];

/// A task, its parents and its rule.
pub struct Planned {
    pub name: String,
    pub end: State,
    pub parents: Vec<usize>,
    pub rule: TriggerRule,
}

pub fn plan(rng: &mut Rng) -> Vec<Planned> {
    let count = rng.usize(4..14);
    let mut tasks: Vec<Planned> = Vec::new();
    for n in 0..count {
        let end = ENDS[rng.usize(..ENDS.len())];
        let wanted = if rng.u8(..5) == 0 { 0 } else { rng.usize(..=n.min(4)) };
        let mut parents: Vec<usize> = (0..wanted).map(|_| rng.usize(..n)).collect();
        parents.sort_unstable();
        parents.dedup();
        let rule = TriggerRule::ALL[rng.usize(..TriggerRule::ALL.len())];
        tasks.push(Planned { name: format!("t{n}-{end}"), end, parents, rule });
    }
    tasks
}

/// Creates the tasks by two calls; the second one names tasks of the first.
fn create(client: &mut Client, tasks: &[Planned], rng: &mut Rng) -> Uuid {
    let (_, run) = create_run(client);
    let (first, second) = tasks.split_at(rng.usize(1..=tasks.len()));
    let is_whole = rng.bool();
    if is_whole {
        client.batch_execute("BEGIN").unwrap();
    }
    for part in [first, second].into_iter().filter(|part| !part.is_empty()) {
        let names: Vec<&str> = part.iter().map(|task| task.name.as_str()).collect();
        // The last parent of some is added later, before others see the tasks.
        let later: Vec<bool> = part.iter().map(|task| is_whole && !task.parents.is_empty() && rng.bool()).collect();
        let parents = |task: &Planned, is_later: bool| {
            let count = task.parents.len() - usize::from(is_later);
            task.parents[..count].iter().map(|n| json!(tasks[*n].name)).collect::<Value>()
        };
        let depends_on: Value =
            part.iter().zip(&later).map(|(task, is_later)| (task.name.clone(), parents(task, *is_later))).collect();
        let rules: Value = part.iter().map(|task| (task.name.clone(), json!(task.rule.as_str()))).collect();
        let sql =
            "SELECT id, task_id FROM workflow.create_task_instances($1, $2, depends_on => $3, trigger_rules => $4)";
        // The run has ended: all tasks of the first part have.
        let rows = match client.query(sql, &[&run, &names, &depends_on, &rules]) {
            Ok(rows) => rows,
            Err(error) if error.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => return Uuid::nil(),
            Err(error) => panic!("{error:?}"),
        };
        let claimed = rows.iter().filter(|row| !row.get::<_, &str>(1).ends_with("skipped"));
        let ids: Vec<Uuid> = claimed.map(|row| row.get(0)).collect();
        // Those that wait, too.
        client.query("SELECT FROM workflow.enqueue_task_instances($1, 'graph')", &[&ids]).unwrap();
        for (task, _) in part.iter().zip(&later).filter(|(_, is_later)| **is_later) {
            let parent = &tasks[task.parents[task.parents.len() - 1]].name;
            let sql = "SELECT workflow.add_dependencies($1, ARRAY[$2], ARRAY[$3], $4)";
            let row = client.query_one(sql, &[&run, parent, &task.name, &task.rule.as_str()]).unwrap();
            assert_eq!(row.get::<_, i64>(0), 1);
        }
    }
    if is_whole {
        client.batch_execute("COMMIT").unwrap();
    }
    run
}

/// A task that a session has to end.
struct Open {
    id: Uuid,
    claim: Option<String>,
    from: &'static str,
    end: String,
}

/// Takes tasks: by a claim, or by looking for those without a queue.
fn take(client: &mut Client, rng: &mut Rng) -> Vec<Open> {
    let end = |name: &str| name.rsplit('-').next().unwrap().to_owned();
    if rng.bool() {
        let sql = "SELECT id, claim, task_id FROM workflow.claim_tasks('worker', '{graph}', $1)";
        let rows = client.query(sql, &[&rng.i32(1..4)]).unwrap();
        let open = |row: &postgres::Row| Open {
            id: row.get(0),
            claim: Some(row.get(1)),
            from: "running",
            end: end(row.get(2)),
        };
        return rows.iter().map(open).collect();
    }
    let sql = "SELECT t.id, t.task_id FROM workflow.task_instances AS t
        WHERE t.state = 'queued' AND t.queue_id IS NULL AND t.task_id LIKE '%skipped'
            AND NOT EXISTS (SELECT FROM workflow.waits AS w WHERE w.join_id = t.join_id)
        ORDER BY random() LIMIT $1";
    let rows = client.query(sql, &[&rng.i64(1..4)]).unwrap();
    rows.iter().map(|row| Open { id: row.get(0), claim: None, from: "queued", end: end(row.get(1)) }).collect()
}

/// Ends a task, by one of all ways.
fn end(client: &mut Client, task: &Open, rng: &mut Rng) -> Result<(), postgres::Error> {
    let Open { id, claim, from, end } = task;
    match (claim, rng.u8(..6)) {
        (Some(claim), 0) if end == "success" => client.query("SELECT workflow.complete_claim($1)", &[claim])?,
        (Some(claim), 0) => client.query("SELECT workflow.fail_claim($1, 'broken', '-1 s')", &[claim])?,
        (Some(claim), 1) => {
            let outcome = match end.as_str() {
                "failed" => json!([{"claim": claim, "state": end, "error": "broken", "retry_after": -1}]),
                _ => json!([{"claim": claim, "state": end}]),
            };
            client.query("SELECT FROM workflow.finish_claims($1, true)", &[&outcome])?
        }
        (None, 2) => client.query("SELECT workflow.request_cancel($1)", &[id])?,
        (_, 3) => client
            .query("SELECT FROM workflow.transition_many('task_instance', ARRAY[$1::uuid], NULL, $2)", &[id, end])?,
        (_, 4) => client
            .query("UPDATE workflow.task_instances SET state = $2 WHERE id = $1 AND state = $3", &[id, end, from])?,
        _ => client.query("SELECT workflow.transition_task_instance($1, $2, $3)", &[id, from, end])?,
    };
    Ok(())
}

/// Ends tasks in one transaction, of any kind. Some are rolled back first.
fn end_all(client: &mut Client, mut tasks: Vec<Open>, rng: &mut Rng, prepares: bool) {
    rng.shuffle(&mut tasks);
    for attempt in 0.. {
        let level = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"][rng.usize(..3)];
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).unwrap();
        let mut work = || -> Result<bool, postgres::Error> {
            for task in &tasks {
                if rng.u8(..4) == 0 {
                    client.batch_execute("SAVEPOINT s")?;
                    end(client, task, rng)?;
                    client.batch_execute("ROLLBACK TO s")?;
                }
                end(client, task, rng)?;
            }
            if attempt == 0 && rng.u8(..5) == 0 {
                client.batch_execute("ROLLBACK")?;
                return Ok(false);
            }
            if prepares && rng.u8(..5) == 0 {
                let name = format!("p{}", rng.u64(..));
                client.batch_execute(&format!("PREPARE TRANSACTION '{name}'"))?;
                let commits = attempt > 0 || rng.bool();
                client.batch_execute(&format!("{} PREPARED '{name}'", if commits { "COMMIT" } else { "ROLLBACK" }))?;
                return Ok(commits);
            }
            client.batch_execute("COMMIT")?;
            Ok(true)
        };
        match work() {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                client.batch_execute("ROLLBACK").unwrap();
                let code = error.code().unwrap_or_else(|| panic!("{error:?}")).clone();
                // A deadlock or a conflict; or another session has skipped the task.
                if code != SqlState::T_R_DEADLOCK_DETECTED && code != SqlState::T_R_SERIALIZATION_FAILURE {
                    panic!("{error:?}");
                }
                if tasks.iter().any(|task| task.claim.is_none()) {
                    return;
                }
            }
        }
        assert!(attempt < 1000, "the tasks cannot be ended");
    }
}

/// What becomes of each task.
pub fn expected(tasks: &[Planned]) -> Vec<(State, bool)> {
    let mut ends: Vec<(State, bool)> = Vec::new();
    for task in tasks {
        let mut parents = Parents::default();
        task.parents.iter().for_each(|parent| parents.add(ends[*parent].0));
        let fate = if task.parents.is_empty() { Fate::Run } else { task.rule.fate(parents) };
        ends.push(match fate {
            Fate::Run => (task.end, matches!(task.end, State::Success | State::Failed)),
            Fate::Fail => (State::Failed, false),
            Fate::Skip => (State::Skipped, false),
            Fate::Undecided => unreachable!("all parents have ended"),
        });
    }
    ends
}

fn check(client: &mut Client, run: Uuid, tasks: &[Planned], seed: u64) {
    let sql = "SELECT task_id, state, try_number FROM workflow.task_instances WHERE dag_run_id = $1";
    let rows = client.query(sql, &[&run]).unwrap();
    let found: HashMap<String, (String, i32)> = rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    let expected = expected(tasks);
    for (task, (state, has_run)) in tasks.iter().zip(&expected) {
        let is = &found[&task.name];
        assert_eq!(is, &(state.to_string(), i32::from(*has_run)), "{} of seed {seed}: {}", task.name, task.rule);
    }
    let state = state_of(client, "dag_run", run).0;
    let has = |wanted: State| expected.iter().any(|(state, _)| *state == wanted);
    let run_state = match (has(State::Failed), has(State::Success)) {
        (true, _) => ["failed"; 2],
        (_, true) => ["success"; 2],
        _ => ["success", "skipped"],
    };
    assert!(run_state.contains(&state.as_str()), "run of seed {seed} is {state}, and not {run_state:?}");
}

/// Runs so many graphs.
fn run_graphs(db: &Db, first_seed: u64, count: u64, prepares: bool) {
    let is_over = AtomicBool::new(false);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&[&is_over]);
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|session| {
                let (mut client, is_over) = (db.connect(), &is_over);
                let mut rng = Rng::with_seed(first_seed * 1000 + session);
                scope.spawn(move || {
                    let sql = "SELECT workflow.set_queue('graph')";
                    client.batch_execute(sql).unwrap();
                    while !is_over.load(Ordering::Relaxed) {
                        let tasks = take(&mut client, &mut rng);
                        if tasks.is_empty() {
                            client.batch_execute("CALL workflow.wait_for_tasks('{graph}', '10 ms')").unwrap();
                        } else {
                            end_all(&mut client, tasks, &mut rng, prepares);
                        }
                    }
                })
            })
            .collect();
        let client = &mut db.connect();
        client.batch_execute("SELECT workflow.set_queue('graph')").unwrap();
        let mut graphs = Vec::new();
        for seed in first_seed..first_seed + count {
            let mut rng = Rng::with_seed(seed);
            let tasks = plan(&mut rng);
            let run = create(client, &tasks, &mut rng);
            if !run.is_nil() {
                graphs.push((seed, run, tasks));
            }
        }
        let sql = "SELECT count(*) FROM workflow.task_instances WHERE NOT workflow.is_finished(state)";
        while client.query_one(sql, &[]).unwrap().get::<_, i64>(0) > 0 {
            assert!(!sessions.iter().any(|session| session.is_finished()), "a session has failed");
            if began.elapsed() > PATIENCE {
                let sql = "SELECT pg_catalog.json_agg(w)::text FROM workflow.waits AS w";
                let waits: Option<String> = client.query_one(sql, &[]).unwrap().get(0);
                panic!("tasks wait for ever: {waits:?}");
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // A run can wait for a look that is to be repeated, which is put off while others look.
        wait_until("all runs have ended", || {
            client.batch_execute("SELECT workflow.look_at_joins()").unwrap();
            undecided(client) == 0
        });
        for (seed, run, tasks) in &graphs {
            check(client, *run, tasks, *seed);
        }
    });
}

#[test]
fn fates_equal_the_pure_function_whatever_happens() {
    let settings = [PRELOADED, ("max_prepared_transactions", "50"), ("max_connections", "100")];
    let (_cluster, db) = own_cluster("random_graphs", &settings);
    run_graphs(&db, 1, 150, true);
}

#[test]
fn fates_equal_the_pure_function_without_preloading() {
    let (_cluster, db) = own_cluster("random_graphs_unpreloaded", &[("max_connections", "100")]);
    run_graphs(&db, 1001, 50, false);
}
