//! Every method of every repository, on every kind of session.

use super::*;
use chrono::{DateTime, TimeDelta, Utc};
use pg_workflow_client::event::EntityType;
use pg_workflow_client::list::{
    DagFilter, DagRunFilter, HistoryFilter, ListOptions, TaskInstanceFilter, TaskLogFilter, TaskLogSort,
};
use pg_workflow_client::{
    DagChanges, DagRunChanges, Error, History, LogLevel, NewTaskLog, Outcome, State, TaskInstanceChanges, TaskLogs,
    Transition, TransitionMany,
};
use serde_json::{Value, json};

async fn everything(session: &impl Session) -> Result<(), Error> {
    let prefix = Uuid::new_v4().to_string();
    let dag = dags(session, &prefix).await?;
    let run = runs(session, dag).await?;
    let tasks = tasks(session, run).await?;
    logs(session, tasks[0]).await?;
    history(session, run, tasks[0]).await
}

async fn dags(session: &impl Session, prefix: &str) -> Result<Uuid, Error> {
    let dags = Dags::new(session);
    let start = time("2026-01-02T03:04:05.678901Z");
    let new = NewDag {
        description: Some("a description".to_owned()),
        schedule: Some("@daily".to_owned()),
        start_date: Some(start),
        tags: vec!["b".to_owned(), "a".to_owned()],
        is_paused: true,
        ..NewDag::named(format!("{prefix} one"))
    };
    let id = dags.create(&new).await?;
    let dag = dags.get(id).await?.expect("it was created");
    assert_eq!((dag.id, &dag.name, &dag.description), (id, &new.name, &new.description));
    assert_eq!(
        (&dag.schedule, dag.start_date, &dag.tags, dag.is_paused),
        (&new.schedule, Some(start), &new.tags, true)
    );
    assert_eq!(dags.get_by_name(&new.name).await?.as_ref(), Some(&dag));

    let names =
        ["z", "a", "m"].map(|name| NewDag { start_date: Some(start), ..NewDag::named(format!("{prefix} {name}")) });
    let ids = dags.create_many(&names).await?;
    for (id, new) in ids.iter().zip(&names) {
        let dag = dags.get(*id).await?.expect("it was created");
        assert_eq!((&dag.name, dag.start_date, dag.is_paused), (&new.name, Some(start), false));
    }
    let filter = DagFilter { name_prefix: Some(prefix.to_owned()), ..DagFilter::default() };
    assert_eq!(dags.list(&filter, &ListOptions::default()).await?.items.len(), 4);

    assert!(dags.unpause(id).await? && !dags.unpause(id).await?, "only the first call changes it");
    assert!(dags.pause(id).await? && !dags.pause(id).await?, "only the first call changes it");
    let changes = DagChanges { schedule: Some(None), tags: Some(vec!["c".to_owned()]), ..DagChanges::default() };
    let changed = dags.update(id, &changes).await?;
    assert_eq!((changed.schedule, changed.tags, &changed.description), (None, vec!["c".to_owned()], &new.description));
    let changes = DagChanges {
        name: Some(format!("{prefix} two")),
        description: Some(Some("other".to_owned())),
        schedule: Some(Some("@hourly".to_owned())),
        start_date: Some(None),
        tags: None,
    };
    let changed = dags.update(id, &changes).await?;
    assert_eq!((Some(changed.name), changed.description), (changes.name, Some("other".to_owned())));
    assert_eq!((changed.schedule, changed.start_date, changed.tags.len()), (Some("@hourly".to_owned()), None, 1));

    dags.delete(ids[0]).await?;
    assert!(dags.get(ids[0]).await?.is_none());
    Ok(id)
}

