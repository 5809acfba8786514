//! Faults of every kind during writes, and tests of the checker, which must detect lost, doubled, disordered and invented
//! events.

mod witnesses;

use pg_workflow_state_machine::State;
use pg_workflow_tests::chaos::checker::{Report, check};
use pg_workflow_tests::chaos::claims;
use pg_workflow_tests::chaos::cluster::Crowd;
use pg_workflow_tests::chaos::event::Event;
use pg_workflow_tests::chaos::evidence::{Entry, Evidence};
use pg_workflow_tests::chaos::fault::Fault;
use pg_workflow_tests::chaos::holder::Holder;
use pg_workflow_tests::chaos::plan::Plan;
use pg_workflow_tests::chaos::proxy::{Cut, Proxy};
use pg_workflow_tests::chaos::receivers::{Break, Receiver};
use pg_workflow_tests::chaos::run::{Options, run};
use pg_workflow_tests::chaos::stand_in::{Follows, StandIn};
use pg_workflow_tests::chaos::witnesses::Witnesses;
use pg_workflow_tests::chaos::writers::{Load, Writers};
use pg_workflow_tests::*;
use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use xtask::stack::postgres::{FAST, PRELOADED, Postgres};
use xtask::stack::redis::Redis;

/// Less load than in a manual run: other tests run at the same time.
const LOAD: Load = Load { writers: 8, rate: 500 };

/// Without other databases: each standby would copy them.
const CROWD: Crowd = Crowd { databases: 0, idle: 50 };

/// Set `CHAOS_SEED` for other faults.
#[test]
fn a_minute_of_faults_loses_no_event() {
    let seed = std::env::var("CHAOS_SEED").map_or(1, |seed| seed.parse().expect("CHAOS_SEED is a number"));
    let time = Duration::from_secs(60);
    let outcome =
        run(&Options { seed, time, load: LOAD, crowd: CROWD, only: String::new(), keep_logs: false }).unwrap();
    assert!(outcome.report.is_clean(), "seed {seed}: see the report above and the logs in {:?}", outcome.logs);
    assert!(outcome.faults.len() >= 8, "only {} faults", outcome.faults.len());
    let claims = &outcome.report.claims;
    assert!(claims.claims > 200 && claims.expired > 10 && claims.refused > 10, "{claims:?}");
    let graphs = &outcome.report.graphs;
    assert!(graphs.runs > 20 && graphs.decided > 20 && graphs.killed > 0, "{graphs:?}");
}

/// A commit that waits for the standby becomes visible if its session ends, and is lost with the primary. If the relay had
/// published it, subscribers would have an event that does not exist, whose id is used again.
#[test]
fn relay_withholds_events_missing_on_standby() {
    let primary = Postgres::start("chaos-forgotten", &[FAST, &[PRELOADED]].concat()).unwrap();
    primary.psql("postgres", "CREATE DATABASE workflow").unwrap();
    primary.psql("workflow", "CREATE EXTENSION pg_workflow; SELECT workflow.create_consumer('relay', true);").unwrap();
    let standby = primary.standby("chaos-forgotten").unwrap();
    primary.wait_for_standby().unwrap();
    let redis = Redis::start("chaos-forgotten").unwrap();
    let (_server, _) = serve(&primary.url("workflow"), &redis.url());
    let relayed = || redis.command::<i64>(&["XLEN", "workflow:stream"]).unwrap();
    let ask = |cluster: &Postgres, sql: &str| cluster.psql("workflow", sql).unwrap();

    let mut writer = Db::at(primary.url("workflow")).without_verification().connect();
    let task = create_task(&mut writer);
    wait_until("the events of the task and its run", || relayed() == 2);
    standby.kill().unwrap();
    let moving = std::thread::spawn(move || {
        Transition::of(task).from(State::Queued).to(State::Running).run(&mut writer).map_err(|error| error.to_string())
    });
    let waiting = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%workflow.transition%'";
    wait_until("the commit", || ask(&primary, &format!("SELECT EXISTS ({waiting})")) == "t");
    ask(&primary, &waiting.replace("SELECT", "SELECT pg_terminate_backend(pid)"));
    assert!(moving.join().unwrap().is_err(), "the transition was not confirmed");
    wait_until("the transition is visible", || {
        ask(&primary, "SELECT max(version) FROM workflow.task_instances") == "2"
    });
    // Longer than the relay's polling interval.
    std::thread::sleep(Duration::from_secs(2));

    primary.kill().unwrap();
    standby.start_again().unwrap();
    standby.promote().unwrap();
    assert_eq!(ask(&standby, "SELECT count(*) FROM workflow.state_history"), "2");
    assert_eq!(relayed(), 2);
}

