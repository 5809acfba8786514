//! Sixteen sessions claim, end, release, renew, reap, cancel, move by hand, pause and delete at the same time, without faults.
//! Then the checker of `cargo xtask chaos` compares the history with what the sessions were told; and the checker is tested.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_workflow_state_machine::State;
use pg_workflow_tests::chaos::claims::checker::{Report, check};
use pg_workflow_tests::chaos::claims::evidence::{Answer, Claim, Event, Evidence, Record, Told};
use pg_workflow_tests::chaos::claims::{Claims, Crew};
use pg_workflow_tests::*;
use std::time::Duration;
use uuid::Uuid;

/// Set `CHAOS_SEED` for other choices.
fn start(db: &Db, asynchronous: u64) -> Claims {
    let seed = std::env::var("CHAOS_SEED").map_or(1, |seed| seed.parse().expect("CHAOS_SEED is a number"));
    Claims::start(db.url(), seed, Crew { workers: 16, pause: Duration::ZERO, asynchronous, deletes: true }).unwrap()
}

fn finish(db: &Db, claims: Claims) -> Report {
    let evidence = claims.finish(db.url()).unwrap();
    let report = check(&evidence);
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(evidence.complaints().collect::<Vec<_>>(), Vec::<String>::new());
    assert!(report.claims > 100 && report.expired > 10 && report.refused > 10, "{report:?}");
    report
}

#[test]
fn words_of_one_holder_count_whatever_happens_at_the_same_time() {
    let db = Db::new();
    let claims = start(&db, 4);
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(finish(&db, claims).undone, 0);
}

/// The process that writes the log is stopped, and then killed. No notifier and no reader waits until commits are durable.
#[test]
fn words_of_one_holder_count_if_crashes_lose_commits() {
    let (cluster, db) = own_cluster("claims-crashes", &[]);
    let claims = start(&db, 1);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_secs(1));
        let writer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
        let writer = Pid::from_raw(db.connect().query_one(writer, &[]).unwrap().get(0));
        kill(writer, Signal::SIGSTOP).unwrap();
        std::thread::sleep(Duration::from_secs(2));
        kill(writer, Signal::SIGKILL).unwrap();
        cluster.wait_recovered().unwrap();
    }
    let report = finish(&db, claims);
    assert!(report.undone > 10, "{report:?}");
}

/// The claim of a version. Times are hundreds of this version.
fn claim(version: i64) -> Claim {
    Claim { task: Uuid::from_u128(1), version, start: version * 100 }
}

fn answer(version: i64, told: Told, at: i64) -> Answer {
    Answer { claim: claim(version), told, sent: at - 10, at }
}

/// An event of the task, or of the change to one slot if the version is 0.
fn event(version: i64, old: Option<State>, new: State) -> Event {
    let name = if version == 0 { "slots 1 x" } else { "limited 1" };
    let (name, entity, changed_at) = (name.to_owned(), claim(version).task, claim(version).start);
    Event { id: version, entity, name, version, changed_at, old, new: Some(new), ..Event::default() }
}

/// A claim of worker `one` runs out and is lost, and worker `two` ends the task.
fn sound() -> Evidence {
    use State::{Queued, Retrying, Running, Success};
    let worker = |name: &str| Some(name.to_owned());
    let expiry = Some("lease expired".to_owned());
    let history = vec![
        event(0, None, Queued),
        event(1, None, Queued),
        Event { worker: worker("one"), ..event(2, Some(Queued), Running) },
        Event { worker: worker("one"), reason: expiry, ..event(3, Some(Running), Retrying) },
        Event { worker: worker("two"), ..event(4, Some(Retrying), Running) },
        Event { request_id: Some("claim 4".to_owned()), claim: Some(claim(4)), ..event(5, Some(Running), Success) },
    ];
    let record = |name: &str, answers: &[Answer]| Record {
        worker: name.to_owned(),
        is_durable: true,
        answers: answers.to_vec(),
        ..Record::default()
    };
    let one = record("one", &[answer(2, Told::Claimed, 210), answer(2, Told::Refused, 600)]);
    let two = [answer(4, Told::Claimed, 410), answer(4, Told::Renewed, 450), answer(4, Told::Ended, 510)];
    Evidence { records: vec![one, record("two", &two)], history, losses: Vec::new() }
}

/// Falsifies the evidence, and returns the numbers of findings: twice, lost, not told, beyond.
fn falsified(change: impl FnOnce(&mut Evidence)) -> [usize; 4] {
    let mut evidence = sound();
    change(&mut evidence);
    check(&evidence).findings().map(|(_, findings)| findings.count)
}

const TWICE: [usize; 4] = [1, 0, 0, 0];
const LOST: [usize; 4] = [0, 1, 0, 0];
const UNTOLD: [usize; 4] = [0, 0, 1, 0];
const BEYOND: [usize; 4] = [0, 0, 0, 1];

#[test]
fn claims_checker_accepts_correct_evidence() {
    let Report { claims, expired, refused, undone, .. } = check(&sound());
    assert_eq!((falsified(|_| ()), claims, expired, refused, undone), ([0; 4], 2, 1, 1, 0));
}