async fn runs(session: &impl Session, dag: Uuid) -> Result<Uuid, Error> {
    let runs = DagRuns::new(session);
    let conf = json!({"day": "2026-11-24", "n": [1, null]});
    let date = time("2026-11-24T00:00:00Z");
    let id = runs.create(&NewDagRun { dag_id: dag, execution_date: date, conf: conf.clone() }).await?;
    let run = runs.get(id).await?.expect("it was created");
    assert_eq!((run.dag_id, run.execution_date, run.state, run.version), (dag, date, State::Queued, 1));
    assert_eq!(run.parse_conf::<Value>()?, conf);
    assert_eq!(runs.get_by_execution_date(dag, date).await?.map(|run| run.id), Some(id));

    // The database does not store nanoseconds.
    let finer = time("2026-11-23T00:00:00.000000999Z");
    let many = [3, 1, 2].map(|days| NewDagRun { execution_date: finer - TimeDelta::days(days), ..NewDagRun::of(dag) });
    let ids = runs.create_many(&many).await?;
    for (id, new) in ids.iter().zip(&many) {
        let found = runs.get_by_execution_date(dag, new.execution_date).await?;
        assert_eq!(found.map(|run| run.id), Some(*id), "found by the date of its creation");
    }
    assert_eq!(runs.latest(dag).await?.map(|run| run.id), Some(id));
    let filter = DagRunFilter { dag_id: Some(dag), ..DagRunFilter::default() };
    let list: Vec<Uuid> = runs.list(&filter, &ListOptions::default()).await?.items.iter().map(|run| run.id).collect();
    assert_eq!(list, [id, ids[1], ids[2], ids[0]], "the latest date first");

    let changes = DagRunChanges { conf: Some(json!({"n": 2})), ..DagRunChanges::default() };
    assert_eq!(runs.update(id, &changes).await?.parse_conf::<Value>()?, json!({"n": 2}));
    let later = DagRunChanges { execution_date: Some(date + TimeDelta::days(1)), ..DagRunChanges::default() };
    let changed = runs.update(id, &later).await?;
    assert_eq!((changed.execution_date, changed.parse_conf::<Value>()?), (date + TimeDelta::days(1), json!({"n": 2})));

    assert_eq!(runs.transition(id, State::Queued, State::Running).await?, 2);
    let moved = runs.transition_many(&[ids[2], ids[1], id], State::Queued, State::Skipped).await?;
    let mut outcomes: Vec<_> = moved.iter().map(|moved| (moved.entity_id, moved.outcome)).collect();
    outcomes.sort_unstable_by_key(|(id, _)| *id);
    let mut expected = [(ids[2], Outcome::Applied), (ids[1], Outcome::Applied), (id, Outcome::Stale)];
    expected.sort_unstable_by_key(|(id, _)| *id);
    assert_eq!(outcomes, expected);
    let dry = runs
        .transition_many_with(&[ids[0]], &TransitionMany::to(State::Failed).with_metadata("why", "test").dry_run())
        .await?;
    assert_eq!((dry[0].outcome, dry[0].state, dry[0].version), (Outcome::Applied, Some(State::Queued), Some(1)));
    runs.transition_with(ids[0], &Transition::new(State::Queued, State::Failed).with_metadata("why", "test")).await?;
    runs.delete(ids[0]).await?;
    assert!(runs.get(ids[0]).await?.is_none());
    Ok(id)
}

async fn tasks(session: &impl Session, run: Uuid) -> Result<Vec<Uuid>, Error> {
    let tasks = TaskInstances::new(session);
    let names = ["z", "a", "m", "b"];
    let ids = tasks.create_many(&NewTaskInstances { max_tries: 3, ..NewTaskInstances::of(run, names) }).await?;
    for (id, name) in ids.iter().zip(names) {
        let task = tasks.get(*id).await?.expect("it was created");
        assert_eq!((task.dag_run_id, task.task_id.as_str(), task.max_tries), (run, name, 3));
        assert_eq!(tasks.get_by_task_id(run, name).await?.as_ref(), Some(&task));
    }
    let alone = tasks.create(run, "alone").await?;
    let filter = TaskInstanceFilter { dag_run_id: Some(run), ..TaskInstanceFilter::default() };
    let list = tasks.list(&filter, &ListOptions::default()).await?;
    let by_name: Vec<&str> = list.items.iter().map(|task| task.task_id.as_str()).collect();
    assert_eq!(by_name, ["a", "alone", "b", "m", "z"]);

    let first = ids[0];
    assert_eq!(tasks.transition(first, State::Queued, State::Running).await?, 2);
    let failing = Transition::new(State::Running, State::Failed)
        .with_metadata("error", "disk full")
        .with_metadata("worker", 7)
        .expecting_version(2)
        .with_request_id("once");
    assert_eq!(tasks.transition_with(first, &failing).await?, 3);
    assert_eq!(tasks.transition_with(first, &failing).await?, 3, "a repeated request returns the same version");
    let task = tasks.get(first).await?.expect("it exists");
    assert_eq!((task.state, task.version, task.try_number), (State::Failed, 3, 1));
    assert_eq!(task.error.as_deref(), Some("disk full"));
    assert!(task.start_date <= task.end_date && task.duration.is_some());

    let changes = TaskInstanceChanges { max_tries: Some(5), error: None };
    let changed = tasks.update(first, &changes).await?;
    assert_eq!((changed.max_tries, changed.error.as_deref()), (5, Some("disk full")));
    let changed = tasks.update(first, &TaskInstanceChanges { max_tries: None, error: Some(None) }).await?;
    assert_eq!((changed.max_tries, changed.error), (5, None));

    let missing = Uuid::new_v4();
    let moved = tasks.transition_many(&[ids[1], first, missing], State::Queued, State::Running).await?;
    let outcome = |id| moved.iter().find(|moved| moved.entity_id == id).map(|moved| (moved.outcome, moved.state));
    assert_eq!(outcome(ids[1]), Some((Outcome::Applied, Some(State::Running))));
    assert_eq!(outcome(first), Some((Outcome::Stale, Some(State::Failed))));
    assert_eq!(outcome(missing), Some((Outcome::Missing, None)));
    let moved = tasks.transition_many_with(&[ids[1], first], &TransitionMany::to(State::Success)).await?;
    let outcome = |id| moved.iter().find(|moved| moved.entity_id == id).map(|moved| moved.outcome);
    assert_eq!((outcome(ids[1]), outcome(first)), (Some(Outcome::Applied), Some(Outcome::Illegal)));

    let counts = tasks.count_by_state(Some(run)).await?;
    assert_eq!((counts.queued, counts.failed, counts.success, counts.total), (3, 1, 1, 5));
    let all = tasks.count_by_state(None).await?;
    assert!(all.total >= 5 && all.of(State::Success) >= 1, "{all:?}");
    tasks.delete(alone).await?;
    assert_eq!(tasks.count_by_state(None).await?.total, all.total - 1);
    assert!(tasks.get(alone).await?.is_none());
    Ok(ids)
}

