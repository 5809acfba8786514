//! Updates and downgrades of the extension: the catalog equals that of an installation, and nothing is lost.

use crate::server::http::Api;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use postgres::error::SqlState;
use serde_json::Value;
use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use uuid::Uuid;
use xtask::stack::postgres::PRELOADED;

const NEWEST: &str = env!("CARGO_PKG_VERSION");
/// The latest released version.
const PREVIOUS: &str = "0.2.0";

/// The folder of the released scripts.
fn releases() -> PathBuf {
    xtask::workspace::root().join("sql/releases")
}

/// The names of its files, sorted.
fn release_files() -> Vec<String> {
    let entries = std::fs::read_dir(releases()).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// Every released version: those with an install script in `sql/releases`.
fn released() -> Vec<String> {
    let version = |name: String| {
        let versions = name.strip_prefix("pg_workflow--")?.strip_suffix(".sql")?.to_owned();
        (!versions.contains("--")).then_some(versions)
    };
    let released: Vec<String> = release_files().into_iter().filter_map(version).collect();
    assert!(released.iter().any(|version| version == PREVIOUS), "{released:?}");
    released
}

/// Creates a database without the extension.
fn empty_database() -> Db {
    let db = Db::new().without_verification();
    db.connect().batch_execute("DROP EXTENSION pg_workflow CASCADE; DROP SCHEMA workflow").unwrap();
    db
}

fn install(db: &Db, version: &str) -> Client {
    let mut client = db.connect();
    client.batch_execute(&format!("CREATE EXTENSION pg_workflow VERSION '{version}'")).unwrap();
    client
}

fn try_update(client: &mut Client, version: &str) -> Result<(), postgres::Error> {
    client.batch_execute(&format!("ALTER EXTENSION pg_workflow UPDATE TO '{version}'"))
}

fn update(client: &mut Client, version: &str) {
    try_update(client, version).unwrap();
}

/// Updates 0.1.0 while others work. Its released script can be the victim of a deadlock; the update is then repeated.
fn update_oldest_under_load(client: &mut Client, version: &str) {
    for _ in 0..10 {
        match try_update(client, version) {
            Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => println!("{error:?}"),
            result => return result.unwrap(),
        }
    }
    panic!("ten deadlocks in a row");
}

/// Describes all objects of the schema, one line each.
pub fn catalog(client: &mut Client) -> Vec<String> {
    let rows = client.query(include_str!("versions/catalog.sql"), &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The lines that only one of the two has.
fn differences(had: &[String], wanted: &[String]) -> Vec<String> {
    let (had, wanted): (HashSet<_>, HashSet<_>) = (had.iter().collect(), wanted.iter().collect());
    let only = |of: &HashSet<&String>, not: &HashSet<&String>, sign: &str| -> Vec<String> {
        of.difference(not).map(|line| format!("{sign} {line}")).collect()
    };
    let mut all = [only(&had, &wanted, "+"), only(&wanted, &had, "-")].concat();
    all.sort();
    all
}

#[test]
fn updated_catalog_equals_installed_catalog_both_ways() {
    for version in &released() {
        let (old, new, way) = (empty_database(), empty_database(), empty_database());
        let (old, new) = (catalog(&mut install(&old, version)), catalog(&mut install(&new, NEWEST)));
        let client = &mut install(&way, version);
        assert_eq!(differences(&catalog(client), &old), [""; 0], "two installations of {version} differ");
        assert_ne!(differences(&old, &new), [""; 0], "the comparison detects that versions differ");
        update(client, NEWEST);
        assert_eq!(differences(&catalog(client), &new), [""; 0], "from {version} to {NEWEST}");
        update(client, version);
        assert_eq!(differences(&catalog(client), &old), [""; 0], "from {NEWEST} to {version}");
        update(client, NEWEST);
        assert_eq!(differences(&catalog(client), &new), [""; 0], "and to {NEWEST} again");
    }
}

/// Tasks that an orchestrator holds back, and lists by their state, stay its own.
#[test]
fn updated_database_hands_out_no_task() {
    let db = empty_database();
    let client = &mut install(&db, PREVIOUS);
    let held_back = create_task(client);
    create_in_state(client, "task_instance", State::Retrying);
    create_in_state(client, "task_instance", State::Running);
    update(client, NEWEST);
    let claim = "SELECT id FROM workflow.claim_tasks('worker')";
    assert!(ids_of(client, claim).is_empty());
    for table in ["ready", "parked", "queues", "claims"] {
        assert!(client.query(&format!("SELECT FROM workflow.{table}"), &[]).unwrap().is_empty(), "{table}");
    }
    assert!(client.query("SELECT FROM workflow.reap_claims()", &[]).unwrap().is_empty());
    assert_eq!(db.problems(), [""; 0]);
    client.query("SELECT workflow.enqueue_task_instances(ARRAY[$1::uuid])", &[&held_back]).unwrap();
    assert_eq!(ids_of(client, claim), [held_back]);
}

fn ids_of(client: &mut Client, sql: &str) -> Vec<Uuid> {
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn released_scripts_stay_unchanged() {
    let check = Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(releases()).output();
    let check = check.unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    let sums = std::fs::read_to_string(releases().join("SHA256SUMS")).unwrap();
    let mut listed: Vec<&str> = sums.lines().filter_map(|line| line.split_whitespace().last()).collect();
    listed.push("SHA256SUMS");
    listed.sort_unstable();
    assert_eq!(listed, release_files(), "cargo xtask release writes both");
}

/// Uses the functions that every version has, as a scheduler, a worker and a consumer do.
fn use_it(client: &mut Client) -> Uuid {
    let task = create_in_state(client, "task_instance", State::Failed);
    client.query_one("SELECT workflow.append_task_log($1, 'a line')", &[&task]).unwrap();
    let retry = Transition::of(task).from(State::Failed).to(State::Retrying).version(2).request("request");
    for _ in 0..2 {
        assert_eq!(retry.clone().run(client).unwrap(), 3, "a repeated request is applied once");
    }
    client.execute("UPDATE workflow.task_instances SET state = 'running' WHERE id = $1", &[&task]).unwrap();
    let many = "SELECT outcome FROM workflow.transition_many('task_instance', ARRAY[$1::uuid], 'running', 'success')";
    assert_eq!(client.query_one(many, &[&task]).unwrap().get::<_, String>(0), "applied");
    let rejected =
        failure(client.execute("UPDATE workflow.task_instances SET state = 'queued' WHERE id = $1", &[&task]));
    assert_eq!(rejected.sqlstate, "23514");
    assert_eq!(history_len(client, task), 5);
    task
}

#[test]
fn library_serves_every_older_version() {
    for version in &released() {
        let db = empty_database();
        let client = &mut install(&db, version);
        client
            .batch_execute("SELECT workflow.create_consumer('reader', true); SELECT workflow.fold_state_counts()")
            .unwrap();
        let here: String = client.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
        use_it(client);
        let read = client.query("SELECT id FROM workflow.read_events('reader')", &[]).unwrap().len();
        assert_eq!(read, 6, "five of the task and one of its run");
        let (status, list) = Api::without_relay(&db, &[])
            .get("/api/v1/history?changed_at_gte=2020-01-01T00:00:00Z&changed_at_lt=2100-01-01T00:00:00Z");
        assert_eq!((status, list["items"].as_array().map(Vec::len)), (200, Some(read)), "{list}");
        assert_eq!(client.query("SELECT FROM workflow.follow_events($1)", &[&here]).unwrap().len(), read);
        assert_eq!(db.problems(), [""; 0]);
        client.batch_execute("DELETE FROM workflow.dags; SELECT workflow.fold_state_counts()").unwrap();
        assert_eq!(db.problems(), [""; 0]);
        let events: i64 = client.query_one("SELECT count(*) FROM workflow.state_history", &[]).unwrap().get(0);
        assert_eq!(events, read as i64, "older versions know no deletions");
    }
}

#[test]
fn downgrade_removes_deletions_from_the_history() {
    let db = empty_database();
    let client = &mut install(&db, NEWEST);
    client.batch_execute("SELECT workflow.create_consumer('reader', true)").unwrap();
    let task = use_it(client);
    client.batch_execute("SELECT workflow.fold_state_counts(); DELETE FROM workflow.task_instances").unwrap();
    assert_eq!(history_len(client, task), 6);
    update(client, PREVIOUS);
    assert_eq!(history_len(client, task), 5);
    assert_eq!(db.problems(), [""; 0]);
    let sql = "SELECT count(*), count(new_state) FROM workflow.read_events('reader')";
    let row = client.query_one(sql, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (6, 6), "five of the task and one of its run");
    update(client, NEWEST);
    client.batch_execute("DELETE FROM workflow.dag_runs").unwrap();
    let sql = "SELECT count(*) FROM workflow.state_history WHERE new_state IS NULL";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 1);
    assert_eq!(db.problems(), [""; 0]);
}

#[test]
fn older_version_rejects_work_in_maintenance() {
    for version in &released() {
        let db = empty_database();
        let client = &mut install(&db, version);
        let (dag, run) = create_run(client);
        let work = [
            format!("SELECT workflow.create_dag_run('{dag}', '2001-01-01')"),
            format!("SELECT workflow.create_task_instances('{run}', '{{t}}')"),
            format!("SELECT workflow.transition('dag_run', '{run}', 'queued', 'running')"),
        ];
        client.batch_execute("CREATE TABLE public.loot AS SELECT 1 AS x").unwrap();
        for call in work {
            client
                .batch_execute(&format!(
                    "DROP MATERIALIZED VIEW IF EXISTS public.trap;
                     CREATE MATERIALIZED VIEW public.trap AS {call}::text AS result FROM public.loot WITH NO DATA"
                ))
                .unwrap();
            let failed = failure(client.batch_execute("REFRESH MATERIALIZED VIEW public.trap"));
            assert_eq!((failed.sqlstate.as_str(), &failed.detail["is_restricted"]), ("42501", &true.into()), "{call}");
        }
        assert_eq!(history_len(client, run), 1);
    }
}

#[test]
fn hint_about_dropped_partition_is_true_of_older_version() {
    let db = empty_database();
    let client = &mut install(&db, PREVIOUS);
    client
        .batch_execute(
            "ALTER TABLE workflow.state_history DETACH PARTITION workflow.state_history_0;
             ALTER EXTENSION pg_workflow DROP TABLE workflow.state_history_0;
             DROP TABLE workflow.state_history_0",
        )
        .unwrap();
    let create = "SELECT workflow.create_dag_run(workflow.create_dag('dag'))";
    let rejected = failure(client.batch_execute(create));
    assert_eq!(rejected.sqlstate, "23514");
    let steps = ["ALTER EXTENSION pg_workflow UPDATE", "SELECT workflow.create_partition('state_history', number)"];
    for step in steps {
        assert!(rejected.hint.contains(step), "{}", rejected.hint);
        client.batch_execute(&step.replace("number", "0")).unwrap();
    }
    client.batch_execute(create).unwrap();
}

#[test]
fn work_continues_while_versions_change() {
    let deadlocks = change_versions_under_load("versions", |client| {
        for _ in 0..5 {
            update_after_work(client, PREVIOUS, update);
            update_after_work(client, NEWEST, update);
        }
        update_after_work(client, "0.1.0", update);
    });
    assert_eq!(deadlocks, 0, "no deadlock is caused by the scripts of {NEWEST}");
}

#[test]
fn work_continues_while_oldest_version_is_updated() {
    change_versions_under_load("versions-oldest", |client| {
        update_after_work(client, "0.1.0", update);
        update_after_work(client, NEWEST, update_oldest_under_load);
    });
}

fn update_after_work(client: &mut Client, version: &str, update: fn(&mut Client, &str)) {
    wait_until_work_continues(client);
    update(client, version);
}

fn wait_until_work_continues(client: &mut Client) {
    let seen = history_count(client);
    wait_until("work continues", || history_count(client) > seen + 200);
}

/// Moves and reads while `change` changes versions; checks that nothing is lost. Returns the number of deadlocks of the others.
fn change_versions_under_load(cluster: &str, change: impl FnOnce(&mut Client)) -> u32 {
    let (cluster, db) = own_cluster(cluster, &[PRELOADED]);
    cluster.psql("workflow", "SELECT workflow.create_consumer('reader', true)").unwrap();
    let (done, all_written) = (AtomicBool::new(false), AtomicBool::new(false));
    let deadlocks = AtomicU32::new(0);
    let (transitions, read) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| move_tasks_until(&db, &done, &deadlocks))).collect();
        let reader = scope.spawn(|| read_until(&db, &all_written, &deadlocks));
        let _end = SetOnDrop(&[&done, &all_written]);
        let client = &mut db.connect();
        change(client);
        wait_until_work_continues(client);
        done.store(true, Ordering::Release);
        let transitions: i64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        all_written.store(true, Ordering::Release);
        (transitions, reader.join().unwrap())
    });
    let client = &mut db.connect();
    let sql = "SELECT count(*) FROM workflow.state_history WHERE old_state IS NOT NULL";
    let recorded: i64 = client.query_one(sql, &[]).unwrap().get(0);
    assert!(recorded >= transitions, "{recorded} of {transitions} confirmed transitions are recorded");
    let all = client.query("SELECT entity_id, version FROM workflow.state_history", &[]).unwrap();
    let all: HashSet<(Uuid, i64)> = all.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(read, all, "each event was read");
    drop(db);
    deadlocks.into_inner()
}

