//! Lists, page by page: each row exactly once, in the requested order.

use super::*;
use chrono::{DateTime, TimeDelta, Utc};
use pg_workflow_client::event::EntityType;
use pg_workflow_client::list::{
    DagFilter, DagRunFilter, DagRunSort, DagSort, HistoryFilter, HistorySort, ListOptions, OrderBy, Page, Sort,
    TaskInstanceFilter, TaskInstanceSort, TaskLogFilter, TaskLogSort,
};
use pg_workflow_client::{Error, History, LogLevel, NewTaskLog, State, TaskLogs};
use std::collections::HashSet;
use std::fmt::Debug;
use tokio_postgres::Client;

/// Reads every page of a list.
async fn pages<T, S: Sort>(
    order: Option<OrderBy<S>>,
    limit: u32,
    mut list: impl AsyncFnMut(ListOptions<S>) -> Result<Page<T>, Error>,
) -> Vec<T> {
    let (mut rows, mut cursor) = (Vec::new(), None);
    loop {
        let page = list(ListOptions { limit, max_bytes: None, cursor, order_by: order }).await.expect("a page");
        assert!(page.items.len() == limit as usize || page.next_cursor.is_none(), "a short page is the last");
        rows.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return rows;
        }
    }
}

/// Returns the first column of a query.
async fn column<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> Vec<T> {
    client.query(sql, &[]).await.expect(sql).iter().map(|row| row.get(0)).collect()
}

/// Both directions of each order.
fn orders<S: Sort>() -> impl Iterator<Item = OrderBy<S>> {
    S::ALL.iter().flat_map(|by| [OrderBy::ascending(*by), OrderBy::descending(*by)])
}

fn direction<S>(order: OrderBy<S>) -> &'static str {
    if order.descending { "DESC" } else { "ASC" }
}

/// Compares two lists without printing all rows if they differ.
fn assert_same<T: PartialEq + Debug>(found: &[T], expected: &[T], case: &str) {
    let differs = found.iter().zip(expected).position(|(one, other)| one != other);
    assert_eq!((found.len(), differs), (expected.len(), None), "{case}");
}

/// Names with characters that are special to LIKE, to a cursor or to a collation.
const NAMES: [&str; 14] =
    ["a", "A", "a.b", "a%", "a%b", "a_", "a_b", "axb", r"a\", r"a\b", "50% off", "é", "€ 1", "a,b\"c'"];

/// Creates DAGs with odd names. Five of them have runs of the same dates, two of which are infinite, in several states.
async fn fill(client: &Client) -> Vec<Uuid> {
    let names: Vec<NewDag> = NAMES
        .iter()
        .enumerate()
        .map(|(n, name)| NewDag { tags: vec![format!("t{}", n % 2)], is_paused: n % 3 == 0, ..NewDag::named(*name) })
        .collect();
    let dags = Dags::new(client).create_many(&names).await.unwrap();
    let runs = "SELECT workflow.create_dag_run(dag, date)
        FROM unnest($1::uuid[]) AS dag, unnest('{9000-01-01,9000-01-02,2026-11-01,2026-11-02,2026-11-03 00:00:00.000001+00,
            10000-01-01,4000-01-01 BC}'::timestamptz[]) AS date ORDER BY md5(dag::text || date::text)";
    client.query(runs, &[&&dags[..5]]).await.unwrap();
    // Older versions accepted infinite dates.
    let infinite = "SET session_replication_role = replica;
        UPDATE workflow.dag_runs SET execution_date = 'infinity' WHERE execution_date = '9000-01-01';
        UPDATE workflow.dag_runs SET execution_date = '-infinity' WHERE execution_date = '9000-01-02';
        RESET session_replication_role";
    client.batch_execute(infinite).await.unwrap();
    let states = "SELECT workflow.transition_many('dag_run',
        ARRAY(SELECT id FROM workflow.dag_runs WHERE ascii(right(id::text, 1)) % 3 = $1::int4), 'queued', $2)";
    client.query(states, &[&0, &"running"]).await.unwrap();
    client.query(states, &[&1, &"failed"]).await.unwrap();
    dags
}

