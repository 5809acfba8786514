//! Ending, renewing and losing claims.

use super::{claim, claim_one, enqueue, outcomes, state_of};
use pg_workflow_tests::*;
use postgres::Client;
use postgres::error::SqlState;
use uuid::Uuid;

fn complete(client: &mut impl postgres::GenericClient, claim: &str) -> Result<i64, postgres::Error> {
    Ok(client.query_one("SELECT workflow.complete_claim($1)", &[&claim])?.get(0))
}

fn fail(client: &mut Client, claim: &str, retry_after: &str) -> Result<(String, i64), postgres::Error> {
    let sql = format!("SELECT state, version FROM workflow.fail_claim($1, 'boom', {retry_after})");
    client.query_one(&sql, &[&claim]).map(|row| (row.get(0), row.get(1)))
}

fn is_lost<T: std::fmt::Debug>(result: Result<T, postgres::Error>) {
    let error = result.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{error:?}");
    let error = error.as_db_error().unwrap();
    assert!(error.message().contains("is lost"), "{error:?}");
    assert!(error.detail().unwrap().contains("\"claim\""), "{error:?}");
}

/// Enqueues tasks that may be tried so often.
fn enqueue_with_tries(client: &mut Client, max_tries: i32) -> Uuid {
    let (_, run) = create_run(client);
    let sql = "SELECT id FROM workflow.create_task_instances($1, '{t}', queue => 'default', max_tries => $2)";
    client.query_one(sql, &[&run, &max_tries]).unwrap().get(0)
}

#[test]
fn claim_ends_once_and_says_the_same_again() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 2);
    let first = claim_one(client, "default");
    let sql = "SELECT workflow.complete_claim($1, '{\"rows\": 7}')";
    assert_eq!(client.query_one(sql, &[&first.claim]).unwrap().get::<_, i64>(0), 3);
    assert_eq!(complete(client, &first.claim).unwrap(), 3);
    is_lost(fail(client, &first.claim, "NULL"));
    let events = "SELECT string_agg(new_state, ' ' ORDER BY version) FROM workflow.state_history WHERE entity_id = $1";
    assert_eq!(client.query_one(events, &[&first.id]).unwrap().get::<_, String>(0), "queued running success");
    let result = "SELECT metadata->>'rows' FROM workflow.state_history WHERE entity_id = $1 AND version = 3";
    assert_eq!(client.query_one(result, &[&first.id]).unwrap().get::<_, String>(0), "7");

    let second = claim_one(client, "default");
    assert_eq!(fail(client, &second.claim, "NULL").unwrap(), ("failed".to_owned(), 3));
    assert_eq!(fail(client, &second.claim, "NULL").unwrap(), ("failed".to_owned(), 3));
    is_lost(complete(client, &second.claim));
}

#[test]
fn move_by_hand_ends_a_claim() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 1);
    let old = claim_one(client, "default");
    let by_hand = "UPDATE workflow.task_instances SET state = $1 WHERE id = $2";
    client.execute(by_hand, &[&"failed", &old.id]).unwrap();
    is_lost(complete(client, &old.claim));
    client.execute(by_hand, &[&"running", &old.id]).unwrap();
    is_lost(complete(client, &old.claim));
    assert_eq!(outcomes(client, "renew_claims", &[&old.claim]), ["lost"]);
    let holder = "SELECT worker IS NULL AND lease_expires_at IS NULL FROM workflow.task_instances";
    assert!(client.query_one(holder, &[]).unwrap().get::<_, bool>(0));
}

#[test]
fn writes_beside_a_lost_claim_are_undone() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("CREATE TABLE results (n int)").unwrap();
    enqueue(client, "default", 1);
    let old = claim_one(client, "default");
    assert_eq!(outcomes(client, "release_claims", &[&old.claim]), ["released"]);
    let new = claim_one(client, "default");
    for (claim, is_held) in [(&old.claim, false), (&new.claim, true)] {
        let mut work = client.transaction().unwrap();
        work.execute("INSERT INTO results VALUES (1)", &[]).unwrap();
        match complete(&mut work, claim) {
            Ok(_) => work.commit().unwrap(),
            Err(_) => assert!(!is_held),
        }
    }
    assert_eq!(client.query("SELECT FROM results", &[]).unwrap().len(), 1);
}

