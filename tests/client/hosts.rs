//! A connection string with several hosts.

use super::*;
use pg_workflow_client::State;

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
