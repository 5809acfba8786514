//! Claims and workers.

use super::*;
use pg_workflow_client::worker::{self, Cancellation, Options};
use pg_workflow_client::{ClaimedTask, Failure};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Waiting workers are more than the pooler has sessions, so they must leave some for heartbeats.
#[test]
fn workers_work_through_each_pooler() {
    through_each_pooler(|pooled| {
        let client = &mut pooled.connect();
        // It would end each wait soon.
        pooled.reset("statement_timeout");
        // Workers renew their leases at the default, and try again.
        pooled.reset("default_transaction_isolation");
        let (_, run_id) = create_run(client);
        let (mut created, stop) = (0, CancellationToken::new());
        let mut create = |client: &mut Client, count: i32| {
            created += count;
            let sql =
                "SELECT workflow.create_task_instances($1, ARRAY(SELECT $2 || n FROM generate_series(1, $3) AS n),
                       queue => 'default')";
            client.execute(sql, &[&run_id, &format!("task {created} "), &count]).unwrap();
        };
        create(client, 20);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        // In session mode, each needs three sessions.
        let working: Vec<_> = (0..4)
            .map(|_| {
                let handler = |_: ClaimedTask, _: Cancellation| async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok::<_, Failure>(())
                };
                let options = Options { lease: Duration::from_secs(2), ..Options::default() };
                runtime.spawn(worker::run(pooled.server(), options, handler, stop.clone()))
            })
            .collect();
        let wait_for_successes = |client: &mut Client, count: i64| {
            let sql = "SELECT count(*) FROM workflow.task_instances WHERE state = 'success'";
            wait_until("all tasks succeed", || client.query_one(sql, &[]).unwrap().get::<_, i64>(0) == count);
        };
        wait_for_successes(client, 20);
        // The workers are idle, and others get a session at once.
        let pooled_client = &mut pooled.connect_pooled();
        for _ in 0..5 {
            let began = std::time::Instant::now();
            pooled_client.batch_execute("SELECT").unwrap();
            assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
            std::thread::sleep(Duration::from_millis(100));
        }
        create(client, 5);
        wait_for_successes(client, 25);
        stop.cancel();
        working.into_iter().for_each(|worker| runtime.block_on(worker).unwrap().unwrap());
        let lost = "SELECT count(*) FROM workflow.task_instances WHERE try_number <> 1";
        assert_eq!(client.query_one(lost, &[]).unwrap().get::<_, i64>(0), 0);
    });
}
