//! The hook on LISTEN and the notifier run nothing that is not the extension's, and nothing as the superuser.

use super::{Listener, wait_for_notifier};
use pg_workflow_tests::*;
use xtask::stack::postgres::{PRELOADED, Postgres};

fn is_superuser(cluster: &Postgres, role: &str) -> bool {
    cluster.psql("postgres", &format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'")).unwrap() == "t"
}

/// The schema of an attacker who hopes that the superuser listens.
const LURE: &str = "
    CREATE SCHEMA workflow;
    CREATE TABLE workflow.state_history (id bigint);
    CREATE SEQUENCE workflow.state_history_id_seq;
    CREATE TABLE workflow.calls (caller text);
    CREATE FUNCTION workflow.promote() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE 'ALTER ROLE mallory SUPERUSER';
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER promote AFTER INSERT ON workflow.calls DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION workflow.promote();
    CREATE FUNCTION workflow.current_place(
        OUT snapshot pg_snapshot, OUT next_transaction_id xid8, OUT floor_id bigint, OUT ceiling_id bigint
    ) LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO workflow.calls VALUES (current_user);
        snapshot := '1:1:';
    END $$;
    GRANT ALL ON ALL TABLES IN SCHEMA workflow TO PUBLIC;
";

#[test]
fn listen_runs_nothing_of_a_foreign_schema() {
    let (cluster, _db) = own_cluster("notifier-lure", &[PRELOADED]);
    cluster.psql("postgres", "CREATE ROLE mallory LOGIN; CREATE DATABASE lure OWNER mallory").unwrap();
    let lure = Db::at(cluster.url("lure")).without_verification();
    lure.connect_as("mallory").batch_execute(LURE).unwrap();
    lure.connect().batch_execute("LISTEN workflow_events").unwrap();
    assert!(!is_superuser(&cluster, "mallory"));
    assert_eq!(cluster.psql("lure", "SELECT count(*) FROM workflow.calls").unwrap(), "0");
}

#[test]
fn listen_without_extension_takes_no_slot() {
    let (cluster, db) = own_cluster("notifier-slots", &[PRELOADED]);
    // One more than there are slots.
    for n in 0..33 {
        let url = cluster.create_database(&format!("plain_{n}")).unwrap();
        Db::at(url).without_verification().connect().batch_execute("LISTEN workflow_events").unwrap();
    }
    let mut listener = Listener::start(&db);
    create_task(&mut db.connect());
    listener.hear(2);
    wait_for_notifier(&mut db.connect());
}

#[test]
fn listener_from_before_the_extension_hears_its_events() {
    let (cluster, _db) = own_cluster("notifier-early", &[PRELOADED]);
    let early = Db::at(cluster.create_database("early").unwrap());
    let mut listener = Listener::start(&early);
    let client = &mut early.connect();
    client.batch_execute("CREATE EXTENSION pg_workflow").unwrap();
    let task = create_task(client);
    assert_eq!(listener.hear(2)[1].0, task.to_string());
    wait_for_notifier(client);
}

#[test]
fn rejected_listen_changes_nothing() {
    let (_cluster, db) = own_cluster("notifier-rejected", &[PRELOADED]);
    let client = &mut db.connect();
    create_task(client);
    // PostgreSQL rejects LISTEN in the expression of an index.
    let failed = failure(client.batch_execute(
        "CREATE FUNCTION listen() RETURNS integer LANGUAGE plpgsql AS $$
         BEGIN
             LISTEN workflow_events;
             RETURN 1;
         END $$;
         CREATE FUNCTION listens(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
         BEGIN
             RETURN public.listen();
         END $$;
         CREATE TABLE t AS SELECT 1 AS n;
         CREATE INDEX ON t (listens(n))",
    ));
    assert_eq!(failed.sqlstate, "42501");
    let sql = "SELECT is_listened FROM workflow.notifier";
    assert!(!client.query_one(sql, &[]).unwrap().get::<_, bool>(0));
}

/// Even a function of the extension runs in the notifier as the extension's owner, and cannot become another role.
#[test]
fn notifier_is_restricted_to_the_owner() {
    let (cluster, _db) = own_cluster("notifier-owner", &[PRELOADED]);
    cluster.psql("postgres", "CREATE ROLE installer SUPERUSER").unwrap();
    let db = Db::at(cluster.create_database("owned").unwrap()).without_verification();
    db.connect_as("installer").batch_execute("CREATE EXTENSION pg_workflow").unwrap();
    let client = &mut db.connect();
    client
        .batch_execute(
            "CREATE OR REPLACE FUNCTION workflow.unfinished_transactions(pos workflow.feed_position)
             RETURNS SETOF xid8 LANGUAGE plpgsql AS $$
             BEGIN
                 RAISE LOG 'notifier runs as %', current_user;
                 SET ROLE postgres;
             END $$",
        )
        .unwrap();
    let _listener = Listener::start(&db);
    create_task(client);
    let sql = "SELECT last_error FROM workflow.notifier WHERE errors > 0";
    wait_until("the error", || client.query_opt(sql, &[]).unwrap().is_some());
    let error: String = client.query_one(sql, &[]).unwrap().get(0);
    assert!(error.contains("security-restricted operation"), "{error}");
    let log = std::fs::read_to_string(cluster.log()).unwrap();
    assert!(log.contains("notifier runs as installer"), "{log}");
}
