//! Reruns of random graphs by many sessions at once: what becomes of each task is what the pure function says, and nothing
//! that succeeded runs again.

use super::property::{Planned, expected, plan};
use super::rerun::rerun;
use super::*;
use fastrand::Rng;
use pg_workflow_state_machine::{Fate, Parents, State};
use postgres::error::SqlState;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xtask::stack::postgres::PRELOADED;

const SESSIONS: u64 = 16;
/// A task whose name says that it fails does so at its first attempts.
const FAILURES: i32 = 2;

/// Creates the tasks in a new run. Those that are to be skipped are in no queue.
fn create(client: &mut Client, tasks: &[Planned]) -> Uuid {
    let (_, run) = create_run(client);
    let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
    let parents = |task: &Planned| task.parents.iter().map(|n| json!(tasks[*n].name)).collect::<Value>();
    let depends_on: Value = tasks.iter().map(|task| (task.name.clone(), parents(task))).collect();
    let rules: Value = tasks.iter().map(|task| (task.name.clone(), json!(task.rule.as_str()))).collect();
    let sql = "WITH new AS MATERIALIZED (
            SELECT id, task_id FROM workflow.create_task_instances($1, $2, depends_on => $3, trigger_rules => $4))
        SELECT count(outcome) FROM workflow.enqueue_task_instances(
            ARRAY(SELECT id FROM new WHERE task_id NOT LIKE '%skipped'), 'graph')";
    client.query_one(sql, &[&run, &names, &depends_on, &rules]).unwrap();
    run
}

/// Claims tasks and ends them, in a transaction that is rolled back, prepared or committed.
fn work(client: &mut Client, rng: &mut Rng, prepares: bool) -> Result<bool, postgres::Error> {
    let claims = "SELECT task_id, claim, id, try_number FROM workflow.claim_tasks('worker', '{graph}', $1)";
    let claims = client.query(claims, &[&rng.i32(1..4)])?;
    let skip = "SELECT t.id, t.state FROM workflow.task_instances AS t
        WHERE t.state IN ('queued', 'retrying') AND t.queue_id IS NULL
            AND NOT EXISTS (SELECT FROM workflow.waits AS w WHERE w.join_id = t.join_id)
        ORDER BY random() LIMIT 2";
    let skips = client.query(skip, &[])?;
    for attempt in 0.. {
        let result = (|| {
            client.batch_execute("BEGIN")?;
            for row in &claims {
                let (name, claim, id): (String, String, Uuid) = (row.get(0), row.get(1), row.get(2));
                let fails = name.ends_with("failed") && row.get::<_, i32>(3) <= FAILURES;
                match (fails, rng.bool()) {
                    (false, true) => client.query("SELECT workflow.complete_claim($1)", &[&claim])?,
                    (true, true) => client.query("SELECT workflow.fail_claim($1, 'broken', '-1 s')", &[&claim])?,
                    (_, false) => {
                        let state = if fails { "failed" } else { "success" };
                        let sql = "SELECT workflow.transition_task_instance($1, 'running', $2)";
                        client.query(sql, &[&id, &state])?
                    }
                };
            }
            let end = if rng.u8(..5) == 0 { "ROLLBACK" } else { "COMMIT" };
            if prepares && rng.u8(..5) == 0 {
                let name = format!("p{}", rng.u64(..));
                client.batch_execute(&format!("PREPARE TRANSACTION '{name}'"))?;
                client.batch_execute(&format!("{end} PREPARED '{name}'"))?;
            } else {
                client.batch_execute(end)?;
            }
            Ok(end == "COMMIT")
        })();
        match result {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => abort(client, &error),
        }
        assert!(attempt < 1000, "the tasks cannot be ended");
    }
    for row in &skips {
        let (id, state): (Uuid, String) = (row.get(0), row.get(1));
        let ends: &[&str] = if state == "queued" { &["skipped"] } else { &["running", "success"] };
        let mut from = state;
        for to in ends {
            // Another session can have been faster.
            let sql = "UPDATE workflow.task_instances SET state = $2 WHERE id = $1 AND state = $3";
            match client.execute(sql, &[&id, to, &from]) {
                Ok(1) => from = to.to_string(),
                Ok(_) => break,
                Err(error) => {
                    abort(client, &error);
                    break;
                }
            }
        }
    }
    Ok(!claims.is_empty() || !skips.is_empty())
}

