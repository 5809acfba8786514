//! Outages: no task is lost, and none runs twice.

use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use xtask::stack::postgres::Shutdown;

/// Whenever a connection is killed, also between a claim and its answer: no task waits for a lease to run out.
#[test]
fn killed_connections_lose_no_task_and_repeat_none() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let calls = Calls::default();
        let workers = [(); 2].map(|()| {
            let calls = calls.clone();
            Running::start(&db, Worker { concurrency: 5, ..Worker::default() }, move |task, _| {
                calls.note(&task);
                async {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                    Ok(())
                }
            })
        });
        enqueue_many(&client, 600).await;
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE application_name = 'worker' AND datname = current_database() ORDER BY random() LIMIT 1";
        let mut killed = 0;
        wait_for("all tasks", async || {
            // Not without end: then nothing but reconnecting happens.
            if killed < 40 {
                killed += client.query(kill, &[]).await.unwrap().len();
            }
            count(&client, "state = 'success'").await == 600
        })
        .await;
        for worker in workers {
            worker.stop().await;
        }
        calls.assert_each_once();
        assert_eq!(count(&client, "version = 3").await, 600);
        assert!(killed >= 20, "{killed}");
    });
}

#[test]
fn worker_survives_a_restart_of_the_server() {
    let (cluster, db) = own_cluster("worker-restart", &[]);
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let calls = Calls::default();
        let end = CancellationToken::new();
        let worker = Running::start(&db, short(), {
            let (calls, end) = (calls.clone(), end.clone());
            move |task, _| {
                calls.note(&task);
                let end = end.clone();
                async move {
                    end.cancelled().await;
                    Ok(())
                }
            }
        });
        let ids = enqueue(&client, &["a", "b"], 1).await;
        wait_for("both run", async || calls.len() == 2).await;
        cluster.stop(Shutdown::Immediate).unwrap();
        // They end while the server is unavailable.
        end.cancel();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cluster.start_again().unwrap();
        let client = server(db.url()).connect().await.unwrap();
        for id in ids {
            assert_eq!(wait_for_state(&client, id, State::Success).await.try_number, 1);
        }
        let later = enqueue(&client, &["c"], 1).await;
        wait_for_state(&client, later[0], State::Success).await;
        worker.stop().await;
        calls.assert_each_once();
    });
}

/// Changes a setting of the server.
async fn set(client: &Client, name: &str, value: &str) {
    client.batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'")).await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let show = format!("SHOW {name}");
    let shown = async || client.query_one(&show, &[]).await.unwrap().get::<_, String>(0);
    wait_for("the setting", async || shown().await == value).await;
}

/// Commits wait for a standby for longer than the worker waits for an answer. Their claims are not forgotten, and no
/// others are made meanwhile.
#[test]
fn claims_whose_commits_wait_for_a_standby_all_run() {
    let (_cluster, db) = own_cluster("worker-standby", &[]);
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        client.batch_execute("SET synchronous_commit = local").await.unwrap();
        set(&client, "synchronous_standby_names", "nobody").await;
        enqueue_many(&client, 9).await;
        let calls = Calls::default();
        let options = Worker { concurrency: 2, ..Worker::default() };
        let worker = Running::start(&db, options, {
            let calls = calls.clone();
            move |task, _| {
                calls.note(&task);
                async { Ok(()) }
            }
        });
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'worker' AND wait_event = 'SyncRep'";
        let (began, mut most) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(23) {
            most = most.max(client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!((most, calls.len()), (1, 0));
        set(&client, "synchronous_standby_names", "").await;
        wait_for("all tasks", async || count(&client, "state = 'success'").await == 9).await;
        worker.stop().await;
        calls.assert_each_once();
        assert_eq!(count(&client, "version = 3").await, 9);
    });
}

/// A server that takes no writes, as after a failover, refuses all ends: results are kept for longer than a lease.
#[test]
fn results_outlast_a_server_that_takes_no_writes() {
    let (_cluster, db) = own_cluster("worker-read-only", &[]);
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let ids = enqueue(&client, &["a", "b"], 1).await;
        let (calls, end) = (Calls::default(), CancellationToken::new());
        let worker = Running::start(&db, short(), {
            let (calls, end) = (calls.clone(), end.clone());
            move |task, _| {
                calls.note(&task);
                let end = end.clone();
                async move {
                    end.cancelled().await;
                    Ok(())
                }
            }
        });
        wait_for("both run", async || calls.len() == 2).await;
        set(&client, "default_transaction_read_only", "on").await;
        // A session that waits would learn of it later, and end claims.
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'worker'";
        client.query(kill, &[]).await.unwrap();
        end.cancel();
        tokio::time::sleep(4 * short().lease).await;
        client.batch_execute("SET default_transaction_read_only = off").await.unwrap();
        set(&client, "default_transaction_read_only", "off").await;
        for id in ids {
            assert_eq!(wait_for_state(&client, id, State::Success).await.version, 3);
        }
        worker.stop().await;
        calls.assert_each_once();
    });
}