#[test]
fn claims_checker_detects_two_holders() {
    // The claim of the same version that a crash has lost.
    let other = Claim { start: 399, ..claim(4) };
    let lost = |evidence: &mut Evidence| {
        evidence.records[1].answers.pop();
        evidence.history[5].claim = Some(other);
    };
    assert_eq!(falsified(lost), TWICE);
    let dead = |evidence: &mut Evidence| {
        evidence.records[1].answers.pop();
        (evidence.history[5].request_id, evidence.history[5].claim) = (Some("claim 2".to_owned()), Some(claim(2)));
    };
    assert_eq!(falsified(dead), TWICE);
    assert_eq!(falsified(|evidence| evidence.history[5].request_id = Some("release 2".to_owned())), TWICE);
    // After the other worker was told that it has the task.
    let renewed = |at| falsified(|evidence| evidence.records[0].answers.push(answer(2, Told::Renewed, at)));
    assert_eq!((renewed(415), renewed(425)), ([0; 4], TWICE));
    assert_eq!(falsified(|evidence| evidence.records[0].answers.push(answer(4, Told::Claimed, 410))), [1, 0, 1, 0]);
    let by_hand = |evidence: &mut Evidence| {
        evidence.history[2].worker = None;
        evidence.records[0].answers.clear();
    };
    assert_eq!(falsified(by_hand), TWICE, "a task without a claim cannot run out");
}

#[test]
fn claims_checker_detects_lost_answers_and_tasks() {
    let unfinished = |evidence: &mut Evidence| {
        evidence.records[1].answers.pop();
        evidence.history.pop();
    };
    assert_eq!(falsified(unfinished), LOST);
    let ended = |evidence: &mut Evidence| evidence.records[0].answers.push(answer(2, Told::Ended, 290));
    assert_eq!(falsified(ended), LOST);
    let claimed = |evidence: &mut Evidence| evidence.records[0].answers.push(answer(9, Told::Claimed, 290));
    assert_eq!(falsified(claimed), LOST);

    // A crash may lose a commit that did not wait, or the database all of that time.
    let mut evidence = sound();
    claimed(&mut evidence);
    evidence.records[0].is_durable = false;
    let report = check(&evidence);
    assert_eq!((report.is_clean(), report.undone), (true, 1));
    let with_loss = |loss| {
        falsified(|evidence| {
            claimed(evidence);
            evidence.losses.push(loss);
        })
    };
    assert_eq!((with_loss((280, 300)), with_loss((300, 400)), with_loss((100, 200))), ([0; 4], LOST, LOST));
}

#[test]
fn claims_checker_detects_what_the_history_does_not_tell() {
    let nobody = || Some("nobody".to_owned());
    assert_eq!(falsified(|evidence| evidence.history[4].worker = nobody()), UNTOLD);
    assert_eq!(falsified(|evidence| evidence.history[3].worker = nobody()), UNTOLD);
    assert_eq!(falsified(|evidence| evidence.history[3].reason = nobody()), UNTOLD);
    let without_claim = |evidence: &mut Evidence| {
        evidence.records[1].answers.pop();
        evidence.history[5].claim = None;
    };
    assert_eq!(falsified(without_claim), UNTOLD);
    // Said again, another answer.
    let refused = |at| falsified(|evidence| evidence.records[1].answers.push(answer(4, Told::Refused, at)));
    assert_eq!((refused(505), refused(520)), ([0; 4], UNTOLD));
    // A crash has undone the deletion of the task.
    let refused_after_deletion = |sent| {
        falsified(|evidence| {
            evidence.records[1].answers.push(answer(4, Told::Refused, 520));
            evidence.records[0].deletions.push((claim(4).task, sent));
        })
    };
    assert_eq!((refused_after_deletion(515), refused_after_deletion(525)), ([0; 4], UNTOLD));
}

#[test]
fn claims_checker_detects_too_many_tries_and_tasks() {
    // Two more attempts, and then it is deleted.
    let again = |is_released: bool| {
        falsified(|evidence| {
            let [run, expiry] = [2, 3].map(|index| evidence.history[index].clone());
            for version in [6, 8] {
                let request_id = Some(format!("release {version}"));
                let release = Event { request_id, ..event(version + 1, expiry.old, State::Retrying) };
                let end = if is_released { release } else { expiry.clone() };
                evidence.history.extend([Event { version, ..run.clone() }, Event { version: version + 1, ..end }]);
            }
            evidence.history.push(Event { new: None, ..event(10, None, State::Failed) });
        })
    };
    assert_eq!(again(false), BEYOND);
    assert_eq!(again(true), [0; 4], "released attempts do not count");
    let two_run = |evidence: &mut Evidence| {
        let second = Event { id: 6, entity: Uuid::from_u128(2), ..evidence.history[4].clone() };
        let deleted = Event { new: None, ..second.clone() };
        evidence.history.splice(5..5, [second, deleted]);
    };
    assert_eq!(falsified(two_run), BEYOND);
}
