//! Tasks that depend on others: creation, the graph of a run, and why a task waits.

use super::*;
use pg_workflow_client::model::FailsOn;
use pg_workflow_client::{ClaimTasks, Claims, Error, Failure, RerunTasks, State, TriggerRule};
use serde_json::json;
use std::collections::BTreeMap;

/// Creates a run of these tasks. Each text names a task and its parents: `load: extract, check`.
async fn new_run(session: &impl Session, queue: &str, tasks: &[&str]) -> Result<(Uuid, Vec<Uuid>), Error> {
    let dag = Dags::new(session).create(&NewDag::named(Uuid::new_v4().to_string())).await?;
    let run = DagRuns::new(session).create(&NewDagRun::of(dag)).await?;
    let split = |task: &&str| {
        let (name, parents) = task.split_once(':').expect("a colon");
        let parents = parents.split(',').map(|parent| parent.trim().to_owned()).filter(|parent| !parent.is_empty());
        (name.to_owned(), parents.collect::<Vec<_>>())
    };
    let tasks: Vec<_> = tasks.iter().map(split).collect();
    let names: Vec<String> = tasks.iter().map(|(name, _)| name.clone()).collect();
    let depends_on: BTreeMap<_, _> = tasks.into_iter().filter(|(_, parents)| !parents.is_empty()).collect();
    let new = NewTaskInstances {
        queue: Some(queue.to_owned()),
        trigger_rules: names
            .iter()
            .filter(|name| name.as_str() == "cleanup")
            .map(|name| (name.clone(), TriggerRule::AllDone))
            .collect(),
        depends_on: Some(depends_on),
        ..NewTaskInstances::of(run, names)
    };
    Ok((run, TaskInstances::new(session).create_many(&new).await?))
}

/// Claims the only task that can be claimed, and returns its name and claim.
async fn claim(session: &impl Session, queue: &str) -> Result<(String, String), Error> {
    let many = ClaimTasks { queues: vec![queue.to_owned()], max: 10, ..ClaimTasks::by("w-7") };
    let mut claimed = Claims::new(session).claim(&many).await?;
    let task = claimed.pop().expect("a task that can be claimed");
    assert_eq!(claimed.len(), 0, "besides {}", task.task_id);
    Ok((task.task_id, task.claim))
}

async fn everything(session: &impl Session) -> Result<(), Error> {
    let (runs, tasks, claims) = (DagRuns::new(session), TaskInstances::new(session), Claims::new(session));
    let queue = &Uuid::new_v4().to_string();
    let of_run = ["cleanup: load", "check: extract", "extract:", "load: extract", "report: load"];
    let (run, ids) = new_run(session, queue, &of_run).await?;
    let joins = runs.graph(run).await?;
    let mut shown: Vec<_> = joins.iter().map(|j| (&j.parents[..], j.trigger_rule, &j.children[..])).collect();
    shown.sort();
    let all = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (extract, load) = (all(&["extract"]), all(&["load"]));
    let expected = [
        (&extract[..], TriggerRule::AllSuccess, &all(&["check", "load"])[..]),
        (&load[..], TriggerRule::AllSuccess, &all(&["report"])[..]),
        (&load[..], TriggerRule::AllDone, &all(&["cleanup"])[..]),
    ];
    assert_eq!(shown, expected);
    assert!(joins.iter().all(|join| !join.is_decided));
    let waits = tasks.why_waiting(ids[3]).await?;
    let created = tasks.get(ids[2]).await?.expect("it exists").updated_at;
    assert_eq!(waits.len(), 1);
    assert_eq!((waits[0].id, waits[0].task_id.as_str()), (ids[2], "extract"));
    assert_eq!((waits[0].state, waits[0].since), (State::Queued, created));
    assert_eq!(tasks.why_waiting(ids[2]).await?, [], "it can be claimed");

    let (name, held) = claim(session, queue).await?;
    assert_eq!(name, "extract");
    assert_eq!(runs.get(run).await?.expect("it exists").state, State::Running, "since the first claim");
    claims.complete(&held, &json!({})).await.map(drop)
}

#[test]
fn dependencies_are_read_on_every_session() {
    let db = Db::new();
    run(async {
        let mut client = server(db.url()).connect().await.unwrap();
        everything(&client).await.unwrap();
        let transaction = client.transaction().await.unwrap();
        everything(&transaction).await.unwrap();
        transaction.commit().await.unwrap();
        let pool = pool(db.url(), Options::default());
        let mut connection = pool.get().await.unwrap();
        everything(&connection).await.unwrap();
        let transaction = connection.transaction().await.unwrap();
        everything(&transaction).await.unwrap();
        transaction.commit().await.unwrap();
    });
}

