//! The library: pools, transactions, and connections of their own.

use super::*;
use pg_workflow_client::list::{ListOptions, TaskInstanceFilter};
use pg_workflow_client::pool::{Options, Pool};
use pg_workflow_client::session::{self, Session};
use pg_workflow_client::{DagRuns, Dags, Error, NewDag, NewDagRun, NewTaskInstances, State, TaskInstances};
use uuid::Uuid;

async fn create(session: &impl Session) -> (Uuid, Vec<Uuid>) {
    let dag = Dags::new(session).create(&NewDag::named(Uuid::new_v4().to_string())).await.expect("a DAG");
    let run = DagRuns::new(session).create(&NewDagRun::of(dag)).await.expect("a run");
    let tasks = NewTaskInstances::of(run, ["a", "b"]);
    (run, TaskInstances::new(session).create_many(&tasks).await.expect("tasks"))
}

async fn setting(session: &impl Session, name: &str) -> String {
    let sql = format!("SELECT current_setting('{name}')");
    session::once(session, &sql, &[]).await.expect("an answer")[0].get(0)
}

async fn work(pool: &Pool) -> Result<(), Error> {
    let mut connection = pool.get().await?;
    let (run, tasks) = create(&connection).await;
    let moves = TaskInstances::new(&connection);
    assert_eq!(moves.transition(tasks[0], State::Queued, State::Running).await?, 2);
    let again = moves.transition(tasks[0], State::Queued, State::Running).await;
    assert!(matches!(again, Err(Error::Stale { current_version: 2, .. })), "{again:?}");
    for commits in [true, false] {
        let transaction = connection.transaction().await?;
        let moves = TaskInstances::new(&transaction);
        let (from, to) = if commits { (State::Running, State::Success) } else { (State::Queued, State::Running) };
        moves.transition(tasks[usize::from(!commits)], from, to).await?;
        assert_eq!(setting(&transaction, "statement_timeout").await, "30s");
        if commits { transaction.commit().await? } else { transaction.rollback().await? }
    }
    let filter = TaskInstanceFilter { dag_run_id: Some(run), ..TaskInstanceFilter::default() };
    let listed = TaskInstances::new(&connection).list(&filter, &ListOptions::default()).await?;
    let mut states: Vec<_> = listed.items.iter().map(|task| task.state).collect();
    states.sort_by_key(|state| state.as_str());
    assert_eq!(states, [State::Queued, State::Success]);
    Ok(())
}

#[test]
fn pool_works_through_each_pooler() {
    through_each_pooler(|pooled| {
        run(async {
            let pool = Pool::new(pooled.server(), Options { max_connections: 5, ..Options::default() });
            let working = (0..25).map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { work(&pool).await.unwrap() })
            });
            for worked in working.collect::<Vec<_>>() {
                worked.await.unwrap();
            }
            assert_eq!(setting(&pool.get().await.unwrap(), "statement_timeout").await, "30s");
            assert_eq!(setting(&pool.get().await.unwrap(), "jit").await, "off");
        });
    });
}

#[test]
fn read_only_pool_writes_through_no_pooler() {
    through_each_pooler(|pooled| {
        run(async {
            let options = Options { is_read_only: true, ..Options::default() };
            let mut connection = Pool::new(pooled.server(), options).get().await.unwrap();
            let dag = NewDag::named("refused");
            let refused = Dags::new(&connection).create(&dag).await.unwrap_err();
            assert_eq!(refused.code().unwrap().code(), "25006");
            let transaction = connection.transaction().await.unwrap();
            assert_eq!(Dags::new(&transaction).create(&dag).await.unwrap_err().code().unwrap().code(), "25006");
        });
    });
}

/// The library must not commit it with its next statement.
#[test]
fn transaction_begun_by_hand_stays_open_behind_a_pooler() {
    through_each_pooler(|pooled| {
        run(async {
            let pool = Pool::new(pooled.server(), Options::default());
            let connection = pool.get().await.unwrap();
            connection.batch_execute("BEGIN").await.unwrap();
            Dags::new(&connection).create(&NewDag::named("undone")).await.unwrap();
            connection.batch_execute("ROLLBACK").await.unwrap();
            let client = pooled.server().with_fixed_settings().connect().await.unwrap();
            client.batch_execute("BEGIN").await.unwrap();
            Dags::new(&client).create(&NewDag::named("undone")).await.unwrap();
            client.batch_execute("ROLLBACK").await.unwrap();
            assert!(Dags::new(&client).get_by_name("undone").await.unwrap().is_none());
        });
    });
}

#[test]
fn fixed_settings_hold_through_each_pooler() {
    through_each_pooler(|pooled| {
        run(async {
            let client = pooled.server().with_fixed_settings().connect().await.unwrap();
            assert!(client.is_pooled());
            let settings =
                [("lock_timeout", "0"), ("statement_timeout", "0"), ("transaction_isolation", "read committed")];
            for (name, value) in settings {
                assert_eq!(setting(&client, name).await, value, "{name}");
            }
            let direct = PostgresServer::parse(pooled.db.url()).unwrap().with_fixed_settings().connect().await.unwrap();
            assert!(!direct.is_pooled());
            assert_eq!(setting(&direct, "lock_timeout").await, "0");
        });
    });
}

#[test]
fn options_that_a_pooler_drops_are_rejected() {
    through_each_pooler(|pooled| {
        let server = format!("{}?options=-c%20pg_workflow.announce%3Doff", pooled.url());
        let connected = run(async { PostgresServer::parse(&server).unwrap().connect().await });
        let error = connected.err().expect("the options are lost");
        assert!(matches!(error, Error::OptionsLost { .. }), "{error}");
        assert!(!error.is_transient() && error.hint().contains("ALTER ROLE"), "{error}");
    });
}
