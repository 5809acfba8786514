//! Rights are granted by name: no default privilege, and no other setting of the installing session, changes them.

use crate::extension::roles::member_of;
use crate::operations::versions::catalog;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;

/// Creates a database whose session has these settings, and installs the extension in it.
fn installed(settings: &str) -> (Db, Client) {
    let db = Db::new();
    let mut client = db.connect();
    client.batch_execute("DROP EXTENSION pg_workflow CASCADE; DROP SCHEMA workflow").unwrap();
    client.batch_execute(settings).unwrap();
    client.batch_execute("CREATE EXTENSION pg_workflow").unwrap();
    (db, client)
}

/// The lines that only one of the two has.
fn differences(had: &[String], wanted: &[String]) -> Vec<String> {
    let only = |of: &[String], not: &[String], sign: &str| -> Vec<String> {
        of.iter().filter(|line| !not.contains(line)).map(|line| format!("{sign} {line}")).collect()
    };
    [only(had, wanted, "+"), only(wanted, had, "-")].concat()
}

/// What servers are hardened with, and the opposite.
const DEFAULT_PRIVILEGES: &str = "
    ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
    ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC;
    ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
    ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC;
    ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO PUBLIC;";

#[test]
fn default_privileges_change_no_right() {
    let (hardened, client) = &mut installed(DEFAULT_PRIVILEGES);
    let (_ordinary, ordinary) = &mut installed("");
    for client in [&mut *client, &mut *ordinary] {
        client.batch_execute("SELECT workflow.create_partition('state_history', 2)").unwrap();
    }
    assert_eq!(differences(&catalog(client), &catalog(ordinary)), [""; 0]);

    create_in_state(client, "task_instance", State::Running);
    let try_as = |role: &str, statements: &[&str]| {
        let member = &mut hardened.connect_as(&member_of(hardened, role));
        for sql in statements {
            member.batch_execute(sql).unwrap_or_else(|error| panic!("{role}: {sql}: {error}"));
        }
    };
    try_as(
        "workflow_reader",
        &[
            "TABLE workflow.state_counts",
            "TABLE workflow.state_machine",
            "TABLE workflow.partitions",
            "TABLE workflow.settings",
            "TABLE workflow.consumer_lag",
            "SELECT workflow.verify(), workflow.stuck('0'), workflow.version()",
            "SELECT workflow.follow_events(workflow.current_position())",
            "SELECT workflow.history('dag_run', id), workflow.state_at('dag_run', id, now()) FROM workflow.dag_runs",
        ],
    );
    try_as(
        "workflow_writer",
        &[
            "INSERT INTO workflow.dags (name) VALUES ('by hand')",
            "SELECT workflow.create_task_instances(workflow.create_dag_run(workflow.create_dag('dag')), ARRAY['a', 'b'])",
            "SELECT workflow.transition('task_instance', id, 'queued', 'running') FROM workflow.task_instances WHERE task_id = 'a'",
            "SELECT workflow.transition_many('task_instance', array_agg(id), NULL, 'failed') FROM workflow.task_instances",
            "UPDATE workflow.dag_runs SET state = 'running' WHERE state = 'queued'",
            "SELECT workflow.append_task_log(id, 'a line') FROM workflow.task_instances",
            "SELECT workflow.create_consumer('c', true)",
            "SELECT workflow.ack_events('c', max(id)) FROM workflow.read_events('c')",
            "SELECT workflow.fold_state_counts()",
        ],
    );
    try_as(
        "workflow_admin",
        &["SELECT workflow.open_partitions()", "SELECT workflow.purge(now())", "DELETE FROM workflow.dags"],
    );
}

#[test]
fn no_role_may_execute_trigger_functions() {
    let db = Db::new();
    let sql = "SELECT p.oid::regprocedure::text FROM pg_proc AS p
               CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
               WHERE p.pronamespace = 'workflow'::regnamespace AND a.grantee <> p.proowner
                 AND p.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype)";
    let loose: Vec<String> = db.connect().query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(loose, [""; 0]);
}

