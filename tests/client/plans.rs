//! The cost of a page depends on the page, not on the table: the tests count the rows read, with 100,000 tasks.

use super::*;
use pg_workflow_client::State;
use pg_workflow_client::event::EntityType;
use pg_workflow_client::list::{
    ClaimFilter, ClaimSort, DagRunFilter, DagRunSort, HeldClaims, HistoryFilter, HistorySort, ListOptions, OrderBy,
    TaskInstanceFilter, TaskInstanceSort,
};
use pg_workflow_client::{Error, History};
use pg_workflow_tests::Db;
use tokio_postgres::Transaction;

const RUNS: i32 = 200;
const TASKS: i32 = 500;

/// Creates 4 DAGs with 50 runs of 500 tasks each: most succeeded, the oldest and the newest are queued.
async fn fill(client: &tokio_postgres::Client) -> (Uuid, Uuid) {
    let dags: Vec<NewDag> = (0..4).map(|n| NewDag::named(format!("dag {n}"))).collect();
    let dags = Dags::new(client).create_many(&dags).await.unwrap();
    let runs = "SELECT workflow.create_dag_run($1, '2026-01-01'::timestamptz + $2 * interval '1 day')";
    // Older runs without tasks, so that a sequential scan of all runs is not the best plan.
    let older = "SELECT count(workflow.create_dag_run(dag, '2026-01-01'::timestamptz - n * interval '1 hour'))
                 FROM unnest($1::uuid[]) AS dag, generate_series(1, 1500) AS n";
    client.query_one(older, &[&dags]).await.unwrap();
    let tasks = "SELECT id FROM workflow.create_task_instances($1,
        ARRAY(SELECT 'task ' || n FROM generate_series(1, $2::int4) AS n))";
    let mut all_runs = Vec::new();
    for n in 0..RUNS {
        let run: Uuid = client.query_one(runs, &[&dags[(n % 4) as usize], &f64::from(n / 4)]).await.unwrap().get(0);
        let tasks = client.query(tasks, &[&run, &TASKS]).await.unwrap();
        let tasks: Vec<Uuid> = tasks.iter().map(|row| row.get(0)).collect();
        if (1..RUNS - 1).contains(&n) {
            for (from, to) in [(State::Queued, State::Running), (State::Running, State::Success)] {
                TaskInstances::new(client).transition_many(&tasks, from, to).await.unwrap();
                DagRuns::new(client).transition(run, from, to).await.unwrap();
            }
        }
        all_runs.push(run);
    }
    // VACUUM summarizes the index on times, as autovacuum does.
    client.batch_execute("VACUUM ANALYZE").await.unwrap();
    (dags[1], all_runs[100])
}

/// Counts the rows that this session has read, and its sequential scans of the large tables. (Rows of an earlier transaction
/// may be included.)
async fn read(transaction: &Transaction<'_>) -> (i64, i64) {
    let sql = "SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint,
                 coalesce(sum(seq_scan) FILTER (WHERE relname IN ('task_instances', 'state_history')), 0)::bigint
               FROM pg_stat_xact_user_tables WHERE schemaname = 'workflow'";
    let row = transaction.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Checks the first page of a list, and the second one if it exists.
macro_rules! assert_cheap {
    ($client:ident, $most:expr, $repository:ident, $filter:expr, $order:expr) => {{
        let (filter, mut cursor) = ($filter, None);
        for page in 1..=2 {
            let transaction = $client.transaction().await.unwrap();
            let wanted = ListOptions { cursor, order_by: $order, ..ListOptions::default() };
            let before = read(&transaction).await;
            let list = $repository::new(&transaction).list(&filter, &wanted).await?;
            let after = read(&transaction).await;
            let (rows, scans) = (after.0 - before.0, after.1 - before.1);
            let cost =
                format!("page {page} of {filter:?}, {:?}: {rows} rows read for {}", wanted.order_by, list.items.len());
            eprintln!("{cost}");
            assert!(!list.items.is_empty(), "{cost}");
            assert!(rows <= $most && scans == 0, "{cost}, {scans} sequential scans");
            cursor = list.next_cursor;
            transaction.rollback().await.unwrap();
            if cursor.is_none() {
                break;
            }
        }
    }};
}

#[test]
fn lists_read_few_rows_of_a_large_table() {
    let db = Db::new();
    run(async {
        let client = &mut server(db.url()).connect().await.unwrap();
        let (dag, run) = fill(client).await;
        check(client, dag, run).await.unwrap();
    });
}

/// Lets workers claim 1,000 of 1,000 tasks; the planner has old statistics.
async fn claim_many(client: &tokio_postgres::Client) -> Result<(), Error> {
    let enqueue = "SELECT count(*) FROM workflow.enqueue_task_instances(
        ARRAY(SELECT id FROM workflow.task_instances WHERE state = 'queued'), 'etl')";
    client.query_one(enqueue, &[]).await?;
    client.query("SELECT claim FROM workflow.claim_tasks('w-7', '{etl}', 1000)", &[]).await?;
    Ok(())
}