async fn logs(session: &impl Session, task: Uuid) -> Result<(), Error> {
    let logs = TaskLogs::new(session);
    let first = logs.append(task, LogLevel::Warning, "slow").await?;
    let at = time("2026-11-24T01:02:03.000004999Z");
    let lines: Vec<NewTaskLog> = LogLevel::ALL
        .into_iter()
        .map(|level| NewTaskLog { level, logged_at: Some(at), ..NewTaskLog::of(task, level.as_str()) })
        .collect();
    let ids = logs.append_many(&lines).await?;
    assert!(first < ids[0] && ids.is_sorted());
    let line = logs.get(ids[4]).await?.expect("it was appended");
    assert_eq!((line.level, line.message.as_str(), line.try_number), (LogLevel::Critical, "CRITICAL", 1));
    assert_eq!(line.logged_at, time("2026-11-24T01:02:03.000004Z"));

    let page = ListOptions::<TaskLogSort>::default();
    let all = logs.list(task, &TaskLogFilter::default(), &page).await?;
    assert_eq!(all.items.iter().map(|line| line.id).collect::<Vec<_>>(), [&[first], &ids[..]].concat());
    assert!(
        logs.list(task, &TaskLogFilter { try_number: Some(2), ..TaskLogFilter::default() }, &page)
            .await?
            .items
            .is_empty()
    );
    logs.delete(first).await?;
    assert!(logs.get(first).await?.is_none());
    Ok(())
}

