//! `why`: the tasks that a task waits for.

use super::{ok, refused};
use pg_workflow_tests::*;
use serde_json::json;
use uuid::Uuid;

#[test]
fn why_shows_the_parents_that_have_not_ended() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    let sql = "SELECT id::text FROM workflow.create_task_instances($1, '{extract,check,load}',
        depends_on => '{\"load\": [\"extract\", \"check\"]}')";
    let ids: Vec<String> = client.query(sql, &[&run]).unwrap().iter().map(|row| row.get(0)).collect();
    let waits = ok(&db, &["why", &ids[2]]);
    let table = waits.table();
    assert_eq!((table.len(), &table[0]), (3, &vec!["WAITS", "FOR", "STATE", "SINCE", "ID"]));
    assert_eq!((&table[1][..2], table[1][3]), (&["extract", "queued"][..], ids[0].as_str()));
    assert_eq!((&table[2][..2], table[2][3]), (&["check", "queued"][..], ids[1].as_str()));

    let moves = "UPDATE workflow.task_instances SET state = 'running' WHERE task_id <> 'load';
                 UPDATE workflow.task_instances SET state = 'success' WHERE task_id = 'extract'";
    client.batch_execute(moves).unwrap();
    let waits = ok(&db, &["why", "--json", &ids[2]]).json();
    let since: String = client
        .query_one("SELECT to_jsonb(updated_at) #>> '{}' FROM workflow.task_instances WHERE task_id = 'check'", &[])
        .unwrap()
        .get(0);
    let time = |text: &str| text.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert_eq!(time(waits[0]["since"].as_str().unwrap()), time(&since));
    let expected = json!({"id": ids[1], "task_id": "check", "state": "running", "since": waits[0]["since"]});
    assert_eq!(waits, [expected]);

    client.batch_execute("UPDATE workflow.task_instances SET state = 'failed' WHERE task_id = 'check'").unwrap();
    for (id, expected) in [
        (&ids[0], "extract does not wait for a task; it is success\n"),
        (&ids[2], "load does not wait for a task; it is failed: upstream failed: check\n"),
    ] {
        let done = ok(&db, &["why", id]);
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", expected));
    }
    let unknown = Uuid::new_v4().to_string();
    assert!(refused(&db, &["why", &unknown], 3).contains(&unknown));
    refused(&db, &["why", "load"], 2);
}