/// Ends a transaction that has failed because of a deadlock, and by nothing else.
fn abort(client: &mut Client, error: &postgres::Error) {
    assert_eq!(error.code(), Some(&SqlState::T_R_DEADLOCK_DETECTED), "{error:?}");
    client.batch_execute("ROLLBACK").unwrap();
}

/// Runs `check` while sessions work.
fn while_sessions_work(
    db: &Db,
    seed: u64,
    prepares: bool,
    check: impl FnOnce(&mut Client, &dyn Fn(&mut Client, &str)),
) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&[&is_over]);
        db.connect().batch_execute("SELECT workflow.set_queue('graph')").unwrap();
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|session| {
                let (mut client, is_over) = (db.connect(), &is_over);
                let mut rng = Rng::with_seed(seed * 1000 + session);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        if !work(&mut client, &mut rng, prepares).unwrap() {
                            client.batch_execute("CALL workflow.wait_for_tasks('{graph}', '10 ms')").unwrap();
                        }
                    }
                })
            })
            .collect();
        let wait = |client: &mut Client, what: &str| {
            let began = Instant::now();
            let sql = "SELECT count(*) FROM workflow.task_instances WHERE NOT workflow.is_finished(state)";
            while client.query_one(sql, &[]).unwrap().get::<_, i64>(0) > 0 {
                assert!(!sessions.iter().any(|session| session.is_finished()), "a session has failed");
                assert!(began.elapsed() < PATIENCE, "tasks wait for ever: {what}");
                std::thread::sleep(Duration::from_millis(20));
            }
            // A run can wait for a look that is to be repeated.
            client.batch_execute("SELECT workflow.look_at_joins()").unwrap();
            assert_eq!(undecided(client), 0, "{what}");
        };
        check(&mut db.connect(), &wait);
    });
}

/// The state and the number of attempts of each task.
fn found(client: &mut Client, run: Uuid, tasks: &[Planned]) -> Vec<(State, i32)> {
    let sql = "SELECT task_id, state, try_number FROM workflow.task_instances WHERE dag_run_id = $1";
    let rows = client.query(sql, &[&run]).unwrap();
    let by_name: BTreeMap<String, (State, i32)> =
        rows.iter().map(|row| (row.get(0), (row.get::<_, String>(1).parse().unwrap(), row.get(2)))).collect();
    tasks.iter().map(|task| by_name[&task.name]).collect()
}

/// What becomes of the tasks that failed if all that run again end as `end` says.
fn after_rerun(tasks: &[Planned], before: &[(State, i32)], end: impl Fn(&Planned, i32) -> State) -> Vec<(State, i32)> {
    let mut ends: Vec<(State, i32)> = Vec::new();
    for (task, (state, tries)) in tasks.iter().zip(before) {
        let mut parents = Parents::default();
        task.parents.iter().for_each(|parent| parents.add(ends[*parent].0));
        let fate = if task.parents.is_empty() { Fate::Run } else { task.rule.fate(parents) };
        ends.push(match (state, fate) {
            (State::Failed, Fate::Run) => (end(task, tries + 1), tries + 1),
            (state, _) => (*state, *tries),
        });
    }
    ends
}

fn check_run(client: &mut Client, run: Uuid, ends: &[(State, i32)], seed: u64) {
    let state = state_of(client, "dag_run", run).0;
    let has = |wanted: State| ends.iter().any(|(state, _)| *state == wanted);
    let expected: &[&str] = match (has(State::Failed), has(State::Success)) {
        (true, _) => &["failed"],
        (_, true) => &["success"],
        _ => &["success", "skipped"],
    };
    assert!(expected.contains(&state.as_str()), "run of seed {seed} is {state}, and not {expected:?}");
}