fn history_count(client: &mut Client) -> i64 {
    client.query_one("SELECT count(*) FROM workflow.state_history", &[]).unwrap().get(0)
}

/// Moves tasks, and returns the number of confirmed transitions. A version change may fail a statement but not lose one.
fn move_tasks_until(db: &Db, done: &AtomicBool, deadlocks: &AtomicU32) -> i64 {
    let (mut client, mut transitions) = (db.connect(), 0);
    let mut failed_in_a_row = 0;
    while !done.load(Ordering::Acquire) {
        let task = client.query_one(
            "SELECT id FROM workflow.create_task_instances(
                workflow.create_dag_run(workflow.create_dag(gen_random_uuid()::text)), ARRAY['task'])",
            &[],
        );
        let moved = task.and_then(|row| {
            Transition::of(row.get(0)).from(State::Queued).to(State::Running).run(&mut client)?;
            transitions += 1;
            Transition::of(row.get(0)).from(State::Running).to(State::Success).run(&mut client)?;
            transitions += 1;
            Ok(())
        });
        failed_in_a_row = if moved.is_ok() { 0 } else { failed_in_a_row + failures_of(&moved, deadlocks) };
        assert!(failed_in_a_row < 3, "tasks cannot be moved: {moved:?}");
    }
    transitions
}