async fn check(client: &mut tokio_postgres::Client, dag: Uuid, run: Uuid) -> Result<(), Error> {
    let task: Uuid =
        client.query_one("SELECT id FROM workflow.task_instances WHERE dag_run_id = $1 LIMIT 1", &[&run]).await?.get(0);
    let both = [OrderBy::ascending(TaskInstanceSort::Id), OrderBy::descending(TaskInstanceSort::Id)];
    let states: [&[State]; 5] = [
        &[],
        &[State::Queued],
        &[State::Success],
        &[State::Queued, State::Success],
        &[State::Queued, State::Running, State::Failed, State::Retrying, State::Skipped, State::Success],
    ];
    for states in states {
        let filter = TaskInstanceFilter { states: states.to_vec(), ..Default::default() };
        let rows = 55 * states.len().max(1) as i64;
        for order in both {
            assert_cheap!(client, rows, TaskInstances, filter.clone(), Some(order));
        }
    }
    let by_name = Some(OrderBy::ascending(TaskInstanceSort::TaskId));
    assert_cheap!(client, 60, TaskInstances, TaskInstanceFilter::default(), by_name);
    // All tasks of the run, or some of them.
    for order in [None, by_name, Some(both[0]), Some(both[1])] {
        let filter = TaskInstanceFilter { dag_run_id: Some(run), ..Default::default() };
        assert_cheap!(client, 600, TaskInstances, filter, order);
    }
    let one = TaskInstanceFilter { dag_run_id: Some(run), task_id: Some("task 7".to_owned()), ..Default::default() };
    assert_cheap!(client, 5, TaskInstances, one, None);
    let across = TaskInstanceFilter { task_id: Some("task 7".to_owned()), ..Default::default() };
    // Alternates between a run and its task.
    assert_cheap!(client, 110, TaskInstances, across, None);

    assert_cheap!(client, 55, DagRuns, DagRunFilter::default(), None);
    assert_cheap!(client, 55, DagRuns, DagRunFilter { dag_id: Some(dag), ..Default::default() }, None);
    let by_date = Some(OrderBy::<DagRunSort>::descending(DagRunSort::ExecutionDate));
    assert_cheap!(client, 60, DagRuns, DagRunFilter::default(), by_date);
    let success = DagRunFilter { states: vec![State::Success], ..Default::default() };
    assert_cheap!(client, 55, DagRuns, success, None);

    assert_cheap!(client, 55, History, HistoryFilter::default(), None);
    let kind = Some(EntityType::TaskInstance);
    assert_cheap!(client, 60, History, HistoryFilter { entity_type: kind, ..Default::default() }, None);
    // From and up to a time in the middle of 300,000 events.
    let middle = "SELECT changed_at FROM workflow.state_history ORDER BY id OFFSET 150000 LIMIT 1";
    let middle: chrono::DateTime<chrono::Utc> = client.query_one(middle, &[]).await?.get(0);
    for (gte, lt) in [(Some(middle), None), (None, Some(middle))] {
        let filter = HistoryFilter { changed_at_gte: gte, changed_at_lt: lt, ..Default::default() };
        let oldest = Some(OrderBy::ascending(HistorySort::Id));
        // The index on times leads to ranges of blocks, and the newest range has no summary yet.
        assert_cheap!(client, 20_000, History, filter.clone(), None);
        assert_cheap!(client, 20_000, History, filter, oldest);
    }
    claim_many(client).await?;
    let claim = client.query_one("SELECT id, dag_run_id FROM workflow.claims LIMIT 1", &[]).await?;
    let (claimed_task, running): (Uuid, Uuid) = (claim.get(0), claim.get(1));
    let claimed = OrderBy::<ClaimSort>::ascending(ClaimSort::Id);
    for order in [None, Some(claimed)] {
        // Each task is read twice, and its queue.
        assert_cheap!(client, 160, HeldClaims, ClaimFilter::default(), order);
        let of_queue = ClaimFilter { queue: Some("etl".to_owned()), ..Default::default() };
        assert_cheap!(client, 165, HeldClaims, of_queue, order);
        let of_run = ClaimFilter { dag_run_id: Some(running), ..Default::default() };
        assert_cheap!(client, 1200, HeldClaims, of_run, order);
    }
    assert_cheap!(client, 5, HeldClaims, ClaimFilter { id: Some(claimed_task), ..Default::default() }, None);
    assert_cheap!(client, 5, History, HistoryFilter { entity_id: Some(task), ..Default::default() }, None);
    Ok(())
}