#[test]
fn dag_list_sorts_in_every_order_and_matches_names_exactly() {
    let db = Db::new();
    run(async {
        let client = &server(db.url()).connect().await.unwrap();
        fill(client).await;
        let dags = Dags::new(client);
        for order in orders::<DagSort>() {
            let found = pages(Some(order), 7, async |page| dags.list(&DagFilter::default(), &page).await).await;
            let found: Vec<Uuid> = found.iter().map(|dag| dag.id).collect();
            let sql = format!("SELECT id FROM workflow.dags ORDER BY {} {}", order.by.name(), direction(order));
            assert_same(&found, &column(client, &sql).await, &order.to_string());
        }
        for name in NAMES {
            let exact = DagFilter { name: Some(name.to_owned()), ..DagFilter::default() };
            let found = dags.list(&exact, &ListOptions::default()).await.unwrap().items;
            assert_eq!(found.iter().map(|dag| dag.name.as_str()).collect::<Vec<_>>(), [name]);
            let prefix = DagFilter { name_prefix: Some(name.to_owned()), ..DagFilter::default() };
            let order = Some(OrderBy::ascending(DagSort::Name));
            let found = pages(order, 1, async |page| dags.list(&prefix, &page).await).await;
            let mut found: Vec<String> = found.into_iter().map(|dag| dag.name).collect();
            let mut expected: Vec<&str> = NAMES.into_iter().filter(|other| other.starts_with(name)).collect();
            found.sort();
            expected.sort_unstable();
            assert_eq!(found, expected, "{name}");
        }
        let filter = DagFilter { tag: Some("t1".to_owned()), paused: Some(true), ..DagFilter::default() };
        let found = dags.list(&filter, &ListOptions::default()).await.unwrap().items;
        assert!(found.len() == 2 && found.iter().all(|dag| dag.is_paused && dag.tags == ["t1"]));
    });
}

#[test]
fn run_list_combines_every_order_and_filter() {
    let db = Db::new();
    run(async {
        let client = &server(db.url()).connect().await.unwrap();
        let dag = fill(client).await[2];
        let runs = DagRuns::new(client);
        let date = |text: &str| Some(text.parse().expect("a time"));
        let two = vec![State::Running, State::Failed];
        let filters = [
            (DagRunFilter::default(), "true".to_owned()),
            (DagRunFilter { dag_id: Some(dag), ..Default::default() }, format!("dag_id = '{dag}'")),
            (DagRunFilter { states: vec![State::Queued], ..Default::default() }, "state = 'queued'".to_owned()),
            (DagRunFilter { states: two.clone(), ..Default::default() }, "state IN ('running', 'failed')".to_owned()),
            (
                DagRunFilter { states: vec![two[0], two[0], two[1]], dag_id: Some(dag), ..Default::default() },
                format!("state IN ('running', 'failed') AND dag_id = '{dag}'"),
            ),
            (
                DagRunFilter {
                    execution_date_gte: date("2026-11-02T00:00:00Z"),
                    execution_date_lt: date("2026-11-03T00:00:00.000001Z"),
                    ..Default::default()
                },
                "execution_date = '2026-11-02'".to_owned(),
            ),
            (
                DagRunFilter { execution_date_gte: date("2026-11-02T00:00:00Z"), states: two, ..Default::default() },
                "execution_date >= '2026-11-02' AND state IN ('running', 'failed')".to_owned(),
            ),
            (
                DagRunFilter {
                    execution_date_lt: date("2026-11-02T00:00:00Z"),
                    dag_id: Some(dag),
                    ..Default::default()
                },
                format!("execution_date < '2026-11-02' AND dag_id = '{dag}'"),
            ),
        ];
        for (filter, condition) in filters {
            for order in orders::<DagRunSort>() {
                let found = pages(Some(order), 7, async |page| runs.list(&filter, &page).await).await;
                let found: Vec<Uuid> = found.iter().map(|run| run.id).collect();
                let (way, by) = (direction(order), order.by.name());
                let by = if by == "id" { format!("id {way}") } else { format!("{by} {way}, id {way}") };
                let sql = format!("SELECT id FROM workflow.dag_runs WHERE {condition} ORDER BY {by}");
                assert_same(&found, &column(client, &sql).await, &format!("{condition} {order}"));
            }
        }
    });
}

