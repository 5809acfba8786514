//! Consumers belong to the role that created them: other roles neither read, acknowledge, lease nor drop them.

use crate::extension::roles::member_of;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::{Client, GenericClient, IsolationLevel};

/// Creates a database with three events, and a writer in it that owns the consumer `mine`.
fn owned() -> (Db, Client, String) {
    let db = Db::new();
    create_in_state(&mut db.connect(), "task_instance", State::Running);
    let role = member_of(&db, "workflow_writer");
    let mut owner = db.connect_as(&role);
    owner.batch_execute("SELECT workflow.create_consumer('mine', true)").unwrap();
    (db, owner, role)
}

fn ids(client: &mut Client, sql: &str) -> Vec<i64> {
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Every function that takes a consumer.
const USES: &[&str] = &[
    "SELECT workflow.create_consumer('mine')",
    "SELECT workflow.read_events('mine')",
    "SELECT workflow.ack_events('mine', 1)",
    "SELECT workflow.lease_consumer('mine', 'holder')",
    "SELECT workflow.save_checkpoint('mine', '{1}')",
    "SELECT workflow.rewind_consumer('mine', '{1}')",
    "SELECT workflow.resume_consumer('mine')",
    "SELECT workflow.drop_consumer('mine')",
];

#[test]
fn late_event_is_read_from_a_split_partition() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let mut late = db.connect();
    late.batch_execute("BEGIN").unwrap();
    start_task(&mut late, task);
    create_task(client);
    client.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
    late.batch_execute("COMMIT").unwrap();
    next_partition(client);
    client.batch_execute(SPLIT).unwrap();
    let sql = "SELECT count(*) FROM workflow.read_events('reader') WHERE entity_id = $1";
    assert_eq!(client.query_one(sql, &[&task]).unwrap().get::<_, i64>(0), 1);
}

#[test]
fn consumer_of_another_role_is_denied() {
    let (db, mut owner, _) = owned();
    owner.batch_execute("SELECT workflow.save_checkpoint('mine', '{1}')").unwrap();
    let lease: i64 = owner.query_one("SELECT workflow.lease_consumer('mine', 'holder', '1 h')", &[]).unwrap().get(0);
    let stranger = &mut db.connect_as(&member_of(&db, "workflow_writer"));
    for sql in USES {
        let denied = failure(stranger.batch_execute(sql));
        assert_eq!(denied.sqlstate, "42501", "{sql}: {denied:?}");
        assert!(!format!("{denied:?}").contains("holder"), "the error does not help to take the lease");
        if !sql.contains("create_consumer") {
            assert_eq!(failure(stranger.batch_execute(&sql.replace("mine", "none"))).sqlstate, "P0002", "{sql}");
        }
    }
    assert!(!stranger.query_one("SELECT workflow.release_consumer('mine', $1)", &[&lease]).unwrap().get::<_, bool>(0));
    for table in ["consumers", "consumer_checkpoints"] {
        assert_eq!(stranger.execute(&format!("DELETE FROM workflow.{table}"), &[]).unwrap(), 0, "{table}");
        let rows = stranger.query(&format!("TABLE workflow.{table}"), &[]).unwrap();
        assert!(rows.is_empty(), "{table}");
    }
    stranger.batch_execute("SELECT workflow.create_consumer('own')").unwrap();
    let given = "UPDATE workflow.consumers SET owner = 'workflow_admin' WHERE name = 'own'";
    assert_eq!(failure(stranger.batch_execute(given)).sqlstate, "42501");
    let lag = "SELECT consumer, owner IS NOT NULL FROM workflow.consumer_lag ORDER BY 1";
    assert_eq!(stranger.query(lag, &[]).unwrap().len(), 2, "the lag of all consumers is public");
    assert_eq!(ids(&mut owner, &format!("SELECT id FROM workflow.read_events('mine', lease => {lease})")).len(), 3);
}