/// Counts a failed statement. One that lost a deadlock with an update is repeated, and can lose again: it counts as that.
fn failures_of<T>(result: &Result<T, postgres::Error>, deadlocks: &AtomicU32) -> u32 {
    let code = result.as_ref().err().and_then(|error| error.code());
    if code == Some(&SqlState::T_R_DEADLOCK_DETECTED) {
        deadlocks.fetch_add(1, Ordering::Relaxed);
        return 0;
    }
    1
}

/// Reads as the consumer until the feed is empty after `done`; checks that no event is read twice.
fn read_until(db: &Db, done: &AtomicBool, deadlocks: &AtomicU32) -> HashSet<(Uuid, i64)> {
    let (mut client, mut read) = (db.connect(), HashSet::new());
    let mut failed_in_a_row = 0;
    loop {
        let was_done = done.load(Ordering::Acquire);
        let sql = "SELECT id, entity_id, version FROM workflow.read_events('reader', 500, '100 ms')";
        let events = client.query(sql, &[]);
        failed_in_a_row = if events.is_ok() { 0 } else { failed_in_a_row + failures_of(&events, deadlocks) };
        assert!(failed_in_a_row < 3, "events cannot be read: {events:?}");
        let Ok(events) = events else { continue };
        for row in &events {
            assert!(read.insert((row.get(1), row.get(2))), "twice");
        }
        match events.last() {
            // They are redelivered.
            Some(last) if !acknowledge(&mut client, last.get(0)) => events.iter().for_each(|row| {
                read.remove(&(row.get(1), row.get(2)));
            }),
            Some(_) => {}
            None if was_done => return read,
            None => {}
        }
    }
}