#[test]
fn open_partitions_is_rejected_in_a_transaction_block() {
    let db = Db::new();
    let admin = &mut db.connect_as(&member_of(&db, "workflow_admin"));
    for sql in ["BEGIN; SELECT workflow.open_partitions()", "SELECT 1; SELECT workflow.open_partitions()"] {
        assert_eq!(failure(admin.batch_execute(sql)).sqlstate, "25001", "{sql}");
        admin.batch_execute("ROLLBACK").unwrap();
    }
    admin.batch_execute("SELECT workflow.open_partitions()").unwrap();
}

/// Statements that create foreign keys to runs and tasks, and rows that hold one run each.
const HOLDERS: [&str; 3] = [
    "CREATE TABLE artifact (task uuid REFERENCES workflow.task_instances (id));
     INSERT INTO artifact SELECT id FROM workflow.task_instances LIMIT 1",
    "CREATE TABLE report (run uuid REFERENCES workflow.dag_runs (id) ON DELETE RESTRICT);
     INSERT INTO report SELECT dag_run_id FROM workflow.task_instances OFFSET 1 LIMIT 1",
    "CREATE TABLE invoice (run uuid REFERENCES workflow.dag_runs (id) DEFERRABLE INITIALLY DEFERRED);
     INSERT INTO invoice SELECT dag_run_id FROM workflow.task_instances OFFSET 2 LIMIT 1",
];

#[test]
fn purge_keeps_runs_that_foreign_keys_hold() {
    let db = Db::new();
    let owner = &mut db.connect();
    for _ in 0..5 {
        create_in_state(owner, "task_instance", State::Success);
    }
    owner
        .batch_execute("UPDATE workflow.dag_runs SET state = 'running'; UPDATE workflow.dag_runs SET state = 'success'")
        .unwrap();
    HOLDERS.iter().for_each(|sql| owner.batch_execute(sql).unwrap());
    let admin = &mut db.connect_as(&member_of(&db, "workflow_admin"));
    let mut purge = |max: i32| -> Vec<(String, i64, String)> {
        let sql = "SELECT object, rows, outcome FROM workflow.purge(now(), max_runs => $1)";
        admin.query(sql, &[&max]).unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    };
    // The oldest runs are held, and block no other.
    let outcome = purge(1);
    assert!(outcome.contains(&("dag_runs".to_owned(), 1, "removed".to_owned())), "{outcome:?}");
    let outcome = purge(1000);
    assert!(outcome.contains(&("dag_runs".to_owned(), 1, "removed".to_owned())), "{outcome:?}");
    for key in ["artifact_task_fkey", "report_run_fkey", "invoice_run_fkey"] {
        let kept = |row: &&(String, i64, String)| row.0.starts_with("dag_run ") && row.2.contains(key);
        assert_eq!(outcome.iter().filter(kept).count(), 1, "{key}: {outcome:?}");
    }
    assert_eq!(owner.query_one("SELECT count(*) FROM workflow.dag_runs", &[]).unwrap().get::<_, i64>(0), 3);
    owner.batch_execute("DROP TABLE artifact, report, invoice").unwrap();
}

#[test]
fn tenant_who_administers_purges_only_its_own() {
    let db = Db::new();
    let owner = &mut db.connect();
    owner.batch_execute("SELECT workflow.enable_row_security()").unwrap();
    create_in_state(owner, "dag_run", State::Success);
    let tenant = &mut db.connect_as(&member_of(&db, "workflow_admin"));
    create_in_state(tenant, "dag_run", State::Success);
    let rows = tenant.query("SELECT object, rows FROM workflow.purge(now())", &[]).unwrap();
    assert_eq!((rows[0].get::<_, String>(0), rows[0].get::<_, i64>(1)), ("dag_runs".to_owned(), 1));
    next_partition(owner);
    let rows = tenant.query("SELECT outcome FROM workflow.purge(now())", &[]).unwrap();
    let outcomes: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(outcomes.contains(&"kept: row security applies to this role".to_owned()), "{outcomes:?}");
    assert_eq!(owner.query_one("SELECT count(*) FROM workflow.dag_runs", &[]).unwrap().get::<_, i64>(0), 2);
}
