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

/// Waits until no session with this process id is left.
fn wait_until_gone(db: &Db, pid: i32) {
    let client = &mut db.connect();
    wait_until("the session ends", || {
        let sql = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)";
        client.query_one(sql, &[&pid]).unwrap().get(0)
    });
}

/// Stops waiting for a statement, as a handler does whose client disconnects.
async fn stop_waiting<T>(statement: impl Future<Output = T>) {
    assert!(tokio::time::timeout(SHORT, statement).await.is_err(), "the statement hangs");
}

#[test]
fn cancelled_statement_leaves_neither_session_nor_connection() {
    let db = Db::new();
    for is_read_only in [false, true] {
        let pid = run(async {
            let options = Options { max_connections: 1, is_read_only, ..Options::default() };
            let pool = pool(db.url(), options);
            let connection = pool.get().await.unwrap();
            let pid = backend(&connection).await;
            let mut locks = server(db.url()).connect().await.unwrap();
            let lock = locks.transaction().await.unwrap();
            lock.batch_execute("LOCK TABLE workflow.dags").await.unwrap();
            stop_waiting(Dags::new(&connection).get(Uuid::nil())).await;
            drop(connection);
            let connection = pool.get().await.unwrap();
            assert_ne!(backend(&connection).await, pid, "a connection whose statement is in progress is not lent");
            drop(pool);
            tokio::task::spawn_blocking({
                let url = db.url().to_owned();
                move || wait_until_gone(&Db::at(url).without_verification(), pid)
            })
            .await
            .unwrap();
            pid
        });
        assert!(pid > 0);
    }
}

#[test]
fn connection_used_directly_is_tested_before_it_is_lent() {
    let db = Db::new();
    let pid = run(async {
        let pool = pool(db.url(), Options { max_connections: 1, acquire_timeout: 10 * SHORT, ..Options::default() });
        let connection = pool.get().await.unwrap();
        let pid = backend(&connection).await;
        stop_waiting(connection.batch_execute("SELECT pg_sleep(100)")).await;
        drop(connection);
        assert_ne!(backend(&pool.get().await.unwrap()).await, pid);
        pid
    });
    wait_until_gone(&db, pid);
}

#[test]
fn pool_survives_frozen_backends_within_a_callers_limit() {
    let db = Db::new();
    run(async {
        let pool = pool(db.url(), Options { max_connections: 3, acquire_timeout: 5 * SHORT, ..Options::default() });
        let mut frozen = Vec::new();
        let connections = [pool.get().await.unwrap(), pool.get().await.unwrap(), pool.get().await.unwrap()];
        for connection in &connections {
            frozen.push(Pid::from_raw(backend(connection).await));
        }
        drop(connections);
        for pid in &frozen {
            kill(*pid, Signal::SIGSTOP).unwrap();
        }
        let began = Instant::now();
        // The first caller finds one that hangs; the others are not tested, each for its own time.
        let connection = pool.get().await.expect("another connection");
        assert!(began.elapsed() < 5 * SHORT, "{:?}", began.elapsed());
        assert!(!frozen.contains(&Pid::from_raw(backend(&connection).await)));
        for pid in frozen {
            kill(pid, Signal::SIGCONT).unwrap();
        }
    });
}

#[test]
fn random_cancellations_leave_a_pool_that_answers() {
    let db = Db::new();
    let client = &mut db.connect();
    create_tasks(client, 200);
    run(async {
        let pool = pool(db.url(), Options { max_connections: 5, ..Options::default() });
        let requests = (0..500_u64).map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let request = async {
                    let connection = pool.get().await?;
                    TaskInstances::new(&connection).list(&Default::default(), &Default::default()).await
                };
                // A fifth stops waiting, at any step.
                match number % 5 {
                    0 => drop(tokio::time::timeout(Duration::from_micros(number * 20), request).await),
                    _ => drop(request.await.expect("an answer")),
                }
            })
        });
        for request in requests.collect::<Vec<_>>() {
            request.await.unwrap();
        }
        let began = Instant::now();
        let connection = pool.get().await.unwrap();
        assert!(TaskInstances::new(&connection).get(Uuid::nil()).await.unwrap().is_none());
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    });
    wait_until("no session is busy", || {
        let sql = "SELECT count(*) <= 5 AND bool_and(state = 'idle') IS NOT FALSE FROM pg_stat_activity
                   WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        client.query_one(sql, &[]).unwrap().get(0)
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
