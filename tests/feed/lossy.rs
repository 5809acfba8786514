//! Losses of the database itself, under writers and readers, and tests of the checker, which must detect each wrong copy.

use pg_workflow_tests::chaos::cluster::Crowd;
use pg_workflow_tests::chaos::event::Event;
use pg_workflow_tests::chaos::evidence::Entry;
use pg_workflow_tests::chaos::lossy::checker::{Report, check};
use pg_workflow_tests::chaos::lossy::evidence::{Evidence, Mark};
use pg_workflow_tests::chaos::lossy::fault::{Fault, Plan};
use pg_workflow_tests::chaos::lossy::reader::Segment;
use pg_workflow_tests::chaos::lossy::run::{Outcome, run};
use pg_workflow_tests::chaos::run::Options;
use pg_workflow_tests::chaos::verdict::Verdict;
use pg_workflow_tests::chaos::writers::Load;
use std::collections::HashSet;
use std::mem::discriminant;
use std::sync::OnceLock;
use std::time::Duration;

/// One run for all tests. Set `CHAOS_SEED` for other faults.
fn outcome() -> &'static Outcome {
    static OUTCOME: OnceLock<Result<Outcome, String>> = OnceLock::new();
    let outcome = OUTCOME.get_or_init(|| {
        let seed = std::env::var("CHAOS_SEED").map_or(1, |seed| seed.parse().expect("CHAOS_SEED is a number"));
        let (time, load) = (Duration::from_secs(45), Load { writers: 8, rate: 200 });
        let outcome =
            run(&Options { seed, time, load, crowd: Crowd::default(), only: String::new(), keep_logs: false });
        outcome.map_err(|error| format!("seed {seed}: {error:#}"))
    });
    outcome.as_ref().unwrap()
}

#[test]
fn readers_continue_or_are_told_of_losses_of_the_database() {
    let Outcome { report, evidence, logs, .. } = outcome();
    assert!(report.is_clean(), "the logs are in {logs:?}: {report:#?}");
    assert!(evidence.losses.len() >= 2, "only {} losses", evidence.losses.len());
    assert!(report.lost.iter().all(|lost| *lost > 0), "a loss without lost transitions: {:?}", report.lost);
    assert!(report.stream.of_lost > 0);
    assert!(report.claims.claims > 100 && report.claims.undone > 10, "{:?}", report.claims);
    assert!(report.readers.iter().all(|(_, reader)| reader.told > 0), "{:?}", report.readers);
}

/// Correct evidence, for tests that falsify it: without the events that a consumer may get again in another cluster.
fn sound() -> Evidence {
    let mut evidence = outcome().evidence.clone();
    evidence.losses.iter_mut().for_each(|loss| loss.redelivers = false);
    let mut seen = HashSet::new();
    evidence.consumed.retain(|event| seen.insert((event.id, event.entity, event.version, event.changed_at)));
    evidence
}

/// Lost, duplicated, out of order, phantom, altered, errors.
fn counts(verdict: &Verdict) -> [usize; 6] {
    verdict.findings().map(|(_, findings)| findings.count)
}

const LOST: [usize; 6] = [1, 0, 0, 0, 0, 0];
const DUPLICATED: [usize; 6] = [0, 1, 0, 0, 0, 0];
const DISORDERED: [usize; 6] = [0, 0, 1, 0, 0, 0];
const PHANTOM: [usize; 6] = [0, 0, 0, 1, 0, 0];
const ALTERED: [usize; 6] = [0, 0, 0, 0, 1, 0];

#[test]
fn lossy_checker_accepts_redelivery_only_in_another_cluster() {
    let mut evidence = sound();
    evidence.consumed.push(evidence.consumed[0]);
    assert_eq!(counts(&check(&evidence).consumer.verdict), DUPLICATED);
    evidence.losses[0].redelivers = true;
    let report = check(&evidence);
    assert_eq!((counts(&report.consumer.verdict), report.consumer.verdict.repeated), ([0; 6], 1));
}

fn is_final(evidence: &Evidence, event: &Event) -> bool {
    evidence.history().contains(event)
}

/// The indexes of two successive events of one entity.
fn neighbors(events: &[Event]) -> (usize, usize) {
    let next_of =
        |event: &Event| events.iter().position(|next| next.entity == event.entity && next.version == event.version + 1);
    let pair = |first: usize| Some((first, next_of(&events[first])?)).filter(|(first, second)| first < second);
    (0..events.len()).rev().find_map(pair).expect("an entity with two events")
}

