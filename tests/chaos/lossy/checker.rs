//! The comparison of every reader with the history of each timeline.

use std::collections::{HashMap, HashSet};
use uuid::Uuid;

use super::evidence::{Confirmed, Evidence, Loss, Mark};
use super::reader::{Reading, Segment};
use crate::chaos::claims;
use crate::chaos::event::Event;
use crate::chaos::tally::shown;
use crate::chaos::verdict::{Findings, Verdict};

/// All findings of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Confirmed transitions, compared with the final history.
    pub confirmed: Verdict,
    /// Confirmed transitions that the database lost, for each loss.
    pub lost: Vec<usize>,
    pub stream: Compared,
    pub receivers: Vec<Compared>,
    /// The consumer in the database.
    pub consumer: Compared,
    pub readers: Vec<(String, Compared)>,
    pub claims: claims::checker::Report,
    pub problems: Findings,
    pub complaints: Findings,
}

/// The findings at one reader.
#[derive(Debug, Clone, Default)]
pub struct Compared {
    pub verdict: Verdict,
    /// Events of lost timelines, which remain.
    pub of_lost: usize,
    /// Errors that rejected its position.
    pub told: usize,
}

impl Report {
    /// The verdicts with their names.
    pub fn verdicts(&self) -> Vec<(String, &Compared)> {
        let mut all = vec![("the stream".to_owned(), &self.stream), ("the consumer".to_owned(), &self.consumer)];
        all.extend(self.receivers.iter().enumerate().map(|(number, one)| (format!("receiver {number}"), one)));
        all.extend(self.readers.iter().map(|(name, one)| (name.clone(), one)));
        all
    }

    pub fn is_clean(&self) -> bool {
        let verdicts = self.verdicts();
        let mut verdicts = verdicts.iter().map(|(_, one)| &one.verdict).chain([&self.confirmed]);
        verdicts.all(Verdict::is_clean)
            && self.claims.is_clean()
            && self.problems.count == 0
            && self.complaints.count == 0
    }
}

/// Compares all evidence.
pub fn check(evidence: &Evidence) -> Report {
    let timelines = Timelines::of(evidence);
    let (confirmed, lost) = check_confirmed(evidence);
    let redelivers = evidence.losses.iter().any(|loss| loss.redelivers);
    let stream = evidence.stream.iter().map(|entry| &entry.event);
    let receivers = evidence.receivers.iter().map(|one| {
        let mut compared = check_copy(one.events.iter(), &timelines, Allowed { again: true, lost: true });
        one.invalid.iter().for_each(|message| compared.verdict.phantom.add(|| message.clone()));
        compared
    });
    Report {
        confirmed,
        lost,
        stream: check_copy(stream, &timelines, Allowed { again: false, lost: true }),
        receivers: receivers.collect(),
        consumer: check_copy(evidence.consumed.iter(), &timelines, Allowed { again: redelivers, lost: false }),
        readers: evidence.readings.iter().map(|one| (one.name.clone(), check_reading(one, &timelines))).collect(),
        claims: claims::checker::check(&evidence.claims),
        problems: Findings::all(&evidence.problems),
        complaints: Findings::all(&evidence.complaints),
    }
}

/// An event's id, entity, version and time.
type Key = (i64, Uuid, i64, i64);

fn key(event: &Event) -> Key {
    (event.id, event.entity, event.version, event.changed_at)
}

/// The history of each timeline by key, and the final one in order.
struct Timelines<'a> {
    all: Vec<HashMap<Key, &'a Event>>,
    last: &'a [Event],
}

impl<'a> Timelines<'a> {
    fn of(evidence: &'a Evidence) -> Timelines<'a> {
        let index = |history: &'a Vec<Event>| history.iter().map(|event| (key(event), event)).collect();
        Timelines { all: evidence.histories.iter().map(index).collect(), last: evidence.history() }
    }

    /// The event of the final history; otherwise whether a lost one has it.
    fn find(&self, event: &Event) -> Result<&'a Event, bool> {
        let (last, lost) = self.all.split_last().expect("a history");
        last.get(&key(event)).copied().ok_or_else(|| lost.iter().any(|one| one.contains_key(&key(event))))
    }
}

/// Confirmed transitions may be missing only if a loss explains it, and then with all later ones of the same loss.
fn check_confirmed(evidence: &Evidence) -> (Verdict, Vec<usize>) {
    let marks: HashSet<Mark> = evidence.marks.iter().copied().collect();
    let mut verdict = Verdict { checked: evidence.written.confirmed.len(), ..Verdict::default() };
    let is_within = |one: &Confirmed, loss: &Loss| one.at >= loss.from && one.sent <= loss.to;
    let is_missing = |one: &&Confirmed| !marks.contains(&one.mark);
    let confirmed = || evidence.written.confirmed.iter();
    for one in confirmed().filter(is_missing) {
        if !evidence.losses.iter().any(|loss| is_within(one, loss)) {
            verdict.lost.add(|| format!("version {} of {} was confirmed", one.mark.version, one.mark.entity));
        }
    }
    let mut lost = Vec::new();
    for loss in &evidence.losses {
        let missing = || confirmed().filter(is_missing).filter(|one| is_within(one, loss));
        lost.push(missing().count());
        let Some(first) = missing().min_by_key(|one| one.at) else { continue };
        for later in confirmed().filter(|one| is_within(one, loss) && one.sent > first.at && marks.contains(&one.mark))
        {
            let (Mark { entity, version, .. }, kept) = (first.mark, later.mark);
            verdict.disordered.add(|| {
                format!(
                    "version {version} of {entity} is lost, later version {} of {} is not",
                    kept.version, kept.entity
                )
            });
        }
    }
    check_tokens(evidence, &mut verdict);
    (verdict, lost)
}

