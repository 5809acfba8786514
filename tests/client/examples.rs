//! The client's examples run and print the expected output.

use pg_workflow_tests::*;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// An example that `cargo xtask test` built.
fn example(name: &str, db: &Db) -> Command {
    let path = xtask::build::Profile::Quick.dir().expect("a target directory").join("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo xtask test`", path.display());
    let mut command = Command::new(path);
    command.env("DATABASE_URL", db.url());
    command
}

/// Runs an example to its end, and returns its output.
fn output(name: &str, db: &Db) -> String {
    output_of(&mut example(name, db))
}

fn output_of(command: &mut Command) -> String {
    let done = command.output().expect("it starts");
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{command:?}: {printed}{}", String::from_utf8_lossy(&done.stderr));
    printed
}

#[test]
fn initialize_is_repeatable_and_reports_missing_extension() {
    let db = Db::new();
    let first = output("initialize", &db);
    assert!(
        first.contains(concat!("pg_workflow ", env!("CARGO_PKG_VERSION"), " is there"))
            && first.contains("DAG orders: "),
        "{first}"
    );
    assert_eq!(output("initialize", &db), first, "the same DAGs again");

    db.connect().batch_execute("DROP EXTENSION pg_workflow CASCADE").unwrap();
    let failed = example("initialize", &db).output().unwrap();
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success() && said.contains("CREATE EXTENSION pg_workflow"), "{said}");
    drop(db.without_verification());
}

#[test]
fn examples_create_follow_and_query_a_run() {
    let db = Db::new();
    let mut subscriber = example("subscribe", &db).arg("18").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(subscriber.stdout.take().unwrap()).lines();
    let consumers = "SELECT count(*) FROM workflow.consumers WHERE name = 'example'";
    let client = &mut db.connect();
    wait_until("the subscriber's consumer", || client.query_one(consumers, &[]).unwrap().get::<_, i64>(0) == 1);

    let run = output("create_and_run", &db);
    assert!(run.contains("extract: success at version 6") && run.ends_with("done\n"), "{run}");
    assert!(run.contains("transform: lost the race, it is running at version 2"), "{run}");
    assert_eq!(run.matches("Applied, Some(Skipped) at version Some(2)").count(), 3, "{run}");

    let followed: Vec<String> = lines.map(|line| line.unwrap()).collect();
    assert!(subscriber.wait().unwrap().success());
    assert_eq!(followed.len(), 18, "{followed:?}");
    assert!(followed.contains(&"extract is failed at version 3".to_owned()), "{followed:?}");
    assert!(followed.contains(&"the run is success at version 3".to_owned()), "{followed:?}");

    let history = output("query_history", &db);
    assert!(history.contains("the latest run of orders is success"), "{history}");
    assert!(history.contains("6: running → success by postgres") && history.contains("it was queued"), "{history}");
    assert_eq!(history.matches("skipped: ").count(), 3, "{history}");
    assert!(history.contains("1 of its runs succeeded"), "{history}");
    assert!(history.ends_with("disagree in 0 places\n"), "{history}");
}

#[test]
fn worker_runs_commands() {
    let db = Db::new();
    let printed = output_of(example("worker", &db).arg("3"));
    for line in [
        "multiply, attempt 1: {\"printed\":\"42\"}",
        "count, attempt 1: {\"printed\":\"100\"}",
        "fail, attempt 1: exit status: 2: ls",
    ] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    let sql = "SELECT string_agg(task_id || ' ' || state, ', ' ORDER BY task_id) FROM workflow.task_instances";
    let states: String = db.connect().query_one(sql, &[]).unwrap().get(0);
    assert_eq!(states, "count success, fail failed, multiply success");
}
