//! Sessions that wait for each other: both paths give the same response, whatever ends the wait.

use super::{assert_none, entities, faults, stage};
use pg_workflow_tests::fuzz::step::{OWNER, Step};

/// Starts a task in an open transaction.
const FIRST: &str = "SELECT workflow.transition_task_instance('{t0}', 'queued', 'running')";

/// Calls that then wait for it.
const SECOND: &[&str] = &[
    "SELECT workflow.transition_task_instance('{t0}', 'queued', 'running')",
    "SELECT workflow.transition_task_instance('{t0}', 'queued', 'skipped', '{}', 1)",
    "SELECT workflow.transition_task_instance('{t0}', 'queued', 'running', request_id => 'a request')",
    "SELECT * FROM workflow.transition_many('task_instance', ARRAY['{t1}', '{t0}', '{t2}']::uuid[], 'queued', 'running')",
    "SELECT * FROM workflow.transition_many('task_instance', ARRAY['{t1}', '{t0}', '{t2}']::uuid[], NULL, 'skipped')",
    "UPDATE workflow.task_instances SET state = 'running' WHERE id = '{t0}'",
];

/// What the first session does before its transaction ends, and how it ends.
const ENDS: &[&[&str]] = &[
    &["COMMIT"],
    &["ROLLBACK"],
    // The row is as expected again, in a newer version.
    &[
        "SELECT workflow.transition_task_instance('{t0}', 'running', 'failed')",
        "SELECT workflow.transition_task_instance('{t0}', 'failed', 'retrying')",
        "COMMIT",
    ],
    &["DELETE FROM workflow.task_instances WHERE id = '{t0}'", "COMMIT"],
    &["DELETE FROM workflow.dag_runs WHERE id = '{r0}'", "COMMIT"],
    &["PREPARE TRANSACTION '{database}'", "ROLLBACK PREPARED '{database}'"],
    &["PREPARE TRANSACTION '{database}'", "COMMIT PREPARED '{database}'"],
];

/// What the first session does instead of the transition.
const OTHERS: &[&str] = &[
    "UPDATE workflow.task_instances SET max_tries = 9 WHERE id = '{t0}'",
    "SELECT FROM workflow.task_instances WHERE id = '{t0}' FOR UPDATE",
    "SELECT FROM workflow.task_instances WHERE id = '{t0}' FOR KEY SHARE",
    "SELECT FROM workflow.task_instances WHERE id = '{t0}' FOR SHARE",
    "DELETE FROM workflow.task_instances WHERE id = '{t0}'",
    "LOCK TABLE workflow.task_instances IN SHARE MODE",
];

fn open(first: &str) -> Vec<Step> {
    vec![Step::run(0, "BEGIN"), Step::run(0, first)]
}

fn run(session: usize, statements: &[&str]) -> Vec<Step> {
    statements.iter().map(|sql| Step::run(session, *sql)).collect()
}

#[test]
fn end_of_a_wait_is_the_same_by_either_path() {
    let (mut pair, mut found) = (stage().pair(), Vec::new());
    for second in SECOND {
        for end in ENDS {
            let sequence = [entities(), open(FIRST), run(1, &[second]), run(0, end)].concat();
            found.extend(faults(&mut pair, &format!("{second}, {end:?}"), &sequence));
        }
        for other in OTHERS {
            for end in ["COMMIT", "ROLLBACK"] {
                let sequence = [entities(), open(other), run(1, &[second]), run(0, &[end])].concat();
                found.extend(faults(&mut pair, &format!("{second}, {other}, {end}"), &sequence));
            }
        }
        // A savepoint that is rolled back releases its row lock.
        let savepoint = run(0, &["BEGIN", "SAVEPOINT a", FIRST]);
        let sequence = [entities(), savepoint, run(1, &[second]), run(0, &["ROLLBACK TO a", "COMMIT"])].concat();
        found.extend(faults(&mut pair, &format!("{second}, savepoint"), &sequence));
    }
    assert_none(&found);
}

#[test]
fn interrupted_wait_is_the_same_by_either_path() {
    let (mut pair, mut found) = (stage().pair(), Vec::new());
    for second in SECOND {
        let cancel = [entities(), open(FIRST), run(1, &[second]), vec![Step::cancel(1)], run(0, &["COMMIT"])].concat();
        found.extend(faults(&mut pair, &format!("{second}, canceled"), &cancel));
        for timeout in ["lock_timeout", "statement_timeout"] {
            let waits = vec![Step::run(1, format!("SET {timeout} = '50ms'")), Step::until_it_ends(1, *second)];
            let sequence = [entities(), open(FIRST), waits, run(0, &["COMMIT"])].concat();
            found.extend(faults(&mut pair, &format!("{second}, {timeout}"), &sequence));
        }
        // In a transaction, which continues after its savepoint.
        let waits = run(
            1,
            &["BEGIN", "SELECT workflow.transition_task_instance('{t3}', 'queued', 'running')", "SAVEPOINT a", second],
        );
        let goes_on = run(
            1,
            &["ROLLBACK TO a", "SELECT workflow.transition_task_instance('{t4}', 'queued', 'running')", "COMMIT"],
        );
        let sequence = [entities(), open(FIRST), waits, vec![Step::cancel(1)], goes_on, run(0, &["COMMIT"])].concat();
        found.extend(faults(&mut pair, &format!("{second}, canceled in a savepoint"), &sequence));
    }
    assert_none(&found);
}

