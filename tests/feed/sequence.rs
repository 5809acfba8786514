//! The sequence of event ids goes back: readers get the new events, or are told.

use crate::feed::follow::current_position;
use crate::feed::positions::fault;
use pg_workflow_tests::*;
use postgres::Client;

fn read(client: &mut Client, consumer: &str, max: i32) -> Vec<i64> {
    let rows = client.query("SELECT id FROM workflow.read_events($1, $2)", &[&consumer, &max]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

fn consume(client: &mut Client, consumer: &str, max: i32) {
    let last = *read(client, consumer, max).last().unwrap();
    client.query_one("SELECT workflow.ack_events($1, $2)", &[&consumer, &last]).unwrap();
}

#[test]
fn consumers_begin_again_after_truncate_restart_identity() {
    // The tasks of before have no history then.
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    let names = ["unread", "partway", "ended", "closed"];
    for name in names {
        client.query_one("SELECT workflow.create_consumer($1, true)", &[&name]).unwrap();
    }
    create_tasks(client, 20);
    consume(client, "partway", 5);
    client.batch_execute("SELECT workflow.save_checkpoint('partway', '{1}')").unwrap();
    consume(client, "ended", 100);
    consume(client, "closed", 100);
    assert!(read(client, "closed", 100).is_empty());
    let position = current_position(client);
    client.batch_execute("TRUNCATE workflow.state_history RESTART IDENTITY").unwrap();
    fault(client, &position);
    // Beyond the old ids before anybody reads.
    create_tasks(client, 40);
    let all: Vec<i64> = (1..=41).collect();
    for name in names {
        assert_eq!(read(client, name, 100), all, "{name}");
    }
    client.batch_execute("SELECT workflow.rewind_consumer('partway', '{1}')").unwrap();
    assert_eq!(read(client, "partway", 100), all);
    fault(client, &position);
}

#[test]
fn reader_is_told_that_the_sequence_was_set_back() {
    let db = Db::new();
    let client = &mut db.connect();
    create_tasks(client, 5);
    next_partition(client);
    client.batch_execute("SELECT workflow.create_consumer('reader', true)").unwrap();
    create_tasks(client, 5);
    consume(client, "reader", 100);
    let position = current_position(client);
    let last: i64 = client.query_one("SELECT max(id) FROM workflow.state_history", &[]).unwrap().get(0);
    client.batch_execute("SELECT setval('workflow.state_history_id_seq', 1000)").unwrap();
    create_task(client);
    for sql in ["SELECT workflow.read_events('reader')", "SELECT workflow.skip_event('reader', 1001)"] {
        let told = failure(client.batch_execute(sql));
        assert_eq!((&*told.sqlstate, &told.detail["floor_id"]), ("55000", &last.into()), "{sql}: {told:?}");
        assert!(told.hint.contains("setval()"), "{}", told.hint);
    }
    let told = failure(client.query("SELECT FROM workflow.follow_events($1)", &[&position]));
    assert!(told.sqlstate == "55000" && told.hint.contains("setval()"), "{told:?}");
    client.execute("SELECT setval('workflow.state_history_id_seq', $1)", &[&last]).unwrap();
    create_task(client);
    assert_eq!(read(client, "reader", 100).len(), 2);
}

/// Between DROP SUBSCRIPTION and finish_copy(): the transaction IDs of the history are those of the publisher.
#[test]
fn reader_is_told_that_a_copy_is_not_finished() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.create_consumer('copied', true)").unwrap();
    create_tasks(client, 5);
    let position = current_position(client);
    let other = "UPDATE workflow.consumers SET system_identifier = system_identifier + 1";
    client.batch_execute(other).unwrap();
    client.batch_execute("SELECT setval('workflow.state_history_id_seq', 1, false)").unwrap();
    for level in ["READ COMMITTED", "REPEATABLE READ"] {
        for sql in [
            "SELECT workflow.create_consumer('new')",
            "SELECT workflow.create_consumer('new', true)",
            "SELECT workflow.read_events('copied')",
            "SELECT workflow.skip_event('copied', 1)",
            "SELECT workflow.current_position()",
            &format!("SELECT workflow.follow_events('{position}')"),
        ] {
            let mut attempt = client.transaction().unwrap();
            attempt.batch_execute(&format!("SET TRANSACTION ISOLATION LEVEL {level}")).unwrap();
            let told = failure(attempt.batch_execute(sql));
            assert_eq!((&*told.sqlstate, &told.detail["last_id"]), ("55000", &0.into()), "{sql}: {told:?}");
            assert!(told.hint.contains("finish_copy()"), "{}", told.hint);
        }
    }
    client.batch_execute("SELECT workflow.finish_copy(), workflow.create_consumer('new')").unwrap();
    create_task(client);
    assert_eq!(read(client, "copied", 100).len(), 8);
    assert_eq!(read(client, "new", 100).len(), 2);
}
