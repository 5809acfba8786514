//! The comparison of every promise with the contents of history, stream and receivers.

use std::collections::{HashMap, HashSet};
use uuid::Uuid;

use super::event::Event;
use super::evidence::{Entry, Evidence};
use super::receivers::Received;

/// The longest time between an event's entry and its publication, in milliseconds: if a relay is killed between the two,
/// another one must first take over.
const PUBLISHED_WITHIN: i64 = 15_000;

/// Violations of one kind: their number, and a description of the first ones.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    pub count: usize,
    pub first: Vec<String>,
}

impl Findings {
    const SHOWN: usize = 10;

    pub(super) fn add(&mut self, describe: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < Self::SHOWN {
            self.first.push(describe());
        }
    }

    pub(super) fn all(descriptions: &[String]) -> Findings {
        Findings { count: descriptions.len(), first: descriptions.iter().take(Self::SHOWN).cloned().collect() }
    }
}

/// The findings in one place: the acknowledgements, the stream, or a receiver.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    pub checked: usize,
    pub lost: Findings,
    pub duplicated: Findings,
    pub disordered: Findings,
    pub phantom: Findings,
    /// Events whose content differs from history.
    pub altered: Findings,
    /// Events not received because Redis or its connection was down.
    pub missed: usize,
    /// Events received more than once, which a receiver must expect.
    pub repeated: usize,
}

impl Verdict {
    pub fn findings(&self) -> [(&'static str, &Findings); 5] {
        [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("out of order", &self.disordered),
            ("phantom", &self.phantom),
            ("altered", &self.altered),
        ]
    }

    pub fn is_clean(&self) -> bool {
        self.findings().iter().all(|(_, findings)| findings.count == 0)
    }
}

/// All findings of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Confirmed transitions, compared with history.
    pub acknowledged: Verdict,
    /// History, compared with the stream.
    pub stream: Verdict,
    /// History, compared with each receiver.
    pub receivers: Vec<Verdict>,
    pub problems: Findings,
    pub complaints: Findings,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        let verdicts = [&self.acknowledged, &self.stream].into_iter().chain(&self.receivers);
        verdicts.into_iter().all(Verdict::is_clean) && self.problems.count == 0 && self.complaints.count == 0
    }
}

/// Compares all evidence.
pub fn check(evidence: &Evidence) -> Report {
    let history = History::of(&evidence.history);
    let written_at: HashMap<i64, i64> =
        evidence.stream.iter().filter_map(|entry| Some((entry.event.id, entry.written_at()?))).collect();
    Report {
        acknowledged: check_acknowledged(&evidence.acknowledged, &history),
        stream: check_stream(&evidence.stream, &history),
        receivers: evidence.receivers.iter().map(|one| check_receiver(one, &history, &written_at)).collect(),
        problems: Findings::all(&evidence.problems),
        complaints: Findings::all(&evidence.complaints),
    }
}

/// The history, indexed.
struct History<'a> {
    events: &'a [Event],
    by_id: HashMap<i64, &'a Event>,
    versions: HashSet<(Uuid, i64)>,
}

impl<'a> History<'a> {
    fn of(events: &'a [Event]) -> History<'a> {
        let by_id = events.iter().map(|event| (event.id, event)).collect();
        let versions = events.iter().map(|event| (event.entity, event.version)).collect();
        History { events, by_id, versions }
    }
}

fn check_acknowledged(acknowledged: &[(Uuid, i64)], history: &History<'_>) -> Verdict {
    let mut verdict = Verdict { checked: acknowledged.len(), ..Verdict::default() };
    let mut seen = HashSet::new();
    for &(entity, version) in acknowledged {
        if !history.versions.contains(&(entity, version)) {
            verdict.lost.add(|| format!("version {version} of {entity} was confirmed"));
        }
        if !seen.insert((entity, version)) {
            verdict.duplicated.add(|| format!("version {version} of {entity} was confirmed twice"));
        }
    }
    verdict
}

fn check_stream(stream: &[Entry], history: &History<'_>) -> Verdict {
    let mut verdict = Verdict { checked: history.events.len(), ..Verdict::default() };
    let mut tally = Tally::default();
    for Entry { id, event } in stream {
        match tally.take(event, history) {
            Taken::First => (),
            Taken::Again => verdict.duplicated.add(|| format!("entry {id}: {}", shown(event))),
            Taken::Late(after) => {
                verdict.disordered.add(|| format!("entry {id}: {} after version {after}", shown(event)));
            }
            Taken::Phantom => verdict.phantom.add(|| format!("entry {id}: {}", shown(event))),
            Taken::Altered => verdict.altered.add(|| format!("entry {id}: {}", shown(event))),
        }
    }
    for event in history.events.iter().filter(|event| !tally.seen.contains(&event.id)) {
        verdict.lost.add(|| shown(event));
    }
    verdict
}

fn check_receiver(received: &Received, history: &History<'_>, written_at: &HashMap<i64, i64>) -> Verdict {
    let mut verdict = Verdict { checked: history.events.len(), ..Verdict::default() };
    // A break at any time between the transition and its publication excuses a receiver.
    let is_excused = |event: &Event| {
        let made = event.changed_at / 1000;
        let published = written_at.get(&event.id).map_or(i64::MAX, |at| at + PUBLISHED_WITHIN);
        received.breaks.iter().any(|absence| absence.from <= published && absence.to >= made)
    };
    let mut tally = Tally::default();
    for event in &received.events {
        match tally.take(event, history) {
            Taken::First => (),
            Taken::Again => verdict.repeated += 1,
            // The receiver missed the first publication, and got the repetition.
            Taken::Late(_) if is_excused(event) => (),
            Taken::Late(after) => verdict.disordered.add(|| format!("{} after version {after}", shown(event))),
            Taken::Phantom => verdict.phantom.add(|| shown(event)),
            Taken::Altered => verdict.altered.add(|| shown(event)),
        }
    }
    received.invalid.iter().for_each(|message| verdict.phantom.add(|| message.clone()));
    for event in history.events.iter().filter(|event| !tally.seen.contains(&event.id)) {
        if is_excused(event) {
            verdict.missed += 1;
        } else {
            verdict.lost.add(|| shown(event));
        }
    }
    verdict
}

/// The events seen so far, and the latest version of each entity.
#[derive(Default)]
struct Tally {
    seen: HashSet<i64>,
    latest: HashMap<Uuid, i64>,
}

enum Taken {
    First,
    Again,
    /// After a higher version of the same entity.
    Late(i64),
    /// History has no such event.
    Phantom,
    Altered,
}

impl Tally {
    fn take(&mut self, event: &Event, history: &History<'_>) -> Taken {
        match history.by_id.get(&event.id) {
            // An undone transition can have the id of another event, because ids are used again.
            Some(written) if (written.entity, written.version) == (event.entity, event.version) => {
                if !self.seen.insert(event.id) {
                    return Taken::Again;
                }
                let latest = self.latest.entry(event.entity).or_insert(0);
                if event.version < *latest {
                    return Taken::Late(*latest);
                }
                *latest = event.version;
                if *written == event { Taken::First } else { Taken::Altered }
            }
            _ => Taken::Phantom,
        }
    }
}

pub(super) fn shown(event: &Event) -> String {
    let at = chrono::DateTime::from_timestamp_micros(event.changed_at).unwrap_or_default();
    format!("event {}, {} version {}, changed at {}", event.id, event.entity, event.version, at.format("%H:%M:%S%.3f"))
}
