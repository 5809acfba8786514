//! The command line: output for people and for programs, and exit codes.

mod claims;
mod completions;
mod exit_codes;
mod lists;
mod migrate;
mod operating;
mod passwords;
mod rerun;
mod show;
mod terminal;
mod watch;
mod why;

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use serde_json::{Value, json};
use std::process::{Command, Output};
use uuid::Uuid;

fn command(db: &Db, args: &[&str]) -> Command {
    let mut command = Command::new(server_binary());
    command.env_clear().env("DATABASE_URL", db.url()).env("TERM", "xterm-256color").args(args);
    command
}

/// The output of a command, and its exit code.
struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Done {
    fn of(output: Output) -> Done {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The words of each line.
    fn table(&self) -> Vec<Vec<&str>> {
        self.stdout.lines().map(|line| line.split_whitespace().collect()).collect()
    }

    fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }
}

fn run(db: &Db, args: &[&str]) -> Done {
    Done::of(command(db, args).output().expect("it runs"))
}

/// Runs a command that must succeed.
fn ok(db: &Db, args: &[&str]) -> Done {
    let done = run(db, args);
    assert_eq!(done.code, Some(0), "{args:?}: {}", done.stderr);
    done
}

/// Runs a command that must fail with this exit code, and returns its message of one line.
fn refused(db: &Db, args: &[&str], code: i32) -> String {
    let done = run(db, args);
    assert_eq!((done.code, done.stdout.as_str()), (Some(code), ""), "{args:?}: {}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    if code != 2 {
        assert!(done.stderr.starts_with("workflow-server: ") && done.stderr.lines().count() == 1, "{}", done.stderr);
    }
    done.stderr
}

/// A DAG "etl" with a run of three tasks: one failed with an error, one is running, one is queued.
struct Etl {
    dag: Uuid,
    run: Uuid,
    failed: Uuid,
}

fn etl(client: &mut Client) -> Etl {
    let sql = "SELECT workflow.create_dag('etl', 'loads orders', '@daily', tags => '[\"daily\", \"core\"]')";
    let dag: Uuid = client.query_one(sql, &[]).unwrap().get(0);
    let sql = "SELECT workflow.create_dag_run($1, '2026-11-23 00:00+00', '{\"day\": 23}')";
    let run: Uuid = client.query_one(sql, &[&dag]).unwrap().get(0);
    let sql =
        "SELECT id FROM workflow.create_task_instances($1, ARRAY['extract', 'load', 'transform'], 3) ORDER BY task_id";
    let tasks: Vec<Uuid> = client.query(sql, &[&run]).unwrap().iter().map(|row| row.get(0)).collect();
    Transition::of_run(run).from(State::Queued).to(State::Running).run(client).unwrap();
    for task in &tasks[..2] {
        start_task(client, *task);
    }
    let metadata = json!({"error": "no such file\n  at line 7", "worker": "w-1"});
    Transition::of(tasks[0]).from(State::Running).to(State::Failed).metadata(metadata).run(client).unwrap();
    client.execute("SELECT workflow.append_task_log($1, 'opening', 'INFO')", &[&tasks[0]]).unwrap();
    client.execute("SELECT workflow.append_task_log($1, E'Traceback\\n  line 7', 'ERROR')", &[&tasks[0]]).unwrap();
    Etl { dag, run, failed: tasks[0] }
}