#[test]
fn creation_waits_the_same_by_either_path() {
    let (mut pair, mut found) = (stage().pair(), Vec::new());
    let create = "SELECT task_id FROM workflow.create_task_instances('{r0}', ARRAY['b0', 'b1'])";
    let firsts = [
        create,
        "SELECT task_id FROM workflow.create_task_instances('{r0}', ARRAY['b0', 'b2'])",
        "SELECT workflow.transition_dag_run('{r0}', 'queued', 'running')",
        "DELETE FROM workflow.dag_runs WHERE id = '{r0}'",
        "DELETE FROM workflow.dags WHERE id = '{d0}'",
        "SELECT FROM workflow.dag_runs WHERE id = '{r0}' FOR UPDATE",
        "LOCK TABLE workflow.dag_runs IN SHARE MODE",
    ];
    for first in firsts {
        for end in
            [&["COMMIT"][..], &["ROLLBACK"], &["PREPARE TRANSACTION '{database}'", "COMMIT PREPARED '{database}'"]]
        {
            let sequence = [entities(), open(first), run(1, &[create]), run(0, end)].concat();
            found.extend(faults(&mut pair, &format!("{first}, {end:?}"), &sequence));
            // And the other way around.
            let sequence = [entities(), open(create), run(1, &[first]), run(0, end)].concat();
            found.extend(faults(&mut pair, &format!("{end:?}, then {first}"), &sequence));
        }
    }
    assert_none(&found);
}

/// A deletion takes the rows as they lie in the table, and stops at the first one that is locked.
#[test]
fn deletion_meets_the_tasks_in_the_same_order_by_either_path() {
    let start = |name: &str| {
        let id = format!("SELECT id FROM workflow.task_instances WHERE dag_run_id = '{{r0}}' AND task_id = '{name}'");
        format!("SELECT workflow.transition_task_instance(({id}), 'queued', 'running')")
    };
    for locked in ["z1", "z5", "z9"] {
        let others = ["z9", "z1", "z5"].into_iter().filter(|name| *name != locked);
        let sequence = [
            entities(),
            run(0, &["SELECT task_id FROM workflow.create_task_instances('{r0}', ARRAY['z9', 'z1', 'z5'])"]),
            open(&start(locked)),
            run(1, &["DELETE FROM workflow.dag_runs WHERE id = '{r0}'"]),
            run(2, &["SET lock_timeout = '50ms'"]),
            others.map(|other| Step::until_it_ends(2, start(other))).collect(),
            run(0, &["COMMIT"]),
        ]
        .concat();
        assert_none(&faults(&mut stage().pair(), locked, &sequence));
    }
}

/// While it is built, an index is not valid, and then not complete.
#[test]
fn index_built_concurrently_has_every_row() {
    let (mut pair, mut found) = (stage().pair(), Vec::new());
    let indexes = [
        "CREATE INDEX CONCURRENTLY of_user ON workflow.task_instances (state, version)",
        "CREATE UNIQUE INDEX CONCURRENTLY of_user ON workflow.task_instances (id, error)",
        "CREATE INDEX CONCURRENTLY of_user ON workflow.task_instances (state) WHERE state = 'running'",
        "REINDEX INDEX CONCURRENTLY workflow.task_instances_state_idx",
        "CREATE INDEX CONCURRENTLY of_user ON workflow.dag_runs (state, version)",
    ];
    for index in indexes {
        let meanwhile = [
            "SELECT workflow.transition_task_instance('{t1}', 'queued', 'running')",
            "SELECT * FROM workflow.transition_many('task_instance', ARRAY['{t2}', '{t3}']::uuid[], NULL, 'running')",
            "SELECT task_id FROM workflow.create_task_instances('{r0}', ARRAY['b0', 'b1'])",
            "SELECT workflow.transition_dag_run('{r0}', 'queued', 'running')",
        ];
        let sequence = [
            entities(),
            open(FIRST),
            // It waits for the first session, and then for the second.
            vec![Step::run(OWNER, index)],
            run(1, &["BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM workflow.task_instances"]),
            run(2, &meanwhile[..2]),
            run(0, &["SELECT workflow.transition_task_instance('{t0}', 'running', 'failed')", "COMMIT"]),
            run(2, &meanwhile[2..]),
            run(1, &["COMMIT"]),
            run(2, &["SELECT workflow.transition_task_instance('{t1}', 'running', 'failed')"]),
            vec![Step::run(OWNER, "DROP INDEX IF EXISTS workflow.of_user")],
        ]
        .concat();
        found.extend(faults(&mut pair, index, &sequence));
    }
    assert_none(&found);
}