fn acknowledge(client: &mut Client, id: i64) -> bool {
    client.query_one("SELECT workflow.ack_events('reader', $1)", &[&id]).is_ok()
}

/// Makes the update wait halfway: it stops at the logs, which come after the history.
fn hold_up(holder: &mut Client) -> postgres::Transaction<'_> {
    let mut held = holder.transaction().unwrap();
    held.batch_execute("LOCK TABLE workflow.task_logs IN ACCESS SHARE MODE").unwrap();
    held
}

fn wait_until_held_up(client: &mut Client) {
    wait_until("the update waits", || {
        let sql = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'workflow.task_logs'::regclass";
        !client.query(sql, &[]).unwrap().is_empty()
    });
}

fn installed(client: &mut Client) -> String {
    let version = "SELECT extversion FROM pg_extension WHERE extname = 'pg_workflow'";
    client.query_one(version, &[]).unwrap().get(0)
}

#[test]
fn server_killed_during_update_keeps_the_old_version() {
    let (cluster, db) = own_cluster("versions-killed", &[PRELOADED]);
    let client = &mut db.connect();
    update(client, "0.1.0");
    use_it(client);
    let before = catalog(client);
    let mut holder = db.connect();
    let _held = hold_up(&mut holder);
    std::thread::scope(|scope| {
        let updater = scope.spawn(|| db.connect().batch_execute("ALTER EXTENSION pg_workflow UPDATE"));
        wait_until_held_up(client);
        cluster.kill().unwrap();
        assert!(updater.join().unwrap().is_err());
    });
    cluster.start_again().unwrap();
    let client = &mut db.connect();
    assert_eq!(installed(client), "0.1.0");
    assert_eq!(differences(&catalog(client), &before), [""; 0]);
    use_it(client);
    update(client, NEWEST);
    use_it(client);
    drop(db);
}

