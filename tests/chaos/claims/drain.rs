//! The end of a run: every task is claimed and ends.

use anyhow::Result;
use postgres::Client;
use serde_json::json;
use std::time::{Duration, Instant};

use super::{Ground, LIMITED, OPEN, UNLIMITED};

/// The time after which the tasks that have not ended count as lost. A lease and its grace are shorter, and so is the time after
/// which a claim looks for tasks from the beginning.
const STALLED: Duration = Duration::from_secs(30);

/// Claims and ends tasks until there is none, or until none can be claimed any more.
pub fn drain(ground: &Ground, client: &mut Client) -> Result<()> {
    for dag in &ground.dags {
        client.execute("SELECT workflow.unpause_dag($1)", &[dag])?;
    }
    for queue in [OPEN, LIMITED] {
        client.execute("SELECT workflow.set_queue($1, paused_until => '-infinity')", &[&queue])?;
    }
    ground.set_slots(client, UNLIMITED)?;
    let (mut left, mut since) = (i64::MAX, Instant::now());
    while since.elapsed() < STALLED {
        end_by_hand(ground, client)?;
        let ended = end_by_claims(client)?;
        let now = count(ground, client)?;
        match now {
            0 => return Ok(()),
            now if now < left => (left, since) = (now, Instant::now()),
            _ if ended == 0 => {
                let wait = format!("CALL workflow.wait_for_tasks('{{{OPEN}, {LIMITED}}}', '500 ms')");
                client.query_one(&wait, &[])?;
            }
            _ => (),
        }
    }
    Ok(())
}

/// Ends the tasks that no claim could end: those that were moved to running by hand. Tasks of a time when the clock was ahead
/// would wait until then.
fn end_by_hand(ground: &Ground, client: &mut Client) -> Result<()> {
    let running = "UPDATE workflow.task_instances SET state = 'failed' WHERE state = 'running' AND worker IS NULL
                   AND dag_run_id IN (SELECT id FROM workflow.dag_runs WHERE dag_id = ANY ($1))";
    client.execute(running, &[&ground.dags])?;
    let later = "UPDATE workflow.task_instances SET not_before = clock_timestamp()
                 WHERE state IN ('queued', 'retrying') AND id IN
                     (SELECT task_instance_id FROM workflow.ready WHERE ready_at > clock_timestamp() + interval '1 min')";
    client.execute(later, &[])?;
    Ok(())
}

fn end_by_claims(client: &mut Client) -> Result<usize> {
    client.execute("SELECT workflow.reap_claims(1000)", &[])?;
    let sql = "SELECT claim FROM workflow.claim_tasks('drain', ARRAY[$1, $2], 100, '10 s')";
    let claims = client.query(sql, &[&OPEN, &LIMITED])?;
    let end = |row: &postgres::Row| {
        let claim: String = row.get(0);
        json!({ "claim": claim, "state": "success", "result": { "claim": claim } })
    };
    let outcomes = claims.iter().map(end).collect::<serde_json::Value>();
    client.execute("SELECT workflow.finish_claims($1, strict => true)", &[&outcomes])?;
    Ok(claims.len())
}

/// Counts the tasks that have not ended.
fn count(ground: &Ground, client: &mut Client) -> Result<i64> {
    let sql = "SELECT count(*) FROM workflow.task_instances
               WHERE state IN ('queued', 'retrying', 'running') AND dag_run_id <> $1
                   AND dag_run_id IN (SELECT id FROM workflow.dag_runs WHERE dag_id = ANY ($2))";
    Ok(client.query_one(sql, &[&ground.slots, &ground.dags])?.get(0))
}