#[test]
fn administrators_and_members_of_the_owner_use_a_consumer() {
    let (db, mut owner, role) = owned();
    let member = member_of(&db, &role);
    for other in [member, member_of(&db, "workflow_admin")] {
        let client = &mut db.connect_as(&other);
        assert_eq!(ids(client, "SELECT id FROM workflow.read_events('mine')").len(), 3);
        assert!(!client.query_one("SELECT workflow.create_consumer('mine')", &[]).unwrap().get::<_, bool>(0));
    }
    let admin = &mut db.connect_as(&member_of(&db, "workflow_admin"));
    admin.batch_execute("UPDATE workflow.consumers SET owner = 'workflow_admin' WHERE name = 'mine'").unwrap();
    assert_eq!(failure(owner.batch_execute("SELECT workflow.read_events('mine')")).sqlstate, "42501");
    admin.batch_execute("UPDATE workflow.consumers SET owner = 'no such role'").unwrap();
    assert_eq!(ids(admin, "SELECT id FROM workflow.read_events('mine')").len(), 3);
    admin.batch_execute("SELECT workflow.drop_consumer('mine')").unwrap();
}

#[test]
fn lease_ends_only_sessions_that_its_caller_may_end() {
    let (db, _, role) = owned();
    // A login, not SET ROLE: whose session it is decides.
    let log_in = || {
        let url = db.url().replace("//postgres@", &format!("//{role}@"));
        Client::connect(&url, postgres::NoTls).unwrap()
    };
    let mut owner = log_in();
    let is_alive = |client: &mut Client| client.batch_execute("SELECT 1").is_ok();
    let lease = |client: &mut Client| -> i64 {
        client.query_one("SELECT workflow.lease_consumer('mine', 'holder', '1 h')", &[]).unwrap().get(0)
    };
    // A superuser holds the lease; the owner takes it under the holder's name.
    let superuser = &mut db.connect();
    assert_eq!(lease(superuser), 1);
    assert_eq!(lease(&mut owner), 2);
    assert!(is_alive(superuser), "its session continues");
    let old = failure(superuser.batch_execute("SELECT workflow.read_events('mine', lease => 1)"));
    assert_eq!(old.sqlstate, "55006", "without the lease");
    // Not even if it has locked the consumer: the next holder waits.
    superuser.batch_execute("BEGIN; SELECT workflow.read_events('mine', lease => 2)").unwrap();
    let next = &mut log_in();
    next.batch_execute("SET lock_timeout = '50 ms'").unwrap();
    assert_eq!(failure(next.batch_execute("SELECT workflow.lease_consumer('mine', 'holder')")).sqlstate, "55P03");
    next.batch_execute("RESET lock_timeout").unwrap();
    superuser.batch_execute("COMMIT").expect("its session continues");
    // Another session of the same role does end.
    owner.batch_execute("BEGIN; SELECT workflow.read_events('mine', lease => 2)").unwrap();
    // The refused call has drawn a number.
    assert_eq!(lease(next), 4);
    wait_until("the session ends", || !is_alive(&mut owner));
}

#[test]
fn administrator_skips_exactly_the_next_event() {
    let (db, mut owner, _) = owned();
    let lease: i64 = owner.query_one("SELECT workflow.lease_consumer('mine', 'relay', '1 h')", &[]).unwrap().get(0);
    let read = format!("SELECT id FROM workflow.read_events('mine', lease => {lease})");
    let all = ids(&mut owner, &read);
    let skip = |client: &mut Client, id: i64| client.execute("SELECT workflow.skip_event('mine', $1)", &[&id]);
    assert_eq!(failure(skip(&mut owner, all[0])).sqlstate, "42501");
    let admin = &mut db.connect_as(&member_of(&db, "workflow_admin"));
    for wrong in [all[1], 0, 1_000_000] {
        let failed = failure(skip(admin, wrong));
        assert_eq!(failed.sqlstate, "22023");
        assert_eq!(failed.detail["next_event"], all[0], "{failed:?}");
    }
    skip(admin, all[0]).unwrap();
    assert_eq!(ids(&mut owner, &read), all[1..]);
    skip(admin, all[1]).unwrap();
    skip(admin, all[2]).unwrap();
    assert_eq!(ids(&mut owner, &read), [0; 0]);
    assert_eq!(failure(skip(admin, all[2])).sqlstate, "22023", "nothing is left");
    assert_eq!(failure(admin.batch_execute("SELECT workflow.skip_event('mine', NULL)")).sqlstate, "22023");
    let task = create_in_state(&mut db.connect(), "task_instance", State::Queued);
    let news = ids(&mut db.connect(), "SELECT id FROM workflow.state_history ORDER BY id DESC LIMIT 2");
    skip(admin, news[1]).unwrap();
    assert_eq!(ids(&mut owner, &read), news[..1], "also before the window is open: {task}");
}

