//! Time that passes: old rows, and new partitions of the history and the logs.

use crate::{create_task, wait_until};
use postgres::Client;

/// Makes all rows 40 days older.
pub fn age(client: &mut Client) {
    client
        .batch_execute(
            "SET session_replication_role = replica;
             UPDATE workflow.dag_runs SET created_at = created_at - interval '40 days', updated_at = updated_at - interval '40 days';
             UPDATE workflow.task_instances SET created_at = created_at - interval '40 days', updated_at = updated_at - interval '40 days';
             UPDATE workflow.state_history SET changed_at = changed_at - interval '40 days';
             RESET session_replication_role",
        )
        .expect("the owner can change all rows");
}

/// Splits the first partition of the history, as an administrator can.
pub const SPLIT: &str = "ALTER TABLE workflow.state_history DETACH PARTITION workflow.state_history_0;
    CREATE TABLE public.split (LIKE workflow.state_history) PARTITION BY RANGE (id);
    ALTER TABLE public.split ATTACH PARTITION workflow.state_history_0 DEFAULT;
    ALTER TABLE workflow.state_history ATTACH PARTITION public.split FOR VALUES FROM (0) TO (1000000000000)";

/// Switches the history and the logs to their next partitions, as at the start of a new month.
pub fn next_partition(client: &mut Client) {
    let current = "SELECT workflow.current_partition('state_history')";
    let before: i64 = client.query_one(current, &[]).expect("a number").get(0);
    // The current partition gets a first row from another month.
    create_task(client);
    let first = "UPDATE workflow.state_history SET changed_at = changed_at - interval '40 days' WHERE id = (
        SELECT min(id) FROM workflow.state_history WHERE id >= $1 * workflow.partition_size())";
    client.execute(first, &[&before]).expect("the owner can change history");
    open_partitions(client);
    assert_eq!(client.query_one(current, &[]).expect("a number").get::<_, i64>(0), before + 1);
}

/// Calls `open_partitions()` until no step is due.
pub fn open_partitions(client: &mut Client) {
    wait_until("all steps are taken", || {
        let sql = "SELECT outcome FROM workflow.open_partitions()";
        client.query(sql, &[]).expect("open_partitions() runs").is_empty()
    });
}
