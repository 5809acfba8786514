//! `list`: tables, JSON, limits, and pipes that close early.

use super::{Done, Etl, command, etl, ok, refused};
use pg_workflow_tests::*;
use serde_json::json;
use std::fs::File;
use std::process::Command;
use uuid::Uuid;

#[test]
fn lists_print_tables_or_json() {
    let db = Db::new();
    let client = &mut db.connect();
    let Etl { dag, run: etl_run, failed } = etl(client);
    client.query_one("SELECT workflow.create_dag('other', is_paused => true)", &[]).unwrap();

    let done = ok(&db, &["list", "dags", "--order-by", "name"]);
    assert_eq!(done.stderr, "");
    let table = done.table();
    assert_eq!(table[0], ["NAME", "SCHEDULE", "PAUSED", "TAGS", "CREATED", "ID"]);
    assert_eq!(table[1][..4], ["etl", "@daily", "no", "daily,core"]);
    assert_eq!(table[1][5], dag.to_string());
    assert_eq!(table[2][..4], ["other", "-", "yes", "-"]);
    let names = |args: &[&str]| -> Vec<String> {
        let args = [&["list", "dags", "--json"], args].concat();
        ok(&db, &args).json().iter().map(|dag| dag["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&["--order-by", "-name"]), ["other", "etl"]);
    assert_eq!(names(&["--paused"]), ["other"]);
    assert_eq!(names(&["--paused", "false"]), ["etl"]);
    assert_eq!(names(&["--tag", "core"]), ["etl"]);
    assert_eq!(names(&["--name-prefix", "ot"]), ["other"]);
    assert_eq!(names(&["--name-prefix", "%"]), [""; 0]);

    let done = ok(&db, &["list", "runs"]);
    let table = done.table();
    assert_eq!(table[1][..3], ["etl", "2026-11-23T00:00:00Z", "running"]);
    assert_eq!(table[1].last(), Some(&etl_run.to_string().as_str()));
    let id = dag.to_string();
    for args in [
        &["--dag", "etl"][..],
        &["--dag", &id],
        &["--state", "failed,running"],
        &["--since", "2026-11-23"],
        &["--until", "2026-11-23T00:00:01Z"],
    ] {
        let args = [&["list", "runs", "--json"], args].concat();
        let runs = ok(&db, &args).json();
        assert_eq!((runs.len(), &runs[0]["id"]), (1, &json!(etl_run)), "{args:?}");
        assert_eq!(
            (&runs[0]["conf"], &runs[0]["execution_date"]),
            (&json!({"day": 23}), &json!("2026-11-23T00:00:00.000000Z"))
        );
    }
    for args in
        [&["--dag", "other"][..], &["--state", "failed"], &["--since", "2026-11-24"], &["--until", "2026-11-23"]]
    {
        let done = ok(&db, &[&["list", "runs"], args].concat());
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", "no runs\n"), "{args:?}");
    }

    let etl_run = etl_run.to_string();
    let done = ok(&db, &["list", "tasks", "--run", &etl_run]);
    let table = done.table();
    assert_eq!(table[0], ["TASK", "STATE", "ATTEMPT", "STARTED", "DURATION", "ERROR", "ID"]);
    assert_eq!(table[1][..3], ["extract", "failed", "1/3"]);
    assert_eq!(table[2][..3], ["load", "running", "1/3"]);
    assert_eq!(table[3][..6], ["transform", "queued", "0/3", "-", "-", "-"]);
    // Headers and columns are aligned.
    for line in done.stdout.lines().skip(1) {
        for header in ["STATE", "ATTEMPT", "STARTED", "DURATION", "ERROR", "ID"] {
            let start = done.stdout.find(header).unwrap();
            assert!(line.is_char_boundary(start) && &line[start - 2..start] == "  ", "{header}: {}", done.stdout);
            assert_ne!(line.as_bytes()[start], b' ', "{header}: {}", done.stdout);
        }
    }
    let tasks = ok(&db, &["list", "tasks", "--state", "failed", "--json"]).json();
    assert_eq!((tasks.len(), &tasks[0]["id"]), (1, &json!(failed)));
    let tasks = ok(&db, &["list", "tasks", "--run", &etl_run, "--task-id", "load", "--json"]).json();
    assert_eq!((tasks.len(), &tasks[0]["state"]), (1, &json!("running")));
}

#[test]
fn list_reads_pages_up_to_its_limit() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut ids: Vec<String> = create_tasks(client, 2500).iter().map(Uuid::to_string).collect();
    let listed = |args: &[&str]| -> (Vec<String>, String) {
        let done = ok(&db, &[&["list", "tasks", "--order-by", "id", "--json"], args].concat());
        (done.json().iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect(), done.stderr)
    };
    ids.sort();
    for args in [&["--all"][..], &["--limit", "0"], &["--limit", "2500"], &["-n", "99999"]] {
        assert_eq!(listed(args), (ids.clone(), String::new()), "{args:?}");
    }
    let (some, note) = listed(&["--limit", "1100"]);
    assert_eq!(some, ids[..1100]);
    assert!(note.starts_with("1100 tasks, more with --all"), "{note}");
    let cursor = note.split_whitespace().last().unwrap();
    assert_eq!(listed(&["--cursor", cursor, "--all"]), (ids[1100..].to_vec(), String::new()));
    assert_eq!(listed(&[]).0, ids[..50]);

    let done = ok(&db, &["list", "tasks", "--all"]);
    assert_eq!(done.stdout.lines().count(), 2501);
    assert_eq!(done.stdout.matches("STATE").count(), 1, "one header");
    assert!(refused(&db, &["list", "tasks", "--cursor", "nonsense"], 2).contains("--cursor"));
}

#[test]
fn closed_pipe_is_no_error() {
    let db = Db::new();
    create_tasks(&mut db.connect(), 2500);
    let file = std::env::temp_dir().join(format!("pg-workflow-cli-{}", std::process::id()));
    let binary = server_binary();
    let commands = ["list tasks --all", "list tasks --all --json", "completions bash"];
    for command in commands {
        let script = format!("{{ {} {command}; echo $? >{}; }} | head -n 1", binary.display(), file.display());
        let mut shell = Command::new("sh");
        shell.env("DATABASE_URL", db.url()).args(["-c", &script]);
        let done = Done::of(shell.output().expect("a shell"));
        assert_eq!((done.stdout.lines().count(), done.stderr.as_str()), (1, ""), "{command}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "0\n", "{command}");
    }
    std::fs::remove_file(&file).unwrap();
    // Other write errors do count.
    let mut full = command(&db, &["list", "tasks"]);
    let full = Done::of(full.stdout(File::options().write(true).open("/dev/full").unwrap()).output().unwrap());
    assert_eq!(full.code, Some(1));
    assert!(full.stderr.starts_with("workflow-server: No space left"), "{}", full.stderr);
}
