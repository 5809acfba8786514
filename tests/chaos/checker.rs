//! The comparison: every promise against what is there.

use std::collections::{HashMap, HashSet};
use uuid::Uuid;

use super::event::Event;
use super::evidence::{Entry, Evidence};
use super::receivers::Received;

/// How long after an event's entry a receiver may still be told of it, milliseconds: a relay can be killed between the
/// two, and the next one first has to take its place.
const PUBLISHED_WITHIN: i64 = 15_000;

/// Things that must not be: each is counted, and the first ones are told.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    pub count: usize,
    pub first: Vec<String>,
}

impl Findings {
    const TOLD: usize = 10;

    fn add(&mut self, tell: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < Self::TOLD {
            self.first.push(tell());
        }
    }

    fn all(told: &[String]) -> Findings {
        Findings { count: told.len(), first: told.iter().take(Self::TOLD).cloned().collect() }
    }
}

/// What is wrong in one place.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    pub checked: usize,
    pub lost: Findings,
    pub duplicated: Findings,
    pub disordered: Findings,
    pub phantom: Findings,
    /// With other content than in history.
    pub altered: Findings,
    /// Not received, because Redis or the connection to it was gone.
    pub missed: usize,
    /// Received more than once, which a receiver must expect.
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

/// What is wrong altogether.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Acknowledged moves, against history.
    pub acknowledged: Verdict,
    /// History, against the stream.
    pub stream: Verdict,
    /// History, against each receiver.
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

/// Compares everything with everything.
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

/// What was written, to be looked up.
struct History<'a> {
    events: &'a [Event],
    by_id: HashMap<i64, &'a Event>,
    moves: HashSet<(Uuid, i64)>,
}

impl<'a> History<'a> {
    fn of(events: &'a [Event]) -> History<'a> {
        let by_id = events.iter().map(|event| (event.id, event)).collect();
        let moves = events.iter().map(|event| (event.entity, event.version)).collect();
        History { events, by_id, moves }
    }
}

fn check_acknowledged(acknowledged: &[(Uuid, i64)], history: &History<'_>) -> Verdict {
    let mut verdict = Verdict { checked: acknowledged.len(), ..Verdict::default() };
    let mut seen = HashSet::new();
    for &(entity, version) in acknowledged {
        if !history.moves.contains(&(entity, version)) {
            verdict.lost.add(|| format!("{entity} was told to be at version {version}"));
        }
        if !seen.insert((entity, version)) {
            verdict.duplicated.add(|| format!("{entity} was twice told to be at version {version}"));
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
            Taken::Again => verdict.duplicated.add(|| format!("entry {id}: {}", told(event))),
            Taken::Late(after) => {
                verdict.disordered.add(|| format!("entry {id}: {} after version {after}", told(event)));
            }
            Taken::Phantom => verdict.phantom.add(|| format!("entry {id}: {}", told(event))),
            Taken::Altered => verdict.altered.add(|| format!("entry {id}: {}", told(event))),
        }
    }
    for event in history.events.iter().filter(|event| !tally.seen.contains(&event.id)) {
        verdict.lost.add(|| told(event));
    }
    verdict
}

fn check_receiver(received: &Received, history: &History<'_>, written_at: &HashMap<i64, i64>) -> Verdict {
    let mut verdict = Verdict { checked: history.events.len(), ..Verdict::default() };
    // From when it was made until it was in the stream and published, no receiver need have been there.
    let is_excused = |event: &Event| {
        let made = event.changed_at / 1000;
        let published = written_at.get(&event.id).map_or(i64::MAX, |at| at + PUBLISHED_WITHIN);
        received.breaks.iter().any(|gone| gone.from <= published && gone.to >= made)
    };
    let mut tally = Tally::default();
    for event in &received.events {
        match tally.take(event, history) {
            Taken::First => (),
            Taken::Again => verdict.repeated += 1,
            // It was missed when it was first published, and has come with the repetition.
            Taken::Late(_) if is_excused(event) => (),
            Taken::Late(after) => verdict.disordered.add(|| format!("{} after version {after}", told(event))),
            Taken::Phantom => verdict.phantom.add(|| told(event)),
            Taken::Altered => verdict.altered.add(|| told(event)),
        }
    }
    received.nonsense.iter().for_each(|what| verdict.phantom.add(|| what.clone()));
    for event in history.events.iter().filter(|event| !tally.seen.contains(&event.id)) {
        if is_excused(event) {
            verdict.missed += 1;
        } else {
            verdict.lost.add(|| told(event));
        }
    }
    verdict
}

/// What has been seen so far of a sequence of events.
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
            // Under an id of history something else can hide: a move that was undone, whose id was used again.
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

fn told(event: &Event) -> String {
    let at = chrono::DateTime::from_timestamp_micros(event.changed_at).unwrap_or_default();
    format!("event {}, {} version {}, made at {}", event.id, event.entity, event.version, at.format("%H:%M:%S%.3f"))
}