#[test]
fn failure_is_retried_while_tries_are_left() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = enqueue_with_tries(client, 3);
    let first = claim_one(client, "default");
    assert_eq!(fail(client, &first.claim, "'0'").unwrap(), ("retrying".to_owned(), 3));
    let second = claim_one(client, "default");
    assert_eq!((second.id, second.try_number), (task, 2));
    assert_eq!(fail(client, &second.claim, "NULL").unwrap().0, "retrying");
    assert!(claim(client, "default", 1).is_empty(), "not before its time");
    let wait = "SELECT not_before - updated_at BETWEEN '2.9 s' AND '5.1 s' FROM workflow.task_instances";
    assert!(client.query_one(wait, &[]).unwrap().get::<_, bool>(0));
    client.batch_execute("UPDATE workflow.task_instances SET not_before = NULL").unwrap();
    let third = claim_one(client, "default");
    assert_eq!(fail(client, &third.claim, "'0'").unwrap().0, "failed");
    let error = "SELECT error FROM workflow.task_instances";
    assert_eq!(client.query_one(error, &[]).unwrap().get::<_, String>(0), "boom");
    assert_eq!(fail(client, &third.claim, "'0'").unwrap().0, "failed");

    enqueue_with_tries(client, 3);
    let hopeless = claim_one(client, "default");
    assert_eq!(fail(client, &hopeless.claim, "'-1 s'").unwrap().0, "failed");
}

#[test]
fn many_claims_end_at_once_with_an_outcome_each() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 4);
    let mut held = claim(client, "default", 4);
    held.sort_by(|one, other| one.claim.cmp(&other.claim));
    assert_eq!(outcomes(client, "release_claims", &[&held[3].claim]), ["released"]);
    let given = serde_json::json!([
        {"claim": held[0].claim, "state": "success", "result": {"id": "long"}},
        {"claim": held[1].claim, "state": "failed", "error": "boom"},
        {"claim": held[2].claim, "state": "success"},
        {"claim": held[3].claim, "state": "success"},
    ])
    .to_string()
    .replace("\"long\"", "12345678901234567890123456789");
    let sql = "SELECT outcome, state, version FROM workflow.finish_claims($1::text::jsonb, strict => $2)";
    is_lost(client.query(sql, &[&given, &true]));
    assert_eq!(state_of(client, held[0].id), "running", "the others are undone");
    let expected = [("done", "success", 3), ("done", "failed", 3), ("done", "success", 3), ("lost", "retrying", 3)];
    for _ in 0..2 {
        let rows = client.query(sql, &[&given, &false]).unwrap();
        let told: Vec<(&str, &str, i64)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        assert_eq!(told, expected);
    }
    let result = "SELECT metadata->>'id' FROM workflow.state_history WHERE entity_id = $1 AND version = 3";
    let result: String = client.query_one(result, &[&held[0].id]).unwrap().get(0);
    assert_eq!(result, "12345678901234567890123456789");
    let held = claim_one(client, "default").claim;
    for key in ["\"error\": \"x\"", "\"retry_after\": 1"] {
        let given = format!(r#"[{{"claim": "{held}", "state": "success", {key}}}]"#);
        let error = client.query(sql, &[&given, &false]).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{given}: {error:?}");
    }
    for wrong in [
        "NULL",
        "'{}'",
        "'[1]'",
        "'[{}]'",
        "'[{\"state\": \"success\"}]'",
        "'[{\"claim\": \"x\", \"state\": \"success\"}]'",
        "'[{\"claim\": \"x\", \"state\": \"queued\"}]'",
        "'[{\"claim\": \"x\"}]'",
        "'[{\"claim\": \"x\", \"state\": \"failed\", \"result\": 1}]'",
        "'[{\"claim\": \"x\", \"state\": \"failed\", \"retry_after\": \"1\"}]'",
        "'[{\"claim\": \"x\", \"state\": \"failed\", \"other\": 1}]'",
        "'[]', NULL",
    ] {
        let error = client.query(&format!("SELECT workflow.finish_claims({wrong})"), &[]).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{wrong}: {error:?}");
    }
}

