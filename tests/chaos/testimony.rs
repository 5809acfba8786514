//! The comparison of a witness's events with the history, by the promise that it was given.

use std::collections::HashMap;

use super::event::Event;
use super::evidence::Evidence;
use super::tally::{History, Taken, Tally, shown};
use super::verdict::Verdict;
use super::witness::{Promise, Record};

/// The longest time between the visibility of an event and its notification, in milliseconds: the notifier can be stopped
/// for 6 s.
const NOTIFIED_WITHIN: i64 = 8000;

/// The time at which each event became visible, by its ID: between its commit and the first reader who had it.
pub struct Visible<'a> {
    evidence: &'a Evidence,
    read_at: HashMap<i64, i64>,
}

impl Visible<'_> {
    /// `written_at`: the times of the stream's entries.
    pub fn of<'a>(evidence: &'a Evidence, written_at: &HashMap<i64, i64>) -> Visible<'a> {
        let mut read_at = written_at.clone();
        for seen in evidence.witnesses.iter().flat_map(|witness| &witness.sightings) {
            let at = read_at.entry(seen.event.id).or_insert(seen.at);
            *at = seen.at.min(*at);
        }
        Visible { evidence, read_at }
    }

    /// Returns the time of the commit, and the time up to which a listener must hear the event.
    fn range(&self, event: &Event) -> (i64, i64) {
        let from = self.evidence.committed_at.get(&event.id).copied().unwrap_or(event.changed_at / 1000);
        let read = self.read_at.get(&event.id).copied();
        (self.evidence.right_time(from), read.map_or(i64::MAX, |at| at + NOTIFIED_WITHIN))
    }
}

pub fn check_witness(record: &Record, history: &History<'_>, visible: &Visible<'_>) -> Verdict {
    let mut verdict = Verdict { checked: history.events.len(), ..Verdict::default() };
    let mut sessions = vec![Tally::default()];
    let mut breaks = record.breaks.iter().peekable();
    for seen in &record.sightings {
        if record.promise == Promise::WhileConnected {
            // A session of a listener knows nothing of earlier ones.
            while breaks.next_if(|absence| absence.to <= seen.at).is_some() {
                sessions.push(Tally::default());
            }
        }
        let event = &seen.event;
        match sessions.last_mut().map(|tally| tally.take(event, history)) {
            None | Some(Taken::First) => (),
            Some(Taken::Again) if record.promise == Promise::AtLeastOnce => verdict.repeated += 1,
            Some(Taken::Again) => verdict.duplicated.add(|| shown(event)),
            Some(Taken::Late(after)) => verdict.disordered.add(|| format!("{} after version {after}", shown(event))),
            Some(Taken::Phantom) => verdict.phantom.add(|| shown(event)),
            Some(Taken::Altered) => verdict.altered.add(|| shown(event)),
        }
    }
    record.errors.iter().for_each(|error| verdict.errors.add(|| error.clone()));
    let is_excused = |event: &Event| {
        let (from, to) = visible.range(event);
        let is_absent = record.breaks.iter().any(|absence| absence.from <= to && absence.to >= from);
        record.promise == Promise::WhileConnected && is_absent
    };
    for event in history.events.iter().filter(|event| !sessions.iter().any(|tally| tally.seen.contains(&event.id))) {
        if is_excused(event) {
            verdict.missed += 1;
        } else {
            verdict.lost.add(|| shown(event));
        }
    }
    verdict
}
