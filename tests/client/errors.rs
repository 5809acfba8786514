//! Errors of the database as variants of the enum.

use super::*;
use pg_workflow_client::event::EntityType;
use pg_workflow_client::feed::Feed;
use pg_workflow_client::list::ListOptions;
use pg_workflow_client::{
    DagChanges, Entity, Error, History, LogLevel, State, TaskInstanceChanges, TaskLogs, Transition,
};
use serde_json::json;

#[test]
fn transition_error_has_current_and_next_states() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let (_, run, ids) = new_tasks(&client, &["a"]).await;
        let (tasks, task) = (TaskInstances::new(&client), ids[0]);
        tasks.transition(task, State::Queued, State::Running).await.unwrap();

        let error = tasks.transition(task, State::Queued, State::Running).await.unwrap_err();
        let Error::Stale { entity, current_state, current_version, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*entity, Entity { entity_type: EntityType::TaskInstance, id: task });
        assert_eq!((*current_state, *current_version), (State::Running, 2));
        assert!(!error.is_transient() && error.code().unwrap().code() == "40001");
        assert!(error.to_string().contains("is running at version 2, expected queued"), "{error}");
        let old = Transition::new(State::Running, State::Failed).expecting_version(1);
        assert!(matches!(tasks.transition_with(task, &old).await, Err(Error::Stale { current_version: 2, .. })));

        let error = tasks.transition(task, State::Running, State::Skipped).await.unwrap_err();
        let Error::NotAllowed { entity, from, to, next_states, .. } = &error else { panic!("{error:?}") };
        assert_eq!((entity.id, *from, *to), (task, State::Running, State::Skipped));
        assert_eq!(next_states, State::Running.next_states());
        assert!(!error.is_transient());
        // A plain UPDATE fails in the same way.
        let update = "UPDATE workflow.dag_runs SET state = 'success' WHERE id = $1";
        let error = Error::from(client.execute(update, &[&run]).await.unwrap_err());
        let Error::NotAllowed { entity, .. } = error else { panic!("{error:?}") };
        assert_eq!(entity, Entity { entity_type: EntityType::DagRun, id: run });
    });
}

#[test]
fn not_found_error_names_entity() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let (unknown, name) = (Uuid::from_u128(7), "00000000-0000-0000-0000-000000000007");
        let (dags, runs, tasks) = (Dags::new(&client), DagRuns::new(&client), TaskInstances::new(&client));
        let logs = TaskLogs::new(&client);
        let errors = [
            ("dag", dags.pause(unknown).await.unwrap_err()),
            ("dag", dags.update(unknown, &DagChanges::default()).await.unwrap_err()),
            ("dag", dags.delete(unknown).await.unwrap_err()),
            ("dag", runs.create(&NewDagRun::of(unknown)).await.unwrap_err()),
            ("dag_run", runs.transition(unknown, State::Queued, State::Running).await.unwrap_err()),
            ("dag_run", runs.delete(unknown).await.unwrap_err()),
            ("dag_run", tasks.create(unknown, "a").await.unwrap_err()),
            ("task_instance", tasks.transition(unknown, State::Queued, State::Running).await.unwrap_err()),
            ("task_instance", tasks.update(unknown, &TaskInstanceChanges::default()).await.unwrap_err()),
            ("task_instance", logs.append(unknown, LogLevel::Info, "x").await.unwrap_err()),
        ];
        for (kind, error) in errors {
            let Error::NotFound { entity_type, entity_id, .. } = &error else { panic!("{kind}: {error:?}") };
            assert_eq!((entity_type.as_str(), entity_id.as_str()), (kind, name));
            assert!(error.to_string().contains(name) && !error.is_transient(), "{error}");
        }
        let error = logs.delete(7).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no task_log 7");
        assert!(tasks.get(unknown).await.unwrap().is_none());
        assert!(History::new(&client).history(EntityType::DagRun, unknown, 1).await.unwrap().is_empty());
        let feed = Feed::open(&server(db.url()), "reader").await.unwrap();
        client.execute("SELECT workflow.drop_consumer('reader')", &[]).await.unwrap();
        let error = feed.ack(1).await.unwrap_err();
        assert!(matches!(&error, Error::NotFound { entity_type, .. } if entity_type == "consumer"), "{error:?}");
    });
}

