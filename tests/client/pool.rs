//! The connection pool: size, lifetimes, timeouts, and failed connections.

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_workflow_client::{Error, State, Transition};
use xtask::stack::postgres::Shutdown;

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn pool_stays_between_minimum_and_maximum_size() {
    let db = Db::new();
    run(async {
        let options = Options { max_connections: 2, min_connections: 2, acquire_timeout: SHORT, ..Options::default() };
        let pool = pool(db.url(), options);
        wait_for("two idle connections", async || pool.size() == (2, 2)).await;
        let first = pool.get().await.unwrap();
        let second = pool.get().await.unwrap();
        assert_ne!(backend(&first).await, backend(&second).await);
        let error = pool.get().await.err().expect("no third connection");
        assert!(matches!(error, Error::Timeout(limit) if limit == SHORT), "{error:?}");
        assert_eq!(error.to_string(), "no response from PostgreSQL within 0.3 s");
        assert_eq!(pool.size(), (2, 0));

        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { backend(&pool.get().await.unwrap()).await }
        });
        let pid = backend(&first).await;
        drop(first);
        assert_eq!(waiting.await.unwrap(), pid, "the waiting task gets the returned connection");
    });
}

#[test]
fn pool_closes_idle_and_old_connections() {
    let db = Db::new();
    run(async {
        let idle = Options { idle_timeout: Some(SHORT), max_lifetime: None, ..Options::default() };
        let idle = pool(db.url(), idle);
        drop(idle.get().await.unwrap());
        assert_eq!(idle.size(), (1, 1));
        wait_for("the idle connection is closed", async || idle.size() == (0, 0)).await;

        let old = Options { idle_timeout: None, max_lifetime: Some(SHORT), max_connections: 1, ..Options::default() };
        let old = pool(db.url(), old);
        let connection = old.get().await.unwrap();
        let pid = backend(&connection).await;
        tokio::time::sleep(2 * SHORT).await;
        assert_eq!(backend(&connection).await, pid, "a connection in use stays open");
        drop(connection);
        assert_ne!(backend(&old.get().await.unwrap()).await, pid);
    });
}

#[test]
fn pool_reports_outage_and_recovers_after_restart() {
    let (cluster, db) = own_cluster("client-pool", &[]);
    run(async {
        let options = Options { acquire_timeout: 2 * SHORT, max_connections: 2, ..Options::default() };
        let pool = pool(db.url(), options);
        let held = pool.get().await.unwrap();
        let (_, _, tasks) = new_tasks(&held, &["a", "b"]).await;
        TaskInstances::new(&held).transition(tasks[0], State::Queued, State::Running).await.unwrap();
        drop(pool.get().await.unwrap());
        cluster.stop(Shutdown::Fast).unwrap();
        let error = TaskInstances::new(&held).get(tasks[0]).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        drop(held);
        let error = pool.get().await.err().expect("the server is stopped");
        assert!(error.to_string().contains("error connecting to server"), "{error}");
        assert!(error.is_transient() && error.hint().contains("Check that PostgreSQL runs"), "{}", error.hint());

        cluster.start_again().unwrap();
        let connection = pool.get().await.unwrap();
        let moved = TaskInstances::new(&connection).transition(tasks[1], State::Queued, State::Running).await;
        assert_eq!(moved.unwrap(), 2);
    });
}

#[test]
fn pool_error_explains_failed_connection() {
    let db = Db::new();
    run(async {
        let url = db.url().replace("/test_", "/no_such_");
        let pool = pool(&url, Options { acquire_timeout: SHORT, ..Options::default() });
        let error = pool.get().await.err().expect("the database does not exist");
        assert_eq!(error.code().map(|code| code.code()), Some("3D000"), "{error:?}");
        assert!(error.hint().starts_with("Create that database"), "{}", error.hint());
        assert!(!error.is_transient());
    });
}

#[test]
fn connection_is_reused_after_statement_timeout() {
    let db = Db::new();
    run(async {
        let options = Options { statement_timeout: SHORT, max_connections: 1, ..Options::default() };
        let pool = pool(db.url(), options);
        let other = server(db.url()).connect().await.unwrap();
        let (_, _, tasks) = new_tasks(&other, &["a"]).await;
        other.batch_execute("BEGIN; SELECT FROM workflow.task_instances FOR UPDATE").await.unwrap();

        let connection = pool.get().await.unwrap();
        let pid = backend(&connection).await;
        let start = Transition::new(State::Queued, State::Running);
        let error = TaskInstances::new(&connection).transition_with(tasks[0], &start).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
        assert!(error.is_transient());
        other.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(TaskInstances::new(&connection).transition_with(tasks[0], &start).await.unwrap(), 2);
        drop(connection);
        assert_eq!(backend(&pool.get().await.unwrap()).await, pid, "the connection is reused");
    });
}

#[test]
fn pool_discards_hanging_connection() {
    let db = Db::new();
    run(async {
        let options = Options { statement_timeout: SHORT, max_connections: 1, ..Options::default() };
        let pool = pool(db.url(), options);
        let connection = pool.get().await.unwrap();
        let (_, _, tasks) = new_tasks(&connection, &["a"]).await;
        let pid = backend(&connection).await;
        // The backend is stopped, so it cannot enforce statement_timeout.
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        let error = TaskInstances::new(&connection).get(tasks[0]).await.unwrap_err();
        let limit = SHORT + Duration::from_secs(2);
        assert!(matches!(error, Error::Timeout(after) if after == limit), "{error:?}");
        drop(connection);
        let connection = pool.get().await.unwrap();
        assert_ne!(backend(&connection).await, pid);
        assert!(TaskInstances::new(&connection).get(tasks[0]).await.unwrap().is_some());
        kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    });
}

#[test]
fn read_only_pool_rejects_writes() {
    let db = Db::new();
    run(async {
        let pool = pool(db.url(), Options { is_read_only: true, ..Options::default() });
        let error = Dags::new(&pool.get().await.unwrap()).create(&NewDag::named("a")).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("25006"), "{error:?}");
    });
}
