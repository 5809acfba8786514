//! The comparison of every promise with the contents of history, stream and receivers.

use std::collections::{HashMap, HashSet};
use uuid::Uuid;

use super::claims;
use super::event::Event;
use super::evidence::{Entry, Evidence};
use super::graphs;
use super::receivers::Received;
use super::tally::{History, Taken, Tally, shown};
use super::testimony::{Visible, check_witness};
use super::verdict::{Findings, Verdict};

/// The longest time between an event's entry and its publication, in milliseconds: if a relay is killed between the two,
/// another one must first take over.
const PUBLISHED_WITHIN: i64 = 15_000;

/// All findings of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Confirmed transitions, compared with history.
    pub acknowledged: Verdict,
    /// History, compared with the stream.
    pub stream: Verdict,
    /// History, compared with each receiver.
    pub receivers: Vec<Verdict>,
    /// History, compared with each witness: its name, and the verdict.
    pub witnesses: Vec<(String, Verdict)>,
    pub claims: claims::checker::Report,
    pub graphs: graphs::checker::Report,
    pub problems: Findings,
    pub complaints: Findings,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        let is_clean = self.verdicts().iter().all(|(_, verdict)| verdict.is_clean());
        let is_worked = self.claims.is_clean() && self.graphs.is_clean();
        is_clean && is_worked && self.problems.count == 0 && self.complaints.count == 0
    }

    /// All verdicts, each with the name of its place.
    pub fn verdicts(&self) -> Vec<(String, &Verdict)> {
        let named = |(number, one)| (format!("receiver {number}"), one);
        let places = [("history".to_owned(), &self.acknowledged), ("stream".to_owned(), &self.stream)];
        let witnesses = self.witnesses.iter().map(|(name, one)| (name.clone(), one));
        places.into_iter().chain(self.receivers.iter().enumerate().map(named)).chain(witnesses).collect()
    }
}

/// Compares all evidence.
pub fn check(evidence: &Evidence) -> Report {
    let history = History::of(&evidence.history);
    let written_at: HashMap<i64, i64> =
        evidence.stream.iter().filter_map(|entry| Some((entry.event.id, entry.written_at()?))).collect();
    let visible = Visible::of(evidence, &written_at);
    Report {
        witnesses: evidence
            .witnesses
            .iter()
            .map(|one| (one.name.clone(), check_witness(one, &history, &visible)))
            .collect(),
        acknowledged: check_acknowledged(&evidence.acknowledged, &history),
        stream: check_stream(&evidence.stream, &history),
        receivers: evidence.receivers.iter().map(|one| check_receiver(one, &history, evidence, &written_at)).collect(),
        claims: claims::checker::check(&evidence.claims),
        graphs: graphs::checker::check(&evidence.graphs),
        problems: Findings::all(&evidence.problems),
        complaints: Findings::all(&evidence.complaints),
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

fn check_receiver(
    received: &Received,
    history: &History<'_>,
    evidence: &Evidence,
    written_at: &HashMap<i64, i64>,
) -> Verdict {
    let mut verdict = Verdict { checked: history.events.len(), ..Verdict::default() };
    // A break at any time between the transition and its publication excuses a receiver.
    let is_excused = |event: &Event| {
        let made = evidence.right_time(event.changed_at / 1000);
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