/// Each graph fails as planned, then runs again until all that may run has succeeded.
fn rerun_graphs(db: &Db, first_seed: u64, count: u64, prepares: bool) {
    while_sessions_work(db, first_seed, prepares, |client, wait| {
        let seeds = first_seed..first_seed + count;
        let graphs: Vec<(u64, Uuid, Vec<Planned>)> = seeds
            .map(|seed| {
                let tasks = plan(&mut Rng::with_seed(seed));
                (seed, create(client, &tasks), tasks)
            })
            .collect();
        wait(client, "at first");
        for round in 0..=FAILURES {
            let before: Vec<_> = graphs.iter().map(|(_, run, tasks)| found(client, *run, tasks)).collect();
            for ((seed, run, tasks), before) in graphs.iter().zip(&before) {
                if round == 0 {
                    let expected = expected(tasks).into_iter().map(|(state, has_run)| (state, i32::from(has_run)));
                    assert_eq!(before, &expected.collect::<Vec<_>>(), "seed {seed}");
                }
                check_run(client, *run, before, *seed);
                if state_of(client, "dag_run", *run).0 == "failed" {
                    rerun(client, *run);
                }
            }
            wait(client, "after a rerun");
            for ((seed, run, tasks), before) in graphs.iter().zip(&before) {
                let end = |task: &Planned, tries: i32| {
                    let fails = task.end == State::Failed && tries <= FAILURES;
                    if fails { State::Failed } else { State::Success }
                };
                let expected = after_rerun(tasks, before, end);
                assert_eq!(found(client, *run, tasks), expected, "seed {seed}, rerun {round}");
                check_run(client, *run, &expected, *seed);
            }
        }
    });
}

#[test]
fn fates_after_reruns_equal_the_pure_function() {
    let settings = [PRELOADED, ("max_prepared_transactions", "50"), ("max_connections", "100")];
    let (_cluster, db) = own_cluster("random_reruns", &settings);
    rerun_graphs(&db, 1, 120, true);
}

#[test]
fn fates_after_reruns_are_right_without_preloading() {
    let (_cluster, db) = own_cluster("random_reruns_unpreloaded", &[("max_connections", "100")]);
    rerun_graphs(&db, 2001, 40, false);
}

/// Reruns at any time, also of tasks that are about to be decided.
#[test]
fn reruns_race_with_claims_and_ends() {
    let settings = [PRELOADED, ("max_prepared_transactions", "50"), ("max_connections", "100")];
    let (_cluster, db) = own_cluster("racing_reruns", &settings);
    while_sessions_work(&db, 1, true, |client, wait| {
        let mut rng = Rng::with_seed(1);
        let mut graphs = Vec::new();
        let mut reruns = 0;
        for seed in 1..=100 {
            let tasks = plan(&mut Rng::with_seed(seed));
            graphs.push((seed, create(client, &tasks), tasks));
            for _ in 0..10 {
                let (_, run, _) = &graphs[rng.usize(..graphs.len())];
                let sql = "SELECT count(*) FROM workflow.rerun_tasks($1, downstream => $2)";
                // A run that has succeeded is final.
                match client.query_one(sql, &[run, &rng.bool()]) {
                    Ok(row) => reruns += row.get::<_, i64>(0),
                    Err(error) => assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE)),
                }
            }
        }
        assert!(reruns > 100, "{reruns} tasks were rerun");
        wait(client, "during reruns");
        for round in 0..=FAILURES + 1 {
            let failed = graphs.iter().filter(|(_, run, _)| state_of(client, "dag_run", *run).0 == "failed");
            let failed: Vec<Uuid> = failed.map(|graph| graph.1).collect();
            let count: usize = failed.iter().map(|run| rerun(client, *run).len()).sum();
            wait(client, "after the last rerun");
            assert!(round <= FAILURES || count == 0, "{count} tasks fail again");
        }
        for (seed, run, tasks) in &graphs {
            let ends = found(client, *run, tasks);
            check_run(client, *run, &ends, *seed);
            for (task, (state, tries)) in tasks.iter().zip(&ends) {
                let most = if task.end == State::Failed { FAILURES + 1 } else { 1 };
                let problem = format!("{} of seed {seed} is {state} after {tries} attempts", task.name);
                assert!(*tries <= most, "{problem}");
                let mut parents = Parents::default();
                task.parents.iter().for_each(|parent| parents.add(ends[*parent].0));
                let may_run = task.parents.is_empty() || task.rule.fate(parents) == Fate::Run;
                assert!(*state != State::Failed || !may_run, "{problem}, and may run");
            }
        }
    });
}
