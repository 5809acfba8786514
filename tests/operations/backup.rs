//! A dump, restored in another cluster, has everything, and consumers resume.

mod isolation;
mod jobs;

use crate::operations::versions;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use std::process::{Command, Stdio};
use uuid::Uuid;
use xtask::stack::postgres::{PRELOADED, Postgres, Shutdown};
use xtask::stack::process::clean_environment;

/// All rows of all tables, without the database that they belong to, and the values of all sequences.
fn contents(client: &mut Client) -> Vec<String> {
    // Stored counts belong to one cluster. A new extension has a row of row_security already.
    let tables = "SELECT c.oid::regclass::text FROM pg_class AS c
                  WHERE c.relnamespace = 'workflow'::regnamespace AND c.relkind = 'r'
                    AND c.relname NOT LIKE 'state\\_count%' AND c.relname <> 'row_security' ORDER BY 1";
    let tables: Vec<String> = client.query(tables, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let shows_all: bool = client.query_one("SELECT workflow.shows_all_tenants()", &[]).unwrap().get(0);
    let mut all = vec![format!("shows all tenants: {shows_all}")];
    for table in tables {
        let rows = client
            .query(&format!("SELECT (to_jsonb(t) - 'system_identifier')::text FROM {table} AS t ORDER BY 1"), &[])
            .unwrap();
        all.extend(rows.iter().map(|row| format!("{table}: {}", row.get::<_, String>(0))));
    }
    let sql = "SELECT format('%s at %s', sequencename, last_value) FROM pg_sequences
               WHERE schemaname = 'workflow' AND sequencename LIKE '%\\_id\\_seq' ORDER BY 1";
    all.extend(client.query(sql, &[]).unwrap().iter().map(|row| row.get::<_, String>(0)));
    all
}

/// The policies of all tables. The copy may have a first partition that was purged in the original.
fn policies(client: &mut Client) -> Vec<String> {
    let sql = "SELECT format('%s isolates: %s by %s %s', c.relname, c.relrowsecurity, p.polname, pg_get_expr(p.polqual, c.oid))
               FROM pg_class AS c LEFT JOIN pg_policy AS p ON p.polrelid = c.oid
               WHERE c.relnamespace = 'workflow'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname !~ '_[01]$'
               ORDER BY 1";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn ids(client: &mut Client, consumer: &str) -> Vec<i64> {
    let sql = "SELECT id FROM workflow.read_events($1, 1000000)";
    client.query(sql, &[&consumer]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Reads and acknowledges all events. A window that was open stays so in a cluster that was upgraded: the news come after it.
fn ids_of_all_windows(client: &mut Client, consumer: &str) -> Vec<i64> {
    let mut all = Vec::new();
    loop {
        let window = ids(client, consumer);
        let Some(last) = window.last() else { return all };
        client.query_one("SELECT workflow.ack_events($1, $2)", &[&consumer, last]).unwrap();
        all.extend(window);
    }
}

/// Fills a database as months of work do: tasks in every state, logs, past, future and purged partitions, and consumers at
/// different positions.
fn fill(db: &Db) {
    let client = &mut db.connect();
    client
        .batch_execute(
            "SELECT workflow.create_consumer('has read all', true), workflow.create_consumer('has read half', true)",
        )
        .unwrap();
    let read = |client: &mut Client, consumer: &str, part: usize| {
        let ids = ids(client, consumer);
        client.query_one("SELECT workflow.ack_events($1, $2)", &[&consumer, &ids[ids.len() / part - 1]]).unwrap();
    };
    for _ in 0..3 {
        for state in State::ALL {
            let task = create_in_state(client, "task_instance", state);
            create_in_state(client, "dag_run", state);
            client.query_one("SELECT workflow.append_task_log($1, E'a\\tline\\nof two', 'ERROR')", &[&task]).unwrap();
        }
        age(client);
        next_partition(client);
        read(client, "has read all", 1);
        read(client, "has read half", 1);
        // The first call purges the runs, the second one the history.
        client.batch_execute("SELECT workflow.purge(now() - interval '70 days')").unwrap();
        client.batch_execute("SELECT workflow.purge(now() - interval '70 days')").unwrap();
    }
    create_in_state(client, "task_instance", State::Success);
    read(client, "has read all", 1);
    read(client, "has read half", 2);
    client
        .batch_execute(
            "SELECT workflow.save_checkpoint('has read half', ARRAY[7::bigint, 0]), workflow.enable_row_security();
             SELECT workflow.create_consumer('has read nothing', true), workflow.create_consumer('begins now');
             UPDATE workflow.dags SET tags = '[\"ein Tag\"]', description = 'Ünïcödé'",
        )
        .unwrap();
    assert!(client.query_one("SELECT count(*) > 0 FROM workflow.dropped_partitions", &[]).unwrap().get::<_, bool>(0));
}

pub fn program(cluster: &Postgres, name: &str) -> Command {
    let mut command = Command::new(cluster.install().program(name));
    clean_environment(&mut command);
    command
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Skips transaction IDs of restored events: a reader whose own transaction has the ID of such an event would get it one
/// window later.
fn skip_restored_transaction_ids(client: &mut Client) {
    let sql = "SELECT EXISTS (SELECT FROM workflow.state_history
        WHERE transaction_id::text::bigint - pg_current_xact_id()::text::bigint BETWEEN 1 AND 10)";
    while client.query_one(sql, &[]).unwrap().get::<_, bool>(0) {}
}

/// Compares the copy with the original, and continues to work in it.
fn compare(from: &Db, to: &Db) {
    let (old, new) = (&mut from.connect(), &mut to.connect());
    assert_eq!(contents(new), contents(old));
    assert_eq!(policies(new), policies(old));
    resume(from, to);
}

/// Continues to work in the copy.
fn resume(from: &Db, to: &Db) {
    let (old, new) = (&mut from.connect(), &mut to.connect());
    assert_eq!(to.problems(), [""; 0]);
    new.batch_execute("SELECT workflow.fold_state_counts()").unwrap();
    assert_eq!(to.problems(), [""; 0]);

    // Events happen before any consumer reads here.
    let task = create_in_state(new, "task_instance", State::Running);
    let sql = "SELECT id FROM workflow.state_history WHERE entity_id = $1 OR dag_run_id = (SELECT dag_run_id FROM workflow.task_instances WHERE id = $1) ORDER BY id";
    let news: Vec<i64> = new.query(sql, &[&task]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(news.len(), 3);
    skip_restored_transaction_ids(new);
    for consumer in ["has read all", "has read half", "has read nothing", "begins now"] {
        let expected = [ids(old, consumer), news.clone()].concat();
        assert_eq!(ids_of_all_windows(new, consumer), expected, "{consumer}: unread and new events, exactly once");
    }
    assert!(to.problems().is_empty());
}

fn catalog(client: &mut Client) -> Vec<String> {
    // The extension creates the first two partitions in the copy, even if they were purged in the original. Partitions that
    // were created later belong to the schema, not to the extension, in both.
    let first = |line: &String| {
        ["state_history_0", "state_history_1", "task_logs_0", "task_logs_1"].iter().any(|name| line.contains(name))
    };
    versions::catalog(client).into_iter().filter(|line| !first(line)).collect()
}

#[test]
fn restored_dump_keeps_everything_and_consumers_resume() {
    let (cluster, db) = own_cluster("backup", &[PRELOADED]);
    fill(&db);
    let other = Postgres::start("restored", &[("fsync", "off"), PRELOADED]).unwrap();
    let folder = std::env::temp_dir().join(format!("pg_workflow-{}", Uuid::new_v4()));

    let plain = Db::at(other.create_database("plain").unwrap());
    let mut dump = program(&cluster, "pg_dump").args(["--dbname", db.url()]).stdout(Stdio::piped()).spawn().unwrap();
    let mut psql = other.psql_command("plain");
    run(psql.args(["--single-transaction", "--output=/dev/null"]).stdin(dump.stdout.take().unwrap()));
    assert!(dump.wait().unwrap().success());
    assert_eq!(contents(&mut plain.connect()), contents(&mut db.connect()));
    plain.connect().batch_execute("SELECT workflow.finish_copy()").unwrap();
    resume(&db, &plain);
    assert_eq!(catalog(&mut plain.connect()), catalog(&mut db.connect()));

    let custom = Db::at(other.create_database("custom").unwrap());
    run(program(&cluster, "pg_dump").args(["--dbname", db.url(), "--format=custom", "--file"]).arg(&folder));
    let mut restore = program(&other, "pg_restore");
    run(restore.args(["--exit-on-error", "--jobs=4", "--dbname", custom.url()]).arg(&folder));
    std::fs::remove_file(&folder).unwrap();
    assert_eq!(contents(&mut custom.connect()), contents(&mut db.connect()));
    assert_eq!(policies(&mut custom.connect()), policies(&mut db.connect()));
    custom.connect().batch_execute("SELECT workflow.finish_copy()").unwrap();
    resume(&db, &custom);
    assert_eq!(catalog(&mut custom.connect()), catalog(&mut db.connect()));
}

/// Debian's PostgreSQL 15.20 sets an option of columns, `pg_attver`, which its 18.6 cannot restore.
fn knows_attribute_options(old: &Postgres, new: &Postgres) -> bool {
    let with_option = "SELECT count(*) FROM pg_attribute WHERE attoptions::text LIKE '%pg_attver%'";
    let set = "CREATE TEMPORARY TABLE probe (id int); ALTER TABLE probe ALTER id SET (pg_attver = 1)";
    old.psql("postgres", with_option).unwrap() == "0" || new.psql("postgres", set).is_ok()
}

#[test]
fn pg_upgrade_keeps_everything_and_consumers_resume() {
    let install = &xtask::setup::toolchain().unwrap().postgres;
    let Some(older) = install.older() else {
        eprintln!("skipped: no PostgreSQL older than {} is installed", install.major);
        return;
    };
    let old = Postgres::start_with(older.clone(), "older", &[("fsync", "off"), PRELOADED]).unwrap();
    old.psql("postgres", "CREATE DATABASE workflow").unwrap();
    old.psql("workflow", "CREATE EXTENSION pg_workflow").unwrap();
    let before = Db::at(old.url("workflow"));
    fill(&before);
    let new = Postgres::start("newer", &[("fsync", "off"), PRELOADED]).unwrap();
    if !knows_attribute_options(&old, &new) {
        eprintln!("skipped: pg_upgrade from this {} to this {} fails for any database", older.major, install.major);
        return;
    }
    old.stop(Shutdown::Fast).unwrap();
    new.stop(Shutdown::Fast).unwrap();
    new.upgrade_from(&old).unwrap();
    old.start_again().unwrap();
    new.start_again().unwrap();
    compare(&before, &Db::at(new.url("workflow")));
}

#[test]
fn drop_extension_is_rejected_while_it_has_data() {
    let (_cluster, db) = own_cluster("dropped", &[]);
    let client = &mut db.connect();
    client.batch_execute("DROP EXTENSION pg_workflow; DROP SCHEMA workflow; CREATE EXTENSION pg_workflow").unwrap();
    client.batch_execute("SELECT workflow.create_dag('etl')").unwrap();
    // Also in a session that has not loaded the library yet.
    let refused = failure(db.connect().batch_execute("DROP EXTENSION pg_workflow"));
    assert_eq!(refused.sqlstate, "2BP01");
    assert_eq!(refused.detail["has_rows"]["dags"], true);
    assert!(refused.hint.contains("CASCADE"), "{}", refused.hint);
    // Other extensions can be dropped as before.
    client.batch_execute("CREATE EXTENSION pgcrypto; DROP EXTENSION pgcrypto").unwrap();
    client.batch_execute("DROP EXTENSION pg_workflow CASCADE; DROP SCHEMA workflow").unwrap();
    let _ = db.without_verification();
}
