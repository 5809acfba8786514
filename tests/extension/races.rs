//! Many sessions race for the same tasks: one session wins each version.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use serde_json::json;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use uuid::Uuid;

const SESSIONS: usize = 16;
const TASKS: usize = 50;

/// Runs `race` in [`SESSIONS`] sessions at once, each with its own order of the tasks.
fn in_sessions(db: &Db, tasks: &[Uuid], race: impl Fn(&mut postgres::Client, Uuid) + Sync) {
    let start = Barrier::new(SESSIONS);
    std::thread::scope(|scope| {
        for session in 0..SESSIONS {
            let (start, race) = (&start, &race);
            scope.spawn(move || {
                let client = &mut db.connect();
                start.wait();
                for i in 0..tasks.len() {
                    race(client, tasks[(i * 7 + session * 3) % tasks.len()]);
                }
            });
        }
    });
}

#[test]
fn one_racer_wins_and_the_others_learn_the_current_state() {
    let db = Db::new();
    let tasks = create_tasks(&mut db.connect(), TASKS);
    let (won, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
    in_sessions(&db, &tasks, |client, task| {
        match Transition::of(task).from(State::Queued).to(State::Running).run(client) {
            Ok(version) => {
                assert_eq!(version, 2);
                won.fetch_add(1, Ordering::Relaxed);
            }
            error => {
                let failure = failure(error);
                assert_eq!(failure.sqlstate, "40001");
                assert_eq!(
                    (&failure.detail["current_state"], &failure.detail["current_version"]),
                    (&json!("running"), &json!(2))
                );
                lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    assert_eq!((won.into_inner(), lost.into_inner()), (TASKS, TASKS * (SESSIONS - 1)));
    let history: i64 = tasks.iter().map(|task| history_len(&mut db.connect(), *task)).sum();
    assert_eq!(history, 2 * TASKS as i64);
}

#[test]
fn racing_plain_updates_apply_once() {
    let db = Db::new();
    let tasks = create_tasks(&mut db.connect(), TASKS);
    let won = AtomicUsize::new(0);
    in_sessions(&db, &tasks, |client, task| {
        let sql = "UPDATE workflow.task_instances SET state = 'running' WHERE id = $1 AND state = 'queued'";
        won.fetch_add(client.execute(sql, &[&task]).unwrap() as usize, Ordering::Relaxed);
    });
    assert_eq!(won.into_inner(), TASKS);
}

#[test]
fn repeated_request_id_applies_once_across_sessions() {
    let db = Db::new();
    let tasks = create_tasks(&mut db.connect(), TASKS);
    in_sessions(&db, &tasks, |client, task| {
        let start = Transition::of(task).from(State::Queued).to(State::Running).request("start");
        assert_eq!(start.run(client).unwrap(), 2);
    });
    for task in tasks {
        assert_eq!(history_len(&mut db.connect(), task), 2);
    }
}

#[test]
fn each_version_is_won_once_by_racing_sessions() {
    let db = Db::new();
    let tasks = create_tasks(&mut db.connect(), 5);
    let won = AtomicUsize::new(0);
    in_sessions(&db, &tasks, |client, task| {
        for _ in 0..20 {
            let (state, version) = state_of(client, "task_instance", task);
            let from: State = state.parse().unwrap();
            let to = if from == State::Running { State::Retrying } else { State::Running };
            match Transition::of(task).from(from).to(to).version(version).run(client) {
                Ok(new_version) => assert_eq!(new_version, version + 1),
                error => {
                    assert_eq!(failure(error).sqlstate, "40001");
                    continue;
                }
            }
            won.fetch_add(1, Ordering::Relaxed);
        }
    });
    let client = &mut db.connect();
    let last: i64 = tasks.iter().map(|task| state_of(client, "task_instance", *task).1 - 1).sum();
    assert_eq!(last, won.into_inner() as i64);
}
