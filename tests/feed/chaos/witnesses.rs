//! Tests of the checker with falsified records of witnesses.

use super::sound;
use pg_workflow_tests::chaos::checker::{Report, check};
use pg_workflow_tests::chaos::event::Event;
use pg_workflow_tests::chaos::evidence::Evidence;
use pg_workflow_tests::chaos::receivers::Break;
use pg_workflow_tests::chaos::witness::{Promise, Record};

const LISTENER: usize = 0;
const FOLLOWERS: [usize; 3] = [2, 3, 4];
const CONSUMER: usize = 5;

/// The findings about a witness: lost, duplicated, out of order, phantom, altered, errors.
fn counts(report: &Report, witness: usize) -> [usize; 6] {
    report.witnesses[witness].1.findings().map(|(_, findings)| findings.count)
}

/// Falsifies the record of one witness, and returns the findings about it. There are none about the others.
fn falsified(witness: usize, falsify: impl FnOnce(&mut Record)) -> [usize; 6] {
    let mut evidence = sound();
    falsify(&mut evidence.witnesses[witness]);
    let report = check(&evidence);
    let others = (0..evidence.witnesses.len()).filter(|other| *other != witness);
    others.for_each(|other| assert_eq!(counts(&report, other), [0; 6], "{}", evidence.witnesses[other].name));
    let counts = counts(&report, witness);
    assert_eq!(report.is_clean(), counts == [0; 6]);
    counts
}

/// The indexes of two successive events of one entity.
fn neighbors(record: &Record) -> (usize, usize) {
    let seen = &record.sightings;
    let next_of = |event: &Event| {
        seen.iter().position(|next| next.event.entity == event.entity && next.event.version == event.version + 1)
    };
    (0..seen.len()).find_map(|first| Some((first, next_of(&seen[first].event)?))).expect("an entity with two events")
}

#[test]
fn every_witness_sees_every_event() {
    let evidence = sound();
    let promises: Vec<Promise> = evidence.witnesses.iter().map(|witness| witness.promise).collect();
    assert_eq!(promises[LISTENER], Promise::WhileConnected);
    assert_eq!(FOLLOWERS.map(|follower| promises[follower]), [Promise::ExactlyOnce; 3]);
    assert_eq!(promises[CONSUMER], Promise::AtLeastOnce);
    for witness in &evidence.witnesses {
        let lacking = evidence.history.len() - witness.sightings.len();
        // A listener does not hear what was there before it.
        assert!(lacking == 0, "{} lacks {lacking} events", witness.name);
    }
    let is_shortened = |event: &Event| event.metadata.is_none();
    let shortened = |witness: usize| evidence.witnesses[witness].sightings.iter().any(|seen| is_shortened(&seen.event));
    assert!(shortened(LISTENER) && !shortened(CONSUMER), "large metadata is omitted in notifications only");
}

#[test]
fn checker_detects_each_fault_at_a_witness() {
    for witness in [LISTENER, FOLLOWERS[0], FOLLOWERS[1], FOLLOWERS[2], CONSUMER] {
        assert_eq!(falsified(witness, |_| ()), [0; 6]);
        let lose = |record: &mut Record| _ = record.sightings.remove(100);
        assert_eq!(falsified(witness, lose), [1, 0, 0, 0, 0, 0]);
        let is_again = usize::from(witness != CONSUMER);
        let repeat = |record: &mut Record| record.sightings.push(record.sightings[100]);
        assert_eq!(falsified(witness, repeat), [0, is_again, 0, 0, 0, 0]);
        let swap = |record: &mut Record| {
            let (first, second) = neighbors(record);
            record.sightings.swap(first, second);
        };
        assert_eq!(falsified(witness, swap), [0, 0, 1, 0, 0, 0]);
        let invent = |record: &mut Record| record.sightings[100].event.version += 1_000_000;
        assert_eq!(falsified(witness, invent), [1, 0, 0, 1, 0, 0]);
        let alter = |record: &mut Record| record.sightings[100].event.content ^= 1;
        assert_eq!(falsified(witness, alter), [0, 0, 0, 0, 1, 0]);
        let alter_metadata = |record: &mut Record| record.sightings[100].event.metadata = Some(7);
        assert_eq!(falsified(witness, alter_metadata), [0, 0, 0, 0, 1, 0]);
        assert_eq!(falsified(witness, |record| record.errors.push("rejected".to_owned())), [0, 0, 0, 0, 0, 1]);
    }
}

/// Takes an event from a witness who was not connected at these times before and after its arrival.
fn absent(witness: usize, from: i64, to: i64) -> (Evidence, Report) {
    let mut evidence = sound();
    let record = &mut evidence.witnesses[witness];
    let seen = record.sightings.remove(100);
    record.breaks.push(Break { from: seen.at + from, to: seen.at + to });
    let report = check(&evidence);
    (evidence, report)
}

#[test]
fn checker_excuses_only_listeners_who_were_not_connected() {
    let (_, report) = absent(LISTENER, -1000, 1000);
    assert_eq!((counts(&report, LISTENER), report.witnesses[LISTENER].1.missed), ([0; 6], 1));
    let (_, report) = absent(LISTENER, -60_000, -50_000);
    assert_eq!(counts(&report, LISTENER), [1, 0, 0, 0, 0, 0], "it was connected again");
    let (_, report) = absent(LISTENER, 20_000, 21_000);
    assert_eq!(counts(&report, LISTENER), [1, 0, 0, 0, 0, 0], "it was connected for long enough");
    for witness in [FOLLOWERS[0], CONSUMER] {
        let (_, report) = absent(witness, -1000, 1000);
        assert_eq!(counts(&report, witness), [1, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn checker_counts_repetitions_within_a_listener_session() {
    let mut evidence = sound();
    let record = &mut evidence.witnesses[LISTENER];
    let mut again = record.sightings[100];
    again.at = record.sightings.last().unwrap().at + 100;
    record.sightings.push(again);
    assert_eq!(counts(&check(&evidence), LISTENER), [0, 1, 0, 0, 0, 0]);
    evidence.witnesses[LISTENER].breaks.push(Break { from: again.at - 60, to: again.at - 50 });
    assert_eq!(counts(&check(&evidence), LISTENER), [0; 6], "another session");
}