/// No transition was made twice, and none that was undone.
fn check_tokens(evidence: &Evidence, verdict: &mut Verdict) {
    let undone: HashSet<i64> = evidence.written.undone.iter().copied().collect();
    let mut seen = HashSet::new();
    for Mark { entity, version, token } in evidence.marks.iter().filter(|mark| mark.token != 0) {
        if undone.contains(token) {
            verdict.phantom.add(|| format!("version {version} of {entity} was undone"));
        }
        if !seen.insert((entity, token)) {
            verdict.duplicated.add(|| format!("version {version} of {entity} has the token of another version"));
        }
    }
}

/// The events that a copy may have beside each one of the final history.
#[derive(Clone, Copy)]
struct Allowed {
    again: bool,
    /// Events of lost timelines.
    lost: bool,
}

/// Compares a copy with the final history.
fn check_copy<'a>(events: impl Iterator<Item = &'a Event>, timelines: &Timelines<'_>, allowed: Allowed) -> Compared {
    let mut compared = Compared::default();
    let verdict = &mut compared.verdict;
    verdict.checked = timelines.last.len();
    let (mut seen, mut latest) = (HashSet::new(), HashMap::new());
    for event in events {
        if !seen.insert(key(event)) {
            match allowed.again {
                true => verdict.repeated += 1,
                false => verdict.duplicated.add(|| shown(event)),
            }
            continue;
        }
        match timelines.find(event) {
            Ok(written) => {
                let latest = latest.entry(event.entity).or_insert(0);
                if event.version < *latest {
                    verdict.disordered.add(|| format!("{} after version {latest}", shown(event)));
                }
                *latest = event.version.max(*latest);
                if written != event {
                    verdict.altered.add(|| shown(event));
                }
            }
            Err(true) if allowed.lost => compared.of_lost += 1,
            Err(is_lost) => {
                let of = if is_lost { "of a lost timeline: " } else { "" };
                verdict.phantom.add(|| format!("{of}{}", shown(event)));
            }
        }
    }
    for event in timelines.last.iter().filter(|event| !seen.contains(&key(event))) {
        verdict.lost.add(|| shown(event));
    }
    compared
}

/// Checks that a reader either continued exactly, or was told.
fn check_reading(reading: &Reading, timelines: &Timelines<'_>) -> Compared {
    let mut compared = Compared::default();
    compared.verdict.errors = Findings::all(&reading.complaints);
    for segment in &reading.segments {
        compared.told += usize::from(segment.told.is_some());
        compared.verdict.checked += segment.events.len();
        check_segment(segment, timelines, &mut compared.verdict);
    }
    match reading.segments.last() {
        Some(last) if last.told.is_none() => check_completeness(last, timelines, &mut compared.verdict),
        _ => compared.verdict.lost.add(|| "the reader did not begin again after its position was rejected".to_owned()),
    }
    compared
}

/// All events of a segment are of one timeline, the final one if it was not told; each entity's without a gap.
fn check_segment(segment: &Segment, timelines: &Timelines<'_>, verdict: &mut Verdict) {
    let strangers = |timeline: &HashMap<Key, &Event>| {
        segment.events.iter().filter(|event| !timeline.contains_key(&key(event))).copied().collect::<Vec<_>>()
    };
    let candidates =
        if segment.told.is_some() { 0..timelines.all.len() } else { timelines.all.len() - 1..timelines.all.len() };
    let closest = timelines.all[candidates].iter().min_by_key(|timeline| strangers(timeline).len()).expect("a history");
    strangers(closest).iter().for_each(|event| verdict.phantom.add(|| shown(event)));

    let (mut seen, mut latest) = (HashSet::new(), HashMap::new());
    for event in &segment.events {
        let Event { entity, version, .. } = *event;
        if closest.get(&key(event)).is_some_and(|written| *written != event) {
            verdict.altered.add(|| shown(event));
        }
        if !seen.insert(key(event)) {
            verdict.duplicated.add(|| shown(event));
            continue;
        }
        // Before its first event, the reader knows the version in the tables, or an earlier one.
        let known = segment.base.get(&entity).copied().unwrap_or(0);
        let before = latest.insert(entity, version);
        if version > before.unwrap_or(known) + 1 {
            verdict.lost.add(|| format!("before {}: the version before", shown(event)));
        } else if before.is_some_and(|before| version <= before) {
            verdict.disordered.add(|| format!("{} after version {}", shown(event), before.unwrap_or(0)));
        }
    }
}

/// The last segment has every event of the final history that its reader cannot know from the tables.
fn check_completeness(segment: &Segment, timelines: &Timelines<'_>, verdict: &mut Verdict) {
    let seen: HashSet<Key> = segment.events.iter().map(key).collect();
    let is_known = |event: &Event| segment.base.get(&event.entity).is_some_and(|version| event.version <= *version);
    for event in timelines.last.iter().filter(|event| !seen.contains(&key(event)) && !is_known(event)) {
        verdict.lost.add(|| shown(event));
    }
}