/// Of two words for one claim the first counts.
#[test]
fn first_of_two_words_for_a_claim_counts() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 50);
    let held = claim(client, "default", 50);
    let words = |state| held.iter().map(move |held| serde_json::json!({"claim": held.claim, "state": state}));
    let given: Vec<_> = words("success").chain(words("failed")).collect();
    let sql = "SELECT outcome, state FROM workflow.finish_claims($1::text::jsonb)";
    let rows = client.query(sql, &[&serde_json::json!(given).to_string()]).unwrap();
    let told: Vec<(&str, &str)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(told, [vec![("done", "success"); 50], vec![("lost", "success"); 50]].concat());
}

#[test]
fn negative_time_of_any_size_is_no_retry() {
    let db = Db::new();
    let client = &mut db.connect();
    for seconds in ["-0.0000001", "-1", "-1e300"] {
        enqueue_with_tries(client, 3);
        let held = claim_one(client, "default").claim;
        let given = format!(r#"[{{"claim": "{held}", "state": "failed", "retry_after": {seconds}}}]"#);
        let sql = "SELECT state FROM workflow.finish_claims($1::text::jsonb)";
        assert_eq!(client.query_one(sql, &[&given]).unwrap().get::<_, String>(0), "failed", "{seconds}");
    }
}

#[test]
fn wrong_outcome_is_named_by_its_number() {
    let db = Db::new();
    let client = &mut db.connect();
    let wrong = r#"SELECT workflow.finish_claims('[{"claim": "x", "state": "success"}]')"#;
    let error = client.query(wrong, &[]).unwrap_err();
    assert_eq!(error.as_db_error().unwrap().message(), "cannot finish claims: outcome 1 is not valid");
}

#[test]
fn released_attempts_do_not_count() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = enqueue_with_tries(client, 1);
    for attempt in 1..=3 {
        let held = claim_one(client, "default");
        assert_eq!(held.try_number, attempt);
        assert_eq!(outcomes(client, "release_claims", &[&held.claim]), ["released"]);
        assert_eq!(outcomes(client, "release_claims", &[&held.claim]), ["released"], "said again");
    }
    let uncounted = "SELECT uncounted_tries FROM workflow.task_instances";
    assert_eq!(client.query_one(uncounted, &[]).unwrap().get::<_, i32>(0), 3);
    let last = claim_one(client, "default");
    assert_eq!(fail(client, &last.claim, "NULL").unwrap().0, "failed");
    assert_eq!(state_of(client, task), "failed");
}

/// A task can be released for years.
#[test]
fn released_attempts_have_no_limit() {
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    let task = enqueue_with_tries(client, 2);
    let held = claim_one(client, "default");
    client
        .batch_execute(
            "SET session_replication_role = replica;
             UPDATE workflow.task_instances SET try_number = 32768, uncounted_tries = 32767;
             RESET session_replication_role",
        )
        .unwrap();
    assert_eq!(outcomes(client, "release_claims", &[&held.claim]), ["released"]);
    let last = claim_one(client, "default");
    assert_eq!(last.try_number, 32769);
    assert_eq!(fail(client, &last.claim, "NULL").unwrap().0, "retrying");
    assert_eq!(state_of(client, task), "retrying");
}