#[test]
fn migration_killed_during_update_changes_nothing() {
    let db = Db::new();
    let client = &mut db.connect();
    update(client, "0.1.0");
    let before = catalog(client);
    let mut holder = db.connect();
    let held = hold_up(&mut holder);
    let mut migrate = Command::new(server_binary());
    let mut migrate = migrate.args(["migrate", "up", "--database-url", db.url()]).spawn().unwrap();
    wait_until_held_up(client);
    migrate.kill().unwrap();
    migrate.wait().unwrap();
    held.commit().unwrap();
    // The server ends the session once it notices that the client is gone.
    wait_until("its session has ended", || {
        let sql =
            "SELECT FROM pg_locks WHERE relation = 'workflow.task_logs'::regclass AND mode = 'AccessExclusiveLock'";
        client.query(sql, &[]).unwrap().is_empty()
    });
    assert_eq!(installed(client), "0.1.0");
    assert_eq!(differences(&catalog(client), &before), [""; 0]);
    update(client, NEWEST);
    use_it(client);
}

#[test]
fn downgrade_is_rejected_if_old_version_cannot_hold_data() {
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    use_it(client);
    client
        .batch_execute("INSERT INTO workflow.dropped_partitions (partition, last_id) VALUES ('state_history_7', 1)")
        .unwrap();
    let before = catalog(client);
    let refused = failure(client.batch_execute("ALTER EXTENSION pg_workflow UPDATE TO '0.1.0'"));
    assert_eq!(refused.sqlstate, "55000");
    assert_eq!(refused.detail["dropped_partitions"], serde_json::json!(["state_history_7"]));
    assert!(refused.hint.contains("empty workflow.dropped_partitions"), "{}", refused.hint);
    assert_eq!(differences(&catalog(client), &before), [""; 0]);
    client
        .batch_execute("DELETE FROM workflow.dropped_partitions; ALTER EXTENSION pg_workflow UPDATE TO '0.1.0'")
        .unwrap();
    use_it(client);
}