/// If the primary is killed, clients with two addresses switch to the promoted standby, and no confirmed transition is lost.
/// (`a_minute_of_faults_loses_no_event` includes this fault, too; here it is the only one.)
#[test]
fn promotion_under_load_loses_no_confirmed_transition() {
    let primary = Postgres::start("chaos-failover", &[FAST, &[PRELOADED]].concat()).unwrap();
    primary.psql("postgres", "CREATE DATABASE workflow").unwrap();
    primary.psql("workflow", "CREATE EXTENSION pg_workflow; SELECT workflow.create_consumer('relay', true);").unwrap();
    let standby = primary.standby("chaos-failover").unwrap();
    primary.wait_for_standby().unwrap();
    let redis = Redis::start("chaos-failover").unwrap();
    let url = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/workflow", primary.port(), standby.port());
    let (server, _) = serve(&url, &redis.url());
    let receiver = Receiver::start(&redis.url()).unwrap();
    let writers =
        Writers::start(&format!("{url}?target_session_attrs=read-write"), 1, Load { writers: 8, rate: 1000 }).unwrap();
    let relayed = || redis.command::<u64>(&["XLEN", "workflow:stream"]).unwrap();
    wait_until("transitions", || writers.transitions() > 2000 && relayed() > 1000);

    let begun = Instant::now();
    primary.kill().unwrap();
    let moved = writers.transitions();
    standby.promote().unwrap();
    wait_until("transitions on the new primary", || writers.transitions() > moved);
    let writes_again = begun.elapsed();
    let count = || standby.psql("workflow", "SELECT count(*) FROM workflow.state_history").unwrap().parse().unwrap();
    let goal = count();
    wait_until("their events", || relayed() >= goal);
    eprintln!("transitions again after {writes_again:?}, relayed again after {:?}", begun.elapsed());
    wait_until("many transitions", || writers.transitions() > moved + 2000);

    let written = writers.finish().unwrap();
    eprintln!("{} confirmed, {} unanswered", written.acknowledged.len(), written.counts.unanswered);
    wait_until("the stream has all", || relayed() >= count());
    let received = vec![receiver.finish(&redis.url()).unwrap()];
    let evidence = Evidence::gather(&standby.url("workflow"), &redis.url(), written, received).unwrap();
    let report = check(&evidence);
    assert!(report.is_clean(), "{report:?}\n{}", log_of(&server));
    assert!(report.acknowledged.checked > 4000 && report.stream.checked > 4000, "{report:?}");
}

/// Runs writers and the long transaction without faults, followed by a stand-in for the relay.
fn evidence_of(follows: Follows) -> Evidence {
    let db = Db::new();
    let redis = Redis::start("chaos-stand-in").unwrap();
    let receiver = Receiver::start(&redis.url()).unwrap();
    let stand_in = StandIn::start(db.url(), &redis.url(), follows).unwrap();
    let witnesses = Witnesses::start(db.url(), db.url()).unwrap();
    let writers = Writers::start(db.url(), 1, Load { writers: 8, rate: 2000 }).unwrap();
    // After the triggers, which need the tables for themselves.
    let holder = Holder::start(db.url()).unwrap();
    wait_until("some transitions", || writers.transitions() > 3000);
    let mut written = writers.finish().unwrap();
    written.add(holder.finish().unwrap().written);
    let last = create_run(&mut db.connect()).1;
    let witnessed = witnesses.finish(last).unwrap();
    stand_in.finish().unwrap();
    let received = vec![receiver.finish(&redis.url()).unwrap()];
    let mut evidence = Evidence::gather(db.url(), &redis.url(), written, received).unwrap();
    evidence.witnesses = witnessed;
    evidence
}

