//! Notifications: a listener learns nothing of other tenants, and a rejected statement stops no notifier.

use fallible_iterator::FallibleIterator;
use pg_workflow_tests::attack::World;
use pg_workflow_tests::{PATIENCE, failure, wait_until};

/// LISTEN needs no right, so a notification tells a role without rights no more than that there is something to read.
#[test]
fn stranger_hears_no_metadata_of_isolated_tenants() {
    let world = World::start_isolated("attack-listener");
    let stranger = &mut world.log_in("stranger");
    stranger.batch_execute("LISTEN workflow_events").unwrap();
    let sql = "SELECT workflow.create_dag_run(id, clock_timestamp(), '{\"password\": \"secret\"}') FROM workflow.dags";
    world.log_in("victim").batch_execute(sql).unwrap();
    let heard = stranger.notifications().timeout_iter(PATIENCE).next().unwrap().expect("a notification");
    assert_eq!(heard.payload(), "");
}

#[test]
fn refused_statement_ends_no_notifier() {
    let world = World::start("attack-notifier");
    let owner = &mut world.db.connect();
    owner.batch_execute("LISTEN workflow_events; SELECT workflow.create_dag('x')").unwrap();
    owner.batch_execute("SELECT workflow.create_dag_run(id, clock_timestamp()) FROM workflow.dags").unwrap();
    let mut pid = None;
    wait_until("the notifier", || {
        let row = owner.query_opt("SELECT pid FROM workflow.notifier", &[]).unwrap();
        pid = row.and_then(|row| row.get::<_, Option<i32>>(0));
        pid.is_some()
    });
    let stranger = &mut world.log_in("stranger");
    for statement in [
        "DROP DATABASE workflow",
        "DROP DATABASE workflow WITH (FORCE)",
        "ALTER DATABASE workflow RENAME TO mine",
        "ALTER DATABASE workflow SET TABLESPACE pg_default",
        "ALTER DATABASE workflow WITH ALLOW_CONNECTIONS false",
        "CREATE DATABASE mine TEMPLATE workflow",
    ] {
        let refused = failure(stranger.batch_execute(statement));
        assert_eq!(refused.sqlstate, "42501", "{statement}: {}", refused.message);
    }
    let sql = "SELECT pid FROM workflow.notifier";
    assert_eq!(owner.query_one(sql, &[]).unwrap().get::<_, Option<i32>>(0), pid);
    let alive = "SELECT FROM pg_stat_activity WHERE pid = $1";
    assert!(owner.query_opt(alive, &[&pid]).unwrap().is_some(), "the notifier has ended");
    assert_eq!(world.alarms(), [""; 0]);
}
