//! Log lines that a worker writes by its claim.

use super::{claim_one, enqueue, outcomes};
use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;

fn append(client: &mut Client, task: Uuid, claim: &str) -> Result<i64, Failure> {
    let sql = "SELECT workflow.append_task_log($1, 'a line', claim => $2)";
    client.query_one(sql, &[&task, &claim]).map(|row| row.get(0)).map_err(|error| failure(Err::<(), _>(error)))
}

#[test]
fn line_of_a_lost_claim_is_rejected() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = enqueue(client, "default", 1)[0];
    let old = claim_one(client, "default");
    append(client, task, &old.claim).unwrap();
    outcomes(client, "release_claims", &[&old.claim]);
    assert_eq!(append(client, task, &old.claim).unwrap_err().sqlstate, "40001", "the task waits");
    let new = claim_one(client, "default");
    let lost = append(client, task, &old.claim).unwrap_err();
    assert_eq!(lost.sqlstate, "40001", "another worker has it");
    assert_eq!(lost.detail["claim"], old.claim.as_str());
    append(client, task, &new.claim).unwrap();
    // Without a claim, as before.
    client.query_one("SELECT workflow.append_task_log($1, 'a line')", &[&task]).unwrap();
    let tries = "SELECT array_agg(try_number ORDER BY id) FROM workflow.task_logs";
    assert_eq!(client.query_one(tries, &[]).unwrap().get::<_, Vec<i32>>(0), [1, 2, 2]);

    client.query_one("SELECT workflow.complete_claim($1)", &[&new.claim]).unwrap();
    assert_eq!(append(client, task, &new.claim).unwrap_err().sqlstate, "40001", "the task has ended");
    client.execute("DELETE FROM workflow.task_instances", &[]).unwrap();
    assert_eq!(append(client, task, &new.claim).unwrap_err().sqlstate, "40001", "the task is gone");
}

#[test]
fn wrong_claim_of_a_line_is_rejected() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 2);
    let [one, other] = [(); 2].map(|()| claim_one(client, "default"));
    for (task, claim) in [(one.id, "x"), (one.id, &other.claim), (Uuid::nil(), "x")] {
        let error = append(client, task, claim).unwrap_err();
        assert_eq!((error.sqlstate.as_str(), &error.detail["argument"]), ("22023", &"claim".into()), "{claim}");
    }
    assert!(client.query("SELECT FROM workflow.task_logs", &[]).unwrap().is_empty());
}
