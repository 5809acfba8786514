//! Ends and renewals at isolation levels with one snapshot for the whole transaction.

use super::{Claim, claim_one, enqueue, outcomes};
use pg_workflow_tests::*;
use xtask::stack::postgres::PRELOADED;

/// A fixed snapshot does not show that a claim was lost: no function writes by it.
#[test]
fn lost_claim_is_an_error_under_a_fixed_snapshot() {
    let (_cluster, db) = own_cluster("fixed-claims", &[PRELOADED]);
    let (client, other) = (&mut db.connect(), &mut db.connect());
    enqueue(client, "default", 2);
    let [lost, kept] = [(); 2].map(|()| claim_one(client, "default"));
    let calls = [
        "renew_claims(ARRAY['CLAIM'])",
        "append_task_log('TASK', 'a line', claim => 'CLAIM')",
        "complete_claim('CLAIM')",
        "fail_claim('CLAIM', 'x')",
        "finish_claims('[{\"claim\": \"CLAIM\", \"state\": \"success\"}]')",
        "release_claims(ARRAY['CLAIM'])",
    ];
    let call = |text: &str, held: &Claim| {
        format!("SELECT * FROM workflow.{}", text.replace("CLAIM", &held.claim).replace("TASK", &held.id.to_string()))
    };
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        let begin = format!("BEGIN ISOLATION LEVEL {isolation}; SELECT FROM workflow.task_instances");
        for text in calls {
            client.batch_execute(&begin).unwrap();
            client.batch_execute(&call(text, &kept)).unwrap();
            client.batch_execute("ROLLBACK").unwrap();
        }
    }
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM workflow.task_instances";
    client.batch_execute(begin).unwrap();
    assert_eq!(outcomes(other, "release_claims", &[&lost.claim]), ["released"]);
    for text in calls {
        client.batch_execute("SAVEPOINT s").unwrap();
        let error = client.batch_execute(&call(text, &lost)).expect_err(text);
        assert_eq!(failure(Err::<(), _>(error)).sqlstate, "40001", "{text}");
        client.batch_execute("ROLLBACK TO s").unwrap();
    }
    client.batch_execute("COMMIT").unwrap();
    assert!(client.query("SELECT FROM workflow.task_logs", &[]).unwrap().is_empty());
}