#[test]
fn task_and_log_lists_combine_every_order_and_filter() {
    let db = Db::new();
    run(async {
        let client = &server(db.url()).connect().await.unwrap();
        let (_, run, ids) = new_tasks(client, &NAMES).await;
        let (_, _, others) = new_tasks(client, &NAMES[..9]).await;
        new_tasks(client, &["other"]).await;
        let (tasks, logs) = (TaskInstances::new(client), TaskLogs::new(client));
        let started = [&ids[2..8], &others[2..4]].concat();
        tasks.transition_many(&started, State::Queued, State::Running).await.unwrap();
        let named = |name: &str| Some(name.to_owned());
        let filters = [
            (TaskInstanceFilter::default(), "true".to_owned()),
            (TaskInstanceFilter { dag_run_id: Some(run), ..Default::default() }, format!("dag_run_id = '{run}'")),
            (TaskInstanceFilter { states: vec![State::Running], ..Default::default() }, "state = 'running'".to_owned()),
            (
                TaskInstanceFilter { states: State::ALL.to_vec(), dag_run_id: Some(run), ..Default::default() },
                format!("dag_run_id = '{run}'"),
            ),
            (
                TaskInstanceFilter { states: vec![State::Queued], dag_run_id: Some(run), ..Default::default() },
                format!("dag_run_id = '{run}' AND state = 'queued'"),
            ),
            (
                TaskInstanceFilter { dag_run_id: Some(run), task_id: named("a%"), ..Default::default() },
                format!("dag_run_id = '{run}' AND task_id = 'a%'"),
            ),
        ];
        for (filter, condition) in filters {
            for order in orders::<TaskInstanceSort>() {
                let found = pages(Some(order), 7, async |page| tasks.list(&filter, &page).await).await;
                let found: Vec<Uuid> = found.iter().map(|task| task.id).collect();
                let (way, by) = (direction(order), order.by.name());
                let by = if by == "id" { format!("id {way}") } else { format!("dag_run_id {way}, {by} {way}") };
                let sql = format!("SELECT id FROM workflow.task_instances WHERE {condition} ORDER BY {by}");
                assert_same(&found, &column(client, &sql).await, &format!("{condition} {order}"));
            }
        }
        // Tasks of one name in all runs are sorted by run.
        for order in orders::<TaskInstanceSort>() {
            let filter =
                TaskInstanceFilter { task_id: named("a%"), states: vec![State::Running], ..Default::default() };
            let found = pages(Some(order), 1, async |page| tasks.list(&filter, &page).await).await;
            let found: Vec<Uuid> = found.iter().map(|task| task.id).collect();
            let mut expected = vec![ids[3], others[3]];
            if order.descending {
                expected.reverse();
            }
            assert_eq!(found, expected, "{order}");
        }

        let lines: Vec<NewTaskLog> = (0..30).map(|n| NewTaskLog::of(ids[n % 2], n.to_string())).collect();
        logs.append_many(&lines).await.unwrap();
        for order in orders::<TaskLogSort>() {
            let filter = TaskLogFilter { try_number: Some(0), ..TaskLogFilter::default() };
            let found = pages(Some(order), 7, async |page| logs.list(ids[1], &filter, &page).await).await;
            let found: Vec<i64> = found.iter().map(|line| line.id).collect();
            let sql = "SELECT id FROM workflow.task_logs WHERE task_instance_id";
            let sql = format!("{sql} = '{}' ORDER BY id {}", ids[1], direction(order));
            assert_same(&found, &column(client, &sql).await, &order.to_string());
        }
        assert_eq!(logs.append(ids[0], LogLevel::Info, "x").await.unwrap(), 31);
    });
}