#[test]
fn lossy_checker_detects_lost_and_undone_transitions() {
    let evidence = sound();
    let is_outside = |at: i64| evidence.losses.iter().all(|loss| at < loss.from || at > loss.to + 10_000_000);
    let mut kept: Vec<_> = evidence.written.confirmed.iter().filter(|one| is_outside(one.at)).collect();
    kept.sort_by_key(|one| one.at);
    // transition_many() makes several transitions with one token, and a creation has none.
    let is_single = |token| token != 0 && evidence.marks.iter().filter(|mark| mark.token == token).count() == 1;
    let kept = kept.iter().rfind(|one| is_single(one.mark.token)).expect("a transition outside all losses").mark;
    let confirmed = |evidence: &Evidence| counts(&check(evidence).confirmed);

    let mut lacking = sound();
    lacking.marks.retain(|mark| *mark != kept);
    assert_eq!(confirmed(&lacking), LOST);

    let mut twice = sound();
    twice.marks.push(Mark { version: 1_000_000, ..kept });
    assert_eq!(confirmed(&twice), DUPLICATED);

    let mut undone = sound();
    undone.written.undone.push(kept.token);
    assert_eq!(confirmed(&undone), PHANTOM);

    // Of the transitions of one loss, only the last ones may be missing.
    let marks: HashSet<Mark> = evidence.marks.iter().copied().collect();
    let loss = evidence.losses.iter().min_by_key(|loss| loss.from).expect("a loss");
    let missing = evidence.written.confirmed.iter().filter(|one| !marks.contains(&one.mark));
    let last = missing.filter(|one| one.at <= loss.to).max_by_key(|one| one.sent).expect("a lost one").mark;
    let mut with_a_hole = sound();
    with_a_hole.marks.push(last);
    assert_eq!(confirmed(&with_a_hole), DISORDERED);
}

/// Falsifies a copy in each way, and expects each verdict.
fn falsify(events: fn(&mut Evidence) -> Vec<Event>, put: fn(&mut Evidence, Vec<Event>), of: fn(&Report) -> &Verdict) {
    let verdict = |change: &dyn Fn(&Evidence, &mut Vec<Event>)| {
        let mut evidence = sound();
        let mut copy = events(&mut evidence);
        change(&evidence, &mut copy);
        put(&mut evidence, copy);
        counts(of(&check(&evidence)))
    };
    // The first event is of no lost timeline.
    assert_eq!(verdict(&|_, _| ()), [0; 6]);
    assert_eq!(verdict(&|_, copy| copy.truncate(copy.len() - 1)), LOST);
    assert_eq!(verdict(&|_, copy| copy.push(copy[0])), DUPLICATED);
    assert_eq!(verdict(&|_, copy| copy.push(Event { version: 1_000_000, ..copy[0] })), PHANTOM);
    assert_eq!(verdict(&|_, copy| copy[0].content ^= 1), ALTERED);
    let swap = |evidence: &Evidence, copy: &mut Vec<Event>| {
        copy.retain(|event| is_final(evidence, event));
        let (first, second) = neighbors(copy);
        copy.swap(first, second);
    };
    assert_eq!(verdict(&swap), DISORDERED);
}

#[test]
fn lossy_checker_detects_each_wrong_stream_entry() {
    let take = |evidence: &mut Evidence| evidence.stream.drain(..).map(|entry| entry.event).collect();
    let put = |evidence: &mut Evidence, events: Vec<Event>| {
        evidence.stream = events.into_iter().map(|event| Entry { id: "1-1".to_owned(), event }).collect();
    };
    falsify(take, put, |report| &report.stream.verdict);
}

#[test]
fn lossy_checker_detects_each_wrong_consumed_event() {
    let put = |evidence: &mut Evidence, events| evidence.consumed = events;
    falsify(|evidence| std::mem::take(&mut evidence.consumed), put, |report| &report.consumer.verdict);

    // In the database, nothing of a lost timeline may remain.
    let mut evidence = sound();
    let lost = evidence.histories[0].iter().find(|event| !is_final(&evidence, event)).copied();
    evidence.consumed.push(lost.expect("a lost event"));
    assert_eq!(counts(&check(&evidence).consumer.verdict), PHANTOM);
}

