//! Twelve sessions create graphs, claim, end, retry, prepare, roll back, add dependencies and die at the same time, without
//! faults. Then the checker of `cargo xtask chaos` compares the fate of each task; and the checker is tested.

use pg_workflow_state_machine::{State, TriggerRule};
use pg_workflow_tests::chaos::graphs::checker::{Report, check};
use pg_workflow_tests::chaos::graphs::evidence::{Evidence, Join, Record, Run, Task};
use pg_workflow_tests::chaos::graphs::plan::Planned;
use pg_workflow_tests::chaos::graphs::{Crew, Graphs};
use pg_workflow_tests::*;
use std::time::Duration;
use uuid::Uuid;
use xtask::stack::postgres::PRELOADED;

/// Set `CHAOS_SEED` for other choices.
#[test]
fn fates_equal_the_rules_whatever_the_others_do() {
    let (_cluster, db) = own_cluster("graphs", &[PRELOADED, ("max_prepared_transactions", "50")]);
    let seed = std::env::var("CHAOS_SEED").map_or(1, |seed| seed.parse().expect("CHAOS_SEED is a number"));
    let graphs = Graphs::start(db.url(), seed, Crew { workers: 12, pause: Duration::ZERO }).unwrap();
    std::thread::sleep(Duration::from_secs(8));
    let evidence = graphs.finish(db.url()).unwrap();
    let report = check(&evidence);
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(evidence.complaints().collect::<Vec<_>>(), Vec::<String>::new());
    let Report { decided, added, prepared, killed, .. } = report;
    assert!(decided > 50 && added > 5 && prepared > 10 && killed > 2, "{report:?}");
}

/// A run of a parent and its child, as it should be.
fn sound(rule: TriggerRule, parent: State, child: State) -> Evidence {
    let planned = |name: String, parents: &[String]| Planned { name, rule, parents: parents.to_vec(), later: None };
    let names = [format!("0 {parent}"), "1 success".to_owned()];
    let plan = vec![planned(names[0].clone(), &[]), planned(names[1].clone(), &names[..1])];
    let task = |state: State, started: Option<i64>, ended: i64| Task {
        state,
        tries: started.is_some().into(),
        started,
        ended,
        join: None,
    };
    let has_run = child == State::Success;
    let join = Join { rule, parents: [names[0].clone()].into(), is_decided: true };
    let child = Task { join: Some(join), ..task(child, has_run.then_some(4), 5) };
    let tasks = [(names[0].clone(), task(parent, Some(2), 3)), (names[1].clone(), child)].into();
    let state = if parent == State::Failed { State::Failed } else { State::Success };
    let run = Run { id: Uuid::from_u128(1), state, plan, tasks };
    Evidence { runs: vec![run], records: Vec::new() }
}

/// The numbers of findings, and whether the report is clean.
fn counts(evidence: &Evidence) -> ([usize; 6], bool) {
    let report = check(evidence);
    (report.findings().map(|(_, findings)| findings.count), report.is_clean())
}

#[test]
fn checker_accepts_what_the_rule_says() {
    for evidence in [
        sound(TriggerRule::AllSuccess, State::Success, State::Success),
        sound(TriggerRule::AllSuccess, State::Failed, State::Failed),
        sound(TriggerRule::AllDone, State::Failed, State::Success),
        sound(TriggerRule::OneFailed, State::Success, State::Skipped),
    ] {
        assert_eq!(counts(&evidence), ([0; 6], true), "{evidence:?}");
    }
}

#[test]
fn checker_detects_each_fault_of_a_run() {
    let good = || sound(TriggerRule::AllSuccess, State::Success, State::Success);
    let found = |change: fn(&mut Run)| {
        let mut evidence = good();
        change(&mut evidence.runs[0]);
        counts(&evidence).0
    };
    fn child(run: &mut Run) -> &mut Task {
        run.tasks.get_mut("1 success").unwrap()
    }
    assert_eq!(found(|run| child(run).state = State::Queued), [1, 0, 0, 0, 0, 0]);
    assert_eq!(found(|run| child(run).join.as_mut().unwrap().is_decided = false), [1, 0, 0, 0, 0, 0]);
    assert_eq!(found(|run| child(run).tries = 0), [0, 0, 1, 0, 0, 0]);
    assert_eq!(found(|run| child(run).state = State::Skipped), [0, 0, 1, 0, 0, 0]);
    assert_eq!(found(|run| child(run).started = Some(2)), [0, 0, 0, 1, 0, 0]);
    assert_eq!(found(|run| run.state = State::Running), [0, 0, 0, 0, 1, 0]);
    assert_eq!(found(|run| child(run).join = None), [0, 0, 0, 0, 0, 1]);
    let mut unseen = good();
    unseen.records.push(Record { unseen: vec!["a join".to_owned()], ..Record::default() });
    assert_eq!(counts(&unseen), ([0, 1, 0, 0, 0, 0], false));
}
