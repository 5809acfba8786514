//! A follower's position continues without loss or repetition, or is rejected, whatever happened to its database.

use crate::feed::follow::{self, current_position, follow};
use pg_workflow_tests::*;
use postgres::Client;
use std::path::Path;
use std::process::Command;
use xtask::stack::postgres::{PRELOADED, Postgres, Shutdown};

const FOLLOW: &str = "SELECT id FROM workflow.follow_events($1, 7)";

/// Why a position is rejected.
pub fn fault(client: &mut Client, position: &str) -> String {
    let failed = failure(client.query(FOLLOW, &[&position]));
    assert_eq!((&*failed.sqlstate, &failed.detail["argument"]), ("22023", &"position".into()), "{failed:?}");
    assert!(failed.hint.contains("current_position()"), "{failed:?}");
    let waiting = failure(client.query("CALL workflow.wait_for_events_after($1, '0')", &[&position]));
    assert_eq!((waiting.sqlstate, waiting.detail), (failed.sqlstate, failed.detail), "a wait rejects it too");
    failed.message.split_once("position is ").expect("a reason").1.to_owned()
}

/// The ids of all events from a position to the end.
fn rest(client: &mut Client, position: &str) -> Vec<i64> {
    follow::drain(client, &mut position.to_owned(), 7).iter().map(|event| event.0).collect()
}

