//! A connection string with several hosts.

use super::*;
use pg_workflow_client::{Error, State};
use std::net::TcpListener;

#[test]
fn connection_finds_primary_before_and_after_promotion() {
    let (primary, db) = own_cluster("client-hosts", &[]);
    let standby = primary.standby("client-hosts").unwrap();
    primary.wait_for_standby().unwrap();
    let (a, b) = (primary.port(), standby.port());
    let url = |ports: [u16; 2]| format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/workflow", ports[0], ports[1]);
    run(async {
        for ports in [[a, b], [b, a]] {
            assert_eq!(port(&server(&url(ports)).connect().await.unwrap()).await, a);
        }
        let read_only = format!("{}?target_session_attrs=read-only", url([a, b]));
        assert_eq!(port(&server(&read_only).connect().await.unwrap()).await, b);

        let options = Options { acquire_timeout: Duration::from_secs(10), ..Options::default() };
        let pool = pool(&url([a, b]), options);
        let (_, _, tasks) = new_tasks(&pool.get().await.unwrap(), &["a"]).await;
        primary.kill().unwrap();
        standby.promote().unwrap();
        let connection = pool.get().await.unwrap();
        assert_eq!(port(&connection).await, b);
        let moved = TaskInstances::new(&connection).transition(tasks[0], State::Queued, State::Running).await;
        assert_eq!(moved.unwrap(), 2, "no task was lost, and the new primary accepts writes");
    });
    drop(db.without_verification());
}

/// A host that accepts connections and says nothing, like one that froze.
fn hanging_host() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn hosts_that_hang_do_not_hold_up_the_next_one() {
    let db = Db::new();
    let (_listeners, hanging): (Vec<_>, Vec<_>) = (0..3).map(|_| hanging_host()).unzip();
    let (_, place) = db.url().split_once('@').unwrap();
    let hosts: Vec<String> = hanging.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let url = format!("postgres://postgres@{},{place}", hosts.join(","));
    run(async {
        let began = Instant::now();
        let client = server(&url).connect().await.unwrap();
        assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    });
}

#[test]
fn connect_timeout_limits_the_whole_handshake() {
    let (_listener, port) = hanging_host();
    let seconds = |limit: Option<u64>| {
        let limit = limit.map_or_else(String::new, |limit| format!("?connect_timeout={limit}"));
        let began = Instant::now();
        let result = run(server(&format!("postgres://postgres@127.0.0.1:{port}/d{limit}")).connect());
        let error = result.err().expect("no response");
        assert!(matches!(error, Error::Timeout(_)), "{error:?}");
        began.elapsed().as_secs()
    };
    assert_eq!(seconds(Some(1)), 1);
    assert_eq!(seconds(None), 10);
    assert_eq!(seconds(Some(12)), 12, "more than the default");
}

#[test]
fn unequal_numbers_of_hosts_and_ports_are_rejected() {
    for words in ["host=a,b port=1,2,3", "host=a,b hostaddr=127.0.0.1"] {
        let error = PostgresServer::parse(words).unwrap_err().to_string();
        assert!(error.contains("it has 2 hosts"), "{error}");
    }
}

#[test]
fn statement_ends_with_its_client() {
    let db = Db::new();
    let statement = "SELECT pg_sleep(1000)";
    for server in [server(db.url()), server(db.url()).with_cancellation()] {
        run(async {
            let client = server.connect().await.unwrap();
            let pause = Duration::from_millis(300);
            assert!(tokio::time::timeout(pause, client.batch_execute(statement)).await.is_err());
            drop(client);
            // The runtime must stay: its tasks close the connection.
            let other = server.connect().await.unwrap();
            wait_for("the statement ends", async || {
                let sql = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE query = $1)";
                other.query_one(sql, &[&statement]).await.unwrap().get(0)
            })
            .await;
        });
    }
}
