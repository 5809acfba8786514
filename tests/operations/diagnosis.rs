//! Diagnosis by an operator: stuck entities, settings, and verification of a time range.

use chrono::TimeDelta;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;

fn stuck(client: &mut Client, longer_than: &str) -> Vec<Uuid> {
    let sql = format!("SELECT entity_id FROM workflow.stuck('{longer_than}')");
    client.query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn stuck_finds_running_entities_without_progress() {
    let db = Db::new();
    let client = &mut db.connect();
    let long = create_in_state(client, "task_instance", State::Running);
    let talking = create_in_state(client, "task_instance", State::Retrying);
    let run = create_in_state(client, "dag_run", State::Running);
    let busy_run = create_in_state(client, "dag_run", State::Running);
    // Neither task is in progress.
    create_in_state(client, "task_instance", State::Success);
    create_task(client);
    client
        .batch_execute(
            "SET session_replication_role = replica;
             UPDATE workflow.task_instances SET updated_at = updated_at - interval '2 hours';
             UPDATE workflow.dag_runs SET updated_at = updated_at - interval '3 hours';
             RESET session_replication_role",
        )
        .unwrap();
    assert_eq!(stuck(client, "1 hour"), [run, busy_run, long, talking], "longest idle first");
    let sql = "SELECT count(*) FROM workflow.create_task_instances($1, ARRAY['a'])";
    client.query_one(sql, &[&busy_run]).unwrap();
    client.query_one("SELECT workflow.append_task_log($1, 'still at it')", &[&talking]).unwrap();
    assert_eq!(stuck(client, "1 hour"), [run, long], "a new task of a run, and a log line, are progress");
    assert_eq!(stuck(client, "150 minutes"), [run]);
    assert!(stuck(client, "1 day").is_empty());
    Transition::of(long).from(State::Running).to(State::Failed).run(client).unwrap();
    assert_eq!(stuck(client, "1 hour"), [run]);
    for wrong in ["-1 s", "NULL"] {
        let sql = format!("SELECT workflow.stuck('{wrong}')").replace("'NULL'", "NULL");
        assert_eq!(failure(client.query(&sql, &[])).sqlstate, "22023");
    }
}

#[test]
fn settings_view_shows_current_values() {
    let db = Db::new();
    // Also in a session that has not called the library yet.
    let client = &mut db.connect();
    let sql = "SELECT name, setting, source FROM workflow.settings";
    let shown = |client: &mut Client| -> Vec<(String, String, String)> {
        client.query(sql, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    };
    let rows = shown(client).len();
    let defined = "SELECT count(*) FROM pg_settings WHERE name LIKE 'pg\\_workflow.%'";
    assert_eq!(i64::try_from(rows).unwrap(), client.query_one(defined, &[]).unwrap().get::<_, i64>(0));
    assert!(rows > 4, "the library is loaded");
    client.batch_execute("SET pg_workflow.announce = wakeup").unwrap();
    let announce = ("pg_workflow.announce".to_owned(), "wakeup".to_owned(), "session".to_owned());
    assert!(shown(client).contains(&announce));
}

#[test]
fn verify_checks_a_time_range_alone() {
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    let first = create_in_state(client, "task_instance", State::Running);
    let between: chrono::DateTime<chrono::Utc> = client.query_one("SELECT now() + '5 ms'", &[]).unwrap().get(0);
    wait_until("the clock passes that time", || {
        client.query_one("SELECT clock_timestamp()", &[]).unwrap().get::<_, chrono::DateTime<chrono::Utc>>(0) > between
    });
    let second = create_in_state(client, "task_instance", State::Running);
    let sql = "SET session_replication_role = replica; UPDATE workflow.task_instances SET version = 9; RESET session_replication_role";
    client.batch_execute(sql).unwrap();
    let rows = client.query("SELECT DISTINCT entity_id FROM workflow.verify(NULL, NULL)", &[]).unwrap();
    assert_eq!(rows.len(), 2, "null is no bound");
    let mut wrong = |from: Option<TimeDelta>, to: Option<TimeDelta>| -> Vec<Uuid> {
        let at = |delta: Option<TimeDelta>, none: &str| {
            delta.map_or(none.to_owned(), |delta| (between + delta).to_rfc3339())
        };
        let sql = format!(
            "SELECT entity_id FROM workflow.verify('{}', '{}') ORDER BY 1",
            at(from, "-infinity"),
            at(to, "infinity")
        );
        client.query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(wrong(None, None), [first, second]);
    assert_eq!(wrong(None, Some(TimeDelta::zero())), [first]);
    assert_eq!(wrong(Some(TimeDelta::zero()), None), [second]);
    assert!(wrong(Some(TimeDelta::hours(1)), None).is_empty());
}
