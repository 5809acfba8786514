//! The comparison of the workers' answers with the history of their tasks.

use pg_workflow_state_machine::State;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

use super::evidence::{Answer, Claim, Event, Evidence, Record, Told};
use super::{LIMITED, MAX_TRIES};
use crate::chaos::verdict::Findings;

/// All findings of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Statements and commits without an answer.
    pub unanswered: usize,
    /// Claims in the history, and those of them that ran out.
    pub claims: usize,
    pub expired: usize,
    /// Answers that a claim is lost.
    pub refused: usize,
    /// Confirmed claims and ends that the database lost with their commits, as it may.
    pub undone: usize,
    /// Two workers had a task at once, or a claim counted that was not the last one.
    pub twice: Findings,
    /// Confirmed claims and ends that are not in the history, and tasks that have not ended.
    pub lost: Findings,
    /// Claims and ends of which the history does not say who or why.
    pub untold: Findings,
    /// More tasks than slots, or more tries than allowed.
    pub beyond: Findings,
}

impl Report {
    pub fn findings(&self) -> [(&'static str, &Findings); 4] {
        [
            ("tasks run twice at once", &self.twice),
            ("lost", &self.lost),
            ("not told by the history", &self.untold),
            ("beyond slots or tries", &self.beyond),
        ]
    }

    pub fn is_clean(&self) -> bool {
        self.findings().iter().all(|(_, findings)| findings.count == 0)
    }
}

/// Compares all evidence.
pub fn check(evidence: &Evidence) -> Report {
    let mut report = Report::default();
    check_history(&evidence.history, &mut report);
    let surviving = Surviving::of(evidence);
    let mut claimed = HashSet::new();
    for record in &evidence.records {
        report.unanswered += record.unanswered;
        for answer in &record.answers {
            if answer.told == Told::Claimed && !claimed.insert(answer.claim) {
                report.twice.add(|| format!("{:?} was given out twice", answer.claim));
            }
            surviving.check(answer, record, &mut report);
        }
    }
    report
}

/// A task at one event of its history.
#[derive(Default)]
struct Task<'a> {
    state: Option<State>,
    run: Uuid,
    /// The event by which a worker got it, while it runs by a claim.
    claimed: Option<&'a Event>,
    is_limited: bool,
    /// The attempts that count.
    tries: i32,
    /// It was moved by hand, so that the number of tries is not limited.
    is_by_hand: bool,
}

fn check_history(history: &[Event], report: &mut Report) {
    let mut tasks: HashMap<Uuid, Task<'_>> = HashMap::new();
    let mut slots = 0;
    for event in history {
        if let Some(text) = event.name.strip_prefix("slots ") {
            slots = text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        } else if event.new.is_none() {
            // Of a run: with all its tasks.
            tasks.retain(|id, task| *id != event.entity && task.run != event.entity);
        } else if !event.name.is_empty() {
            let task = tasks.entry(event.entity).or_default();
            follow(task, event, report);
            let is_limited_claim = task.is_limited && task.claimed.is_some_and(|claimed| claimed.id == event.id);
            let running = || tasks.values().filter(|task| task.is_limited && task.claimed.is_some()).count();
            if is_limited_claim && running() > slots {
                report.beyond.add(|| format!("{} run, and there are {slots} slots: {event:?}", running()));
            }
        }
    }
    for (id, task) in tasks {
        if let Some(state @ (State::Queued | State::Retrying | State::Running)) = task.state {
            report.lost.add(|| format!("task {id} is {} at the end", state.as_str()));
        }
    }
}

/// Checks one event of a task.
fn follow<'a>(task: &mut Task<'a>, event: &'a Event, report: &mut Report) {
    task.run = event.run;
    task.is_limited = event.name.starts_with(LIMITED);
    let claimed = task.claimed.take();
    let is_word = event.request_id.is_some();
    let is_expiry = matches!(event.reason.as_deref(), Some("lease expired" | "timeout"));
    let is_by_hand = event.old.is_some() && !is_word && event.reason.is_none() && event.worker.is_none();
    task.is_by_hand |= is_by_hand;
    if is_word {
        check_word(claimed, event, report);
    } else if is_expiry {
        report.expired += 1;
        match claimed {
            None => report.twice.add(|| format!("no claim, and it ran out: {event:?}")),
            Some(claimed) if claimed.worker != event.worker => {
                report.untold.add(|| format!("{:?} had claimed it: {event:?}", claimed.worker));
            }
            Some(_) => (),
        }
    } else if event.old == Some(State::Running) && !is_by_hand {
        report.untold.add(|| format!("it has left running, and nothing says why: {event:?}"));
    }
    if is_released(event) {
        task.tries -= 1;
    }
    if event.new == Some(State::Running) {
        task.tries += 1;
        if event.worker.is_some() {
            report.claims += 1;
            task.claimed = Some(event);
        }
        if task.tries > MAX_TRIES && !task.is_by_hand {
            report.beyond.add(|| format!("try {} of {MAX_TRIES}: {event:?}", task.tries));
        }
    }
    task.state = event.new;
}

/// A word counts only if it is of the claim by which the task runs.
fn check_word(claimed: Option<&Event>, event: &Event, report: &mut Report) {
    let names = |claim: &Event| [format!("claim {}", claim.version), format!("release {}", claim.version)];
    let is_of = |claimed: &Event| {
        let is_same = |claim: Claim| (claim.version, claim.start) == (claimed.version, claimed.changed_at);
        event.request_id.as_ref().is_some_and(|id| names(claimed).contains(id)) && event.claim.is_none_or(is_same)
    };
    if !claimed.is_some_and(is_of) {
        report.twice.add(|| format!("the word of {:?} counted: {event:?}", event.claim));
    } else if event.claim.is_none() && !is_release(event) {
        report.untold.add(|| format!("the metadata of a word is missing: {event:?}"));
    }
}

