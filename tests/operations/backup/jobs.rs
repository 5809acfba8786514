//! pg_restore succeeds with any number of jobs, and in any order that the archive allows.

use super::{program, run};
use pg_workflow_tests::*;
use postgres::Client;
use std::path::Path;
use std::process::Command;
use xtask::stack::postgres::{PRELOADED, Postgres};

/// Fills three partitions of the logs. The first one keeps a job of pg_restore busy. The others load the larger tables
/// first, with their keys: so the later two partitions before the tasks.
fn fill(client: &mut Client) {
    create_tasks(client, 20);
    for lines in [5_000, 20, 20] {
        let sql = format!(
            "SET session_replication_role = replica;
             INSERT INTO workflow.task_logs (task_instance_id, try_number, message)
             SELECT t.id, 0, 'line ' || n FROM workflow.task_instances AS t, generate_series(1, {lines}) AS n;
             RESET session_replication_role"
        );
        client.batch_execute(&sql).unwrap();
        next_partition(client);
    }
    let sql = "SELECT workflow.create_consumer('relay', true); SELECT workflow.save_checkpoint('relay', '{1}')";
    client.batch_execute(sql).unwrap();
    park_tasks(client);
    let depend =
        "SELECT workflow.create_task_instances(workflow.create_dag_run(workflow.create_dag('depends')), '{a,b}',
                      depends_on => '{\"b\": [\"a\"]}')";
    client.query(depend, &[]).unwrap();
    let dependent = "SELECT DISTINCT c.conrelid::regclass::text FROM pg_constraint AS c
                     WHERE c.contype = 'f' AND c.connamespace = 'workflow'::regnamespace
                       AND c.conrelid::regclass::text NOT LIKE 'workflow.task\\_logs%'";
    for row in client.query(dependent, &[]).unwrap() {
        let table: String = row.get(0);
        let rows = client.query(&format!("SELECT FROM {table} LIMIT 1"), &[]).unwrap();
        assert!(!rows.is_empty(), "{table} has no rows to restore");
    }
}

/// Creates tasks that claims have met while their DAG was paused, and one that can be claimed.
fn park_tasks(client: &mut Client) {
    let sql = "SELECT workflow.create_dag('parked') AS dag, workflow.create_dag('claimable') AS other";
    let dags = client.query_one(sql, &[]).unwrap();
    let (dag, other): (uuid::Uuid, uuid::Uuid) = (dags.get(0), dags.get(1));
    let create =
        "SELECT count(*) FROM workflow.create_task_instances(workflow.create_dag_run($1), '{a,b,c}', queue => $2)";
    for (dag, queue) in [(dag, "parked"), (other, "claimable")] {
        client.query_one(create, &[&dag, &queue]).unwrap();
    }
    client.execute("UPDATE workflow.dags SET is_paused = true WHERE id = $1", &[&dag]).unwrap();
    let claimed = client.query("SELECT FROM workflow.claim_tasks('w', '{parked}', max => 3)", &[]).unwrap();
    assert!(claimed.is_empty());
}

