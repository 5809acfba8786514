//! `rerun`: failed tasks run again.

use super::{ok, refused};
use pg_workflow_tests::*;
use uuid::Uuid;

#[test]
fn rerun_shows_the_tasks_that_run_again() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    let sql = "SELECT id::text FROM workflow.create_task_instances($1, '{extract,load,check}',
        depends_on => '{\"load\": [\"extract\"]}')";
    let ids: Vec<String> = client.query(sql, &[&run]).unwrap().iter().map(|row| row.get(0)).collect();
    let moves = "UPDATE workflow.task_instances SET state = 'running' WHERE task_id <> 'load';
                 UPDATE workflow.task_instances SET state = 'failed' WHERE task_id <> 'load'";
    client.batch_execute(moves).unwrap();
    let run = run.to_string();

    let shown = ok(&db, &["rerun", &run, "--dry-run"]);
    let expected = [
        vec!["TASK", "WAS", "IS", "NEXT", "ID"],
        vec!["extract", "failed", "retrying", "may", "run", &ids[0]],
        vec!["load", "failed", "retrying", "waits", &ids[1]],
        vec!["check", "failed", "retrying", "may", "run", &ids[2]],
    ];
    assert_eq!(shown.table(), expected);
    let one = ok(&db, &["rerun", &run, "--task", "extract", "--no-downstream", "--json", "--dry-run"]).json();
    assert_eq!((one.len(), &one[0]["task_id"], &one[0]["is_ready"]), (1, &"extract".into(), &true.into()));
    assert!(refused(&db, &["rerun", &run, "--task", "load"], 1).contains("its parents would not let it run"));
    let states = |client: &mut postgres::Client| {
        let sql = "SELECT state FROM workflow.task_instances ORDER BY id";
        client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect::<Vec<String>>()
    };
    assert_eq!(states(client), ["failed"; 3]);

    ok(&db, &["rerun", &run, "--task", "extract"]);
    assert_eq!(states(client), ["retrying", "retrying", "failed"]);
    assert_eq!(ok(&db, &["rerun", &run, "--json"]).json().len(), 1);
    let none = ok(&db, &["rerun", &run]);
    assert_eq!((none.stdout.as_str(), none.stderr.as_str()), ("", "no task of this run has to run again\n"));
    let unknown = Uuid::new_v4().to_string();
    assert!(refused(&db, &["rerun", &unknown], 3).contains(&unknown));
}
