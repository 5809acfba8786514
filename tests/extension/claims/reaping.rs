//! Ending claims whose time has run out, and what must not keep sessions from it.

use super::enqueue;
use pg_workflow_tests::*;
use postgres::Client;
use postgres::error::SqlState;

const WAIT: &str = "CALL workflow.wait_for_tasks('{nowhere}', '0')";

/// Lets a worker claim tasks, one of each call, and vanish.
fn lose_claims(client: &mut Client, count: usize) {
    enqueue(client, "default", count);
    let claim = "SELECT claim FROM workflow.claim_tasks('gone', lease => '1 us')";
    (0..count).for_each(|_| _ = client.query_one(claim, &[]).unwrap());
}

fn held(client: &mut Client) -> Vec<String> {
    let sql = "SELECT task_id FROM workflow.claims ORDER BY task_id";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn claim_that_cannot_be_ended_keeps_none_of_the_others() {
    assert_refusal_keeps_no_others("RAISE 'no budget'");
    assert_refusal_keeps_no_others("ASSERT false, 'no budget'");
}

/// A trigger of the user's refuses the end of one claim of three.
fn assert_refusal_keeps_no_others(refusal: &str) {
    let db = Db::new();
    let (mut client, warnings) = connect_with_warnings(&db);
    let client = &mut client;
    client
        .batch_execute(&format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF NEW.task_id = 'default_1' AND NEW.state = 'failed' THEN {refusal}; END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER refuse AFTER UPDATE ON workflow.task_instances FOR EACH ROW EXECUTE FUNCTION refuse()"
        ))
        .unwrap();
    lose_claims(client, 3);
    let reaped = client.query("SELECT FROM workflow.reap_claims()", &[]).unwrap();
    assert_eq!((reaped.len(), held(client)), (2, vec!["default_1".to_owned()]));
    let task: uuid::Uuid = client.query_one("SELECT id FROM workflow.claims", &[]).unwrap().get(0);
    let warning = format!("cannot end the claim of task_instance {task}: no budget");
    assert_eq!(*warnings.lock().unwrap(), [warning.as_str()]);
    wait_until("the turn of a waiting session", || {
        client.query_one(WAIT, &[]).unwrap();
        *warnings.lock().unwrap() == [warning.as_str(); 2]
    });
}

/// Who may end no claim gets the error of that, also if no claim has run out.
#[test]
fn reaper_without_the_right_gets_an_error() {
    let db = Db::new();
    let client = &mut db.connect();
    let reap = "SELECT FROM workflow.reap_claims()";
    for (begin, code) in [
        ("BEGIN READ ONLY", SqlState::READ_ONLY_SQL_TRANSACTION),
        ("BEGIN; SET LOCAL ROLE workflow_reader", SqlState::INSUFFICIENT_PRIVILEGE),
    ] {
        client.batch_execute(begin).unwrap();
        assert_eq!(client.query(reap, &[]).unwrap_err().code(), Some(&code), "{begin}");
        client.batch_execute("ROLLBACK").unwrap();
    }
}

/// A read-only session waits, and leaves claims that have run out to others.
#[test]
fn read_only_session_waits_and_reaps_nothing() {
    let db = Db::new();
    let (client, reader) = (&mut db.connect(), &mut db.connect());
    lose_claims(client, 1);
    reader.batch_execute("SET default_transaction_read_only = on").unwrap();
    // It takes no turn of the others.
    wait_until("the claim has ended", || {
        reader.query_one(WAIT, &[]).unwrap();
        assert_eq!(held(client).len(), 1);
        client.query_one(WAIT, &[]).unwrap();
        held(client).is_empty()
    });
}

/// A trigger that takes longer than statement_timeout stops the call at its task: what was ended stays, and the next call
/// begins behind it.
#[test]
fn reap_that_times_out_keeps_what_it_has_ended() {
    let db = Db::new();
    let (mut client, warnings) = connect_with_warnings(&db);
    let client = &mut client;
    client
        .batch_execute(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
             CREATE TRIGGER dawdle AFTER UPDATE ON workflow.task_instances FOR EACH ROW
             WHEN (NEW.task_id = 'default_1' AND NEW.state = 'failed') EXECUTE FUNCTION dawdle()",
        )
        .unwrap();
    lose_claims(client, 4);
    client.batch_execute("SET statement_timeout = '1 s'").unwrap();
    let reap = "SELECT FROM workflow.reap_claims()";
    assert_eq!(client.query(reap, &[]).unwrap().len(), 1);
    assert_eq!(client.query(reap, &[]).unwrap().len(), 2, "those behind, and then the same");
    assert_eq!(held(client), ["default_1"]);
    let told = "cannot end all claims that have run out: canceling statement due to statement timeout";
    assert_eq!(*warnings.lock().unwrap(), [told; 2]);
    // The session in whose turn it happens ends its wait as if the time had passed.
    wait_until("the turn of a waiting session", || {
        client.query_one("CALL workflow.wait_for_tasks('{nowhere}', '500 ms')", &[]).unwrap();
        warnings.lock().unwrap().len() > 2
    });
}

#[test]
fn canceled_reap_is_canceled() {
    let db = Db::new();
    let (client, other) = (&mut db.connect(), &mut db.connect());
    client
        .batch_execute(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock(1); RETURN NULL; END $$;
             CREATE TRIGGER dawdle AFTER UPDATE ON workflow.task_instances FOR EACH ROW
             WHEN (NEW.task_id = 'default_1' AND NEW.state = 'failed') EXECUTE FUNCTION dawdle()",
        )
        .unwrap();
    lose_claims(client, 3);
    other.batch_execute("SELECT pg_advisory_lock(1)").unwrap();
    let cancel = client.cancel_token();
    let error = std::thread::scope(|scope| {
        let reap = scope.spawn(|| client.query("SELECT FROM workflow.reap_claims()", &[]).map(|rows| rows.len()));
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        wait_until("the reap", || other.query_one(waits, &[]).unwrap().get::<_, i64>(0) == 1);
        cancel.cancel_query(postgres::NoTls).unwrap();
        reap.join().unwrap().unwrap_err()
    });
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    assert_eq!(held(other).len(), 3);
}
