//! Output on a terminal: color, width, control characters.

use super::{Etl, command, etl, ok, refused};
use nix::pty::{OpenptyResult, Winsize, openpty};
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use uuid::Uuid;

/// Runs a command on a terminal of this width, and returns its output with standard error.
fn on_a_terminal(mut command: Command, columns: u16) -> String {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a terminal");
    let stderr = Stdio::from(slave.try_clone().expect("a descriptor"));
    command.stdin(Stdio::null()).stdout(Stdio::from(slave)).stderr(stderr);
    let mut child = command.spawn().expect("it runs");
    // The command holds the other end of the terminal; reading ends once all copies are closed.
    drop(command);
    let (mut shown, mut buffer, mut terminal) = (Vec::new(), [0; 4096], File::from(master));
    // EIO once the other end is closed.
    while let Ok(read @ 1..) = terminal.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..read]);
    }
    assert!(child.wait().expect("it ends").success(), "{}", String::from_utf8_lossy(&shown));
    String::from_utf8(shown).expect("UTF-8").replace("\r\n", "\n")
}

#[test]
fn color_is_only_for_terminals() {
    let db = Db::new();
    let client = &mut db.connect();
    let Etl { run: etl_run, .. } = etl(client);
    let etl_run = etl_run.to_string();
    let tasks = ["list", "tasks", "--run", &etl_run];
    let red = "\u{1b}[1m\u{1b}[31mfailed";
    assert!(!ok(&db, &tasks).stdout.contains('\u{1b}'));
    assert!(!ok(&db, &["show", &etl_run]).stdout.contains('\u{1b}'));
    let shown = on_a_terminal(command(&db, &tasks), 200);
    assert!(shown.contains(red), "{shown:?}");
    assert!(ok(&db, &[&tasks[..], &["--color", "always"]].concat()).stdout.contains(red));
    let never = on_a_terminal(command(&db, &[&tasks[..], &["--color", "never"]].concat()), 200);
    assert!(!never.contains('\u{1b}') && never.contains("failed"), "{never:?}");
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb"), ("WORKFLOW_COLOR", "never")] {
        let mut command = command(&db, &tasks);
        command.env(name, value);
        let shown = on_a_terminal(command, 200);
        assert!(!shown.contains('\u{1b}') && shown.contains("failed"), "{name}: {shown:?}");
    }
}

#[test]
fn tables_fit_the_terminal_and_are_complete_in_a_pipe() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    let name = "n".repeat(300);
    let wide = "抽".repeat(150);
    client.execute("SELECT workflow.create_task_instances($1, $2)", &[&run, &vec![&name, &wide]]).unwrap();
    let id = run.to_string();
    let tasks = ["list", "tasks", "--run", &id];
    let piped = ok(&db, &tasks).stdout;
    assert!(piped.contains(&name) && piped.contains(&wide));
    let shown = on_a_terminal(command(&db, &[&tasks[..], &["--color", "never"]].concat()), 120);
    assert_eq!(shown.lines().count(), 3, "{shown}");
    let width = |line: &str| line.chars().map(|c| if c == '抽' { 2 } else { 1 }).sum::<usize>();
    for line in shown.lines().skip(1) {
        assert!(width(line) <= 120 && line.contains('…') && line.contains("queued"), "{line}");
    }
    // Ids are shown in full, so that users can copy them.
    let task = ok(&db, &[&tasks[..], &["--json"]].concat()).json()[0]["id"].as_str().unwrap().to_owned();
    assert!(on_a_terminal(command(&db, &tasks), 40).contains(&task));
}

#[test]
fn control_characters_are_escaped() {
    let db = Db::new();
    let client = &mut db.connect();
    let evil = "\u{1b}[2Jx\u{7}\u{9b}31m\u{202e}";
    let dag: Uuid = client.query_one("SELECT workflow.create_dag($1, $1)", &[&evil]).unwrap().get(0);
    let run: Uuid = client.query_one("SELECT workflow.create_dag_run($1)", &[&dag]).unwrap().get(0);
    let sql = "SELECT id FROM workflow.create_task_instances($1, $2)";
    let task: Uuid = client.query_one(sql, &[&run, &vec![evil]]).unwrap().get(0);
    let metadata = json!({"error": evil, "note": "\u{9b}"});
    Transition::of(task).from(State::Queued).to(State::Failed).metadata(metadata).run(client).unwrap();
    client.execute("SELECT workflow.append_task_log($1, $2)", &[&task, &evil]).unwrap();
    let (dag, run_id, task) = (dag.to_string(), run.to_string(), task.to_string());
    for args in [
        &["list", "dags"][..],
        &["list", "runs"],
        &["list", "tasks"],
        &["show", &dag],
        &["show", &run_id],
        &["show", &task],
        &["history", &task],
    ] {
        for format in [&[][..], &["--json"]] {
            let done = ok(&db, &[args, format].concat());
            let control = done.stdout.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(control, None, "{args:?} {}", done.stdout);
        }
    }
    assert_eq!(ok(&db, &["list", "dags", "--json"]).json()[0]["name"], evil);
    let message = refused(&db, &["show", &format!("{evil}\nsecond line")], 3);
    assert!(!message.trim_end().chars().any(char::is_control), "{message:?}");
}