#[test]
fn checker_detects_losses_of_an_id_cursor() {
    let report = check(&evidence_of(Follows::Ids));
    assert!(report.stream.lost.count > 0, "the naive reader must lose events, or the test proves nothing");
    assert_eq!(report.receivers[0].lost.count, report.stream.lost.count);
    assert!(report.acknowledged.is_clean() && report.problems.count == 0, "{report:?}");
}

/// Correct evidence, for tests that falsify it.
fn sound() -> Evidence {
    static EVIDENCE: OnceLock<Evidence> = OnceLock::new();
    EVIDENCE.get_or_init(|| evidence_of(Follows::Feed)).clone()
}

/// Lost, duplicated, out of order, phantom, altered, errors.
fn counts(report: &Report) -> [usize; 6] {
    report.stream.findings().map(|(_, findings)| findings.count)
}

/// The indexes in the stream of two successive events of one entity.
fn neighbors(evidence: &Evidence) -> (usize, usize) {
    let entries = &evidence.stream;
    let next_of = |event: &Event| {
        entries.iter().position(|next| next.event.entity == event.entity && next.event.version == event.version + 1)
    };
    let pair = |first: usize| Some((first, next_of(&entries[first].event)?));
    (0..entries.len()).find_map(pair).expect("an entity with two events")
}

#[test]
fn checker_accepts_correct_evidence() {
    let (evidence, report) = (sound(), check(&sound()));
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(counts(&report), [0; 6]);
    assert!(evidence.acknowledged.len() > 3000 && evidence.history.len() > evidence.acknowledged.len() / 2);
    assert_eq!(evidence.stream.len(), evidence.history.len());
    assert_eq!(evidence.receivers[0].events.len(), evidence.history.len());
}

#[test]
fn checker_detects_each_wrong_stream_entry() {
    let mut lacking = sound();
    lacking.stream.remove(100);
    assert_eq!(counts(&check(&lacking)), [1, 0, 0, 0, 0, 0]);

    let mut doubled = sound();
    let again = doubled.stream[100].clone();
    doubled.stream.push(again);
    assert_eq!(counts(&check(&doubled)), [0, 1, 0, 0, 0, 0]);

    let mut disordered = sound();
    let (first, second) = neighbors(&disordered);
    disordered.stream.swap(first, second);
    assert_eq!(counts(&check(&disordered)), [0, 0, 1, 0, 0, 0]);

    let mut invented = sound();
    let event = Event { id: i64::MAX, ..invented.stream[100].event };
    invented.stream.push(Entry { id: "1-1".to_owned(), event });
    assert_eq!(counts(&check(&invented)), [0, 0, 0, 1, 0, 0]);

    // A transition that was undone, under an id that another one has used since.
    let mut undone = sound();
    undone.stream[100].event.version += 1_000_000;
    assert_eq!(counts(&check(&undone)), [1, 0, 0, 1, 0, 0]);

    let mut altered = sound();
    altered.stream[100].event.content ^= 1;
    assert_eq!(counts(&check(&altered)), [0, 0, 0, 0, 1, 0]);
}

#[test]
fn checker_detects_lost_and_doubled_confirmations() {
    let mut forgotten = sound();
    let (entity, version) = forgotten.acknowledged[100];
    forgotten.history.retain(|event| (event.entity, event.version) != (entity, version));
    let report = check(&forgotten);
    assert_eq!(report.acknowledged.lost.count, 1);
    assert_eq!(report.stream.phantom.count, 1, "the stream has it");

    let mut twice = sound();
    twice.acknowledged.push((entity, version));
    assert_eq!(check(&twice).acknowledged.duplicated.count, 1);

    let mut complaining = sound();
    complaining.complaints.push("an unexpected answer".to_owned());
    complaining.problems.push("a problem".to_owned());
    let report = check(&complaining);
    assert_eq!((report.complaints.count, report.problems.count, report.is_clean()), (1, 1, false));

    let mut waiting = sound();
    waiting.claims.history.push(claims::evidence::Event {
        name: "open 1".to_owned(),
        new: Some(State::Queued),
        ..claims::evidence::Event::default()
    });
    let report = check(&waiting);
    assert_eq!((report.claims.lost.count, report.is_clean()), (1, false));
}

