//! The comparison of each task with the pure function of its parents' ends.

use pg_workflow_state_machine::{Fate, Parents, State};
use std::collections::BTreeSet;

use super::evidence::{Evidence, Join, Run, Task};
use super::plan::end_of;
use crate::chaos::verdict::Findings;

/// All findings of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub runs: usize,
    pub tasks: usize,
    /// Tasks that failed or were skipped because of their parents.
    pub decided: usize,
    /// Sums of the workers' counts.
    pub claims: usize,
    pub added: usize,
    pub prepared: usize,
    pub rolled_back: usize,
    pub conflicts: usize,
    pub killed: usize,
    pub unanswered: usize,
    /// Tasks that have not ended, and dependencies that are undecided though all parents have ended.
    pub lost: Findings,
    /// Joins that watched a task which had ended, at some time.
    pub unseen: Findings,
    /// Tasks that ended in another state than the pure function says.
    pub wrong: Findings,
    /// Tasks that started before their parents had decided that.
    pub early: Findings,
    /// Runs that have not ended, or in another state than their tasks say.
    pub runs_wrong: Findings,
    /// Dependencies that are missing, or that no call made.
    pub edges: Findings,
}

impl Report {
    pub fn findings(&self) -> [(&'static str, &Findings); 6] {
        [
            ("lost", &self.lost),
            ("not looked at", &self.unseen),
            ("another fate than the rule's", &self.wrong),
            ("started too early", &self.early),
            ("runs not ended rightly", &self.runs_wrong),
            ("other dependencies than planned", &self.edges),
        ]
    }

    pub fn is_clean(&self) -> bool {
        self.findings().iter().all(|(_, findings)| findings.count == 0)
    }
}

/// Compares all evidence.
pub fn check(evidence: &Evidence) -> Report {
    let mut report = Report { runs: evidence.runs.len(), ..Report::default() };
    for record in &evidence.records {
        report.claims += record.claims;
        report.added += record.added;
        report.prepared += record.prepared;
        report.rolled_back += record.rolled_back;
        report.conflicts += record.conflicts;
        report.killed += record.killed;
        report.unanswered += record.unanswered;
        record.unseen.iter().for_each(|wait| report.unseen.add(|| wait.clone()));
    }
    for run in &evidence.runs {
        report.tasks += run.tasks.len();
        check_edges(run, &mut report);
        run.tasks.iter().for_each(|(name, task)| check_task(run, name, task, &mut report));
        check_run(run, &mut report);
    }
    report
}

/// A dependency of the plan is there, unless it was to be added later; and there is no other one.
fn check_edges(run: &Run, report: &mut Report) {
    for planned in &run.plan {
        let Some(task) = run.tasks.get(&planned.name) else { continue };
        let wanted: BTreeSet<String> = planned.parents.iter().cloned().collect();
        let with_later: BTreeSet<String> = wanted.iter().chain(&planned.later).cloned().collect();
        let parents = task.join.as_ref().map(|join| join.parents.clone()).unwrap_or_default();
        let is_rule = task.join.as_ref().is_none_or(|join| join.rule == planned.rule || planned.parents.is_empty());
        if !is_rule || (parents != wanted && parents != with_later) {
            report.edges.add(|| format!("{} of run {}: {:?}, planned: {planned:?}", planned.name, run.id, task.join));
        }
    }
}

fn check_task(run: &Run, name: &str, task: &Task, report: &mut Report) {
    let story = || format!("{name} of run {}: {task:?}", run.id);
    let own_end = end_of(name).unwrap_or(State::Queued);
    if !task.state.is_finished() {
        report.lost.add(story);
        return;
    }
    let Some(join) = &task.join else {
        if task.state != own_end {
            report.wrong.add(story);
        }
        return;
    };
    let fate = join.rule.fate(parents_before(run, join, i64::MAX));
    if !join.is_decided {
        report.lost.add(story);
    }
    let (expected, has_run) = match fate {
        // Tasks that end as skipped are skipped from the queue.
        Fate::Run => (own_end, own_end != State::Skipped),
        Fate::Fail => (State::Failed, false),
        Fate::Skip => (State::Skipped, false),
        Fate::Undecided => return,
    };
    if fate != Fate::Run {
        report.decided += 1;
    }
    if (task.state, task.tries > 0) != (expected, has_run) {
        report.wrong.add(|| format!("{fate:?}: {}", story()));
    }
    let began = task.started.unwrap_or(task.ended);
    if join.rule.fate(parents_before(run, join, began)) != fate {
        report.early.add(|| format!("{fate:?}: {}", story()));
    }
}

/// How the parents had ended before an event.
fn parents_before(run: &Run, join: &Join, event: i64) -> Parents {
    let mut parents = Parents::default();
    for parent in join.parents.iter().filter_map(|name| run.tasks.get(name)) {
        parents.add(if parent.ended < event { parent.state } else { State::Running });
    }
    parents
}

fn check_run(run: &Run, report: &mut Report) {
    let has = |state: State| run.tasks.values().any(|task| task.state == state);
    let is_right = match (has(State::Failed), has(State::Success)) {
        (true, _) => run.state == State::Failed,
        (_, true) => run.state == State::Success,
        _ => matches!(run.state, State::Success | State::Skipped),
    };
    if !is_right {
        report.runs_wrong.add(|| format!("run {} is {}: {:?}", run.id, run.state, run.tasks));
    }
}