/// A position that is computed from the tenant's own events would skip those of others.
#[test]
fn tenant_moves_no_consumer_over_hidden_events() {
    let (db, mut owner, _) = owned();
    let admin = &mut db.connect_as(&member_of(&db, "workflow_admin"));
    create_in_state(admin, "task_instance", State::Queued);
    let own = admin.query_one("SELECT max(id) FROM workflow.state_history", &[]).unwrap().get::<_, i64>(0) - 1;
    db.connect().batch_execute("SELECT workflow.enable_row_security()").unwrap();
    let calls = [
        "skip_event('mine', $)",
        "ack_events('mine', $)",
        "save_checkpoint('mine', '{1}')",
        "rewind_consumer('mine', '{1}')",
    ];
    for call in calls {
        let sql = format!("SELECT workflow.{}", call.replace('$', &own.to_string()));
        assert_eq!(failure(admin.batch_execute(&sql)).sqlstate, "42501", "{sql}");
    }
    db.connect().batch_execute("SELECT workflow.disable_row_security()").unwrap();
    assert_eq!(ids(&mut owner, "SELECT id FROM workflow.read_events('mine')").len(), 5);
}

/// purge() may have dropped a partition, whose lock all transitions wait for.
#[test]
fn purge_does_not_wait_for_the_session_of_a_consumer() {
    let (db, mut owner, _) = owned();
    let superuser = &mut db.connect();
    next_partition(superuser);
    let read = ids(&mut owner, "SELECT id FROM workflow.read_events('mine')");
    owner.execute("SELECT workflow.ack_events('mine', $1)", &[read.last().unwrap()]).unwrap();
    create_in_state(superuser, "task_instance", State::Queued);
    next_partition(superuser);
    age(superuser);
    owner.batch_execute("BEGIN; SELECT FROM workflow.consumers FOR UPDATE").unwrap();
    let admin = &mut db.connect_as(&member_of(&db, "workflow_admin"));
    admin.batch_execute("SET statement_timeout = '10s'").unwrap();
    let sql = "SELECT object, outcome FROM workflow.purge(now() + interval '1 day') WHERE outcome !~ 'removed'";
    let mut purge = || -> Vec<(String, String)> {
        admin.query(sql, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let outcome = purge();
    assert_eq!(outcome[0], ("state_history_0".to_owned(), "dropped".to_owned()), "{outcome:?}");
    assert!(outcome[1].0 == "consumer \"mine\"" && outcome[1].1.starts_with("not given up"), "{outcome:?}");
    assert!(outcome[2].0 == "state_history_1" && outcome[2].1.starts_with("kept"), "{outcome:?}");
    owner.batch_execute("ROLLBACK").unwrap();
    let outcome = purge();
    assert!(outcome.iter().any(|(_, outcome)| outcome.starts_with("given up")), "{outcome:?}");
}

#[test]
fn purge_gives_up_consumers_that_lag_too_much() {
    let (db, mut owner, _) = owned();
    let superuser = &mut db.connect();
    next_partition(superuser);
    next_partition(superuser);
    superuser.batch_execute("SELECT workflow.create_consumer('has read all')").unwrap();
    let admin = &mut db.connect_as(&member_of(&db, "workflow_admin"));
    let purge = |admin: &mut Client, is_dry: bool| -> Vec<(String, String)> {
        let sql = "SELECT object, outcome FROM workflow.purge(now() + interval '1 day', $1) WHERE outcome !~ 'removed'";
        admin.query(sql, &[&is_dry]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let kept = purge(admin, false);
    assert!(kept[0].1.contains("consumer \"mine\" has not acknowledged"), "{kept:?}");
    // The events become older than 30 days.
    age(superuser);
    let database: String = superuser.query_one("SELECT quote_ident(current_database())", &[]).unwrap().get(0);
    let set = |client: &mut Client, lag: &str| {
        client.batch_execute(&format!("ALTER DATABASE {database} SET pg_workflow.max_consumer_lag = '{lag}'")).unwrap();
    };
    set(superuser, "0");
    let admin_role: String = admin.query_one("SELECT current_user::text", &[]).unwrap().get(0);
    let admin = &mut db.connect_as(&admin_role);
    assert!(purge(admin, false).iter().all(|(object, _)| !object.starts_with("consumer")), "0: never");
    set(superuser, "30d");
    let admin = &mut db.connect_as(&admin_role);
    let dry = purge(admin, true);
    for (object, outcome) in [
        ("consumer \"mine\"", "would be given up: it lags more than pg_workflow.max_consumer_lag"),
        ("state_history_0", "would be dropped"),
    ] {
        assert!(dry.contains(&(object.to_owned(), outcome.to_owned())), "{dry:?}");
    }
    let named = dry.iter().filter(|(object, _)| object == "consumer \"mine\"").count();
    assert_eq!(named, 1, "it lags in two partitions: {dry:?}");
    owner.batch_execute("SELECT workflow.read_events('mine')").unwrap();
    let outcome = purge(admin, false);
    assert!(outcome[0].0 == "consumer \"mine\"" && outcome[0].1.starts_with("given up"), "{outcome:?}");
    assert!(outcome.contains(&("state_history_0".to_owned(), "dropped".to_owned())), "{outcome:?}");
    let sql = "SELECT consumer FROM workflow.consumer_lag WHERE given_up_at IS NOT NULL";
    let given_up: Vec<String> = owner.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(given_up, ["mine"], "the other has read all");
    for sql in ["SELECT workflow.read_events('mine')", "SELECT workflow.lease_consumer('mine', 'x')"] {
        let failed = failure(owner.batch_execute(sql));
        assert_eq!(failed.sqlstate, "55000", "{sql}");
        assert!(failed.hint.contains("resume_consumer()"), "{failed:?}");
    }
    let resume = "SELECT workflow.resume_consumer('mine')";
    assert!(owner.query_one(resume, &[]).unwrap().get::<_, bool>(0), "it has lost events");
    assert!(!owner.query_one(resume, &[]).unwrap().get::<_, bool>(0), "it was not given up");
    let task = create_in_state(superuser, "task_instance", State::Queued);
    let read = ids(&mut owner, "SELECT id FROM workflow.read_events('mine')");
    assert!(read.len() >= 2, "{task}: {read:?}");
}

/// Each transaction of a position costs time in views of all consumers.
#[test]
fn position_of_a_consumer_has_a_bounded_size() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.create_consumer('c')").unwrap();
    let snapshot = |count: i32| {
        let sql = "UPDATE workflow.consumers SET snapshot = (
            SELECT format('1:%s:%s', $1 + 2, string_agg(n::text, ',' ORDER BY n)) FROM generate_series(1, $1::int4) AS n)::pg_snapshot";
        sql.replace("$1", &count.to_string())
    };
    client.batch_execute(&snapshot(100_000)).unwrap();
    let failed = failure(client.batch_execute(&snapshot(200_000)));
    assert_eq!((&*failed.sqlstate, failed.message.contains("consumers_size_check")), ("23514", true), "{failed:?}");
}

/// A partition that no reader needs; returns a purge() that drops it.
fn past_partition(client: &mut Client) -> &'static str {
    create_task(client);
    age(client);
    open_partitions(client);
    client.batch_execute("SELECT workflow.fold_state_counts()").unwrap();
    "SELECT outcome FROM workflow.purge(now() - interval '30 days') WHERE object IN ('state_history_0', 'partitions')"
}

fn outcome(client: &mut impl GenericClient, purge: &str) -> String {
    client.query_one(purge, &[]).unwrap().get(0)
}

/// A relay stores one each five seconds, and keeps them for a week.
#[test]
fn purge_examines_one_checkpoint_of_each_consumer() {
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    let dry = past_partition(client).replace("'30 days')", "'30 days', true)");
    client.batch_execute("SELECT workflow.create_consumer('relay')").unwrap();
    let costs = [1, 5_000].map(|checkpoints| {
        let save = format!(
            "INSERT INTO workflow.consumer_checkpoints (consumer, position, floor_id, acked_id, system_identifier)
             SELECT 'relay', ARRAY[n, 0], 1000, 0, workflow.origin() FROM generate_series(1, {checkpoints}) AS n
             ON CONFLICT DO NOTHING"
        );
        client.batch_execute(&save).unwrap();
        buffers(client, &dry)
    });
    assert!(costs[1] < costs[0] + 100, "buffers with 1 and 5,000 checkpoints: {costs:?}");
}

/// Between the examination of a partition and the lock that drops it.
#[test]
fn purge_keeps_a_partition_for_a_consumer_that_has_come() {
    let db = Db::new();
    let client = &mut db.connect();
    let purge = past_partition(client);
    client.batch_execute("SELECT workflow.create_consumer('again')").unwrap();
    for come in [
        "workflow.create_consumer('new', true)",
        "workflow.drop_consumer('again'); PERFORM workflow.create_consumer('again', true)",
    ] {
        // In the place of another session.
        client
            .batch_execute(&format!(
                "CREATE FUNCTION public.come() RETURNS event_trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM {come}; END $$;
                 CREATE EVENT TRIGGER come ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION public.come()"
            ))
            .unwrap();
        assert_eq!(outcome(client, purge), "kept: a consumer has begun to read, try again", "{come}");
        client.batch_execute("DROP EVENT TRIGGER come; DROP FUNCTION public.come()").unwrap();
    }
    assert_eq!(outcome(client, purge), "dropped");
}

#[test]
fn purge_keeps_a_partition_for_a_consumer_being_resumed() {
    let db = Db::new();
    let client = &mut db.connect();
    let purge = past_partition(client);
    client.batch_execute("SELECT workflow.create_consumer('slow', true)").unwrap();
    client.batch_execute("UPDATE workflow.consumers SET given_up_at = now()").unwrap();
    let session = &mut db.connect();
    let mut resuming = session.transaction().unwrap();
    let sql = "SELECT workflow.resume_consumer('slow')";
    assert!(!resuming.query_one(sql, &[]).unwrap().get::<_, bool>(0), "it has missed nothing");
    assert_eq!(outcome(client, purge), "kept: the table is in use, try again");
    resuming.commit().unwrap();
    assert_eq!(client.query("SELECT FROM workflow.read_events('slow')", &[]).unwrap().len(), 2);
}

#[test]
fn resuming_in_a_fixed_snapshot_is_told_of_a_purge() {
    let db = Db::new();
    let client = &mut db.connect();
    let purge = past_partition(client);
    client.batch_execute("SELECT workflow.create_consumer('slow', true)").unwrap();
    client.batch_execute("UPDATE workflow.consumers SET given_up_at = now()").unwrap();
    let session = &mut db.connect();
    let mut resuming = session.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().unwrap();
    resuming.query("SELECT FROM workflow.dags", &[]).unwrap();
    assert_eq!(outcome(client, purge), "dropped");
    let sql = "SELECT workflow.resume_consumer('slow')";
    assert_eq!(failure(resuming.query(sql, &[])).sqlstate, "40001");
    resuming.rollback().unwrap();
    assert!(client.query_one(sql, &[]).unwrap().get::<_, bool>(0), "it has missed events");
}

#[test]
fn purge_in_a_fixed_snapshot_drops_no_partition() {
    let db = Db::new();
    let client = &mut db.connect();
    let purge = past_partition(client);
    let session = &mut db.connect();
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        let mut purging = session.build_transaction().isolation_level(level).start().unwrap();
        purging.query("SELECT FROM workflow.dags", &[]).unwrap();
        // The snapshot does not show it.
        client.batch_execute("SELECT workflow.create_consumer(gen_random_uuid()::text, true)").unwrap();
        assert_eq!(outcome(&mut purging, purge), "kept: the transaction has a fixed snapshot");
        purging.commit().unwrap();
    }
}
