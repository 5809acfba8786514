//! The command line: what people see, what programs read, and the exit codes.

use nix::pty::{OpenptyResult, Winsize, openpty};
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use uuid::Uuid;
use xtask::stack::server::Server;

fn command(db: &Db, args: &[&str]) -> Command {
    let mut command = Command::new(server_binary());
    command.env_clear().env("DATABASE_URL", db.url()).env("TERM", "xterm-256color").args(args);
    command
}

/// What a command has printed, and its exit code.
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

/// Runs a command that must go well.
fn ok(db: &Db, args: &[&str]) -> Done {
    let done = run(db, args);
    assert_eq!(done.code, Some(0), "{args:?}: {}", done.stderr);
    done
}

/// Runs a command that must fail, with this exit code and one line that says why.
fn refused(db: &Db, args: &[&str], code: i32) -> String {
    let done = run(db, args);
    assert_eq!((done.code, done.stdout.as_str()), (Some(code), ""), "{args:?}: {}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    if code != 2 {
        assert!(done.stderr.starts_with("workflow-server: ") && done.stderr.lines().count() == 1, "{}", done.stderr);
    }
    done.stderr
}

/// Runs a command on a terminal of this width; what came out, with standard error.
fn on_a_terminal(mut command: Command, columns: u16) -> String {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a terminal");
    let stderr = Stdio::from(slave.try_clone().expect("a descriptor"));
    command.stdin(Stdio::null()).stdout(Stdio::from(slave)).stderr(stderr);
    let mut child = command.spawn().expect("it runs");
    // It holds the terminal's other end, which must be closed to see the end.
    drop(command);
    let (mut shown, mut buffer, mut terminal) = (Vec::new(), [0; 4096], File::from(master));
    // EIO when nobody is at the other end any more.
    while let Ok(read @ 1..) = terminal.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..read]);
    }
    assert!(child.wait().expect("it ends").success(), "{}", String::from_utf8_lossy(&shown));
    String::from_utf8(shown).expect("UTF-8").replace("\r\n", "\n")
}

/// A DAG "etl" with a run of three tasks: one has failed with an error, one runs, one is queued.
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
    transition(client, "dag_run", run, State::Queued, State::Running).unwrap();
    for task in &tasks[..2] {
        transition(client, "task_instance", *task, State::Queued, State::Running).unwrap();
    }
    let sql = "SELECT workflow.transition_task_instance($1, 'running', 'failed', $2)";
    let metadata = json!({"error": "no such file\n  at line 7", "worker": "w-1"});
    client.execute(sql, &[&tasks[0], &metadata]).unwrap();
    client.execute("SELECT workflow.append_task_log($1, 'opening', 'INFO')", &[&tasks[0]]).unwrap();
    client.execute("SELECT workflow.append_task_log($1, E'Traceback\\n  line 7', 'ERROR')", &[&tasks[0]]).unwrap();
    Etl { dag, run, failed: tasks[0] }
}

#[test]
fn lists_are_tables_for_people_and_json_for_programs() {
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
    assert_eq!(table[0], ["TASK", "STATE", "TRY", "STARTED", "DURATION", "ERROR", "ID"]);
    assert_eq!(table[1][..3], ["extract", "failed", "1/3"]);
    assert_eq!(table[2][..3], ["load", "running", "1/3"]);
    assert_eq!(table[3][..6], ["transform", "queued", "0/3", "-", "-", "-"]);
    // Each column begins where its header does.
    for line in done.stdout.lines().skip(1) {
        for header in ["STATE", "TRY", "STARTED", "DURATION", "ERROR", "ID"] {
            let place = done.stdout.find(header).unwrap();
            assert!(line.is_char_boundary(place) && &line[place - 2..place] == "  ", "{header}: {}", done.stdout);
            assert_ne!(line.as_bytes()[place], b' ', "{header}: {}", done.stdout);
        }
    }
    let tasks = ok(&db, &["list", "tasks", "--state", "failed", "--json"]).json();
    assert_eq!((tasks.len(), &tasks[0]["id"]), (1, &json!(failed)));
    let tasks = ok(&db, &["list", "tasks", "--run", &etl_run, "--task-id", "load", "--json"]).json();
    assert_eq!((tasks.len(), &tasks[0]["state"]), (1, &json!("running")));
}