#[test]
fn history_list_combines_every_order_and_filter() {
    let db = Db::new();
    run(async {
        let client = &server(db.url()).connect().await.unwrap();
        let (_, _, ids) = new_tasks(client, &NAMES).await;
        let tasks = TaskInstances::new(client);
        for (from, to) in
            [(State::Queued, State::Running), (State::Running, State::Failed), (State::Failed, State::Running)]
        {
            tasks.transition_many(&ids, from, to).await.unwrap();
        }
        let tracker = History::new(client);
        let (kind, entity) = (Some(EntityType::TaskInstance), Some(ids[4]));
        let filters = [
            (HistoryFilter::default(), "true".to_owned()),
            (HistoryFilter { entity_type: kind, ..Default::default() }, "entity_type = 'task_instance'".to_owned()),
            (HistoryFilter { entity_id: entity, ..Default::default() }, format!("entity_id = '{}'", ids[4])),
            (
                HistoryFilter { entity_type: Some(EntityType::DagRun), entity_id: entity, ..Default::default() },
                "false".to_owned(),
            ),
        ];
        for (filter, condition) in filters {
            for order in orders::<HistorySort>() {
                let found = pages(Some(order), 7, async |page| tracker.list(&filter, &page).await).await;
                let found: Vec<i64> = found.iter().map(|event| event.id).collect();
                let sql =
                    format!("SELECT id FROM workflow.state_history WHERE {condition} ORDER BY id {}", direction(order));
                assert_same(&found, &column(client, &sql).await, &format!("{condition} {order}"));
            }
        }
    });
}

#[test]
fn history_list_filters_by_time_range() {
    let db = Db::new();
    run(async {
        let client = &server(db.url()).connect().await.unwrap();
        let tracker = History::new(client);
        let mut tasks = Vec::new();
        for _ in 0..30 {
            tasks.extend(new_tasks(client, &["a", "b"]).await.2);
        }
        let times: Vec<DateTime<Utc>> =
            column(client, "SELECT changed_at FROM workflow.state_history ORDER BY id").await;
        let (from, until) = (times[17], times[63]);
        let entity = tasks[20];
        let filters = [
            (Some(from), Some(until), None),
            (Some(from), None, None),
            (None, Some(until), None),
            (Some(from), Some(until), Some(entity)),
            (Some(until), Some(from), None),
            (Some(times[89] + TimeDelta::hours(1)), None, None),
            (None, Some(times[0] - TimeDelta::days(400_000)), None),
        ];
        for (gte, lt, entity_id) in filters {
            let filter = HistoryFilter { entity_id, changed_at_gte: gte, changed_at_lt: lt, ..Default::default() };
            for order in orders::<HistorySort>() {
                let found = pages(Some(order), 7, async |page| tracker.list(&filter, &page).await).await;
                let found: Vec<i64> = found.iter().map(|event| event.id).collect();
                let sql = "SELECT id FROM workflow.state_history WHERE coalesce(changed_at >= $1, true)
                           AND coalesce(changed_at < $2, true) AND coalesce(entity_id = $3, true) ORDER BY id";
                let expected = client.query(&format!("{sql} {}", direction(order)), &[&gte, &lt, &entity_id]).await;
                let expected: Vec<i64> = expected.unwrap().iter().map(|row| row.get(0)).collect();
                assert_same(&found, &expected, &format!("{filter:?} {order}"));
            }
        }
    });
}

