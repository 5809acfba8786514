//! The worker that README.md shows runs every task exactly once, with others beside it.

use crate::markdown::Page;
use pg_workflow_tests::{Db, create_run};
use std::process::{Command, Stdio};
use uuid::Uuid;
use xtask::setup::pypi;
use xtask::stack::roles;

pub fn workers_run_every_task_once() {
    let Some(python) = pypi::CLIENTS.find() else {
        eprintln!("skipped: no Python with psycopg and the other packages");
        return;
    };
    let blocks = Page::read("README.md").blocks();
    let mut scripts = blocks.iter().filter(|block| block.language == "python" && block.text.contains("claim_tasks"));
    let script = scripts.next().expect("a worker in README.md");
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
            worker.args(["-c", &script.text]).env("DATABASE_URL", db.url_as(roles::SCHEDULER));
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