fn is_release(event: &Event) -> bool {
    event.request_id.as_ref().is_some_and(|id| id.starts_with("release "))
}

fn is_released(event: &Event) -> bool {
    is_release(event) && event.new == Some(State::Retrying)
}

/// The claims that the history has, and which of them it has ended.
struct Surviving<'a> {
    evidence: &'a Evidence,
    by_version: HashMap<(Uuid, i64), &'a Event>,
    /// For each task, when workers were told that it had left an earlier claim: the version, and the time.
    left: HashMap<Uuid, Vec<(i64, i64)>>,
}

impl<'a> Surviving<'a> {
    fn of(evidence: &'a Evidence) -> Surviving<'a> {
        let by_version = evidence.history.iter().map(|event| ((event.entity, event.version), event)).collect();
        let mut surviving = Surviving { evidence, by_version, left: HashMap::new() };
        let mut left: HashMap<Uuid, Vec<(i64, i64)>> = HashMap::new();
        for record in &evidence.records {
            for answer in &record.answers {
                let Claim { task, version, .. } = answer.claim;
                let later = match answer.told {
                    Told::Claimed if surviving.has(answer.claim) => version,
                    // An end can be lost, and said again later.
                    Told::Ended if surviving.has_ended(answer.claim) && !surviving.may_be_lost(answer, record) => {
                        version + 1
                    }
                    _ => continue,
                };
                left.entry(task).or_default().push((later, answer.at));
            }
        }
        surviving.left = left;
        surviving
    }

    /// The event by which the claim was made.
    fn find(&self, Claim { task, version, start }: Claim) -> Option<&'a Event> {
        self.by_version.get(&(task, version)).copied().filter(|event| event.changed_at == start)
    }

    fn has(&self, claim: Claim) -> bool {
        self.find(claim).is_some()
    }

    /// Whether the next event is a word that says so in its metadata.
    fn counts(&self, claim: Claim) -> bool {
        let next = self.by_version.get(&(claim.task, claim.version + 1));
        self.has(claim) && next.is_some_and(|event| event.claim == Some(claim))
    }

    /// Whether the next event is a word of the claim. A release has no metadata.
    fn has_ended(&self, claim: Claim) -> bool {
        let next = self.by_version.get(&(claim.task, claim.version + 1));
        self.counts(claim) || self.has(claim) && next.is_some_and(|event| is_release(event))
    }

    /// Whether the database may have lost the commit.
    fn may_be_lost(&self, answer: &Answer, record: &Record) -> bool {
        let is_within = |(from, to): &(i64, i64)| answer.at >= *from && answer.sent <= *to;
        !record.is_durable || self.evidence.losses.iter().any(is_within)
    }

    /// Whether its task, or the run of it, may have been deleted then. The history does not have a deletion that a crash has undone.
    fn is_deleted_before(&self, Answer { claim, at, .. }: Answer) -> bool {
        let run = self.find(claim).map(|event| event.run);
        let mut deletions = self.evidence.records.iter().flat_map(|record| &record.deletions);
        deletions.any(|(id, sent)| *sent < at && (*id == claim.task || Some(*id) == run))
    }

    /// Whether the worker was told later that its word counts: a commit that had ended the claim was lost.
    fn is_ended_after(&self, answer: &Answer) -> bool {
        let answers = self.evidence.records.iter().flat_map(|record| &record.answers);
        answers
            .filter(|other| other.claim == answer.claim && other.told == Told::Ended)
            .any(|other| other.at > answer.at)
    }

    /// All that is known of a task.
    fn story(&self, task: Uuid) -> String {
        let events = self.evidence.history.iter().filter(|event| event.entity == task);
        let events = events.map(|event| (event.changed_at, format!("{event:?}")));
        let answers = self.evidence.records.iter().flat_map(|record| {
            let own = record.answers.iter().filter(|answer| answer.claim.task == task);
            own.map(|answer| (answer.at, format!("{} {answer:?}", record.worker)))
        });
        let mut lines: Vec<_> = events.chain(answers).collect();
        lines.sort();
        lines.into_iter().map(|(_, line)| line + "\n").collect()
    }

    fn check(&self, answer: &Answer, record: &Record, report: &mut Report) {
        let Answer { claim, told, sent, .. } = *answer;
        match told {
            Told::Claimed if self.has(claim) => {
                if self.find(claim).is_some_and(|event| event.worker.as_ref() != Some(&record.worker)) {
                    report.untold.add(|| format!("{} got {claim:?}", record.worker));
                }
            }
            Told::Ended if self.has_ended(claim) => (),
            Told::Claimed | Told::Ended => {
                if self.may_be_lost(answer, record) {
                    report.undone += 1;
                } else {
                    report.lost.add(|| format!("{} was told: {answer:?}", record.worker));
                }
            }
            Told::Renewed => {
                let is_left = |(version, since): &(i64, i64)| *version > claim.version && *since < sent;
                if self.left.get(&claim.task).is_some_and(|left| left.iter().any(is_left)) {
                    report.twice.add(|| format!("another had the task, and {} renewed: {answer:?}", record.worker));
                }
            }
            Told::Refused => {
                report.refused += 1;
                // Of a deleted task, the database knows no claim.
                if self.counts(claim) && !self.is_deleted_before(*answer) && !self.is_ended_after(answer) {
                    report.untold.add(|| {
                        format!("it counts, and {} was told: {answer:?}\n{}", record.worker, self.story(claim.task))
                    });
                }
            }
        }
    }
}
