//! The worker that README.md shows runs every task exactly once, with others beside it.

use crate::markdown::Page;
use pg_workflow_tests::{Db, create_run};
use std::process::{Command, Stdio};
use uuid::Uuid;
use xtask::setup::pypi;
use xtask::stack::roles;

/// Returns the script, and a Python to run it.
fn find() -> Option<(std::path::PathBuf, String)> {
    let Some(python) = pypi::CLIENTS.find() else {
        eprintln!("skipped: no Python with psycopg and the other packages");
        return None;
    };
    let blocks = Page::read("README.md").blocks();
    let mut scripts = blocks.iter().filter(|block| block.language == "python" && block.text.contains("claim_tasks"));
    Some((python, scripts.next().expect("a worker in README.md").text.clone()))
}

/// A task is moved by hand, and then its work fails.
pub fn worker_goes_on_after_a_failure_of_a_lost_claim() {
    let Some((python, script)) = find() else { return };
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute(roles::SQL).expect("roles");
    let (_, run) = create_run(client);
    let sql = "SELECT FROM workflow.create_task_instances($1, '{lost,later}', queue => 'default')";
    client.execute(sql, &[&run]).expect("tasks");
    let work = "print(\"running\", name)";
    let lose = "lose(conn, name)";
    let define = "def lose(conn, name):
    if name == 'lost':
        conn.execute(\"UPDATE workflow.task_instances SET state = 'failed' WHERE task_id = 'lost'\")
        raise ValueError(name)
";
    assert!(script.contains(work));
    let script = format!("{define}{}", script.replace(work, lose));
    let output = Command::new(&python).args(["-c", &script]).env("DATABASE_URL", db.url_as(roles::SCHEDULER)).output();
    let output = output.expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "lost lost\n");
    let sql = "SELECT state FROM workflow.task_instances WHERE task_id = 'later'";
    assert_eq!(client.query_one(sql, &[]).expect("a state").get::<_, String>(0), "success");
}

pub fn workers_run_every_task_once() {
    let Some((python, script)) = find() else { return };
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute(roles::SQL).expect("roles");
    let (_, run) = create_run(client);
    let names: Vec<String> = (0..40).map(|n| format!("task_{n}")).collect();
    let sql = "SELECT id FROM workflow.create_task_instances($1, $2, queue => 'default')";
    let tasks: Vec<Uuid> = client.query(sql, &[&run, &names]).expect("tasks").iter().map(|row| row.get(0)).collect();
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let mut worker = Command::new(&python);
            worker.args(["-c", &script]).env("DATABASE_URL", db.url_as(roles::SCHEDULER));
            worker.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python starts")
        })
        .collect();
    let mut ran = Vec::new();
    for worker in workers {
        let output = worker.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ran.extend(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned));
    }
    ran.sort();
    ran.dedup();
    assert_eq!(ran.len(), tasks.len(), "{ran:?}");
    let sql = "SELECT count(*) FROM workflow.task_instances WHERE state = 'success' AND version = 3 AND try_number = 1";
    assert_eq!(client.query_one(sql, &[]).expect("a count").get::<_, i64>(0), tasks.len() as i64);
}