#[test]
fn cancelled_task_is_not_retried() {
    let db = Db::new();
    let client = &mut db.connect();
    let cancel = "SELECT workflow.request_cancel($1)";
    let queued = enqueue_with_tries(client, 3);
    assert_eq!(client.query_one(cancel, &[&queued]).unwrap().get::<_, String>(0), "skipped");
    assert_eq!(client.query_one(cancel, &[&queued]).unwrap().get::<_, String>(0), "ended");

    let running = enqueue_with_tries(client, 3);
    let held = claim_one(client, "default");
    assert_eq!(held.id, running);
    assert_eq!(outcomes(client, "renew_claims", &[&held.claim]), ["renewed"]);
    assert_eq!(client.query_one(cancel, &[&running]).unwrap().get::<_, String>(0), "requested");
    assert_eq!(outcomes(client, "renew_claims", &[&held.claim]), ["cancel"]);
    assert_eq!(fail(client, &held.claim, "'0'").unwrap().0, "failed");

    let retrying = enqueue_with_tries(client, 3);
    let held = claim_one(client, "default");
    fail(client, &held.claim, "'1 h'").unwrap();
    assert_eq!(client.query_one(cancel, &[&retrying]).unwrap().get::<_, String>(0), "failed");
    assert!(claim(client, "default", 1).is_empty());

    let (_, run) = create_run(client);
    super::enqueue_in(client, run, "default", 3);
    claim_one(client, "default");
    client.query(cancel, &[&run]).unwrap();
    let states =
        "SELECT count(*) FILTER (WHERE state = 'skipped'), count(cancel_requested_at) FROM workflow.task_instances
                  WHERE dag_run_id = $1";
    let row = client.query_one(states, &[&run]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (2, 1));
}

#[test]
fn expired_claim_is_reaped_unless_it_is_renewed_before() {
    let db = Db::new();
    let client = &mut db.connect();
    let expire = "SELECT pg_sleep_until(max(lease_expires_at)) FROM workflow.claims";
    let short = "SELECT claim FROM workflow.claim_tasks('gone', lease => '10 ms')";
    let reap = "SELECT worker, reason, state FROM workflow.reap_claims()";
    let task = enqueue_with_tries(client, 2);
    let late: String = client.query_one(short, &[]).unwrap().get(0);
    client.query(expire, &[]).unwrap();
    let renew = "SELECT outcome FROM workflow.renew_claims(ARRAY[$1], '1 h')";
    assert_eq!(client.query_one(renew, &[&late]).unwrap().get::<_, String>(0), "renewed", "late, but not lost");
    assert!(client.query(reap, &[]).unwrap().is_empty());
    assert_eq!(outcomes(client, "renew_claims", &[&late]), ["renewed"], "as long as it was claimed: 10 ms");
    client.query(expire, &[]).unwrap();
    let reaped = client.query_one(reap, &[]).unwrap();
    let texts = [0, 1, 2].map(|column| reaped.get::<_, String>(column));
    assert_eq!(texts, ["gone", "lease expired", "retrying"].map(str::to_owned));
    is_lost(complete(client, &late));
    assert_eq!(outcomes(client, "renew_claims", &[&late]), ["lost"]);

    // The second expiry is the last try.
    client.batch_execute("UPDATE workflow.task_instances SET not_before = NULL").unwrap();
    client.query_one(short, &[]).unwrap();
    client.query(expire, &[]).unwrap();
    assert_eq!(client.query_one(reap, &[]).unwrap().get::<_, String>(2), "failed");
    let told = "SELECT metadata->>'worker', metadata->>'reason' FROM workflow.state_history WHERE entity_id = $1 AND new_state = 'failed'";
    let row = client.query_one(told, &[&task]).unwrap();
    assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1)), ("gone".to_owned(), "lease expired".to_owned()));
}

/// What the reaper did is no word of the holder.
#[test]
fn claim_that_was_reaped_is_lost_to_every_function() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue_with_tries(client, 3);
    let expired: String =
        client.query_one("SELECT claim FROM workflow.claim_tasks('gone', lease => '1 us')", &[]).unwrap().get(0);
    client.query_one("SELECT FROM workflow.reap_claims()", &[]).unwrap();
    is_lost(fail(client, &expired, "NULL"));
    is_lost(complete(client, &expired));
    assert_eq!(outcomes(client, "release_claims", &[&expired]), ["lost"]);
    client.batch_execute("UPDATE workflow.task_instances SET not_before = NULL").unwrap();
    let held = claim_one(client, "default");
    assert_eq!(fail(client, &held.claim, "'1000000 years'").unwrap().0, "retrying");
    let limit = "SELECT not_before < now() + interval '101 years' FROM workflow.task_instances";
    assert!(client.query_one(limit, &[]).unwrap().get::<_, bool>(0), "any time can be stored and dumped");
}

