//! Reads on a standby instead of the primary, never staler than the bound.

use super::*;
use pg_workflow_client::database::Database;
use std::sync::{Arc, Mutex};
use xtask::stack::postgres::{Postgres, Shutdown};

const BOUND: Duration = Duration::from_millis(800);

fn database(primary: &Db, replica: &Postgres) -> Database {
    let replica = pool(&replica.url("workflow"), Options { is_read_only: true, ..Options::default() });
    Database::new(pool(primary.url(), Options::default())).with_replica(replica, BOUND)
}

/// Reads until this server answers.
async fn wait_until_read_from(database: &Database, expected: u16) {
    wait_for("a read from the expected server", async || port(&database.read().await.unwrap()).await == expected).await;
}

#[test]
fn reads_use_replica_only_while_it_is_fresh() {
    let (primary, db) = own_cluster("client-replica", &[]);
    let replica = primary.standby("client-replica").unwrap();
    run(async {
        let database = database(&db, &replica);
        wait_until_read_from(&database, replica.port()).await;
        let connection = database.write().await.unwrap();
        assert_eq!(port(&connection).await, primary.port());

        // Replay pauses while the primary continues: after the bound, no read uses the standby.
        replica.psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
        wait_until("replay has paused", || {
            replica.psql("postgres", "SELECT pg_get_wal_replay_pause_state()").unwrap() == "paused"
        });
        new_tasks(&connection, &["a"]).await;
        let written = Instant::now();
        let mut reads = 0;
        while written.elapsed() < 3 * BOUND {
            let read = database.read().await.unwrap();
            let is_late = written.elapsed() > BOUND;
            reads += u32::from(is_late);
            let from = port(&read).await;
            assert!(!is_late || from == primary.port(), "a stale read after {:?}", written.elapsed());
        }
        assert!(reads > 10, "{reads} reads");
        replica.psql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
        wait_until_read_from(&database, replica.port()).await;

        replica.stop(Shutdown::Fast).unwrap();
        wait_until_read_from(&database, primary.port()).await;
        let stopped = Instant::now();
        let mut slowest = Duration::ZERO;
        while stopped.elapsed() < 3 * BOUND {
            let before = Instant::now();
            assert_eq!(port(&database.read().await.unwrap()).await, primary.port());
            slowest = slowest.max(before.elapsed());
        }
        assert!(slowest < Duration::from_secs(1), "a read took {slowest:?}: it waited for the replica");
        replica.start_again().unwrap();
        wait_until_read_from(&database, replica.port()).await;

        // Without a primary, the staleness is unknown, and reads fail.
        primary.kill().unwrap();
        wait_for("a failed read", async || database.read().await.is_err()).await;
    });
    drop(db.without_verification());
}

/// The time of each commit of the counter, beginning with value 0.
type Commits = Arc<Mutex<Vec<Instant>>>;

/// Counts up and records the time of each commit, until it is aborted.
async fn count(database: Database, commits: Commits) {
    let connection = database.write().await.unwrap();
    loop {
        connection.batch_execute("UPDATE counter SET n = n + 1").await.unwrap();
        commits.lock().unwrap().push(Instant::now());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn reads_are_never_staler_than_the_bound() {
    let (primary, db) = own_cluster("client-staleness", &[]);
    primary.psql("workflow", "CREATE TABLE counter AS SELECT 0::bigint AS n").unwrap();
    let replica = primary.standby("client-staleness").unwrap();
    run(async {
        let database = database(&db, &replica);
        let commits = Commits::default();
        let writer = tokio::spawn(count(database.clone(), commits.clone()));
        let (begun, mut reads, mut pauses) = (Instant::now(), [0, 0], 0);
        let mut worst = Duration::ZERO;
        while begun.elapsed() < 12 * BOUND {
            // Replay is paused half of the time.
            let round = begun.elapsed().as_millis() / BOUND.as_millis() / 2;
            if pauses < round {
                pauses = round;
                let call =
                    if round % 2 == 1 { "SELECT pg_wal_replay_pause()" } else { "SELECT pg_wal_replay_resume()" };
                replica.psql("postgres", call).unwrap();
            }
            let read = database.read().await.unwrap();
            let returned = Instant::now();
            let row = read.query_one("SELECT n, inet_server_port() FROM counter", &[]).await.unwrap();
            let n = usize::try_from(row.get::<_, i64>(0)).unwrap();
            reads[usize::from(row.get::<_, i32>(1) == i32::from(replica.port()))] += 1;
            // The first commit that the read does not see must not be older than the bound.
            if let Some(unseen) = commits.lock().unwrap().get(n) {
                let age = returned.saturating_duration_since(*unseen);
                worst = worst.max(age);
                assert!(age <= BOUND, "the read misses commit {}, which is {age:?} old", n + 1);
            }
        }
        writer.abort();
        eprintln!("{} reads from the primary, {} from the replica, the stalest {worst:?}", reads[0], reads[1]);
        assert!(reads[0] > 100 && reads[1] > 100 && pauses >= 4, "{reads:?}, {pauses} changes");
        replica.psql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    });
    drop(db.without_verification());
}
