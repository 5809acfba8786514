//! The direct path: it is taken in every usual situation, in no unusual one, and does the same as SQL statements.

mod waiting;

use pg_workflow_tests::fuzz::changes::{CHANGES, Path};
use pg_workflow_tests::fuzz::forms::FORMS;
use pg_workflow_tests::fuzz::pair::{Pair, Stage};
use pg_workflow_tests::fuzz::run::run;
use pg_workflow_tests::fuzz::shrink::shrink;
use pg_workflow_tests::fuzz::step::Step;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::time::Duration;

/// The cluster of these tests.
fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| Stage::start("direct"))
}

/// Creates a run `r0` with tasks `t0` to `t8`.
fn entities() -> Vec<Step> {
    let tasks = (0..9).map(|task| format!("t{task}")).collect();
    vec![
        Step::create(0, "SELECT workflow.create_dag_run('{d0}')", vec!["r0".to_owned()]),
        Step::create(
            0,
            "SELECT * FROM workflow.create_task_instances('{r0}', ARRAY['a0', 'a1', 'a2', 'a3', 'a4', 'a5', 'a6', 'a7', 'a8'])",
            tasks,
        ),
    ]
}

fn steps(statements: &[&str]) -> Vec<Step> {
    statements.iter().map(|sql| Step::run(0, *sql)).collect()
}

/// Plays, and returns how the sides differ, with a title.
fn faults(pair: &mut Pair<'_>, title: &str, steps: &[Step]) -> Vec<String> {
    let difference = pair.play(steps).difference();
    if difference.is_empty() { Vec::new() } else { vec![format!("{title}:\n{}", difference.join("\n"))] }
}

