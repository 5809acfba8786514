//! The worker that README.md shows runs every task exactly once, with others beside it.

use crate::markdown::Page;
use pg_workflow_tests::{Db, create_tasks};
use std::process::{Command, Stdio};
use xtask::setup::pypi;
use xtask::stack::roles;

pub fn workers_run_every_task_once() {
    let Some(python) = pypi::CLIENTS.find() else {
        eprintln!("skipped: no Python with psycopg and the other packages");
        return;
    };
    let blocks = Page::read("README.md").blocks();
    let mut scripts = blocks.iter().filter(|block| block.language == "python");
    let script = scripts.next().expect("a worker in README.md");
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute(roles::SQL).expect("roles");
    let tasks = create_tasks(client, 40);
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