async fn history(session: &impl Session, run: Uuid, task: Uuid) -> Result<(), Error> {
    let tracker = History::new(session);
    let events = tracker.history(EntityType::TaskInstance, task, 10).await?;
    let transitions: Vec<_> = events.iter().map(|event| (event.version, event.old_state, event.new_state)).collect();
    let path = [None, Some(State::Queued), Some(State::Running), Some(State::Failed)];
    let expected = [(3, path[2], path[3]), (2, path[1], path[2]), (1, path[0], path[1])];
    assert_eq!(transitions, expected);
    assert_eq!(serde_json::from_str::<Value>(events[0].metadata.get())?, json!({"error": "disk full", "worker": 7}));
    assert_eq!(tracker.history(EntityType::TaskInstance, task, 1).await?.len(), 1);

    let (kind, started) = (EntityType::TaskInstance, events[1].changed_at);
    assert_eq!(tracker.state_at(kind, task, started).await?, Some(State::Running));
    assert_eq!(tracker.state_at(kind, task, started - TimeDelta::days(1)).await?, None);
    let filter = HistoryFilter { entity_id: Some(run), ..HistoryFilter::default() };
    let listed = tracker.list(&filter, &ListOptions::default()).await?;
    assert_eq!(listed.items.iter().map(|event| event.version).collect::<Vec<_>>(), [2, 1]);
    assert!(tracker.verify().await?.is_empty());
    Ok(())
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

/// Counts the rows of all tables.
async fn rows(session: &impl Session) -> i64 {
    use tokio_postgres::GenericClient;
    let sql = "SELECT (SELECT count(*) FROM workflow.dags) + (SELECT count(*) FROM workflow.dag_runs)
             + (SELECT count(*) FROM workflow.task_instances) + (SELECT count(*) FROM workflow.task_logs)
             + (SELECT count(*) FROM workflow.state_history)";
    session.client().query_one(sql, &[]).await.expect("a count").get(0)
}

#[test]
fn repositories_work_on_client_and_in_transaction() {
    let db = Db::new();
    run(async {
        let mut client = server(db.url()).connect().await.unwrap();
        everything(&client).await.unwrap();
        let before = rows(&client).await;
        let mut transaction = client.transaction().await.unwrap();
        everything(&transaction).await.unwrap();
        let savepoint = transaction.transaction().await.unwrap();
        everything(&savepoint).await.unwrap();
        savepoint.rollback().await.unwrap();
        assert!(rows(&transaction).await > before);
        transaction.rollback().await.unwrap();
        assert_eq!(rows(&client).await, before, "nothing was written");
    });
}

#[test]
fn repositories_work_on_pooled_connection_and_in_transaction() {
    let db = Db::new();
    run(async {
        let pool = pool(db.url(), Options::default());
        let mut connection = pool.get().await.unwrap();
        everything(&connection).await.unwrap();
        let before = rows(&connection).await;

        let transaction = connection.transaction().await.unwrap();
        everything(&transaction).await.unwrap();
        transaction.rollback().await.unwrap();
        assert_eq!(rows(&connection).await, before, "nothing was written");

        drop(connection.transaction().await.unwrap());
        let transaction = connection.transaction().await.unwrap();
        everything(&transaction).await.unwrap();
        transaction.commit().await.unwrap();
        assert!(rows(&connection).await > before, "the commit was written");

        let before = rows(&connection).await;
        let transaction = connection.transaction().await.unwrap();
        everything(&transaction).await.unwrap();
        drop(transaction);
        assert_eq!(rows(&connection).await, before, "the dropped transaction was rolled back");
    });
}

/// Returns the prepared statements of the connection, and how often each was run.
async fn prepared(connection: &Connection) -> Vec<(String, i64)> {
    let sql = "SELECT statement, generic_plans + custom_plans FROM pg_prepared_statements
               WHERE statement LIKE '%workflow.%' AND statement NOT LIKE '%pg_prepared_statements%'";
    let rows = connection.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn pooled_connection_prepares_each_statement_once() {
    let db = Db::new();
    run(async {
        let options = Options { max_connections: 1, ..Options::default() };
        let pool = pool(db.url(), options);
        for _ in 0..3 {
            let mut connection = pool.get().await.unwrap();
            let (_, _, tasks) = new_tasks(&connection, &["a"]).await;
            let transaction = connection.transaction().await.unwrap();
            TaskInstances::new(&transaction).transition(tasks[0], State::Queued, State::Running).await.unwrap();
            transaction.commit().await.unwrap();
        }
        let prepared = prepared(&pool.get().await.unwrap()).await;
        assert_eq!(prepared.len(), 4, "{prepared:?}");
        assert!(prepared.iter().all(|(_, runs)| *runs == 3), "{prepared:?}");
    });
}

#[test]
fn connection_prepares_nothing_without_statement_cache() {
    let db = Db::new();
    run(async {
        let pool = pool(db.url(), Options { keeps_statements: false, max_connections: 1, ..Options::default() });
        let connection = pool.get().await.unwrap();
        everything(&connection).await.unwrap();
        assert_eq!(prepared(&connection).await, []);
    });
}

#[test]
fn create_many_keeps_order_and_is_atomic() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let dags: Vec<NewDag> = (0..300).map(|n| NewDag::named(format!("{:03}", n * 7 % 300))).collect();
        let ids = Dags::new(&client).create_many(&dags).await.unwrap();
        let found = client.query("SELECT id, name FROM workflow.dags ORDER BY id", &[]).await.unwrap();
        let found: Vec<(Uuid, String)> = found.iter().map(|row| (row.get(0), row.get(1))).collect();
        let expected: Vec<(Uuid, String)> = ids.into_iter().zip(dags.iter().map(|dag| dag.name.clone())).collect();
        assert_eq!(found, expected, "ids are in the order of creation");
        assert!(Dags::new(&client).create_many(&[]).await.unwrap().is_empty());

        let (dag, run, tasks) = new_tasks(&client, &["taken"]).await;
        let before = rows(&client).await;
        let twice = [NewDag::named("new"), NewDag::named("000")];
        assert!(matches!(Dags::new(&client).create_many(&twice).await, Err(Error::AlreadyExists { .. })));
        let runs = [NewDagRun::of(dag), NewDagRun::of(Uuid::nil())];
        assert!(matches!(DagRuns::new(&client).create_many(&runs).await, Err(Error::NotFound { .. })));
        let names = NewTaskInstances::of(run, ["new", "taken"]);
        assert!(matches!(TaskInstances::new(&client).create_many(&names).await, Err(Error::AlreadyExists { .. })));
        let lines = [NewTaskLog::of(tasks[0], "x"), NewTaskLog::of(Uuid::nil(), "x")];
        assert!(matches!(TaskLogs::new(&client).append_many(&lines).await, Err(Error::NotFound { .. })));
        assert_eq!(rows(&client).await, before, "nothing was written");
    });
}