#[test]
fn timeout_ends_a_claim_whatever_is_renewed() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    let sql = "SELECT workflow.create_task_instances($1, '{t}', queue => 'default', timeout => '20 ms')";
    client.query(sql, &[&run]).unwrap();
    let held = claim_one(client, "default");
    client.query("SELECT pg_sleep_until(times_out_at) FROM workflow.claims", &[]).unwrap();
    assert_eq!(outcomes(client, "renew_claims", &[&held.claim]), ["renewed"]);
    let reaped = client.query_one("SELECT reason FROM workflow.reap_claims()", &[]).unwrap();
    assert_eq!(reaped.get::<_, String>(0), "timeout");
}

#[test]
fn text_that_is_no_claim_is_refused() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 1);
    let held = claim_one(client, "default");
    let wrong = [
        String::new(),
        "x".to_owned(),
        held.id.to_string(),
        format!("{} ", held.claim),
        held.claim.to_uppercase() + "0x",
    ];
    for claim in &wrong {
        let error = complete(client, claim).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{claim}: {error:?}");
    }
    for call in [
        "complete_claim(NULL)",
        "fail_claim(NULL, 'x')",
        "renew_claims(NULL)",
        "renew_claims(ARRAY[NULL])",
        "renew_claims('{}', '0')",
        "release_claims('{x}')",
        "release_claims('{}', '-1 s')",
        "release_claims('{}', NULL)",
        "reap_claims(0)",
        "reap_claims(NULL)",
        "request_cancel(NULL)",
        "enqueue_task_instances(NULL)",
        "enqueue_task_instances('{}', priority => 10)",
        "enqueue_task_instances('{}', priority => NULL)",
    ] {
        let error = client.query(&format!("SELECT workflow.{call}"), &[]).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{call}: {error:?}");
    }
    let error = client.query("SELECT workflow.fail_claim($1, NULL)", &[&held.claim]).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{error:?}");
    assert_eq!(complete(client, &held.claim).unwrap(), 3, "it is still held");
}

#[test]
fn columns_of_a_claim_cannot_be_set_by_hand() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 1);
    claim_one(client, "default");
    for change in ["worker = 'me'", "lease_expires_at = now()", "cancel_requested_at = now()", "uncounted_tries = 1"] {
        let error = client.batch_execute(&format!("UPDATE workflow.task_instances SET {change}")).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::GENERATED_ALWAYS), "{change}: {error:?}");
    }
    for change in ["priority = 10", "priority = -1", "timeout = '0'", "queue_id = 77", "not_before = 'infinity'"] {
        let error = client.batch_execute(&format!("UPDATE workflow.task_instances SET {change}")).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{change}: {error:?}");
    }
}

#[test]
fn claim_whose_commit_a_crash_lost_does_not_fence_the_next_one() {
    let (cluster, db) = own_cluster("claim-crash", &[("fsync", "on"), ("wal_writer_delay", "10s")]);
    // Another process can write the log just then: the commit is not lost, and the next crash is tried.
    let lost = loop {
        let client = &mut db.connect();
        enqueue(client, "default", 1);
        client.batch_execute("CHECKPOINT; SET synchronous_commit = off").unwrap();
        let claimed = claim_one(client, "default");
        cluster.kill().unwrap();
        cluster.start_again().unwrap();
        if state_of(&mut db.connect(), claimed.id) == "queued" {
            break claimed;
        }
    };
    let client = &mut db.connect();
    let held = claim_one(client, "default");
    assert_eq!(held.id, lost.id);
    is_lost(complete(client, &lost.claim));
    assert_eq!(complete(client, &held.claim).unwrap(), 3);
    is_lost(complete(client, &lost.claim));
}