#[test]
fn downgrade_keeps_rows_of_later_partitions_and_grants() {
    let db = Db::new();
    let client = &mut db.connect();
    let role = format!("auditor_{}", Uuid::new_v4().simple());
    client.batch_execute(&format!("CREATE ROLE {role}; GRANT USAGE ON SCHEMA workflow TO {role};
         GRANT SELECT ON workflow.state_history, workflow.task_logs, workflow.state_counts, workflow.consumer_lag TO {role}")).unwrap();
    let first = use_it(client);
    next_partition(client);
    next_partition(client);
    let second = use_it(client);
    let all = |client: &mut Client| -> Vec<String> {
        // Not the column that older versions lack.
        let sql = "SELECT (to_jsonb(h) - 'acted_as')::text FROM workflow.state_history AS h
                   UNION ALL SELECT l::text FROM workflow.task_logs AS l ORDER BY 1";
        client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let before = all(client);
    for version in ["0.1.0", NEWEST] {
        update(client, version);
        assert_eq!(all(client), before, "at {version}");
        assert_eq!(db.problems(), [""; 0]);
        client.batch_execute("SELECT workflow.fold_state_counts()").unwrap();
        let auditor = &mut db.connect_as(&role);
        for sql in ["TABLE workflow.task_logs", "TABLE workflow.state_counts", "TABLE workflow.consumer_lag"] {
            auditor.batch_execute(sql).unwrap();
        }
        assert_eq!((history_len(auditor, first), history_len(auditor, second)), (5, 5));
    }
    // Ids continue beyond the range of the first partition.
    let third = use_it(client);
    assert_eq!(history_len(client, third), 5);
}

/// A consumer with a lease, an open window and a relay checkpoint; and a follower's position in the same window.
struct Reader {
    consumer: String,
    lease: i64,
    position: String,
    unread: Vec<i64>,
}

fn ids(client: &mut Client, sql: &str, args: &[&(dyn postgres::types::ToSql + Sync)]) -> Vec<i64> {
    client.query(sql, args).unwrap().iter().map(|row| row.get("id")).collect()
}

/// Reads and acknowledges a part of the window, and stores the counts.
fn begin_to_read(client: &mut Client, consumer: &str) -> Reader {
    let consumer = consumer.to_owned();
    let start: String = client.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
    client.query_one("SELECT workflow.create_consumer($1)", &[&consumer]).unwrap();
    let lease = "SELECT workflow.lease_consumer($1, 'worker', '1 hour')";
    let lease: i64 = client.query_one(lease, &[&consumer]).unwrap().get(0);
    use_it(client);
    let all = ids(client, "SELECT id FROM workflow.read_events($1, lease => $2)", &[&consumer, &lease]);
    client.query_one("SELECT workflow.ack_events($1, $2, $3)", &[&consumer, &all[1], &lease]).unwrap();
    client.query_one("SELECT workflow.save_checkpoint($1, '{1,0}', $2)", &[&consumer, &lease]).unwrap();
    let followed = client.query("SELECT id, \"position\" FROM workflow.follow_events($1, 2)", &[&start]).unwrap();
    assert_eq!(followed[1].get::<_, i64>(0), all[1]);
    assert!(client.query_one("SELECT workflow.fold_state_counts()", &[]).unwrap().get::<_, bool>(0));
    use_it(client);
    Reader { consumer, lease, position: followed[1].get(1), unread: all[2..].to_vec() }
}

/// The contents of the tables of the feed and of the counts, and the counts.
fn stored(client: &mut Client) -> Vec<Value> {
    let sql = "SELECT to_jsonb(c) FROM workflow.consumers AS c
        UNION ALL SELECT to_jsonb(c) FROM workflow.consumer_checkpoints AS c
        UNION ALL SELECT to_jsonb(p) FROM workflow.state_count_place AS p
        UNION ALL SELECT to_jsonb(c) FROM workflow.state_counts_at AS c
        UNION ALL SELECT to_jsonb(c) FROM workflow.state_counts AS c";
    let mut rows: Vec<Value> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    // Columns of the newer version only, and the one that has another meaning there.
    const CHANGED: [&str; 5] = ["is_only_row", "owner", "given_up_at", "returned_id", "system_identifier"];
    for row in &mut rows {
        row.as_object_mut().unwrap().retain(|name, _| !CHANGED.contains(&name.as_str()));
    }
    rows.sort_by_key(Value::to_string);
    rows
}

#[test]
fn update_keeps_positions_leases_and_counts() {
    for (from, to) in [(PREVIOUS, NEWEST), (NEWEST, PREVIOUS)] {
        let db = empty_database();
        let client = &mut install(&db, from);
        let reader = begin_to_read(client, "reader");
        let before = stored(client);
        update(client, to);
        assert_eq!(stored(client), before, "from {from} to {to}");
        let read = "SELECT id FROM workflow.read_events($1, lease => $2)";
        assert_eq!(ids(client, read, &[&reader.consumer, &reader.lease]), reader.unread);
        let unleased = failure(client.query("SELECT workflow.read_events($1)", &[&reader.consumer]));
        assert_eq!(unleased.sqlstate, "55006");
        let follow = "SELECT id FROM workflow.follow_events($1)";
        if to == NEWEST {
            assert_eq!(ids(client, follow, &[&reader.position]), reader.unread);
        } else {
            assert_eq!(failure(client.query(follow, &[&reader.position])).sqlstate, "22023", "0.2.0 knows no mark");
        }
        let last = reader.unread.last().unwrap();
        client.query_one("SELECT workflow.ack_events($1, $2, $3)", &[&reader.consumer, last, &reader.lease]).unwrap();
        let second = ids(client, read, &[&reader.consumer, &reader.lease]);
        assert_eq!(second.len(), 6, "the second window: five events of a task and one of its run");
        // The relay finds that its destination has lost everything since the checkpoint.
        let rewind = "SELECT workflow.rewind_consumer($1, '{1,0}', $2)";
        assert_eq!(client.query_one(rewind, &[&reader.consumer, &reader.lease]).unwrap().get::<_, Vec<i64>>(0), [1, 0]);
        assert_eq!(ids(client, read, &[&reader.consumer, &reader.lease]), reader.unread);
        assert!(client.query_one("SELECT workflow.fold_state_counts()", &[]).unwrap().get::<_, bool>(0));
        assert_eq!(db.problems(), [""; 0]);
    }
}

#[test]
fn update_carries_isolation_over_and_back() {
    let (db, tenant) = (empty_database(), format!("tenant_{}", Uuid::new_v4().simple()));
    let owner = &mut install(&db, PREVIOUS);
    create_in_state(owner, "task_instance", State::Running);
    owner
        .batch_execute(&format!(
            "SELECT workflow.make_partition('state_history', 2);
             CREATE ROLE {tenant} IN ROLE workflow_writer;
             GRANT SELECT ON ALL TABLES IN SCHEMA workflow TO {tenant};
             SELECT workflow.enable_row_security()"
        ))
        .unwrap();
    let seen = |table: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM workflow.{table}");
        db.connect_as(&tenant).query_one(&sql, &[]).unwrap().get(0)
    };
    assert_eq!((seen("state_history"), seen("state_history_0")), (0, 3), "0.2.0 isolates no partition that is named");
    for version in [NEWEST, PREVIOUS, NEWEST] {
        update(owner, version);
        assert_eq!((seen("dags"), seen("state_history"), seen("state_history_0")), (0, 0, 0), "{version}");
        let sql = "SELECT count(*) FROM pg_class WHERE relrowsecurity AND relname = 'state_history_2'";
        assert_eq!(owner.query_one(sql, &[]).unwrap().get::<_, i64>(0), 1);
    }
    owner.batch_execute("SELECT workflow.disable_row_security()").unwrap();
    assert_eq!((seen("dags"), seen("state_history"), seen("state_history_0")), (1, 3, 3));
    update(owner, PREVIOUS);
    assert_eq!((seen("dags"), seen("state_history"), seen("state_history_0")), (1, 3, 3));
    update(owner, NEWEST);
    assert_eq!(seen("dags"), 1, "isolation was off");
}
