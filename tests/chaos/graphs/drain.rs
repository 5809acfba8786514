//! The end of a run: every task that can run is claimed and ends.

use anyhow::Result;
use pg_workflow_state_machine::State;
use postgres::Client;
use std::time::{Duration, Instant};
use uuid::Uuid;

use super::QUEUE;
use super::plan::end_of;

/// The time after which tasks that have not ended count as lost: longer than a lease, and than the time until a sweep.
const STALLED: Duration = Duration::from_secs(30);

/// Ends tasks until there is none, and no run waits; or until nothing can be ended any more.
pub fn drain(dag: Uuid, client: &mut Client) -> Result<()> {
    let (mut left, mut since) = (i64::MAX, Instant::now());
    while since.elapsed() < STALLED {
        end_prepared(client)?;
        end_by_hand(dag, client)?;
        let ended = end_by_claims(client)?;
        match count(dag, client)? {
            0 => return Ok(()),
            now if now < left => (left, since) = (now, Instant::now()),
            _ if ended == 0 => {
                client.query_one(&format!("CALL workflow.wait_for_tasks('{{{QUEUE}}}', '500 ms')"), &[])?;
            }
            _ => (),
        }
    }
    Ok(())
}

/// Ends the sessions of workers, and what they have prepared.
fn end_prepared(client: &mut Client) -> Result<()> {
    let sessions = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                    WHERE application_name LIKE 'chaos worker graphs%'";
    client.execute(sessions, &[])?;
    let prepared = "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'chaos worker graphs%'";
    for row in client.query(prepared, &[])? {
        client.batch_execute(&format!("COMMIT PREPARED '{}'", row.get::<_, &str>(0)))?;
    }
    Ok(())
}

/// Ends the tasks without a queue that wait for none. Tasks of a time when the clock was ahead would wait until then.
fn end_by_hand(dag: Uuid, client: &mut Client) -> Result<()> {
    let skip = "UPDATE workflow.task_instances AS t SET state = 'skipped'
                WHERE t.state = 'queued' AND t.queue_id IS NULL
                    AND t.dag_run_id IN (SELECT id FROM workflow.dag_runs WHERE dag_id = $1)
                    AND NOT EXISTS (SELECT FROM workflow.waits AS w WHERE w.join_id = t.join_id)";
    client.execute(skip, &[&dag])?;
    let later = "UPDATE workflow.task_instances SET not_before = clock_timestamp()
                 WHERE state IN ('queued', 'retrying') AND id IN
                     (SELECT task_instance_id FROM workflow.ready WHERE ready_at > clock_timestamp() + interval '1 min')";
    client.execute(later, &[])?;
    Ok(())
}

fn end_by_claims(client: &mut Client) -> Result<usize> {
    client.execute("SELECT workflow.reap_claims(1000)", &[])?;
    let claims =
        client.query("SELECT claim, task_id FROM workflow.claim_tasks('drain', ARRAY[$1], 100, '10 s')", &[&QUEUE])?;
    let mut outcomes = Vec::new();
    for row in &claims {
        let (claim, end) = (row.get::<_, &str>(0), end_of(row.get(1))?);
        let fails = end != State::Success;
        let (error, retry_after) = (fails.then_some("broken"), fails.then_some(-1));
        let outcome =
            serde_json::json!({"claim": claim, "state": end.as_str(), "error": error, "retry_after": retry_after});
        outcomes.push(outcome);
    }
    client.execute("SELECT workflow.finish_claims($1, strict => true)", &[&serde_json::Value::from(outcomes)])?;
    Ok(claims.len())
}

/// Counts the tasks that have not ended, and the joins that are undecided.
fn count(dag: Uuid, client: &mut Client) -> Result<i64> {
    let sql = "SELECT
        (SELECT count(*) FROM workflow.task_instances WHERE state IN ('queued', 'retrying', 'running')
            AND dag_run_id IN (SELECT id FROM workflow.dag_runs WHERE dag_id = $1))
        + (SELECT count(*) FROM workflow.waits JOIN workflow.joins AS j ON j.id = join_id
            WHERE j.dag_run_id IN (SELECT id FROM workflow.dag_runs WHERE dag_id = $1))";
    Ok(client.query_one(sql, &[&dag])?.get(0))
}