/// The number of rows of each table, with a digest of them, and all sequences.
fn digest(client: &mut Client) -> Vec<String> {
    let tables = "SELECT c.oid::regclass::text FROM pg_class AS c
                  WHERE c.relnamespace = 'workflow'::regnamespace AND c.relkind = 'r'
                    AND c.relname NOT LIKE 'state_count%' ORDER BY 1";
    let tables: Vec<String> = client.query(tables, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let sequences = "SELECT format('%s at %s', sequencename, last_value) FROM pg_sequences
                     WHERE schemaname = 'workflow' AND sequencename LIKE '%\\_id\\_seq' ORDER BY 1";
    let mut all: Vec<String> = client.query(sequences, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    all.extend(tables.iter().map(|table| {
        // In a copy, consumers are those of another database.
        let row = if table == "workflow.consumers" { "(to_jsonb(t) - 'system_identifier')::text" } else { "t::text" };
        let sql =
            format!("SELECT format('%s, digest %s', count(*), sum(hashtextextended({row}, 0))) FROM {table} AS t");
        format!("{table}: {}", client.query_one(&sql, &[]).unwrap().get::<_, String>(0))
    }));
    all
}

/// The archive's list of items, with the data and everything after it in the opposite order. Items of these sections
/// depend only on earlier sections, so each order is allowed.
fn reversed_list(cluster: &Postgres, archive: &Path) -> String {
    let output = program(cluster, "pg_restore").arg("--list").arg(archive).output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let items: Vec<&str> = list.lines().filter(|line| !line.starts_with(';')).collect();
    let data = items.iter().position(|line| line.contains(" TABLE DATA ")).unwrap();
    let is_data = |line: &&str| line.contains(" TABLE DATA ") || line.contains(" SEQUENCE SET ");
    let after = items.iter().rposition(is_data).unwrap() + 1;
    assert!(items[after..].iter().any(|line| line.contains(" FK CONSTRAINT ")), "{list}");
    let reversed = |items: &[&str]| items.iter().rev().map(|line| format!("{line}\n")).collect::<String>();
    let before: String = items[..data].iter().map(|line| format!("{line}\n")).collect();
    before + &reversed(&items[data..after]) + &reversed(&items[after..])
}

#[test]
fn restore_succeeds_with_any_jobs_in_any_order() {
    let (cluster, db) = own_cluster("jobs", &[PRELOADED]);
    fill(&mut db.connect());
    cluster.psql("postgres", "CREATE ROLE dba SUPERUSER LOGIN").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [custom, directory, root] = ["custom", "directory", "root"].map(|name| folder.path().join(name));
    for (options, path) in [
        (["--format=custom"].as_slice(), &custom),
        (&["--format=directory"], &directory),
        (&["--format=custom", "--load-via-partition-root"], &root),
    ] {
        run(program(&cluster, "pg_dump").args(["--dbname", db.url()]).args(options).arg("--file").arg(path));
    }
    let list = folder.path().join("list");
    std::fs::write(&list, reversed_list(&cluster, &custom)).unwrap();
    let reversed = format!("--use-list={}", list.display());

    let wanted = digest(&mut db.connect());
    let restore_as = |user: &str, way: &[&str], archive: &Path| {
        let copy = Db::at(cluster.create_database("copy").unwrap());
        let mut command: Command = program(&cluster, "pg_restore");
        let url = copy.url().replace("postgres@", &format!("{user}@"));
        run(command.args(["--exit-on-error", "--dbname", &url]).args(way).arg(archive));
        assert_eq!(digest(&mut copy.connect()), wanted, "{way:?}");
        drop(copy);
        cluster.psql("postgres", "DROP DATABASE copy WITH (FORCE)").unwrap();
    };
    let restore = |way: &[&str], archive: &Path| restore_as("postgres", way, archive);
    for jobs in ["--jobs=2", "--jobs=3"] {
        restore(&[jobs], &custom);
    }
    for jobs in ["--jobs=1", "--jobs=2", "--jobs=4"] {
        restore(&[jobs, &reversed], &custom);
    }
    restore(&["--jobs=4"], &directory);
    let reversed_root = folder.path().join("reversed root");
    std::fs::write(&reversed_root, reversed_list(&cluster, &root)).unwrap();
    restore(&[&format!("--use-list={}", reversed_root.display())], &root);
    restore(&["--single-transaction"], &custom);
    restore(&["--single-transaction", &reversed], &custom);
    // Another superuser, who owns the extension in the copy.
    restore_as("dba", &["--jobs=2", &reversed], &custom);
    restore_as("dba", &["--no-owner", &reversed], &custom);
    restore_as("postgres", &["--jobs=2", "--role=dba", &reversed], &custom);
}

fn ids_of(client: &mut Client, sql: &str) -> Vec<i64> {
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn consumer_that_reads_during_a_restore_loses_nothing() {
    let (cluster, db) = own_cluster("readers", &[PRELOADED]);
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.create_consumer('reader', true)").unwrap();
    // The history takes longest: the consumers and the sequences are there before it.
    for _ in 0..30 {
        create_tasks(client, 2_000);
    }
    let read = "SELECT id FROM workflow.read_events('reader', 1000)";
    let last = *ids_of(client, read).last().unwrap();
    client.query_one("SELECT workflow.ack_events('reader', $1)", &[&last]).unwrap();
    let archive = tempfile::tempdir().unwrap();
    let file = archive.path().join("dump");
    run(program(&cluster, "pg_dump").args(["--dbname", db.url(), "--format=custom", "--file"]).arg(&file));

    let copy = Db::at(cluster.create_database("copy").unwrap());
    let mut restore = program(&cluster, "pg_restore");
    let mut restore = restore.args(["--exit-on-error", "--jobs=4", "--dbname", copy.url()]).arg(&file).spawn().unwrap();
    let (reader, starter) = (&mut copy.connect(), &mut copy.connect());
    let mut refusals = 0;
    let status = loop {
        if let Some(status) = restore.try_wait().unwrap() {
            break status;
        }
        let got = reader.query(read, &[]).map(|rows| rows.len());
        if let Err(error) = &got {
            let code = error.code().unwrap().code();
            // Its objects are created one by one.
            assert!(
                ["55000", "P0002", "42501", "42P01", "42883", "3F000", "0A000", "42704"].contains(&code),
                "{error:?}"
            );
            refusals += i32::from(code == "55000");
        }
        assert!(got.is_err(), "a part of the history was returned");
        let created = starter.query("SELECT workflow.create_consumer('new', true)", &[]);
        assert!(created.is_err(), "a consumer was created before the history was there");
    };
    assert!(status.success());
    assert!(refusals > 0, "the consumer was never there before the history");
    // Its processes end before their sessions do.
    let sessions =
        "SELECT FROM pg_stat_activity WHERE application_name = 'pg_restore' AND datname = current_database()";
    wait_until("its sessions have ended", || reader.query(sessions, &[]).unwrap().is_empty());
    reader.batch_execute("SELECT workflow.finish_copy()").unwrap();
    let expected = ids_of(client, "SELECT id FROM workflow.state_history ORDER BY id").split_off(1000);
    assert_eq!(ids_of(reader, "SELECT id FROM workflow.read_events('reader', 1000000)"), expected);
}