#[test]
fn pages_skip_and_repeat_no_row_during_writes() {
    let db = Db::new();
    run(async {
        let client = &server(db.url()).connect().await.unwrap();
        let (dag, runs) = (fill(client).await[0], DagRuns::new(client));
        for order in orders::<DagRunSort>() {
            let before: Vec<Uuid> = column(client, "SELECT id FROM workflow.dag_runs").await;
            let (mut seen, mut deleted) = (Vec::new(), HashSet::new());
            let found = pages(Some(order), 7, async |page| {
                let page = runs.list(&DagRunFilter::default(), &page).await?;
                seen.extend(page.items.iter().map(|run| run.id));
                // Deletes the row that the cursor comes from and one that is not listed yet, and creates another one.
                let unseen = before.iter().find(|id| !seen.contains(id) && !deleted.contains(*id));
                for id in page.items.last().map(|run| &run.id).into_iter().chain(unseen) {
                    runs.delete(*id).await?;
                    deleted.insert(*id);
                }
                runs.create(&NewDagRun::of(dag)).await?;
                Ok(page)
            })
            .await;
            let given: Vec<Uuid> = found.iter().map(|run| run.id).collect();
            let once: HashSet<Uuid> = given.iter().copied().collect();
            assert_eq!(given.len(), once.len(), "{order}: a row was listed twice");
            let lost = before.iter().filter(|id| !deleted.contains(id) && !once.contains(id)).count();
            assert_eq!(lost, 0, "{order}: remaining rows were skipped");
            let keys = found.iter().map(|run| (run.execution_date, run.id)).collect::<Vec<_>>();
            let keys: Vec<_> = if order.descending { keys.into_iter().rev().collect() } else { keys };
            assert!(order.by == DagRunSort::Id || keys.is_sorted_by_key(|(date, _)| *date), "{order}");
        }
    });
}

#[test]
fn list_rejects_invalid_cursor() {
    let db = Db::new();
    run(async {
        let client = &server(db.url()).connect().await.unwrap();
        fill(client).await;
        let (dags, runs) = (Dags::new(client), DagRuns::new(client));
        let first =
            ListOptions { limit: 7, order_by: Some(OrderBy::ascending(DagRunSort::Id)), ..ListOptions::default() };
        let first = runs.list(&DagRunFilter::default(), &first).await.unwrap();
        let cursor = first.next_cursor.expect("there are more");
        // A cursor is the position of a row in any order: in reverse, the other six rows follow it.
        let back = ListOptions {
            limit: 7,
            max_bytes: None,
            cursor: Some(cursor.clone()),
            order_by: Some(OrderBy::descending(DagRunSort::Id)),
        };
        let back = runs.list(&DagRunFilter::default(), &back).await.unwrap();
        let expected: Vec<Uuid> = first.items[..6].iter().rev().map(|run| run.id).collect();
        assert_eq!(back.items.iter().map(|run| run.id).collect::<Vec<_>>(), expected);

        for garbage in ["", "x", "1", "' OR true", &cursor[..cursor.len() - 1], &format!("{cursor}x"), "\0"] {
            let page = ListOptions { cursor: Some(garbage.to_owned()), ..ListOptions::default() };
            if let Ok(list) = runs.list(&DagRunFilter::default(), &page).await {
                panic!("{garbage:?} was accepted as a cursor, with {} rows", list.items.len());
            }
            let page = ListOptions { cursor: Some(garbage.to_owned()), ..ListOptions::default() };
            let error = dags.list(&DagFilter::default(), &page).await.unwrap_err();
            assert!(matches!(&error, Error::Cursor(said) if said == garbage), "{error:?}");
        }
        let none =
            runs.list(&DagRunFilter::default(), &ListOptions { limit: 0, ..ListOptions::default() }).await.unwrap();
        assert!(none.items.is_empty() && none.next_cursor.is_none());
    });
}