#[test]
fn run_with_dependencies_ends_itself() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let (runs, tasks, claims) = (DagRuns::new(&client), TaskInstances::new(&client), Claims::new(&client));
        let of_run = ["extract:", "load: extract", "report: load", "cleanup: load"];
        let (run, ids) = new_run(&client, "etl", &of_run).await.unwrap();
        let (_, held) = claim(&client, "etl").await.unwrap();
        claims.complete(&held, &json!({})).await.unwrap();
        let (name, held) = claim(&client, "etl").await.unwrap();
        assert_eq!(name, "load");
        let waits = tasks.why_waiting(ids[2]).await.unwrap();
        assert_eq!((waits.len(), waits[0].task_id.as_str(), waits[0].state), (1, "load", State::Running));
        claims.fail(&held, &Failure::new("disk full")).await.unwrap();
        assert_eq!(tasks.get(ids[2]).await.unwrap().expect("it exists").state, State::Failed);
        assert!(runs.graph(run).await.unwrap().iter().all(|join| join.is_decided));
        let (name, held) = claim(&client, "etl").await.unwrap();
        assert_eq!(name, "cleanup", "it runs whatever happened");
        claims.complete(&held, &json!({})).await.unwrap();
        assert_eq!(runs.get(run).await.unwrap().expect("it exists").state, State::Failed);

        let would = RerunTasks { dry_run: true, ..RerunTasks::default() };
        let tasks = runs.rerun_tasks(run, &would).await.unwrap();
        let shown: Vec<_> = tasks.iter().map(|task| (task.task_id.as_str(), task.new_state, task.is_ready)).collect();
        assert_eq!(shown, [("load", State::Retrying, true), ("report", State::Retrying, false)]);
        let only = RerunTasks { tasks: Some(vec!["load".to_owned()]), downstream: false, ..would.clone() };
        assert_eq!(runs.rerun_tasks(run, &only).await.unwrap(), tasks[..1]);
        assert_eq!(runs.rerun_tasks(run, &RerunTasks::default()).await.unwrap(), tasks);
        for expected in ["load", "report"] {
            let (name, held) = claim(&client, "etl").await.unwrap();
            assert_eq!(name, expected);
            claims.complete(&held, &json!({})).await.unwrap();
        }
        assert_eq!(runs.get(run).await.unwrap().expect("it exists").state, State::Success);

        let (hidden, ids) = new_run(&client, "etl", &["load:", "cleanup: load"]).await.unwrap();
        runs.set_fails_on(hidden, FailsOn::Tasks).await.unwrap();
        runs.set_fails_on(hidden, FailsOn::Leaves).await.unwrap();
        TaskInstances::new(&client).transition(ids[0], State::Queued, State::Failed).await.unwrap();
        let (_, held) = claim(&client, "etl").await.unwrap();
        claims.complete(&held, &json!({})).await.unwrap();
        assert_eq!(runs.get(hidden).await.unwrap().expect("it exists").state, State::Success);

        let error = runs.rerun_tasks(run, &would).await.unwrap_err();
        assert!(error.to_string().contains("which is final"), "{error}");
    });
}

#[test]
fn run_of_tasks_without_parents_ends_itself_if_asked() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        for (is_asked, expected) in [(true, State::Success), (false, State::Queued)] {
            let (_, run, _) = new_tasks(&client, &[]).await;
            let queue = Some("etl".to_owned());
            let depends_on = is_asked.then(BTreeMap::new);
            let new = NewTaskInstances { queue, depends_on, ..NewTaskInstances::of(run, ["alone"]) };
            TaskInstances::new(&client).create_many(&new).await.unwrap();
            let (_, held) = claim(&client, "etl").await.unwrap();
            Claims::new(&client).complete(&held, &json!({})).await.unwrap();
            assert_eq!(DagRuns::new(&client).get(run).await.unwrap().expect("it exists").state, expected);
        }
    });
}

#[test]
fn invalid_dependencies_are_typed_errors() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        for tasks in [&["a: b", "b: a"][..], &["a: missing"], &["a: a"]] {
            let refused = new_run(&client, "etl", tasks).await.unwrap_err();
            let Error::Invalid { argument, .. } = &refused else { panic!("{tasks:?}: {refused:?}") };
            assert_eq!(argument, "depends_on");
        }
        let unknown = Uuid::new_v4();
        let refused = TaskInstances::new(&client).why_waiting(unknown).await.unwrap_err();
        assert!(matches!(refused, Error::NotFound { .. }), "{refused:?}");
        assert_eq!(DagRuns::new(&client).graph(unknown).await.unwrap(), []);
    });
}
