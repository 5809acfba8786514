//! Row security: a tenant sees and changes its own rows only; other rows do not exist for it.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;

/// Two tenants with a role each, and a role that sees everything.
struct Tenants {
    db: Db,
    roles: [String; 2],
    auditor: String,
}

impl Tenants {
    fn new() -> Tenants {
        let db = Db::new();
        let name = |prefix: &str| format!("{prefix}_{}", Uuid::new_v4().simple());
        let (roles, auditor) = ([name("tenant"), name("tenant")], name("auditor"));
        let owner = &mut db.connect();
        for role in &roles {
            owner.batch_execute(&format!("CREATE ROLE {role} IN ROLE workflow_writer")).unwrap();
        }
        owner.batch_execute(&format!("CREATE ROLE {auditor} BYPASSRLS IN ROLE workflow_writer")).unwrap();
        owner.batch_execute("SELECT workflow.enable_row_security()").unwrap();
        Tenants { db, roles, auditor }
    }

    fn connect(&self, tenant: usize) -> Client {
        let mut client = self.db.connect();
        client.batch_execute(&format!("SET ROLE {}", self.roles[tenant])).unwrap();
        client
    }
}

fn count(client: &mut Client, table: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM workflow.{table}"), &[]).unwrap().get(0)
}

const TABLES: [&str; 5] = ["dags", "dag_runs", "task_instances", "task_logs", "state_history"];

#[test]
fn tenant_reads_and_changes_its_own_rows() {
    let tenants = Tenants::new();
    let (mine, theirs) = (&mut tenants.connect(0), &mut tenants.connect(1));
    let task = create_in_state(mine, "task_instance", State::Running);
    mine.query_one("SELECT workflow.append_task_log($1, 'a line')", &[&task]).unwrap();
    create_in_state(theirs, "task_instance", State::Failed);
    create_in_state(theirs, "task_instance", State::Failed);
    assert_eq!(TABLES.map(|table| count(mine, table)), [1, 1, 1, 1, 3]);
    assert_eq!(TABLES.map(|table| count(theirs, table)), [2, 2, 2, 0, 6]);
    assert_eq!(TABLES.map(|table| count(&mut tenants.db.connect(), table)), [3, 3, 3, 1, 9]);
    assert_eq!(TABLES.map(|table| count(&mut tenants.db.connect_as(&tenants.auditor), table)), [3, 3, 3, 1, 9]);
    for client in [mine, theirs] {
        assert!(client.query("SELECT FROM workflow.verify()", &[]).unwrap().is_empty());
    }
}

#[test]
fn rows_of_another_tenant_do_not_exist() {
    let tenants = Tenants::new();
    let (mine, theirs) = (&mut tenants.connect(0), &mut tenants.connect(1));
    let task = create_in_state(mine, "task_instance", State::Running);
    let run: Uuid = mine.query_one("SELECT dag_run_id FROM workflow.task_instances", &[]).unwrap().get(0);
    let dag: Uuid = mine.query_one("SELECT id FROM workflow.dags", &[]).unwrap().get(0);
    for (sql, id) in [
        ("SELECT workflow.transition_task_instance($1, 'running', 'success')", task),
        ("SELECT workflow.transition_dag_run($1, 'queued', 'running')", run),
        ("SELECT workflow.append_task_log($1, 'x')", task),
        ("SELECT workflow.create_dag_run($1)", dag),
        ("SELECT workflow.create_task_instances($1, ARRAY['x'])", run),
        ("SELECT workflow.pause_dag($1)", dag),
    ] {
        let refused = failure(theirs.query(sql, &[&id]));
        let nowhere = failure(theirs.query(sql, &[&Uuid::nil()]));
        assert_eq!((refused.sqlstate.as_str(), nowhere.sqlstate.as_str()), ("P0002", "P0002"), "{sql}");
        let same = |failure: &Failure, id: Uuid| failure.message.replace(&id.to_string(), "");
        assert_eq!(same(&refused, id), same(&nowhere, Uuid::nil()), "the error does not reveal that the row exists");
    }
    assert_eq!(theirs.execute("UPDATE workflow.task_instances SET state = 'success'", &[]).unwrap(), 0);
    let many = "SELECT outcome FROM workflow.transition_many('task_instance', ARRAY[$1::uuid], NULL, 'success')";
    assert_eq!(theirs.query_one(many, &[&task]).unwrap().get::<_, String>(0), "missing");
    assert!(theirs.query("SELECT FROM workflow.history('task_instance', $1)", &[&task]).unwrap().is_empty());
    // A tenant cannot take over a DAG.
    let claim = format!("UPDATE workflow.dags SET tenant = '{}'", tenants.roles[1]);
    assert_eq!(failure(theirs.batch_execute(&claim)).sqlstate, "42501");
    for feed in ["SELECT workflow.read_events('all')", "SELECT workflow.follow_events(workflow.current_position())"] {
        assert_eq!(failure(theirs.batch_execute(feed)).sqlstate, "42501", "{feed}");
    }
    tenants
        .db
        .connect_as(&tenants.auditor)
        .batch_execute("SELECT workflow.follow_events(workflow.current_position())")
        .unwrap();
    assert_eq!(state_of(mine, "task_instance", task), ("running".to_owned(), 2));

    let owner = &mut tenants.db.connect();
    let refused = failure(owner.batch_execute("ALTER EXTENSION pg_workflow UPDATE TO '0.1.0'"));
    assert!(refused.hint.contains("disable_row_security()"), "{refused:?}");
    owner.batch_execute("SELECT workflow.disable_row_security()").unwrap();
    assert_eq!(count(theirs, "dags"), 1, "all roles see all rows again");
    assert_eq!(Transition::of(task).from(State::Running).to(State::Success).run(theirs).unwrap(), 3);
}