fn ids_after(client: &mut Client, id: i64) -> Vec<i64> {
    let rows = client.query("SELECT id FROM workflow.state_history WHERE id > $1 ORDER BY id", &[&id]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

fn last_id(client: &mut Client) -> i64 {
    client.query_one("SELECT max(id) FROM workflow.state_history", &[]).unwrap().get(0)
}

fn wal_end(client: &mut Client) -> i64 {
    client.query_one("SELECT workflow.wal_end()", &[]).unwrap().get(0)
}

/// Assigns so many transaction IDs to transactions without events.
fn assign_ids(client: &mut Client, count: i32) {
    let sql = format!("DO $$ BEGIN FOR n IN 1..{count} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$");
    client.batch_execute(&sql).unwrap();
}

/// Positions of one follower: `ended` after all events, `partway` in a window that ends there.
pub struct Positions {
    pub ended: String,
    pub partway: String,
    /// The last event before `partway`.
    partway_id: i64,
    /// The last event before `ended`.
    last_id: i64,
}

impl Positions {
    /// Creates some events and follows them.
    pub fn take(client: &mut Client) -> Positions {
        let mut ended = current_position(client);
        create_tasks(client, 11);
        let first = follow(client, &mut ended, 5);
        let partway = ended.clone();
        assert_eq!(follow(client, &mut ended, 100).len(), 7);
        Positions { ended, partway, partway_id: first[4].0, last_id: last_id(client) }
    }

    /// The database has all that the follower has read: it gets the others exactly once.
    fn continue_in(&self, client: &mut Client) {
        for (position, last_id) in [(&self.ended, self.last_id), (&self.partway, self.partway_id)] {
            let expected = ids_after(client, last_id);
            let waited = client.query_one("CALL workflow.wait_for_events_after($1, '0')", &[position]).unwrap();
            assert_eq!(waited.get::<_, bool>(0), !expected.is_empty(), "a wait finds them, or none");
            assert_eq!(rest(client, position), expected);
        }
    }

    /// All positions are rejected for this reason.
    fn fail_in(&self, client: &mut Client, reason: &str) {
        for position in [&self.ended, &self.partway] {
            let fault = fault(client, position);
            assert!(fault.contains(reason), "{position}: {fault}");
        }
    }
}

/// Ends the connection of a standby to its primary when it has replayed all.
pub fn cut_off(primary: &Postgres, standby: &Postgres) {
    let written = primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap();
    let has_all = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
    wait_until("the standby has caught up", || standby.psql("postgres", &has_all).unwrap() == "t");
    standby.psql("postgres", "ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()").unwrap();
    let is_cut = "SELECT count(*) FROM pg_stat_wal_receiver";
    wait_until("the standby is cut off", || standby.psql("postgres", is_cut).unwrap() == "0");
}

#[test]
fn position_beyond_an_asynchronous_promotion_is_rejected() {
    let (primary, db) = own_cluster("position-async", &[PRELOADED]);
    let standby = primary.standby("position-async").unwrap();
    let client = &mut db.connect();
    create_tasks(client, 5);
    client
        .batch_execute("SELECT workflow.create_consumer('reader', true), workflow.create_consumer('late', true)")
        .unwrap();
    let consume = |client: &mut Client, consumer: &str, max: i32| -> Vec<i64> {
        let sql = "SELECT id FROM workflow.read_events($1, $2)";
        let ids: Vec<i64> = client.query(sql, &[&consumer, &max]).unwrap().iter().map(|row| row.get(0)).collect();
        if let Some(last) = ids.last() {
            client.query_one("SELECT workflow.ack_events($1, $2)", &[&consumer, last]).unwrap();
        }
        ids
    };
    let drain = |client: &mut Client, consumer: &str| -> Vec<i64> {
        let pieces = std::iter::from_fn(|| Some(consume(client, consumer, 7)).filter(|ids| !ids.is_empty()));
        pieces.flatten().collect()
    };
    let before = Positions::take(client);
    let read = consume(client, "reader", 9);
    cut_off(&primary, &standby);
    // No event is lost with this one, but its follower must be told where the timeline ended.
    client.batch_execute("CREATE TABLE public.lost ()").unwrap();
    let eventless = current_position(client);
    let after = Positions::take(client);
    drain(client, "reader");
    drain(client, "late");
    drop(db.without_verification());
    primary.kill().unwrap();
    standby.promote().unwrap();

    let promoted = Db::at(standby.url("workflow"));
    let client = &mut promoted.connect();
    let left = "on timeline 1 after this database has left it";
    let check = |client: &mut Client| {
        before.continue_in(client);
        for position in [&after.ended, &after.partway, &eventless] {
            let fault = fault(client, position);
            assert!(fault == left || fault == "ahead of this database", "{fault}");
        }
    };
    check(client);
    assert_eq!(fault(client, &eventless), left);
    // The new timeline assigns the lost ids again.
    create_tasks(client, 60);
    assert!(last_id(client) > after.last_id);
    check(client);
    after.fail_in(client, left);
    // Consumers are where the new timeline has them.
    let all = ids_after(client, 0);
    assert_eq!(drain(client, "reader"), all[9..]);
    assert_eq!(read, all[..9]);
    assert_eq!(drain(client, "late"), all);
}

#[test]
fn position_continues_after_a_synchronous_promotion() {
    let (primary, db) = own_cluster("position-sync", &[PRELOADED]);
    let standby = primary.standby("position-sync").unwrap();
    primary.wait_for_standby().unwrap();
    let client = &mut db.connect();
    let positions = Positions::take(client);
    let now = current_position(client);
    let last = last_id(client);
    drop(db.without_verification());
    primary.kill().unwrap();
    standby.promote().unwrap();
    let promoted = Db::at(standby.url("workflow"));
    let client = &mut promoted.connect();
    positions.continue_in(client);
    create_tasks(client, 40);
    positions.continue_in(client);
    assert_eq!(rest(client, &now), ids_after(client, last));
}

#[test]
fn position_is_checked_after_a_point_in_time_recovery() {
    let (original, db) = own_cluster("position-pitr", &[PRELOADED]);
    let recovered = original.standby("position-pitr").unwrap();
    recovered.stop(Shutdown::Fast).unwrap();
    let client = &mut db.connect();
    let before = Positions::take(client);
    client.batch_execute("SELECT pg_create_restore_point('here')").unwrap();
    let after = Positions::take(client);
    client.batch_execute("SELECT pg_switch_wal()").unwrap();
    let copy = format!("cp {}/pg_wal/%f %p", original.data().display());
    let recovery =
        [("restore_command", &*copy), ("recovery_target_name", "here"), ("recovery_target_action", "promote")];
    recovered.configure(&recovery).unwrap();
    let signal = |name: &str| recovered.data().join(name);
    std::fs::rename(signal("standby.signal"), signal("recovery.signal")).unwrap();
    recovered.start_again().unwrap();
    let is_open = || recovered.psql("postgres", "SELECT NOT pg_is_in_recovery()").is_ok_and(|answer| answer == "t");
    wait_until("the recovery has ended", is_open);
    let other = Db::at(recovered.url("workflow"));
    let copy = &mut other.connect();
    before.continue_in(copy);
    create_tasks(copy, 60);
    before.continue_in(copy);
    after.fail_in(copy, "on timeline 1 after this database has left it");
    // The original continues, and does not know the other timeline.
    let there = Positions::take(copy);
    after.continue_in(client);
    there.fail_in(client, "");
}

/// Copies the data of a stopped cluster into another stopped one.
fn copy_data(from: &Path, to: &Path) {
    std::fs::remove_dir_all(to).unwrap();
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

#[test]
fn position_is_checked_in_a_cold_copy_beside_the_original() {
    let (original, db) = own_cluster("position-cold", &[PRELOADED]);
    let copied = Postgres::start("position-cold-copy", &[PRELOADED]).unwrap();
    let client = &mut db.connect();
    create_tasks(client, 3);
    let before = Positions::take(client);
    original.stop(Shutdown::Fast).unwrap();
    copied.stop(Shutdown::Fast).unwrap();
    copy_data(&original.data(), &copied.data());
    original.start_again().unwrap();
    copied.start_again().unwrap();
    let other = Db::at(copied.url("workflow"));
    let (client, copy) = (&mut db.connect(), &mut other.connect());
    // The original assigns transaction IDs to no event.
    assign_ids(client, 300);
    let eventless = current_position(client);
    let after = Positions::take(client);
    after.fail_in(copy, "ahead of this database");
    // In the copy the same IDs write events. Its log, its ids and its transactions go beyond the positions.
    for _ in 0..40 {
        create_task(copy);
    }
    copy.batch_execute("CREATE TABLE public.filler AS SELECT generate_series(1, 100000)").unwrap();
    assign_ids(copy, 400);
    assert!(wal_end(copy) > wal_end(client) && last_id(copy) > last_id(client));
    before.continue_in(copy);
    before.continue_in(client);
    assert_eq!(rest(copy, &eventless), ids_after(copy, before.last_id), "whatever transactions wrote them");
    after.fail_in(copy, "of another history");
    after.continue_in(client);
}

/// Dumps a database as SQL.
fn dump(cluster: &Postgres, db: &Db) -> String {
    let mut dump = Command::new(cluster.install().program("pg_dump"));
    xtask::stack::process::clean_environment(&mut dump);
    let dumped = dump.args(["--dbname", db.url()]).output().unwrap();
    assert!(dumped.status.success());
    String::from_utf8(dumped.stdout).unwrap()
}

#[test]
fn position_is_checked_in_a_restored_dump() {
    let (cluster, db) = own_cluster("position-dump", &[PRELOADED]);
    let other = Postgres::start("position-restored", &[("fsync", "off"), PRELOADED]).unwrap();
    // So that the other cluster assigns IDs below those of the events.
    let client = &mut db.connect();
    assign_ids(client, 1000);
    let before = Positions::take(client);
    let dumped = dump(&cluster, &db);
    let after = Positions::take(client);
    let restored = Db::at(other.create_database("workflow").unwrap());
    other.psql("workflow", &dumped).unwrap();
    let copy = &mut restored.connect();
    finish(copy, [&before, &after]);
    before.continue_in(copy);
    after.fail_in(copy, "of another history");
    create_tasks(copy, 40);
    before.continue_in(copy);
    after.fail_in(copy, "of another history");
    // In the same cluster.
    let twin = Db::at(cluster.create_database("twin").unwrap());
    cluster.psql("twin", &dumped).unwrap();
    let copy = &mut twin.connect();
    finish(copy, [&before, &after]);
    create_tasks(copy, 40);
    before.continue_in(copy);
    after.fail_in(copy, "of another history");
    after.continue_in(client);
}

/// Finishes a restore. Until then the feed is closed.
fn finish(client: &mut Client, positions: [&Positions; 2]) {
    for position in positions.into_iter().flat_map(|taken| [&taken.ended, &taken.partway]) {
        let told = failure(client.query("SELECT FROM workflow.follow_events($1)", &[position]));
        assert!(told.sqlstate == "55000" && told.hint.contains("finish_copy()"), "{told:?}");
    }
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
}

#[test]
fn position_is_checked_in_a_copy_of_the_database() {
    let (cluster, db) = own_cluster("position-template", &[PRELOADED]);
    let mut client = db.connect();
    let before = Positions::take(&mut client);
    drop(client);
    let create = || cluster.psql("postgres", "CREATE DATABASE twin TEMPLATE workflow");
    wait_until("the template is free", || create().is_ok());
    let twin = Db::at(cluster.url("twin"));
    let (client, copy) = (&mut db.connect(), &mut twin.connect());
    for _ in 0..20 {
        create_task(copy);
    }
    // All transactions of the copy so far have lower IDs than this position.
    let eventless = current_position(client);
    assert_eq!(rest(copy, &eventless), ids_after(copy, before.last_id));
    let after = Positions::take(client);
    before.continue_in(copy);
    after.fail_in(copy, "of another history");
    after.continue_in(client);
}

/// The same position as versions before 0.3.0 write it.
fn in_format_1(position: &str) -> String {
    let parts: Vec<&str> = position.split('.').collect();
    [&["1"], &parts[1..3], &parts[5..]].concat().join(".")
}

fn with_part(position: &str, part: usize, value: &str) -> String {
    let mut parts: Vec<&str> = position.split('.').collect();
    parts[part] = value;
    parts.join(".")
}

#[test]
fn position_of_an_older_version_is_accepted_where_it_was_made() {
    let db = Db::new();
    let client = &mut db.connect();
    create_tasks(client, 3);
    let mut late = db.connect();
    let mut late = late.transaction().unwrap();
    let task = create_task(client);
    start_task(&mut late, task);
    let positions = Positions::take(client);
    late.commit().unwrap();
    create_tasks(client, 3);
    for position in [&positions.ended, &positions.partway] {
        let mut older = in_format_1(position);
        assert_eq!(rest(client, &older), rest(client, position));
        for (part, value) in [(1, "1"), (2, "77")] {
            assert_eq!(fault(client, &with_part(&older, part, value)), "of another cluster or timeline");
        }
        follow::drain(client, &mut older, 3);
        assert!(older.starts_with("2."), "it is replaced: {older}");
    }
}

#[test]
fn invented_position_is_rejected_without_a_search() {
    let db = Db::new();
    let client = &mut db.connect();
    let partway = Positions::take(client).partway;
    assert_eq!(partway.split('.').count(), 13);
    let beyond = "4611686018427387904";
    for position in [partway.clone(), in_format_1(&partway)] {
        let first = if position == partway { 5 } else { 3 };
        for part in [2, 5, 6, 7] {
            let invented = with_part(&position, first + part, beyond);
            fault(client, &invented);
        }
        // A crash can have forgotten transaction IDs.
        for part in [1, 4] {
            let invented = with_part(&position, first + part, beyond);
            assert_eq!(rest(client, &invented), rest(client, &position));
        }
    }
    assert_eq!(fault(client, &with_part(&partway, 3, beyond)), "ahead of this database");
    assert_eq!(fault(client, &with_part(&partway, 2, "77")), "on timeline 77 after this database has left it");
    assert!(fault(client, &with_part(&partway, 4, "1")).contains("of another history"));
}

/// The transactions of a copy get the IDs of those that wrote its events in the other cluster.
#[test]
fn copy_takes_no_foreign_event_for_one_of_its_own() {
    let (cluster, db) = own_cluster("position-foreign", &[PRELOADED]);
    let other = Postgres::start("position-foreign-copy", &[("fsync", "off"), PRELOADED]).unwrap();
    let client = &mut db.connect();
    assign_ids(client, 3000);
    let task = create_task(client);
    let mut moved = Positions::take(client).partway;
    create_tasks(client, 20);
    let dumped = dump(&cluster, &db);
    let restored = Db::at(other.create_database("workflow").unwrap());
    other.psql("workflow", &dumped).unwrap();
    other.psql("workflow", "SELECT workflow.finish_copy()").unwrap();

    let copy = &mut restored.connect();
    let sql = "SELECT max(transaction_id)::text::bigint - workflow.next_transaction_id()::text::bigint
               FROM workflow.state_history";
    let until: i64 = copy.query_one(sql, &[]).unwrap().get(0);
    assign_ids(copy, i32::try_from(until).unwrap());
    let mut session = restored.connect();
    let mut late = session.transaction().unwrap();
    start_task(&mut late, task);
    let writer: i64 = late.query_one("SELECT pg_current_xact_id()::text::bigint", &[]).unwrap().get(0);
    let sql = "SELECT max(id) FROM workflow.state_history WHERE transaction_id = $1::bigint::text::xid8";
    let event: Option<i64> = copy.query_one(sql, &[&writer]).unwrap().get(0);
    let new = current_position(copy);
    // The counts that verify() compares at the end.
    assert!(copy.query_one("SELECT workflow.fold_state_counts()", &[]).unwrap().get::<_, bool>(0));
    let older = ids_after(copy, event.expect("an event with the same transaction ID"));
    assert_eq!(rest_until(copy, &mut moved), older.last().copied().or(event));
    late.commit().unwrap();
    let events = ids_after(copy, 1_000_000_000_000);
    assert_eq!(events.len(), 1);
    assert_eq!(rest(copy, &new), events);
    assert_eq!(rest(copy, &moved), events);
}

/// Follows to the end, and returns the last id.
fn rest_until(client: &mut Client, position: &mut String) -> Option<i64> {
    follow::drain(client, position, 7).last().map(|event| event.0)
}

/// A transaction in progress can have an ID that the log does not name: a crash assigns it again.
#[test]
fn position_outlives_a_crash_that_forgets_transaction_ids() {
    let (cluster, db) = own_cluster("position-crash", &[PRELOADED]);
    let client = &mut db.connect();
    let mut ended = current_position(client);
    create_tasks(client, 11);
    let mut session = db.connect();
    let mut idle = session.transaction().unwrap();
    idle.query_one("SELECT pg_current_xact_id()::text", &[]).unwrap();
    let first = follow(client, &mut ended, 5);
    let partway = ended.clone();
    follow(client, &mut ended, 100);
    let positions = Positions { ended, partway, partway_id: first[4].0, last_id: last_id(client) };
    let next_id = "SELECT workflow.next_transaction_id()::text::bigint";
    let before: i64 = client.query_one(next_id, &[]).unwrap().get(0);
    cluster.kill().unwrap();
    drop(idle);
    cluster.start_again().unwrap();
    let client = &mut db.connect();
    assert!(client.query_one(next_id, &[]).unwrap().get::<_, i64>(0) < before, "the crash has forgotten an ID");
    positions.continue_in(client);
    // The forgotten ID writes events.
    let mut late = session_with_open_task(&db);
    create_tasks(client, 3);
    positions.continue_in(client);
    late.batch_execute("COMMIT").unwrap();
    positions.continue_in(client);
}

/// Returns a session in a transaction that has written events.
fn session_with_open_task(db: &Db) -> Client {
    let mut session = db.connect();
    session.batch_execute("BEGIN").unwrap();
    create_task(&mut session);
    session
}