/// A claim is committed, but its answer is lost: the worker learns that it holds the task, and no lease must run out.
#[test]
fn claim_whose_answer_is_lost_is_found_again() {
    let (_cluster, db) = own_cluster("worker-commit", &[]);
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        client.batch_execute("SET synchronous_commit = local").await.unwrap();
        let ids = enqueue(&client, &["a"], 1).await;
        // A commit waits for a standby that does not exist. If its session ends meanwhile, it is a commit all the same.
        set(&client, "synchronous_standby_names", "nobody").await;
        let calls = Calls::default();
        let worker = Running::start(&db, Worker::default(), {
            let calls = calls.clone();
            move |task, _| {
                calls.note(&task);
                async { Ok(()) }
            }
        });
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE application_name = 'worker' AND wait_event = 'SyncRep'";
        wait_for("the commit of a claim waits", async || !client.query(kill, &[]).await.unwrap().is_empty()).await;
        set(&client, "synchronous_standby_names", "").await;
        let began = Instant::now();
        assert_eq!(wait_for_state(&client, ids[0], State::Success).await.try_number, 1);
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        worker.stop().await;
        calls.assert_each_once();
    });
}

/// Passes all bytes on to a server, except those of a client from its first COMMIT on. Returns the port.
fn withhold_commits(url: &str) -> u16 {
    let host = url.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(&host).unwrap());
            let (mut answers, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
            std::thread::spawn(move || {
                let mut bytes = [0; 65_536];
                while let Ok(count @ 1..) = client.read(&mut bytes) {
                    if bytes[..count].windows(7).any(|window| window == b"COMMIT\0") {
                        // Both connections remain.
                        loop {
                            std::thread::park();
                        }
                    }
                    server.write_all(&bytes[..count]).unwrap();
                }
            });
        }
    });
    port
}

/// A worker is suspended, or its network is cut, between a claim and its commit: the server ends the transaction.
#[test]
fn suspended_worker_holds_no_task_without_a_lease() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let ids = enqueue(&client, &["a"], 1).await;
        let port = withhold_commits(db.url()).to_string();
        let host = db.url().split('@').nth(1).unwrap().split('/').next().unwrap();
        let frozen = server(&db.url().replace(host, &format!("127.0.0.1:{port}"))).with_application_name("frozen");
        let frozen = tokio::spawn(worker::run(frozen, short(), |_, _| async { Ok(()) }, CancellationToken::new()));
        let claimed =
            "SELECT FROM pg_stat_activity WHERE application_name = 'frozen' AND state = 'idle in transaction'";
        wait_for("a claim without a commit", async || !client.query(claimed, &[]).await.unwrap().is_empty()).await;
        frozen.abort();
        let worker = Running::start(&db, short(), |_, _| async { Ok(()) });
        assert_eq!(wait_for_state(&client, ids[0], State::Success).await.version, 3);
        worker.stop().await;
    });
}

#[test]
fn worker_does_not_use_the_isolation_level_of_its_role() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let set = "DO $$ BEGIN EXECUTE format('ALTER ROLE %I IN DATABASE %I SET default_transaction_isolation = ''repeatable read''',
                       current_user, current_database()); END $$;
                   CREATE TABLE levels (level text);
                   CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                       INSERT INTO levels VALUES (current_setting('default_transaction_isolation')); RETURN NULL; END $$;
                   CREATE TRIGGER note AFTER UPDATE ON workflow.task_instances EXECUTE FUNCTION note()";
        client.batch_execute(set).await.unwrap();
        let worker = Running::start(&db, short(), |_, _| async { Ok(()) });
        let task = enqueue(&client, &["one"], 1).await[0];
        wait_for_state(&client, task, State::Success).await;
        worker.stop().await;
        let levels = client.query_one("SELECT array_agg(DISTINCT level) FROM levels", &[]).await.unwrap();
        assert_eq!(levels.get::<_, Vec<String>>(0), ["read committed"]);
    });
}