#[test]
fn checker_excuses_receiver_only_during_redis_outage() {
    let mut lossy = sound();
    let missed = lossy.receivers[0].events.remove(100);
    let report = check(&lossy);
    assert_eq!((report.receivers[0].lost.count, report.receivers[0].missed), (1, 0));

    let made = missed.changed_at / 1000;
    lossy.receivers[0].breaks = vec![Break { from: made - 2000, to: made - 1000 }];
    assert_eq!(check(&lossy).receivers[0].lost.count, 1, "the receiver was subscribed again");
    lossy.receivers[0].breaks = vec![Break { from: made - 1000, to: made + 10 }];
    let report = check(&lossy);
    assert_eq!((report.receivers[0].lost.count, report.receivers[0].missed), (0, 1));

    let mut repeating = sound();
    let again = repeating.receivers[0].events[100];
    repeating.receivers[0].events.push(again);
    let report = check(&repeating);
    assert!(report.is_clean() && report.receivers[0].repeated == 1);

    let mut disordered = sound();
    let (first, second) = neighbors(&disordered);
    disordered.receivers[0].events.swap(first, second);
    assert_eq!(check(&disordered).receivers[0].disordered.count, 1);
}

#[test]
fn seed_determines_plan_with_many_kinds_of_faults() {
    let plan = |seed| Plan::new(seed).take(40).collect::<Vec<_>>();
    assert_eq!(plan(7), plan(7));
    assert_ne!(plan(7), plan(8));
    let first: HashSet<String> = plan(7)[..10].iter().map(|step| step.fault.kind()).collect();
    assert!(first.len() >= 8, "{first:?}");
    let clashes = |step: &&pg_workflow_tests::chaos::plan::Step| {
        step.meanwhile.is_some_and(|(_, other)| other.subject() == step.fault.subject())
    };
    assert_eq!(plan(7).iter().filter(clashes).count(), 0);
    assert!(Plan::only(7, "promoted").take(3).all(|step| step.fault == Fault::Promote));
    assert_eq!(Plan::only(7, "no such fault").next(), None);
}

#[test]
fn proxy_breaks_connections_in_every_way() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(server.local_addr().unwrap().port()).unwrap();
    let connect = || {
        let client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        client
    };
    let accept = || server.accept().unwrap().0;
    let read = |stream: &mut TcpStream| {
        let mut buffer = [0; 10];
        stream.read(&mut buffer).map(|length| buffer[..length].to_vec()).map_err(|error| error.kind())
    };

    let (mut client, mut served) = (connect(), accept());
    served.write_all(b"hello").unwrap();
    assert_eq!(read(&mut client), Ok(b"hello".to_vec()));
    proxy.blackhole();
    served.write_all(b"late").unwrap();
    assert_eq!(read(&mut client), Err(ErrorKind::WouldBlock), "no bytes arrive, and the connection stays open");
    let mut waiting = connect();
    assert_eq!(read(&mut waiting), Err(ErrorKind::WouldBlock));
    proxy.pass();
    assert_eq!(read(&mut client), Ok(b"late".to_vec()));
    accept().write_all(b"hello").unwrap();
    assert_eq!(read(&mut waiting), Ok(b"hello".to_vec()));

    proxy.cut(Cut::Finish);
    assert_eq!(read(&mut client), Ok(Vec::new()));
    let (mut client, _served) = (connect(), accept());
    proxy.cut(Cut::Reset);
    assert_eq!(read(&mut client), Err(ErrorKind::ConnectionReset));
    proxy.refuse();
    assert!(matches!(read(&mut connect()), Err(ErrorKind::ConnectionReset)));
    proxy.pass();
    let (mut client, mut served) = (connect(), accept());
    served.write_all(b"again").unwrap();
    assert_eq!(read(&mut client), Ok(b"again".to_vec()));
}