#[test]
fn errors_name_invalid_arguments_and_duplicates() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let (dag, run, _) = new_tasks(&client, &["a"]).await;
        let error = Dags::new(&client).create(&NewDag::named(" ")).await.unwrap_err();
        let Error::Invalid { argument, value, .. } = &error else { panic!("{error:?}") };
        assert_eq!((argument.as_str(), value), ("name", &json!(" ")));
        assert!(!error.is_transient());
        let conf = NewDagRun { conf: json!([]), ..NewDagRun::of(dag) };
        let error = DagRuns::new(&client).create(&conf).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid { argument, .. } if argument == "conf"), "{error:?}");
        let error = History::new(&client).history(EntityType::DagRun, run, -1).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid { argument, .. } if argument == "max"), "{error:?}");
        // The guard trigger raises it too.
        let changes = TaskInstanceChanges { max_tries: Some(-1), error: None };
        let (_, _, tasks) = new_tasks(&client, &["a"]).await;
        let error = TaskInstances::new(&client).update(tasks[0], &changes).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid { argument, .. } if argument == "max_tries"), "{error:?}");

        Dags::new(&client).create(&NewDag::named("taken")).await.unwrap();
        let date = DagRuns::new(&client).get(run).await.unwrap().unwrap().execution_date;
        let changes = DagChanges { name: Some("taken".to_owned()), ..DagChanges::default() };
        let errors = [
            ("dags_name_key", Dags::new(&client).create(&NewDag::named("taken")).await.unwrap_err()),
            ("dags_name_key", Dags::new(&client).update(dag, &changes).await.unwrap_err()),
            (
                "dag_runs_dag_id_execution_date_key",
                DagRuns::new(&client)
                    .create(&NewDagRun { execution_date: date, ..NewDagRun::of(dag) })
                    .await
                    .unwrap_err(),
            ),
            ("task_instances_dag_run_id_task_id_key", TaskInstances::new(&client).create(run, "a").await.unwrap_err()),
        ];
        for (name, error) in errors {
            let Error::AlreadyExists { constraint, .. } = &error else { panic!("{name}: {error:?}") };
            assert_eq!(constraint, name);
        }
    });
}

#[test]
fn errors_report_denied_rights_and_lease_holder() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        client.batch_execute("SET ROLE pg_signal_backend").await.unwrap();
        let error = Dags::new(&client).list(&Default::default(), &ListOptions::default()).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
        assert!(error.hint().contains("Grant"), "{}", error.hint());

        let server = server(db.url());
        let mut first = Feed::open(&server, "reader").await.unwrap();
        assert!(first.lease("the first", Duration::from_secs(60)).await.unwrap());
        let second = Feed::open(&server, "reader").await.unwrap();
        let error = second.ack(1).await.unwrap_err();
        let Error::Leased { consumer, holder, .. } = &error else { panic!("{error:?}") };
        assert_eq!((consumer.as_str(), holder.as_deref()), ("reader", Some("the first")));
    });
}

#[test]
fn postgresql_errors_keep_their_own_variant() {
    let db = Db::new();
    run(async {
        let mut client = server(db.url()).connect().await.unwrap();
        let other = server(db.url()).connect().await.unwrap();
        let (dag, _, _) = new_tasks(&client, &["a"]).await;

        let transaction = client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
        let transaction = transaction.start().await.unwrap();
        Dags::new(&transaction).get(dag).await.unwrap();
        Dags::new(&other).pause(dag).await.unwrap();
        let error = Dags::new(&transaction).pause(dag).await.unwrap_err();
        assert!(matches!(error, Error::Postgres(_)) && error.code().unwrap().code() == "40001", "{error:?}");
        assert!(error.is_transient() && error.hint().contains("Repeat"), "{}", error.hint());
        transaction.rollback().await.unwrap();

        let changes = DagChanges { name: Some(" ".to_owned()), ..DagChanges::default() };
        let error = Dags::new(&client).update(dag, &changes).await.unwrap_err();
        assert!(matches!(error, Error::Postgres(_)) && error.code().unwrap().code() == "23514", "{error:?}");
        assert!(!error.is_transient());

        let error =
            Error::from(client.query_one("SELECT 1::text", &[]).await.unwrap().try_get::<_, i64>(0).unwrap_err());
        assert!(!error.is_transient(), "a mistake in the program: {error}");

        client.batch_execute("SET statement_timeout = 50").await.unwrap();
        let error = Error::from(client.batch_execute("SELECT pg_sleep(10)").await.unwrap_err());
        assert!(error.is_transient(), "too slow: {error}");
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        other.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
        let error = Dags::new(&client).get(dag).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        let error = Dags::new(&client).get(dag).await.unwrap_err();
        assert!(error.is_transient() && error.code().is_none(), "closed: {error}");
    });
}

/// A report of the chain, as of anyhow, would print each message twice.
#[test]
fn error_has_no_source_that_its_message_contains() {
    use std::error::Error as _;
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let unknown = Uuid::from_u128(7);
        let errors = [
            TaskInstances::new(&client).transition(unknown, State::Queued, State::Running).await.unwrap_err(),
            Error::from(client.batch_execute("SELECT 1 / 0").await.unwrap_err()),
            Error::from(serde_json::from_str::<State>("7").unwrap_err()),
            server("postgres://postgres@127.0.0.1:1/d").connect().await.err().unwrap(),
            Error::publisher(std::io::Error::other("full")),
        ];
        for error in errors {
            let mut cause = error.source();
            while let Some(below) = cause {
                assert!(!error.to_string().contains(&below.to_string()), "{error}: {below}");
                cause = below.source();
            }
        }
    });
}
