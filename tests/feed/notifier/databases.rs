//! A notifier for each database, which blocks no CREATE, ALTER or DROP.

use super::{Listener, wait_for_notifier};
use pg_workflow_tests::*;
use postgres::Client;
use std::time::{Duration, Instant};
use xtask::stack::postgres::PRELOADED;

#[test]
fn each_database_has_its_own_notifier() {
    let (cluster, db) = own_cluster("notifier-two", &[PRELOADED]);
    let other = Db::at(cluster.create_database("other").unwrap());
    other.connect().batch_execute("CREATE EXTENSION pg_workflow").unwrap();
    let mut listeners = [Listener::start(&db), Listener::start(&other)];
    let tasks = [create_task(&mut db.connect()), create_task(&mut other.connect())];
    for (listener, task) in listeners.iter_mut().zip(tasks) {
        assert_eq!(listener.hear(2)[1].0, task.to_string());
    }
    assert_ne!(wait_for_notifier(&mut db.connect()), wait_for_notifier(&mut other.connect()));
}

#[test]
fn extension_can_be_recreated_under_a_notifier() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    for _ in 0..2 {
        let task = create_task(client);
        assert_eq!(listener.hear(2)[1].0, task.to_string());
        client.batch_execute("DROP EXTENSION pg_workflow CASCADE").unwrap();
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE backend_type = 'pg_workflow notifier' AND datname = current_database()";
        wait_until("the end of the notifier", || client.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 0);
        client.batch_execute("CREATE EXTENSION pg_workflow").unwrap();
    }
    // A session that listens before CREATE EXTENSION gets the first event.
    let task = create_task(client);
    assert_eq!(listener.hear(2)[1].0, task.to_string());
}

/// A database whose extension a transaction is creating, with an event.
fn begin_creation(client: &mut Client) -> postgres::Transaction<'_> {
    client.batch_execute("DROP EXTENSION pg_workflow CASCADE").unwrap();
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("CREATE EXTENSION pg_workflow").unwrap();
    transaction.batch_execute("SELECT workflow.create_dag_run(workflow.create_dag('created'))").unwrap();
    transaction
}

/// Waits until the database has a notifier that waits, as it does for events.
fn wait_for_waiting_notifier(client: &mut Client) {
    let sql = "SELECT count(*) FROM pg_stat_activity
               WHERE backend_type = 'pg_workflow notifier' AND datname = current_database() AND wait_event_type = 'Extension'";
    wait_until("a notifier that waits", || client.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 1);
}

#[test]
fn transaction_that_creates_the_extension_is_notified() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    let mut listener = Listener::start(&db);
    let transaction = begin_creation(client);
    wait_for_waiting_notifier(other);
    transaction.commit().unwrap();
    assert_eq!(listener.hear(1)[0].1, 1);
    assert!(listener.ids(client).is_empty());
}

#[test]
fn listen_during_creation_hears_its_events() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    let transaction = begin_creation(client);
    wait_for_waiting_notifier(other);
    let mut listener = Listener::start(&db);
    transaction.commit().unwrap();
    assert_eq!(listener.hear(1)[0].1, 1);
    create_task(client);
    assert_eq!(listener.ids(client), [2, 3]);
}

#[test]
fn notifier_ends_if_the_creation_is_rolled_back() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    let mut listener = Listener::start(&db);
    let transaction = begin_creation(client);
    wait_for_waiting_notifier(other);
    transaction.rollback().unwrap();
    let sql = "SELECT count(*) FROM pg_stat_activity
               WHERE backend_type = 'pg_workflow notifier' AND datname = current_database()";
    wait_until("the end of the notifier", || other.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 0);
    client.batch_execute("CREATE EXTENSION pg_workflow").unwrap();
    create_task(client);
    assert_eq!(listener.ids(client), [1, 2]);
}

