//! Row security: a tenant sees and changes its own rows only; other rows do not exist for it.

use fallible_iterator::FallibleIterator;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use std::thread;
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
    let requested = create_task(mine);
    Transition::of(requested).request("r").run(mine).unwrap();
    for (sql, id) in [
        ("SELECT workflow.transition_task_instance($1, 'queued', 'running', request_id => 'r')", requested),
        ("SELECT workflow.transition_task_instance($1, 'running', 'success')", task),
        ("SELECT workflow.transition_dag_run($1, 'queued', 'running')", run),
        ("SELECT workflow.append_task_log($1, 'x')", task),
        ("SELECT workflow.create_dag_run($1)", dag),
        ("SELECT workflow.create_task_instances($1, ARRAY['x'])", run),
        ("SELECT FROM workflow.rerun_tasks($1)", run),
        ("SELECT workflow.set_fails_on($1, 'leaves')", run),
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
    for feed in ["SELECT workflow.read_events('all')", "SELECT workflow.current_position()"] {
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
    assert_eq!(count(theirs, "dags"), 2, "all roles see all rows again");
    assert_eq!(Transition::of(task).from(State::Running).to(State::Success).run(theirs).unwrap(), 3);
}

fn plan(client: &mut Client, sql: &str) -> Vec<String> {
    let rows = client.query(&format!("EXPLAIN (COSTS off) {sql}"), &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// One statement for each guarded table, and one for a partition.
const STATEMENTS: [&str; 6] = [
    "TABLE workflow.dags",
    "SELECT FROM workflow.dag_runs WHERE dag_id = gen_random_uuid()",
    "UPDATE workflow.task_instances SET state = 'running' WHERE id = '00000000-0000-0000-0000-000000000000'",
    "SELECT FROM workflow.task_logs WHERE task_instance_id = '00000000-0000-0000-0000-000000000000'",
    "SELECT FROM workflow.state_history WHERE entity_id = '00000000-0000-0000-0000-000000000000'",
    "TABLE workflow.state_history_0",
];

#[test]
fn policies_leave_no_trace_in_plans_until_enabled() {
    let tenants = Tenants::new();
    let (owner, tenant) = (&mut tenants.db.connect(), &mut tenants.connect(0));
    owner.batch_execute(&format!("GRANT SELECT ON workflow.state_history_0 TO {}", tenants.roles[0])).unwrap();
    for sql in STATEMENTS {
        assert_ne!(plan(tenant, sql), plan(owner, sql), "isolated: {sql}");
    }
    owner.batch_execute("SELECT workflow.disable_row_security()").unwrap();
    for sql in STATEMENTS {
        assert_eq!(plan(tenant, sql), plan(owner, sql), "{sql}");
    }
}

#[test]
fn cached_plans_follow_the_setting_at_once() {
    let tenants = Tenants::new();
    let (owner, tenant) = (&mut tenants.db.connect(), &mut tenants.connect(1));
    create_in_state(&mut tenants.connect(0), "task_instance", State::Running);
    owner.batch_execute("SELECT workflow.disable_row_security()").unwrap();
    let statement = tenant.prepare("SELECT count(*) FROM workflow.task_instances").unwrap();
    let function = tenant.prepare("SELECT count(*) FROM workflow.dags CROSS JOIN workflow.latest_dag_run(id)").unwrap();
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        // The transaction takes its snapshot before the setting changes, and plans that it has are generic ones.
        for (switch, seen) in [("enable", 0), ("disable", 1)] {
            tenant.batch_execute("SET plan_cache_mode = force_generic_plan").unwrap();
            tenant.query(&statement, &[]).unwrap();
            tenant.query(&function, &[]).unwrap();
            let mut transaction = tenant.build_transaction().start().unwrap();
            transaction.batch_execute(&format!("SET TRANSACTION ISOLATION LEVEL {isolation}; TABLE pg_am")).unwrap();
            owner.batch_execute(&format!("SELECT workflow.{switch}_row_security()")).unwrap();
            for prepared in [&statement, &function] {
                let rows: i64 = transaction.query_one(prepared, &[]).unwrap().get(0);
                assert_eq!(rows, seen, "{switch} under {isolation}");
            }
            transaction.commit().unwrap();
        }
    }
}

#[test]
fn enabling_waits_for_transactions_that_have_read() {
    let tenants = Tenants::new();
    let (owner, tenant) = (&mut tenants.db.connect(), &mut tenants.connect(1));
    owner.batch_execute("SELECT workflow.disable_row_security()").unwrap();
    let mut transaction = tenant.transaction().unwrap();
    transaction.batch_execute("TABLE workflow.state_history").unwrap();
    owner.batch_execute("SET lock_timeout = '100ms'").unwrap();
    assert_eq!(failure(owner.batch_execute("SELECT workflow.enable_row_security()")).sqlstate, "55P03");
    transaction.commit().unwrap();
    owner.batch_execute("SELECT workflow.enable_row_security()").unwrap();
}

#[test]
fn isolating_makes_no_reader_the_victim_of_a_deadlock() {
    let tenants = Tenants::new();
    // A role to which no policy applies, so that it locks only what it names.
    let (owner, reader) = (&mut tenants.db.connect(), &mut tenants.db.connect());
    owner.batch_execute("SELECT workflow.disable_row_security()").unwrap();
    let mut reading = reader.transaction().unwrap();
    reading.batch_execute("TABLE workflow.state_history").unwrap();
    let isolating = {
        let mut owner = tenants.db.connect();
        thread::spawn(move || owner.batch_execute("SELECT workflow.enable_row_security()"))
    };
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'SELECT workflow.enable%' AND wait_event = 'relation')";
    wait_until("the lock is awaited", || owner.query_one(waits, &[]).unwrap().get(0));
    reading.batch_execute("TABLE workflow.dags").unwrap();
    reading.commit().unwrap();
    isolating.join().unwrap().unwrap();
    create_run(&mut tenants.connect(0));
    assert_eq!(count(&mut tenants.connect(1), "dags"), 0);
}

#[test]
fn setting_isolates_unless_it_has_only_the_row_false() {
    let tenants = Tenants::new();
    let (owner, tenant) = (&mut tenants.db.connect(), &mut tenants.connect(1));
    create_run(&mut tenants.connect(0));
    for (rows, seen) in [("(false)", 1), ("(true)", 0), ("(false), (true)", 0), ("(false), (false)", 1)] {
        owner
            .batch_execute(&format!(
                "TRUNCATE workflow.row_security; INSERT INTO workflow.row_security (is_enabled) VALUES {rows}"
            ))
            .unwrap();
        assert_eq!(count(tenant, "dags"), seen, "{rows}");
    }
    owner.batch_execute("SELECT workflow.disable_row_security()").unwrap();
    assert_eq!(count(tenant, "dags"), 1);
    owner.batch_execute("TRUNCATE workflow.row_security").unwrap();
    assert_eq!(count(tenant, "dags"), 0, "without the setting");
    assert_eq!(failure(tenant.batch_execute("SELECT workflow.enable_row_security()")).sqlstate, "42501");
    assert_eq!(failure(tenant.batch_execute("SELECT workflow.disable_row_security()")).sqlstate, "42501");
}

#[test]
fn partitions_isolate_under_any_grant() {
    let tenants = Tenants::new();
    let (owner, mine, theirs) = (&mut tenants.db.connect(), &mut tenants.connect(0), &mut tenants.connect(1));
    let task = create_in_state(mine, "task_instance", State::Running);
    mine.query_one("SELECT workflow.append_task_log($1, 'a line')", &[&task]).unwrap();
    for table in ["state_history", "task_logs"] {
        owner.batch_execute(&format!("SELECT workflow.create_partition('{table}', 2)")).unwrap();
    }
    // Rows in a partition that was created later.
    owner
        .batch_execute(
            "SELECT setval('workflow.state_history_id_seq', 2 * workflow.partition_size()),
                setval('workflow.task_logs_id_seq', 2 * workflow.partition_size())",
        )
        .unwrap();
    mine.query_one("SELECT workflow.append_task_log($1, 'a line')", &[&task]).unwrap();
    mine.execute("UPDATE workflow.task_instances SET state = 'success' WHERE id = $1", &[&task]).unwrap();
    for role in &tenants.roles {
        owner.batch_execute(&format!("GRANT ALL ON ALL TABLES IN SCHEMA workflow TO {role}")).unwrap();
    }
    for (partition, rows) in [("state_history_0", 3), ("state_history_2", 1), ("task_logs_0", 1), ("task_logs_2", 1)] {
        assert_eq!(count(mine, partition), rows, "{partition}");
        assert_eq!(count(theirs, partition), 0, "{partition}");
    }
}

#[test]
fn totals_count_all_tenants_before_any_refresh() {
    let tenants = Tenants::new();
    create_in_state(&mut tenants.connect(0), "task_instance", State::Running);
    let tenant = &mut tenants.connect(1);
    let sql = "SELECT count FROM workflow.state_counts WHERE (entity_type, state) = ('task_instance', 'running')";
    assert_eq!(tenant.query_one(sql, &[]).unwrap().get::<_, i64>(0), 1);
    tenant.batch_execute("SELECT workflow.fold_state_counts()").unwrap();
    assert_eq!(tenant.query_one(sql, &[]).unwrap().get::<_, i64>(0), 1);
    assert!(tenant.query("SELECT FROM workflow.verify()", &[]).unwrap().is_empty());
    // Other tenants' events that commit late count, too.
    let (late, early) = (&mut tenants.connect(0), &mut tenants.connect(0));
    late.batch_execute("BEGIN").unwrap();
    create_in_state(late, "task_instance", State::Running);
    create_in_state(early, "task_instance", State::Running);
    tenant.batch_execute("SELECT workflow.fold_state_counts()").unwrap();
    // A view's reader needs no right to the tables.
    let viewer = format!("viewer_{}", Uuid::new_v4().simple());
    let owner = &mut tenants.db.connect();
    owner.batch_execute(&format!("CREATE ROLE {viewer}; GRANT USAGE ON SCHEMA workflow TO {viewer}")).unwrap();
    let viewer_client = &mut tenants.db.connect_as(&viewer);
    for internal in ["SELECT workflow.count_states()", "SELECT workflow.next_writer(0, 1000000, 0)"] {
        assert_eq!(failure(viewer_client.batch_execute(internal)).sqlstate, "42501");
    }
    owner.batch_execute(&format!("GRANT SELECT ON workflow.state_counts TO {viewer}")).unwrap();
    viewer_client.batch_execute("TABLE workflow.state_counts").unwrap();
    late.batch_execute("COMMIT").unwrap();
    assert_eq!(tenant.query_one(sql, &[]).unwrap().get::<_, i64>(0), 3);
}

#[test]
fn notifications_have_no_payload_while_tenants_are_isolated() {
    let tenants = Tenants::new();
    let owner = &mut tenants.db.connect();
    let listener = &mut tenants.connect(1);
    listener.batch_execute("LISTEN workflow_events").unwrap();
    let mut payload = |owner: &mut Client| {
        create_run(owner);
        let mut notifications = listener.notifications();
        notifications.timeout_iter(PATIENCE).next().unwrap().unwrap().payload().to_owned()
    };
    assert_eq!(payload(owner), "");
    owner.batch_execute("SELECT workflow.disable_row_security()").unwrap();
    assert!(payload(owner).contains("\"new_state\":\"queued\""));
}

#[test]
fn row_security_off_is_an_error_for_tenants() {
    let tenants = Tenants::new();
    let (owner, tenant) = (&mut tenants.db.connect(), &mut tenants.connect(0));
    create_run(tenant);
    tenant.batch_execute("SET row_security = off").unwrap();
    // PostgreSQL's rule, whether rows are hidden or not.
    for _ in 0..2 {
        assert_eq!(failure(tenant.batch_execute("TABLE workflow.dags")).sqlstate, "42501");
        owner.batch_execute("SET row_security = off; TABLE workflow.dags").unwrap();
        owner.batch_execute("SELECT workflow.disable_row_security()").unwrap();
    }
}
