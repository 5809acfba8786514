//! `migrate`: up, down, failure, and rights.

use super::{Done, command, ok, refused};
use pg_workflow_tests::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Stdio;
use uuid::Uuid;

/// The version of this build.
const NEWEST: &str = env!("CARGO_PKG_VERSION");
/// The latest released version.
const PREVIOUS: &str = "0.2.0";

/// Update scripts to a version that does not exist, and back; removed with the value.
struct Scripts(Vec<PathBuf>);

impl Scripts {
    fn write(version: &str, sql: [&str; 2]) -> Scripts {
        let folder = xtask::setup::toolchain().unwrap().postgres.sharedir.join("extension");
        let steps = [format!("{NEWEST}--{version}"), format!("{version}--{NEWEST}")];
        let files = steps.map(|step| folder.join(format!("pg_workflow--{step}.sql")));
        files.iter().zip(sql).for_each(|(file, sql)| std::fs::write(file, sql).expect("a script"));
        Scripts(files.to_vec())
    }
}

impl Drop for Scripts {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[test]
fn migrate_installs_updates_and_downgrades() {
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    client.batch_execute("DROP EXTENSION pg_workflow CASCADE; DROP SCHEMA IF EXISTS workflow CASCADE").unwrap();
    let versions = |db: &Db| ok(db, &["migrate", "version", "--json"]).json()[0].clone();
    let mut before = versions(&db);
    // Another test may have installed its own version meanwhile.
    before["available"].as_array_mut().unwrap().truncate(3);
    let available = json!(["0.1.0", PREVIOUS, NEWEST]);
    let nothing = json!({"installed": null, "library": null, "default": NEWEST, "available": available});
    assert_eq!(before, nothing);
    assert!(refused(&db, &["list", "dags"], 1).contains("migrate up"));
    assert!(refused(&db, &["migrate", "down"], 1).contains("migrate up"));
    let plan = ok(&db, &["migrate", "plan"]).stdout;
    assert_eq!(plan, format!("install pg_workflow {NEWEST}\n  CREATE EXTENSION pg_workflow VERSION '{NEWEST}';\n"));
    assert_eq!(versions(&db)["installed"], Value::Null, "a plan does nothing");

    // Several programs migrate at the same time.
    let children: Vec<_> = (0..4)
        .map(|_| command(&db, &["migrate", "up"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let mut said: Vec<String> = Vec::new();
    for child in children {
        let done = Done::of(child.wait_with_output().unwrap());
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        said.push(done.stdout);
    }
    said.sort();
    let there = format!("pg_workflow is already at {NEWEST}\n");
    assert_eq!(said[0], format!("done: install pg_workflow {NEWEST}\n"));
    assert!(said[1..].iter().all(|said| *said == there), "{said:?}");
    assert_eq!(ok(&db, &["migrate", "plan"]).stdout, there);
    assert_eq!((&versions(&db)["installed"], &versions(&db)["library"]), (&json!(NEWEST), &json!(NEWEST)));
    assert_eq!(ok(&db, &["migrate", "version"]).table()[0], ["installed", NEWEST]);
    assert!(refused(&db, &["migrate", "to", "9.9.9"], 1).contains("available: 0.1.0, "));

    assert_eq!(ok(&db, &["migrate", "down"]).stdout, format!("done: update pg_workflow {NEWEST} → {PREVIOUS}\n"));
    assert_eq!(ok(&db, &["migrate", "down"]).stdout, format!("done: update pg_workflow {PREVIOUS} → 0.1.0\n"));
    assert!(refused(&db, &["migrate", "down"], 1).contains("0.1.0 is the oldest"));
    assert_eq!(ok(&db, &["migrate", "up"]).stdout, format!("done: update pg_workflow 0.1.0 → {PREVIOUS} → {NEWEST}\n"));
}

#[test]
fn failed_migration_changes_nothing() {
    let db = Db::new();
    let client = &mut db.connect();
    let installed = |db: &Db| ok(db, &["migrate", "version", "--json"]).json()[0]["installed"].clone();
    let scripts =
        Scripts::write("99.0.0", ["CREATE VIEW workflow.news AS SELECT 1 AS one;", "DROP VIEW workflow.news;"]);
    assert_eq!(ok(&db, &["migrate", "to", "99.0.0"]).stdout, format!("done: update pg_workflow {NEWEST} → 99.0.0\n"));
    client.query_one("SELECT one FROM workflow.news", &[]).unwrap();
    assert_eq!(ok(&db, &["migrate", "down"]).stdout, format!("done: update pg_workflow 99.0.0 → {NEWEST}\n"));
    assert!(client.query_one("SELECT one FROM workflow.news", &[]).is_err());
    ok(&db, &["migrate", "to", "99.0.0"]);
    std::fs::write(&scripts.0[1], "DROP VIEW workflow.news; SELECT 1/0;").unwrap();
    assert!(refused(&db, &["migrate", "down"], 1).contains("division by zero"));
    assert_eq!(installed(&db), "99.0.0");
    client.query_one("SELECT one FROM workflow.news", &[]).unwrap();
    std::fs::remove_file(&scripts.0[1]).unwrap();
    assert!(refused(&db, &["migrate", "to", NEWEST], 1).contains("no scripts lead from pg_workflow 99.0.0"));
}

#[test]
fn only_superusers_can_migrate() {
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    let role = format!("plain_{}", Uuid::new_v4().simple());
    client.batch_execute(&format!("DROP EXTENSION pg_workflow CASCADE; CREATE ROLE {role} LOGIN")).unwrap();
    let url = db.url().replacen("postgres@", &format!("{role}@"), 1);
    assert_ne!(url, db.url());
    let message = refused(&db, &["migrate", "up", "--database-url", &url], 1);
    assert!(message.contains("superuser"), "{message}");
    client.batch_execute(&format!("DROP ROLE {role}")).unwrap();
}

#[test]
fn advisory_lock_of_any_role_delays_no_migration() {
    let db = Db::new().without_verification();
    let mut other = db.connect();
    let mut held = other.transaction().unwrap();
    held.batch_execute("SELECT pg_advisory_xact_lock(hashtext('pg_workflow migrate'))").unwrap();
    ok(&db, &["migrate", "down"]);
}

#[test]
fn migration_names_the_session_that_holds_a_lock() {
    let db = Db::new();
    let _scripts = Scripts::write(
        "98.0.0",
        ["ALTER TABLE workflow.dags ADD COLUMN news text;", "ALTER TABLE workflow.dags DROP COLUMN news;"],
    );
    let mut other = db.connect();
    other.batch_execute("SET application_name = 'reports'").unwrap();
    let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let mut held = other.transaction().unwrap();
    held.batch_execute("LOCK TABLE workflow.dags IN ACCESS SHARE MODE").unwrap();
    let message = refused(&db, &["--log", "off", "migrate", "to", "98.0.0", "--wait", "2"], 1);
    for part in [format!("process {pid} "), "role postgres".to_owned(), "\"reports\"".to_owned()] {
        assert!(message.contains(&part), "{part}: {message}");
    }

    // It continues when the lock is released, and writers continue meanwhile.
    let waiting =
        command(&db, &["migrate", "to", "98.0.0"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let waits =
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let client = &mut db.connect();
    wait_until("the migration waits", || client.query_one(waits, &[]).unwrap().get(0));
    client.batch_execute("SELECT workflow.create_dag('meanwhile')").unwrap();
    held.commit().unwrap();
    let done = Done::of(waiting.wait_with_output().unwrap());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("waiting for locks"), "{}", done.stderr);
    ok(&db, &["migrate", "to", NEWEST]);
}