#[test]
fn database_with_notifier_can_be_renamed_copied_and_dropped() {
    let (cluster, db) = own_cluster("notifier-drop", &[PRELOADED]);
    for statement in [
        "ALTER DATABASE workflow RENAME TO w2",
        "ALTER DATABASE w2 RENAME TO workflow",
        "CREATE DATABASE copy TEMPLATE workflow",
        "CREATE DATABASE other TEMPLATE DEFAULT",
        "DROP DATABASE workflow",
    ] {
        let name = if statement.contains("DATABASE w2") { "w2" } else { "workflow" };
        let at = Db::at(cluster.url(name)).without_verification();
        create_task(&mut at.connect());
        wait_for_notifier(&mut at.connect());
        let began = Instant::now();
        cluster.psql("postgres", statement).unwrap();
        assert!(began.elapsed() < Duration::from_secs(4), "{statement}: {:?}", began.elapsed());
    }
    drop(db.without_verification());
    // A new database with the old name gets its own notifier.
    cluster.psql("postgres", "CREATE DATABASE workflow").unwrap();
    cluster.psql("workflow", "CREATE EXTENSION pg_workflow").unwrap();
    let db = Db::at(cluster.url("workflow"));
    let mut listener = Listener::start(&db);
    create_task(&mut db.connect());
    listener.hear(2);
}

/// PostgreSQL checks the permission, but only after the hook has seen the statement.
#[test]
fn notifier_ignores_statements_that_its_role_may_not_execute() {
    let (cluster, db) = own_cluster("notifier-denied", &[PRELOADED]);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    let task = create_task(client);
    listener.hear(2);
    let first = wait_for_notifier(client);
    cluster.psql("postgres", "CREATE ROLE plain; CREATE ROLE creator CREATEDB").unwrap();
    let postgres = Db::at(cluster.url("postgres")).without_verification();
    for role in ["plain", "creator"] {
        let session = &mut postgres.connect_as(role);
        for statement in [
            "DROP DATABASE workflow",
            "DROP DATABASE workflow WITH (FORCE)",
            "ALTER DATABASE workflow RENAME TO mine",
            "ALTER DATABASE workflow SET TABLESPACE pg_default",
            "CREATE DATABASE mine TEMPLATE workflow",
        ] {
            assert_eq!(failure(session.batch_execute(statement)).sqlstate, "42501", "{role}: {statement}");
        }
    }
    // This one needs no database without sessions.
    cluster.psql("postgres", "ALTER DATABASE workflow CONNECTION LIMIT 100").unwrap();
    start_task(client, task);
    listener.hear(1);
    assert_eq!(wait_for_notifier(client), first);
}

#[test]
fn view_function_shows_the_current_database_only() {
    let (cluster, db) = own_cluster("notifier-others", &[PRELOADED]);
    let other = Db::at(cluster.create_database("other").unwrap());
    other.connect().batch_execute("CREATE EXTENSION pg_workflow").unwrap();
    for database in [&db, &other] {
        create_task(&mut database.connect());
    }
    let sql = "SELECT string_agg(database, ',') FROM workflow.notifiers()";
    assert_eq!(other.connect().query_one(sql, &[]).unwrap().get::<_, String>(0), "other");
}

/// DROP DATABASE makes every process close its files, and waits for all processes.
#[test]
fn notifier_does_not_delay_drop_of_another_database() {
    let (cluster, db) = own_cluster("notifier-barrier", &[PRELOADED]);
    let client = &mut db.connect();
    let drop_another = || {
        cluster.create_database("another").unwrap();
        let began = Instant::now();
        cluster.psql("postgres", "DROP DATABASE another").unwrap();
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    };
    let task = create_task(client);
    wait_for_notifier(client);
    drop_another();
    // Also during a pause after an error.
    let _listener = Listener::start(&db);
    client.batch_execute("ALTER FUNCTION workflow.events_between RENAME TO hidden").unwrap();
    start_task(client, task);
    let errors = "SELECT errors FROM workflow.notifier";
    wait_until("a pause of 4 s", || client.query_one(errors, &[]).unwrap().get::<_, i64>(0) >= 3);
    drop_another();
    client.batch_execute("ALTER FUNCTION workflow.hidden RENAME TO events_between").unwrap();
}