#[test]
fn a_list_goes_on_for_as_long_as_it_is_asked_to() {
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
    assert!(note.starts_with("1100 tasks, and there are more: --all"), "{note}");
    let cursor = note.split_whitespace().last().unwrap();
    assert_eq!(listed(&["--cursor", cursor, "--all"]), (ids[1100..].to_vec(), String::new()));
    assert_eq!(listed(&[]).0, ids[..50]);

    let done = ok(&db, &["list", "tasks", "--all"]);
    assert_eq!(done.stdout.lines().count(), 2501);
    assert_eq!(done.stdout.matches("STATE").count(), 1, "one header");
    assert!(refused(&db, &["list", "tasks", "--cursor", "nonsense"], 2).contains("--cursor"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
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
    // Another failure to write is one.
    let mut full = command(&db, &["list", "tasks"]);
    let full = Done::of(full.stdout(File::options().write(true).open("/dev/full").unwrap()).output().unwrap());
    assert_eq!(full.code, Some(1));
    assert!(full.stderr.starts_with("workflow-server: No space left"), "{}", full.stderr);
}

#[test]
fn show_finds_out_what_an_id_is() {
    let db = Db::new();
    let client = &mut db.connect();
    let Etl { dag, run: etl_run, failed } = etl(client);

    for name in ["etl", &dag.to_string()] {
        let shown = ok(&db, &["show", name]).stdout;
        assert!(shown.starts_with("dag         etl\nid          "), "{shown}");
        assert!(shown.contains("\nDescription\nloads orders\n") && shown.contains("\nLatest runs\nDAG"), "{shown}");
        let json = &ok(&db, &["show", name, "--json"]).json()[0];
        assert_eq!((&json["entity_type"], &json["schedule"]), (&json!("dag"), &json!("@daily")));
        assert_eq!(json["latest_runs"][0]["id"], json!(etl_run));
    }
    let id = etl_run.to_string();
    let shown = ok(&db, &["show", &id]);
    let words = shown.table();
    assert!(
        words.contains(&vec!["dag", "etl"]) && words.contains(&vec!["conf", r#"{"day":"#, "23}"]),
        "{}",
        shown.stdout
    );
    assert!(shown.stdout.contains("\nTasks\n1 queued, 1 running, 1 failed\n\nTASK"), "{}", shown.stdout);
    let order: Vec<&str> = words.iter().rev().take(3).rev().map(|row| row[0]).collect();
    assert_eq!(order, ["extract", "load", "transform"], "what failed first, then what runs");
    let json = &ok(&db, &["show", &id, "--json"]).json()[0];
    assert_eq!(json["task_states"], json!({"queued": 1, "running": 1, "failed": 1}));
    assert_eq!((&json["entity_type"], &json["dag_name"]), (&json!("dag_run"), &json!("etl")));

    let id = failed.to_string();
    let shown = ok(&db, &["show", &id]).stdout;
    assert!(shown.contains("\nError\nno such file\n  at line 7\n"), "{shown}");
    assert!(shown.contains("ERROR     Traceback\n      line 7\n"), "{shown}");
    assert!(shown.contains("\nLatest moves\nCHANGED"), "{shown}");
    let json = &ok(&db, &["show", &id, "--json"]).json()[0];
    assert_eq!((&json["entity_type"], &json["task_id"]), (&json!("task_instance"), &json!("extract")));
    assert_eq!(json["latest_logs"][0]["message"], "opening");
    assert_eq!(json["latest_history"][0]["new_state"], "failed");
}

#[test]
fn history_is_newest_first_and_of_the_deleted_too() {
    let db = Db::new();
    let client = &mut db.connect();
    let Etl { dag, failed, .. } = etl(client);
    client.execute("DELETE FROM workflow.dags WHERE id = $1", &[&dag]).unwrap();
    let id = failed.to_string();
    let done = ok(&db, &["history", &id]);
    let table = done.table();
    assert_eq!(table[0], ["CHANGED", "VERSION", "FROM", "TO", "ACTOR", "METADATA"]);
    assert_eq!(table[1][1..5], ["3", "running", "failed", "postgres"]);
    assert!(table[1][5..].concat().contains(r#""worker":"w-1""#), "{}", done.stdout);
    assert_eq!(table[3][1..], ["1", "-", "queued", "postgres", "-"]);
    let versions = |args: &[&str]| -> Vec<Value> {
        let done = ok(&db, &[&["history", &id, "--json"], args].concat());
        done.json().iter().map(|event| event["version"].clone()).collect()
    };
    assert_eq!(versions(&[]), [3, 2, 1]);
    assert_eq!(versions(&["--order-by", "id"]), [1, 2, 3]);
    assert_eq!(versions(&["--limit", "1"]), [3]);
    assert!(refused(&db, &["show", &id], 3).contains(&format!("workflow-server history {id}")));
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let db = Db::new();
    let dag: Uuid = db.connect().query_one("SELECT workflow.create_dag('etl')", &[]).unwrap().get(0);
    let nobody = Uuid::new_v4().to_string();
    for args in [
        &["show", &nobody][..],
        &["show", "nobody"],
        &["history", &nobody],
        &["list", "runs", "--dag", "nobody"],
        &["list", "runs", "--dag", &nobody],
        &["list", "tasks", "--run", &nobody],
        &["watch", "--dag", "nobody"],
        &["watch", "--run", &nobody],
    ] {
        assert!(refused(&db, args, 3).contains(args.last().unwrap()), "{args:?}");
    }
    assert!(refused(&db, &["history", &dag.to_string()], 3).contains("list runs --dag"));
    for args in [
        &[][..],
        &["lst"],
        &["list"],
        &["list", "dags", "--limit", "-1"],
        &["list", "dags", "--limit", "1", "--all"],
        &["list", "dags", "--paused", "perhaps"],
        &["list", "dags", "--order-by", "color"],
        &["list", "runs", "--state", "runing"],
        &["list", "runs", "--since", "yesterday"],
        &["list", "tasks", "--run", "etl"],
        &["history", "etl"],
        &["migrate"],
        &["migrate", "to"],
        &["completions", "ksh"],
        &["--color", "red", "verify"],
    ] {
        refused(&db, args, 2);
    }
    let hint = refused(&db, &["list", "runs", "--state", "runing"], 2);
    assert!(hint.contains("running"), "{hint}");

    let absent = "postgres://postgres@127.0.0.1:1/workflow";
    for args in [&["list", "dags"][..], &["show", "etl"], &["history", &nobody], &["verify"], &["migrate", "up"]] {
        let args = [args, &["--database-url", absent]].concat();
        assert!(refused(&db, &args, 1).contains("DATABASE_URL"), "{args:?}");
    }
    assert_eq!(ok(&db, &["--version"]).stdout, format!("workflow-server {}\n", env!("CARGO_PKG_VERSION")));
    for command in ["list", "show", "history", "watch", "verify", "migrate"] {
        assert!(ok(&db, &[command, "--help"]).stdout.contains("workflow-server"), "{command}");
    }
    let help = ok(&db, &["--help"]).stdout;
    for code in ["0  done", "1  something", "2  the command line", "3  there is no", "4  verify found"] {
        assert!(help.contains(code), "{code}");
    }
}

#[test]
fn colour_is_for_terminals() {
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
fn tables_fit_the_terminal_and_are_whole_in_a_pipe() {
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
    // Ids are there to be copied.
    let task = ok(&db, &[&tasks[..], &["--json"]].concat()).json()[0]["id"].as_str().unwrap().to_owned();
    assert!(on_a_terminal(command(&db, &tasks), 40).contains(&task));
}

#[test]
fn control_characters_are_not_obeyed() {
    let db = Db::new();
    let client = &mut db.connect();
    let evil = "\u{1b}[2Jx\u{7}\u{9b}31m\u{202e}";
    let dag: Uuid = client.query_one("SELECT workflow.create_dag($1, $1)", &[&evil]).unwrap().get(0);
    let run: Uuid = client.query_one("SELECT workflow.create_dag_run($1)", &[&dag]).unwrap().get(0);
    let sql = "SELECT id FROM workflow.create_task_instances($1, $2)";
    let task: Uuid = client.query_one(sql, &[&run, &vec![evil]]).unwrap().get(0);
    let metadata = json!({"error": evil, "note": "\u{9b}"});
    let sql = "SELECT workflow.transition_task_instance($1, 'queued', 'failed', $2)";
    client.execute(sql, &[&task, &metadata]).unwrap();
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
            let obeyed = done.stdout.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(obeyed, None, "{args:?} {}", done.stdout);
        }
    }
    assert_eq!(ok(&db, &["list", "dags", "--json"]).json()[0]["name"], evil);
    let message = refused(&db, &["show", &format!("{evil}\nsecond line")], 3);
    assert!(!message.trim_end().chars().any(char::is_control), "{message:?}");
}

#[test]
fn verify_exits_with_4_where_history_was_falsified() {
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    let task = create_task(client);
    let done = ok(&db, &["verify"]);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", "rows and history agree\n"));
    client
        .batch_execute(
            "SET session_replication_role = replica; UPDATE workflow.task_instances SET state = 'success';
             ALTER DATABASE CURRENT_DATABASE_NAME SET statement_timeout = '1ms'"
                .replace("CURRENT_DATABASE_NAME", db.url().rsplit('/').next().unwrap().split('?').next().unwrap())
                .as_str(),
        )
        .unwrap();
    // The database's own limit on statements does not end it.
    let done = run(&db, &["verify"]);
    assert_eq!(done.code, Some(4), "{}", done.stderr);
    let table = done.table();
    assert_eq!(table[0].join(" "), "ENTITY TYPE ENTITY ID PROBLEM DETAIL");
    let of_task = ["task_instance", &task.to_string(), "row", "and", "history", "disagree"];
    assert!(table.iter().any(|row| row.starts_with(&of_task)), "{table:?}");
    // That of the row, and those of the counts of the two states.
    assert!(done.stderr.starts_with("workflow-server: rows and history disagree in 3 places"), "{}", done.stderr);
    let done = run(&db, &["verify", "--json"]);
    assert_eq!(done.code, Some(4));
    assert!(done.json().iter().any(|line| line["entity_id"] == json!(task)));
}

#[test]
fn watch_shows_only_what_was_asked_for() {
    let db = Db::new();
    let client = &mut db.connect();
    let Etl { run: etl_run, .. } = etl(client);
    let id = etl_run.to_string();
    for filter in [["--dag", "etl"], ["--run", &id]] {
        let args = [&["watch", "--json"][..], &filter].concat();
        let watch = Server::start("watch", &server_binary(), &args, &[("DATABASE_URL", db.url())]).unwrap();
        // It may not be there yet.
        let shown = || std::fs::read_to_string(watch.log()).unwrap_or_default();
        // Whether it listens yet cannot be seen from outside: things happen until it shows some.
        let mut count = 0;
        wait_until("some lines", || {
            create_task(client);
            count += 1;
            let names = vec![format!("{} {count}", filter[0])];
            client.execute("SELECT workflow.create_task_instances($1, $2)", &[&etl_run, &names]).unwrap();
            shown().lines().count() >= 3
        });
        for line in shown().split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let event: Value = serde_json::from_str(line).unwrap();
            assert_eq!(event["dag_run_id"], json!(etl_run), "{filter:?}");
        }
        assert_eq!(watch.terminate().unwrap().code(), Some(0));
    }
}

/// The version that is built here.
const NEWEST: &str = env!("CARGO_PKG_VERSION");
/// The latest released version.
const PREVIOUS: &str = "0.2.0";

/// Scripts to a version that does not exist, as long as this lives.
struct Scripts(Vec<PathBuf>);

impl Scripts {
    fn write(folder: &Path) -> Scripts {
        let steps = [format!("{NEWEST}--99.0.0"), format!("99.0.0--{NEWEST}")];
        let files = steps.map(|step| folder.join(format!("pg_workflow--{step}.sql")));
        let sql = ["CREATE VIEW workflow.news AS SELECT 1 AS one;", "DROP VIEW workflow.news;"];
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
fn migrate_installs_updates_and_goes_back() {
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    client.batch_execute("DROP EXTENSION pg_workflow CASCADE; DROP SCHEMA IF EXISTS workflow CASCADE").unwrap();
    let versions = |db: &Db| ok(db, &["migrate", "version", "--json"]).json()[0].clone();
    let mut before = versions(&db);
    // Another test has its own version there, for a while.
    before["available"].as_array_mut().unwrap().truncate(3);
    let available = json!(["0.1.0", PREVIOUS, NEWEST]);
    let nothing = json!({"installed": null, "library": null, "default": NEWEST, "available": available});
    assert_eq!(before, nothing);
    assert!(refused(&db, &["list", "dags"], 1).contains("migrate up"));
    assert!(refused(&db, &["migrate", "down"], 1).contains("migrate up"));
    let plan = ok(&db, &["migrate", "plan"]).stdout;
    assert_eq!(plan, format!("install pg_workflow {NEWEST}\n  CREATE EXTENSION pg_workflow VERSION '{NEWEST}';\n"));
    assert_eq!(versions(&db)["installed"], Value::Null, "a plan does nothing");

    // Several programs that all migrate at their start.
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
    let there = format!("pg_workflow is at {NEWEST} already\n");
    assert_eq!(said[0], format!("done: install pg_workflow {NEWEST}\n"));
    assert!(said[1..].iter().all(|said| *said == there), "{said:?}");
    assert_eq!(ok(&db, &["migrate", "plan"]).stdout, there);
    assert_eq!((&versions(&db)["installed"], &versions(&db)["library"]), (&json!(NEWEST), &json!(NEWEST)));
    assert_eq!(ok(&db, &["migrate", "version"]).table()[0], ["installed", NEWEST]);
    assert!(refused(&db, &["migrate", "to", "9.9.9"], 1).contains("there are: 0.1.0, "));

    assert_eq!(ok(&db, &["migrate", "down"]).stdout, format!("done: update pg_workflow {NEWEST} → {PREVIOUS}\n"));
    assert_eq!(ok(&db, &["migrate", "down"]).stdout, format!("done: update pg_workflow {PREVIOUS} → 0.1.0\n"));
    assert!(refused(&db, &["migrate", "down"], 1).contains("0.1.0 is the oldest"));
    assert_eq!(ok(&db, &["migrate", "up"]).stdout, format!("done: update pg_workflow 0.1.0 → {NEWEST}\n"));
}

#[test]
fn a_migration_that_fails_has_done_nothing() {
    let db = Db::new();
    let client = &mut db.connect();
    let installed = |db: &Db| ok(db, &["migrate", "version", "--json"]).json()[0]["installed"].clone();
    let scripts = Scripts::write(&xtask::setup::toolchain().unwrap().postgres.sharedir.join("extension"));
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
fn only_a_superuser_migrates() {
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
fn completions_are_scripts_that_the_shell_reads() {
    let db = Db::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ok(&db, &["completions", shell]).stdout;
        for word in ["list", "migrate", "name-prefix"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        // The other two do not complete values.
        if ["bash", "zsh", "fish"].contains(&shell) {
            assert!(script.contains("upstream_failed") && script.contains("execution_date"), "{shell}");
        }
        if shell == "bash" {
            let file = std::env::temp_dir().join(format!("pg-workflow-completions-{}", std::process::id()));
            std::fs::write(&file, script).unwrap();
            let read = Command::new("bash").arg("-n").arg(&file).output().expect("bash");
            std::fs::remove_file(&file).unwrap();
            assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        }
    }
}
