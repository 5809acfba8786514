//! A consumer acknowledges what `read_events()` has returned in its window, and nothing else.

use pg_workflow_tests::*;
use postgres::{Client, GenericClient};
use xtask::stack::postgres::PRELOADED;

fn read(client: &mut impl GenericClient, max: i32) -> Vec<i64> {
    let rows = client.query("SELECT id FROM workflow.read_events('reader', $1)", &[&max]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Acknowledges an event; the SQLSTATE if it is refused.
fn ack(client: &mut impl GenericClient, id: i64) -> Result<bool, String> {
    let row = client.query_one("SELECT workflow.ack_events('reader', $1)", &[&id]);
    row.map(|row| row.get(0)).map_err(|error| error.code().unwrap().code().to_owned())
}

fn refused() -> Result<bool, String> {
    Err("22023".to_owned())
}

/// Creates a consumer from the beginning, and so many events; returns their ids.
fn backlog(client: &mut Client, events: usize) -> Vec<i64> {
    client.batch_execute("SELECT workflow.create_consumer('reader', true)").unwrap();
    create_tasks(client, events - 1);
    history(client)
}

fn history(client: &mut Client) -> Vec<i64> {
    let rows = client.query("SELECT id FROM workflow.state_history ORDER BY id", &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn acknowledgement_of_an_unreturned_event_is_rejected() {
    for max in [1, 2, 7, 49, 50, 51, i32::MAX] {
        let db = Db::new();
        let client = &mut db.connect();
        let all = backlog(client, 50);
        assert_eq!(ack(client, all[0]), refused(), "nothing has been read yet");
        let mut got: Vec<i64> = Vec::new();
        loop {
            let piece = read(client, max);
            let Some(last) = piece.last() else { break };
            got.extend(&piece);
            for unreturned in &all[got.len()..] {
                assert_eq!(ack(client, *unreturned), refused(), "{unreturned} of {piece:?} in pieces of {max}");
            }
            assert_eq!(read(client, max), piece, "a refusal acknowledges nothing");
            if piece.len() > 1 {
                assert_eq!(ack(client, piece[0]), Ok(true));
            }
            assert_eq!(ack(client, *last), Ok(true));
            assert_eq!(ack(client, *last), Ok(false));
        }
        assert_eq!(got, all);
        // No window is open: the next events have not been read.
        create_tasks(client, 3);
        let next = *history(client).last().unwrap();
        assert_eq!(ack(client, next), refused());
        // The next window.
        assert_eq!(read(client, 2).len(), 2);
        assert_eq!(ack(client, next), refused());
        assert_eq!(ack(client, all[49]), Ok(false), "acknowledged in the window before");
        assert_eq!(read(client, 100).len(), 4);
        assert_eq!(ack(client, next), Ok(true));
    }
}

#[test]
fn late_event_below_returned_ones_cannot_be_acknowledged() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 3);
    client.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
    let mut late = db.connect();
    let mut late = late.transaction().unwrap();
    start_task(&mut late, tasks[0]);
    start_task(client, tasks[1]);
    let early = read(client, 10);
    assert_eq!(ack(client, early[0]), Ok(true));
    start_task(&mut late, tasks[2]);
    late.commit().unwrap();
    let [below, .., above] = history(client)[4..] else { panic!("three events") };
    for unread in [below, above] {
        assert_eq!(ack(client, unread), refused());
    }
    assert_eq!(read(client, 1), [below]);
    assert_eq!(ack(client, above), refused());
    assert_eq!(ack(client, below), Ok(true));
    assert_eq!(read(client, 1), [above]);
}

#[test]
fn acknowledgement_is_valid_after_a_crash_between() {
    let (cluster, db) = own_cluster("ack-crash", &[PRELOADED, ("fsync", "on")]);
    let client = &mut db.connect();
    let all = backlog(client, 9);
    assert_eq!(read(client, 3), all[..3]);
    cluster.kill().unwrap();
    cluster.start_again().unwrap();
    let client = &mut db.connect();
    assert_eq!(ack(client, all[3]), refused());
    assert_eq!(ack(client, all[2]), Ok(true));
    assert_eq!(read(client, 4), all[3..7]);
    // A read that is rolled back has returned nothing.
    let mut transaction = client.transaction().unwrap();
    assert_eq!(read(&mut transaction, 6), all[3..9]);
    transaction.rollback().unwrap();
    assert_eq!(ack(client, all[8]), refused());
    assert_eq!(ack(client, all[6]), Ok(true));
}

#[test]
fn rewind_and_skip_keep_unreturned_events_unacknowledged() {
    let db = Db::new();
    let client = &mut db.connect();
    let all = backlog(client, 12);
    assert_eq!(read(client, 4), all[..4]);
    assert_eq!(ack(client, all[1]), Ok(true));
    client.batch_execute("SELECT workflow.save_checkpoint('reader', '{1}')").unwrap();
    assert_eq!(read(client, 100), all[2..]);
    assert_eq!(ack(client, all[11]), Ok(true));
    client.query_one("SELECT workflow.rewind_consumer('reader', '{1}')", &[]).unwrap();
    assert_eq!(ack(client, all[2]), refused(), "not returned since the rewind");
    assert_eq!(read(client, 2), all[2..4]);
    assert_eq!(ack(client, all[4]), refused());
    // Skipped events count as returned; the others stay.
    client.execute("SELECT workflow.skip_event('reader', $1)", &[&all[2]]).unwrap();
    assert_eq!(ack(client, all[4]), refused());
    assert_eq!(ack(client, all[3]), Ok(true));
    client.execute("SELECT workflow.skip_event('reader', $1)", &[&all[4]]).unwrap();
    assert_eq!(ack(client, all[5]), refused());
    assert_eq!(read(client, 100), all[5..]);
    assert_eq!(ack(client, all[11]), Ok(true));
    // A skip that opens a window.
    create_tasks(client, 2);
    let news = history(client)[12..].to_vec();
    client.execute("SELECT workflow.skip_event('reader', $1)", &[&news[0]]).unwrap();
    assert_eq!(ack(client, news[1]), refused());
    assert_eq!(ack(client, news[0]), Ok(false));
    assert_eq!(read(client, 100), news[1..]);
}

#[test]
fn sessions_of_one_consumer_acknowledge_what_either_returned() {
    let db = Db::new();
    let (one, other) = (&mut db.connect(), &mut db.connect());
    let all = backlog(one, 10);
    assert_eq!(read(one, 3), all[..3]);
    assert_eq!(read(other, 5), all[..5]);
    assert_eq!(ack(one, all[4]), Ok(true));
    assert_eq!(ack(other, all[2]), Ok(false));
    assert_eq!(ack(other, all[5]), refused());
    assert_eq!(read(one, 2), all[5..7]);
    assert_eq!(ack(other, all[6]), Ok(true));
}