/// Returns which path the calls of triggers on both sides show.
fn path(direct: i64, statement: i64) -> Path {
    if direct == statement && statement > 0 { Path::Statement } else { Path::Direct }
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// A creation, then transitions, with measurements between, then everything else.
fn every_call() -> Vec<Step> {
    let mut all = vec![
        Step::measure(),
        Step::create(
            0,
            "SELECT * FROM workflow.create_task_instances('{r0}', ARRAY['a11', 'a10'], 5)",
            vec!["t11".to_owned(), "t10".to_owned()],
        ),
        Step::measure(),
    ];
    all.extend(steps(&[
        "SELECT workflow.transition_task_instance('{t0}', 'queued', 'running', '{\"n\": 1}')",
        "SELECT workflow.transition_task_instance('{t0}', 'running', 'failed', '{\"error\": \"boom\"}')",
        "SELECT * FROM workflow.transition_many('task_instance', ARRAY['{t1}', '{t0}', '{t9}', '{t2}', '{t1}']::uuid[], 'queued', 'running')",
    ]));
    all.push(Step::measure());
    all.extend(steps(&[
        "SELECT workflow.transition_dag_run('{r0}', 'queued', 'running')",
        "SELECT workflow.transition_task_instance('{t0}', 'failed', 'retrying', '{}', 7)",
        "SELECT workflow.transition_task_instance('{t0}', 'queued', 'running')",
        "SELECT workflow.transition_task_instance('{t9}', 'queued', 'running')",
        "SELECT workflow.transition_task_instance('{t0}', 'failed', 'retrying', '{}', 3, 'a request')",
        "SELECT workflow.transition_task_instance('{t0}', 'failed', 'retrying', '{}', 3, 'a request')",
        "SELECT * FROM workflow.transition_many('task_instance', ARRAY['{t0}']::uuid[], 'success', 'running')",
        "SELECT * FROM workflow.transition_many('task_instance', ARRAY['{t1}', '{t2}']::uuid[], NULL, 'skipped')",
        "SELECT * FROM workflow.transition_many('task_instance', ARRAY['{t4}', '{t9}']::uuid[], 'retrying', 'running')",
        "SELECT * FROM workflow.transition_many('task_instance', '{}', 'retrying', 'running')",
        "SELECT count(*) FROM workflow.create_task_instances('{r0}', ARRAY['a9'])",
        "SELECT count(*) FROM workflow.create_task_instances('{r0}', ARRAY['a12', 'a1'])",
        "SELECT count(*) FROM workflow.create_task_instances('{r0}', '{}')",
        "SELECT count(*) FROM workflow.create_task_instances('{r9}', '{}')",
        "SET ROLE fuzz_writer",
        "SELECT count(*) FROM workflow.create_task_instances('{r0}', ARRAY['a13'])",
        "SELECT workflow.transition_task_instance('{t4}', 'queued', 'running')",
        "SELECT workflow.transition_task_instance('{t5}', 'queued', 'running')",
        "SELECT * FROM workflow.transition_many('task_instance', ARRAY['{t4}', '{t5}']::uuid[], NULL, 'failed')",
        "RESET ROLE",
        "UPDATE workflow.task_instances SET state = 'failed' WHERE id = '{t3}'",
        "DELETE FROM workflow.task_instances WHERE id IN ('{t3}', '{t6}')",
    ]));
    all
}

#[test]
fn definition_of_a_table_decides_the_path() {
    let (mut pair, mut found): (Option<Pair<'_>>, _) = (None, Vec::new());
    for (number, change) in CHANGES.iter().enumerate() {
        let current = pair.get_or_insert_with(|| stage().pair());
        let sequence = [entities(), vec![Step::toggle(number)], every_call()].concat();
        let fault = faults(current, change.apply, &sequence);
        let [direct, statement] = current.measured();
        // What follows would differ, too.
        pair.take_if(|pair| pair.is_spoiled() || !fault.is_empty());
        found.extend(fault);
        let paths = [path(direct[1][0], statement[1][0]), path(direct[0][1], statement[0][1])];
        if paths != [change.transitions, change.creations] {
            found.push(format!("{}: {paths:?}, calls {direct:?} and {statement:?}", change.apply));
        }
    }
    assert_none(&found);
}

#[test]
fn statement_of_a_call_decides_the_path() {
    let (mut pair, mut found) = (stage().pair(), Vec::new());
    for form in FORMS {
        let sql = form.fill("{t0}", "{t1}", ["queued", "running"]);
        let call = vec![Step::measure(), Step::run(0, sql.clone()), Step::run(0, "ROLLBACK"), Step::measure()];
        let again = steps(&["SELECT workflow.transition_task_instance('{t0}', 'running', 'failed')"]);
        found.extend(faults(&mut pair, &sql, &[entities(), call, again].concat()));
        let [direct, statement] = pair.measured();
        if path(direct[0][0], statement[0][0]) != form.path {
            found.push(format!("{sql}: calls {direct:?} and {statement:?}"));
        }
    }
    assert_none(&found);
}

#[test]
fn rights_of_a_role_decide_the_path() {
    let (mut pair, mut found) = (stage().pair(), Vec::new());
    let roles = [
        ("fuzz_writer", Path::Direct),
        ("fuzz_updater", Path::Direct),
        ("fuzz_mover", Path::Direct),
        ("fuzz_narrow", Path::Statement),
        // They get the error of the statement.
        ("fuzz_blind", Path::Direct),
        ("fuzz_reader", Path::Direct),
    ];
    for (role, expected) in roles {
        for role_setting in [format!("SET ROLE {role}"), format!("SET SESSION AUTHORIZATION {role}")] {
            let sequence = [entities(), steps(&[&role_setting]), every_call()].concat();
            found.extend(faults(&mut pair, &role_setting, &sequence));
            let [direct, statement] = pair.measured();
            if path(direct[1][0], statement[1][0]) != expected {
                found.push(format!("{role_setting}: calls {direct:?} and {statement:?}"));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn what_a_statement_would_reject_is_rejected() {
    let retry = "SELECT workflow.transition_task_instance('{t0}', 'queued', 'running', request_id => 'again')";
    let without_identity = [
        retry,
        "ALTER TABLE workflow.task_instances REPLICA IDENTITY NOTHING",
        "CREATE PUBLICATION fuzz_updates FOR TABLE workflow.task_instances",
        // It updates nothing.
        retry,
        "SELECT workflow.transition_task_instance('{t1}', 'queued', 'running')",
    ];
    // The names in its body were looked up by its owner.
    let without_schema = [
        "CREATE FUNCTION public.start(task uuid) RETURNS bigint LANGUAGE sql BEGIN ATOMIC
             SELECT workflow.transition_task_instance(task, 'queued', 'running'); END",
        "REVOKE USAGE ON SCHEMA workflow FROM fuzz_mover",
        "SET ROLE fuzz_mover",
        "SELECT public.start('{t0}')",
    ];
    for (title, sequence) in [("publication", &without_identity[..]), ("schema", &without_schema)] {
        let sequence = [entities(), steps(sequence)].concat();
        assert_none(&faults(&mut stage().pair(), title, &sequence));
    }
    // An owner can revoke its own rights.
    for table in ["dag_runs", "task_instances", "state_history"] {
        for right in ["SELECT", "INSERT", "UPDATE"] {
            let revoke = [
                "GRANT CREATE ON SCHEMA workflow TO fuzz_writer",
                &format!("ALTER TABLE workflow.{table} OWNER TO fuzz_writer"),
                &format!("REVOKE {right} ON workflow.{table} FROM fuzz_writer"),
                "SELECT count(*) FROM workflow.create_task_instances('{r0}', ARRAY['rejected'])",
            ];
            let sequence = [entities(), steps(&revoke)].concat();
            assert_none(&faults(&mut stage().pair(), &format!("{right} ON {table}"), &sequence));
        }
    }
}

#[test]
fn thousands_of_rows_are_the_same_by_either_path() {
    let of_all = "(SELECT array_agg(id ORDER BY task_id) FROM workflow.task_instances WHERE dag_run_id = '{r0}')";
    let sequence = [
        entities(),
        steps(&[
            "SELECT count(*), min(task_id) FROM workflow.create_task_instances('{r0}', ARRAY(SELECT 'x' || n FROM generate_series(1, 2500) AS n))",
            &format!("SELECT outcome, state, version, count(*) FROM workflow.transition_many('task_instance', {of_all}, NULL, 'running') GROUP BY 1, 2, 3"),
            &format!("SELECT outcome, state, version, count(*) FROM workflow.transition_many('task_instance', {of_all}, 'running', 'failed', jsonb_build_object('error', repeat('x', 3000))) GROUP BY 1, 2, 3"),
        ]),
    ]
    .concat();
    assert_none(&faults(&mut stage().pair(), "many rows", &sequence));
}

/// A seed that any run has, and one that only this run has.
#[test]
fn random_statements_do_the_same_by_either_path() {
    for seed in [1, RandomState::new().hash_one(()) % 1_000_000] {
        let played = run(stage(), seed, Duration::from_secs(7)).unwrap_or_else(|report| panic!("{report}"));
        let [direct, statement] = played.calls;
        assert!(direct[0] * 10 < statement[0] * 9, "seed {seed}: transitions seldom take the direct path: {played:?}");
        assert!(direct[1] * 4 < statement[1] * 3, "seed {seed}: creations seldom take the direct path: {played:?}");
    }
}

#[test]
fn different_sides_are_reported() {
    let mut pair = stage().pair();
    // The one setting in which they differ.
    let sequence = steps(&["SHOW pg_workflow.direct_path"]);
    let difference = pair.play(&sequence).difference();
    assert_eq!(difference, ["  direct:    0, session 0: on", "  statement: 0, session 0: off"]);
}

#[test]
fn shrinking_keeps_only_the_needed_steps() {
    let all: Vec<Step> = (0..37).map(|number| Step::run(0, format!("SELECT {number}"))).collect();
    let has =
        |steps: &[Step], number: usize| steps.iter().any(|step| step.to_string() == format!("0: SELECT {number}"));
    let left = shrink(all, |steps| has(steps, 3) && has(steps, 30));
    assert_eq!(left.iter().map(Step::to_string).collect::<Vec<_>>(), ["0: SELECT 3", "0: SELECT 30"]);
}