#[test]
fn lossy_checker_detects_each_wrong_received_event() {
    let receiver = |change: &dyn Fn(&mut Vec<Event>)| {
        let mut evidence = sound();
        change(&mut evidence.receivers[0].events);
        let report = check(&evidence);
        (counts(&report.receivers[0].verdict), report.receivers[0].verdict.repeated)
    };
    let (clean, repeated) = receiver(&|_| ());
    assert_eq!(clean, [0; 6]);
    assert_eq!(receiver(&|events| events.push(events[0])), ([0; 6], repeated + 1));
    assert_eq!(receiver(&|events| events[0].content ^= 1).0, ALTERED);
    assert_eq!(receiver(&|events| events.push(Event { id: i64::MAX, ..events[0] })).0, PHANTOM);
    let lacking = |events: &mut Vec<Event>| {
        let first = events[0];
        events.retain(|event| *event != first);
    };
    assert_eq!(receiver(&lacking).0, LOST);
}

#[test]
fn lossy_checker_detects_readers_that_were_not_told() {
    let reader = |change: &dyn Fn(&mut Vec<Segment>)| {
        let mut evidence = sound();
        change(&mut evidence.readings[0].segments);
        counts(&check(&evidence).readers[0].1.verdict)
    };
    let last = |segments: &mut Vec<Segment>| segments.pop().expect("a segment");
    assert_eq!(reader(&|_| ()), [0; 6]);
    // A reader that continues with events of two timelines.
    let unite = |segments: &mut Vec<Segment>| {
        let (second, mut first) = (last(segments), last(segments));
        first.events.extend(second.events);
        segments.push(Segment { told: None, ..first });
    };
    let [_, _, _, phantom, ..] = reader(&unite);
    assert!(phantom > 0);
    let change_last = |change: fn(&mut Vec<Event>)| {
        reader(&|segments| {
            let mut segment = last(segments);
            change(&mut segment.events);
            segments.push(segment);
        })
    };
    // The first one that the reader cannot know from the tables: it leaves a gap, too.
    let remove = |events: &mut Vec<Event>| {
        let (_, second) = neighbors(events);
        events[second..].rotate_left(1);
        events.truncate(events.len() - 1);
    };
    assert!(change_last(remove)[0] >= 1);
    assert_eq!(change_last(|events| events.truncate(events.len() - 1)), LOST);
    assert_eq!(change_last(|events| events.push(events[0])), DUPLICATED);
    assert_eq!(change_last(|events| events[0].content ^= 1), ALTERED);
    let [_, _, _, phantom, ..] = change_last(|events| events.push(Event { id: i64::MAX, ..events[0] }));
    assert_eq!(phantom, 1);
    let swap = |events: &mut Vec<Event>| {
        let (first, second) = neighbors(events);
        events.swap(first, second);
    };
    assert!(change_last(swap)[2] >= 1);
    // A reader that is told, and does not begin again.
    assert_eq!(reader(&|segments| segments.last_mut().expect("one").told = Some("told".to_owned())), LOST);
}

#[test]
fn lossy_checker_reports_complaints_and_problems() {
    let mut evidence = sound();
    evidence.complaints.push("an unexpected answer".to_owned());
    evidence.problems.push("a problem".to_owned());
    evidence.readings[0].complaints.push("an unexpected error".to_owned());
    let report = check(&evidence);
    assert_eq!((report.complaints.count, report.problems.count, report.is_clean()), (1, 1, false));
    assert_eq!(counts(&report.readers[0].1.verdict), [0, 0, 0, 0, 0, 1]);
}

#[test]
fn seed_determines_plan_with_every_kind_of_loss() {
    let plan = |seed| Plan::new(seed, "").take(20).collect::<Vec<_>>();
    assert_eq!(plan(7), plan(7));
    assert_ne!(plan(7), plan(8));
    let kinds: HashSet<&str> = plan(7)[..7].iter().map(|step| step.fault.kind()).collect();
    assert_eq!(kinds.len(), 7, "{kinds:?}");
    let mut dumps = Plan::new(7, "dump").take(3);
    let dump = dumps.next().expect("a dump").fault;
    assert!(matches!(dump, Fault::Loss(_)) && dumps.all(|step| discriminant(&step.fault) == discriminant(&dump)));
    assert_eq!(Plan::new(7, "no such fault").next(), None);
}
