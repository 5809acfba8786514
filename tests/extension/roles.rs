//! Ordinary roles can work, and cannot forge.

use crate::server::http::Api;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use std::io::Write;
use uuid::Uuid;
use xtask::stack::redis::Redis;

/// Creates a role with the rights of a worker, and more than a worker should have.
fn create_worker(client: &mut postgres::Client) -> String {
    let role = format!("worker_{}", Uuid::new_v4().simple());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role};
             GRANT USAGE ON SCHEMA workflow TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON workflow.dag_runs, workflow.task_instances TO {role};
             GRANT SELECT ON workflow.state_history TO {role};
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA workflow TO {role};"
        ))
        .unwrap();
    role
}

#[test]
fn worker_transition_records_its_login() {
    let db = Db::new();
    let owner = &mut db.connect();
    let role = create_worker(owner);
    let worker = &mut db.connect_as(&role);
    let (_, run) = create_run(owner);
    let sql = "SELECT id FROM workflow.create_task_instances($1, ARRAY['t'])";
    let task: Uuid = worker.query_one(sql, &[&run]).unwrap().get(0);
    start_task(worker, task);
    worker.execute("UPDATE workflow.task_instances SET state = 'failed' WHERE id = $1", &[&task]).unwrap();
    let sql = "SELECT actor FROM workflow.history('task_instance', $1)";
    let actors: Vec<String> = worker.query(sql, &[&task]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(actors, [role.as_str(); 3]);
    // The role's own rights are back afterwards.
    assert_eq!(worker.query_one("SELECT current_user::text", &[]).unwrap().get::<_, String>(0), role);
}

#[test]
fn entities_cannot_be_inserted_without_history() {
    let db = Db::new();
    let owner = &mut db.connect();
    let role = create_worker(owner);
    let task = create_task(owner);
    let worker = &mut db.connect_as(&role);
    let insert = "INSERT INTO workflow.task_instances (dag_run_id, task_id, state)
                  SELECT dag_run_id, 'forged', 'success' FROM workflow.task_instances WHERE id = $1";
    let failed = failure(worker.execute(insert, &[&task]));
    assert_eq!(failed.sqlstate, "42501");
    assert!(failed.hint.contains("create_task_instances"), "{}", failed.hint);
    let upsert = format!("{insert} ON CONFLICT (id) DO UPDATE SET state = 'success'");
    assert_eq!(failure(worker.execute(&upsert, &[&task])).sqlstate, "42501");
    let insert_run = "INSERT INTO workflow.dag_runs (dag_id) SELECT dag_id FROM workflow.dag_runs";
    assert!(failure(worker.execute(insert_run, &[])).hint.contains("create_dag_run"));

    let copied =
        worker.copy_in("COPY workflow.task_instances (dag_run_id, task_id, state) FROM STDIN").and_then(|mut copy| {
            copy.write_all(format!("{}\tforged\tsuccess\n", Uuid::nil()).as_bytes()).ok();
            copy.finish()
        });
    assert_eq!(failure(copied).sqlstate, "0A000", "PostgreSQL copies into no table that has row security");
}

#[test]
fn worker_cannot_change_history() {
    let db = Db::new();
    let owner = &mut db.connect();
    let role = create_worker(owner);
    create_task(owner);
    let worker = &mut db.connect_as(&role);
    for forgery in [
        "UPDATE workflow.state_history SET new_state = 'success'",
        "DELETE FROM workflow.state_history",
        "TRUNCATE workflow.state_history",
        "INSERT INTO workflow.state_history SELECT * FROM workflow.state_history",
        "SELECT nextval('workflow.state_history_id_seq')",
        "UPDATE workflow.consumers SET acked_id = 0",
    ] {
        assert_eq!(failure(worker.execute(forgery, &[])).sqlstate, "42501", "{forgery}");
    }
}

#[test]
fn role_without_grants_is_denied_everything() {
    let db = Db::new();
    let owner = &mut db.connect();
    let role = format!("stranger_{}", Uuid::new_v4().simple());
    owner.batch_execute(&format!("CREATE ROLE {role}; GRANT USAGE ON SCHEMA workflow TO {role}")).unwrap();
    let task = create_task(owner);
    let stranger = &mut db.connect_as(&role);
    assert_eq!(failure(Transition::of(task).from(State::Queued).to(State::Running).run(stranger)).sqlstate, "42501");
    for sql in [
        "SELECT workflow.create_dag('x')",
        "SELECT workflow.create_dag_run(gen_random_uuid())",
        "SELECT workflow.create_task_instances(gen_random_uuid(), ARRAY['t'])",
        "SELECT workflow.create_consumer('x')",
        "SELECT workflow.read_events('x')",
        "SELECT workflow.ack_events('x', 1)",
        "SELECT workflow.current_position()",
        "SELECT workflow.follow_events('x')",
        "SELECT workflow.fold_state_counts()",
        "SELECT workflow.forget_state_counts()",
        "TABLE workflow.state_counts",
        "SELECT workflow.drop_consumer('x')",
        "SELECT workflow.verify()",
    ] {
        assert_eq!(failure(stranger.execute(sql, &[])).sqlstate, "42501", "{sql}");
    }
    // All roles may read the rules.
    stranger.query_one("SELECT workflow.can_transition('queued', 'running')", &[]).unwrap();
}

#[test]
fn functions_ignore_hostile_search_path() {
    let db = Db::new();
    let owner = &mut db.connect();
    let task = create_task(owner);
    owner
        .batch_execute(
            "CREATE SCHEMA evil;
             CREATE FUNCTION evil.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT 1 / 0 = 1';
             CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never);
             CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT (1 / 0)::text::timestamptz';
             CREATE FUNCTION evil.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE sql AS 'SELECT $1[1 / 0]';",
        )
        .unwrap();
    owner.batch_execute("SET search_path = evil, pg_catalog, public").unwrap();
    owner
        .batch_execute("SELECT workflow.advance_partitions('day'); TABLE workflow.partitions; SELECT workflow.stuck('0'); TABLE workflow.settings; SELECT workflow.verify('-infinity', 'infinity')")
        .unwrap();
    start_task(owner, task);
    let tasks = create_tasks(owner, 2);
    let moved = owner
        .query("SELECT outcome FROM workflow.transition_many('task_instance', $1, 'queued', 'running')", &[&tasks]);
    assert_eq!(moved.unwrap().len(), 2);
    owner.batch_execute("SELECT workflow.create_consumer('c', true); SELECT workflow.read_events('c'); SELECT workflow.follow_events(workflow.current_position()); TABLE workflow.consumer_lag; TABLE workflow.state_machine; TABLE workflow.state_counts; SELECT workflow.fold_state_counts(); SELECT workflow.purge(pg_catalog.now(), true); SELECT workflow.purge(pg_catalog.now()); DELETE FROM workflow.dags; TABLE workflow.state_counts").unwrap();
}

/// A creation runs as the owner, and so do the triggers that an administrator has added.
#[test]
fn trigger_of_an_administrator_finds_no_name_of_the_caller() {
    let db = Db::new();
    let owner = &mut db.connect();
    let (dag, run) = create_run(owner);
    let writer = member_of(&db, "workflow_writer");
    owner
        .batch_execute(&format!(
            "CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM lower(CURRENT_USER); RETURN NEW; END';
             CREATE TRIGGER note AFTER INSERT ON workflow.dag_runs FOR EACH ROW EXECUTE FUNCTION public.note();
             CREATE TRIGGER note AFTER INSERT ON workflow.task_instances FOR EACH ROW EXECUTE FUNCTION public.note();
             CREATE SCHEMA evil AUTHORIZATION {writer}"
        ))
        .unwrap();
    let client = &mut db.connect_as(&writer);
    let trap =
        "CREATE FUNCTION evil.lower(name) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''as %'', CURRENT_USER; END';
                SET search_path = evil, pg_catalog";
    client.batch_execute(trap).unwrap();
    client.execute("SELECT workflow.create_task_instances($1, '{one}')", &[&run]).unwrap();
    client.execute("SELECT workflow.create_dag_run($1, '2026-01-01Z')", &[&dag]).unwrap();
}

/// Creates a login that is a member of one of the extension's roles.
pub fn member_of(db: &Db, role: &str) -> String {
    let name = format!("member_{}", Uuid::new_v4().simple());
    db.connect().batch_execute(&format!("CREATE ROLE {name} LOGIN IN ROLE {role}")).unwrap();
    name
}

fn assert_denied(client: &mut postgres::Client, statements: &[&str]) {
    for sql in statements {
        let failed = failure(client.batch_execute(sql));
        assert!(["42501", "428C9"].contains(&failed.sqlstate.as_str()), "{sql}: {failed:?}");
    }
}

/// Statements that only the owner may run.
const FORGERIES: &[&str] = &[
    "INSERT INTO workflow.state_history SELECT * FROM workflow.state_history",
    "INSERT INTO workflow.state_history_0 SELECT * FROM workflow.state_history",
    "UPDATE workflow.state_history SET actor = 'forger'",
    "UPDATE workflow.state_history_0 SET actor = 'forger'",
    "DELETE FROM workflow.state_history",
    "TRUNCATE workflow.state_history",
    "DROP TABLE workflow.state_history_0",
    "ALTER TABLE workflow.state_history DETACH PARTITION workflow.state_history_0",
    "SELECT nextval('workflow.state_history_id_seq')",
    "SELECT setval('workflow.state_history_id_seq', 1)",
    "SELECT workflow.create_partition('state_history', 9)",
    "SELECT workflow.drop_partition('state_history', 'state_history_0')",
    "SELECT workflow.switch_to_partition('state_history', 1)",
    "SELECT workflow.forget_state_counts()",
    "SELECT workflow.forget_notifications()",
    "UPDATE workflow.task_instances SET version = 7",
    "UPDATE workflow.task_instances SET try_number = 7",
    "UPDATE workflow.task_instances SET id = gen_random_uuid()",
    "UPDATE workflow.dag_runs SET version = 7",
    "INSERT INTO workflow.task_instances (dag_run_id, task_id, state) SELECT dag_run_id, 'x', 'success' FROM workflow.task_instances",
    "INSERT INTO workflow.dag_runs (dag_id, state) SELECT dag_id, 'success' FROM workflow.dag_runs",
    "ALTER TABLE workflow.task_instances DISABLE TRIGGER ALL",
    "DROP TRIGGER zz_guard ON workflow.task_instances",
    "SET session_replication_role = replica",
    "SET pg_workflow.announce = off",
    "INSERT INTO workflow.dropped_partitions (partition) VALUES ('state_history_0')",
    "CREATE TABLE workflow.mine (id int)",
    "CREATE FUNCTION workflow.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER FUNCTION workflow.version() RENAME TO old_version",
    "TRUNCATE workflow.task_instances CASCADE",
];

#[test]
fn writer_schedules_and_works_but_cannot_forge() {
    let db = Db::new();
    let owner = &mut db.connect();
    create_in_state(owner, "task_instance", State::Success);
    let writer = &mut db.connect_as(&member_of(&db, "workflow_writer"));
    let dag: Uuid = writer.query_one("SELECT workflow.create_dag('etl')", &[]).unwrap().get(0);
    writer.query_one("SELECT workflow.pause_dag($1), workflow.unpause_dag($1)", &[&dag]).unwrap();
    let run: Uuid = writer.query_one("SELECT workflow.create_dag_run($1)", &[&dag]).unwrap().get(0);
    let sql = "SELECT id FROM workflow.create_task_instances($1, ARRAY['a', 'b'])";
    let tasks: Vec<Uuid> = writer.query(sql, &[&run]).unwrap().iter().map(|row| row.get(0)).collect();
    let start = Transition::of(tasks[0]).from(State::Queued).to(State::Running).version(1).request("request");
    assert_eq!([start.clone().run(writer).unwrap(), start.run(writer).unwrap()], [2, 2]);
    let sql = "SELECT outcome FROM workflow.transition_many('task_instance', $1, NULL, 'failed', '{\"error\": \"x\"}')";
    assert_eq!(writer.query(sql, &[&tasks]).unwrap().len(), 2);
    writer
        .execute("UPDATE workflow.task_instances SET state = 'retrying', max_tries = 5 WHERE id = $1", &[&tasks[0]])
        .unwrap();
    writer.execute("UPDATE workflow.dag_runs SET conf = '{\"a\": 1}' WHERE id = $1", &[&run]).unwrap();
    writer.execute("UPDATE workflow.dags SET tags = '[\"x\"]' WHERE id = $1", &[&dag]).unwrap();
    writer.query_one("SELECT workflow.append_task_log($1, 'again')", &[&tasks[0]]).unwrap();
    writer
        .batch_execute(
            "SELECT workflow.create_consumer('mine', true);
             SELECT workflow.ack_events('mine', id) FROM workflow.read_events('mine', 1);
             SELECT workflow.save_checkpoint('mine', '{1,2}'), workflow.rewind_consumer('mine', '{1,2}');
             SELECT workflow.release_consumer('mine', workflow.lease_consumer('mine', 'me'));
             SELECT workflow.drop_consumer('mine');
             LISTEN workflow_events",
        )
        .unwrap();
    writer.batch_execute("SELECT workflow.fold_state_counts()").unwrap();
    assert!(writer.query("SELECT FROM workflow.verify()", &[]).unwrap().is_empty());
    assert_denied(writer, FORGERIES);
    assert_denied(
        writer,
        &[
            "DELETE FROM workflow.dags",
            "DELETE FROM workflow.dag_runs",
            "DELETE FROM workflow.task_instances",
            "DELETE FROM workflow.task_logs",
            "UPDATE workflow.task_logs SET message = 'forged'",
            "INSERT INTO workflow.task_logs (id, task_instance_id, try_number, message) SELECT 1, id, 1, 'x' FROM workflow.task_instances",
            "SELECT workflow.purge(now())",
            "SELECT workflow.open_partitions()",
        ],
    );
}

#[test]
fn reader_reads_everything_but_changes_nothing() {
    let db = Db::new();
    let owner = &mut db.connect();
    let task = create_in_state(owner, "task_instance", State::Running);
    owner.batch_execute("SELECT workflow.create_consumer('billing', true)").unwrap();
    let reader = &mut db.connect_as(&member_of(&db, "workflow_reader"));
    let sql = "SELECT c.oid::regclass::text FROM pg_class AS c
               WHERE c.relnamespace = 'workflow'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
                 AND c.relname NOT LIKE 'consumer%s' AND c.relname NOT IN ('state_count_place', 'state_counts_at', 'state_count_changes')";
    let relations: Vec<String> = reader.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(relations.len() > 10, "{relations:?}");
    for relation in relations {
        reader.batch_execute(&format!("TABLE {relation}")).unwrap_or_else(|error| panic!("{relation}: {error}"));
    }
    reader
        .query("SELECT workflow.history('task_instance', $1), workflow.state_at('task_instance', $1, now())", &[&task])
        .unwrap();
    reader
        .batch_execute("SELECT workflow.follow_events(workflow.current_position()); SELECT workflow.stuck()")
        .unwrap();
    assert!(reader.query("SELECT FROM workflow.verify()", &[]).unwrap().is_empty());
    assert_denied(reader, FORGERIES);
    assert_denied(
        reader,
        &[
            "SELECT workflow.create_dag('x')",
            "SELECT workflow.create_dag_run(gen_random_uuid())",
            "SELECT workflow.create_task_instances(gen_random_uuid(), ARRAY['x'])",
            "SELECT workflow.transition_task_instance(id, state, 'success') FROM workflow.task_instances WHERE state = 'running'",
            "UPDATE workflow.task_instances SET state = 'success'",
            "SELECT workflow.append_task_log(id, 'x') FROM workflow.task_instances",
            "TABLE workflow.consumers",
            "UPDATE workflow.consumers SET acked_id = 0",
            "TABLE workflow.consumer_checkpoints",
            "SELECT workflow.read_events('billing')",
            "SELECT workflow.drop_consumer('billing')",
            "SELECT workflow.fold_state_counts()",
            "SELECT workflow.open_partitions()",
            "SELECT workflow.purge(now())",
            "DELETE FROM workflow.dags",
        ],
    );
}

#[test]
fn writer_hangs_own_tables_on_ours() {
    let db = Db::new();
    let writer = &mut db.connect_as(&create_writer(&mut db.connect()));
    let (dag, run) = create_run(writer);
    let sql = "SELECT id FROM workflow.create_task_instances($1, '{t}')";
    let task: Uuid = writer.query_one(sql, &[&run]).unwrap().get(0);
    for (table, id) in [("dags", dag), ("dag_runs", run), ("task_instances", task)] {
        let create = format!("CREATE TABLE public.of_{table} (id uuid REFERENCES workflow.{table} ON DELETE CASCADE)");
        writer.batch_execute(&create).unwrap();
        let insert = format!("INSERT INTO public.of_{table} VALUES ($1)");
        writer.execute(&insert, &[&id]).unwrap();
        assert_eq!(failure(writer.execute(&insert, &[&Uuid::new_v4()])).sqlstate, "23503");
    }
}

#[test]
fn admin_purges_but_cannot_forge() {
    let db = Db::new();
    let owner = &mut db.connect();
    create_in_state(owner, "dag_run", State::Failed);
    create_in_state(owner, "task_instance", State::Running);
    let admin = &mut db.connect_as(&member_of(&db, "workflow_admin"));
    let removed: i64 =
        admin.query_one("SELECT rows FROM workflow.purge(now()) WHERE object = 'dag_runs'", &[]).unwrap().get(0);
    assert_eq!(removed, 1);
    assert_denied(admin, FORGERIES);
    admin
        .batch_execute("DELETE FROM workflow.task_logs; DELETE FROM workflow.task_instances; DELETE FROM workflow.dags")
        .unwrap();
    let sql = "SELECT count(*) FROM pg_roles
               WHERE rolname LIKE 'workflow\\_%' AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolcanlogin OR rolreplication OR rolbypassrls)";
    assert_eq!(owner.query_one(sql, &[]).unwrap().get::<_, i64>(0), 0);
}

#[test]
fn security_definer_functions_pin_search_path_and_grants() {
    let db = Db::new();
    let sql = "SELECT p.oid::regprocedure::text FROM pg_proc AS p
               WHERE p.pronamespace = 'workflow'::regnamespace AND p.prosecdef AND p.prorettype <> 'trigger'::regtype
                 AND (NOT coalesce(p.proconfig @> '{\"search_path=pg_catalog, pg_temp\"}', false)
                   OR EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
                              WHERE a.grantee = 0))";
    let loose: Vec<String> = db.connect().query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(loose, [""; 0]);
}

/// All paths without an id.
const PATHS: &[&str] = &[
    "/health",
    "/api/v1/dags",
    "/api/v1/dag-runs",
    "/api/v1/task-instances?state=running",
    "/api/v1/history",
    "/api/v1/dag-runs/counts",
    "/api/v1/task-instances/counts",
];

#[test]
fn server_runs_as_writer_and_without_relay_as_reader() {
    let db = Db::new();
    let redis = Redis::start("roles").unwrap();
    let url_of = |role: &str| db.url().replace("//postgres@", &format!("//{role}@"));
    create_in_state(&mut db.connect(), "task_instance", State::Running);

    let (server, url) = serve(&url_of(&member_of(&db, "workflow_writer")), &redis.url());
    server.wait_line("became leader", PATIENCE).unwrap();
    server.wait_line("may not create partitions", PATIENCE).unwrap();
    create_in_state(&mut db.connect(), "task_instance", State::Failed);
    // The relay's consumer starts at the time of its creation.
    wait_until("the events", || redis.command::<usize>(&["XLEN", "workflow:stream"]).unwrap() == 3);
    let sql = "SELECT folded_at IS NOT NULL FROM workflow.state_count_place";
    wait_until("the counts are refreshed", || db.connect().query_one(sql, &[]).unwrap().get(0));
    let answers = |url: &str| {
        for path in PATHS {
            let answer = ureq::get(format!("{url}{path}")).call().unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(answer.status(), 200, "{path}");
        }
    };
    answers(&url);
    let log = log_of(&server);
    assert!(!log.contains("permission denied"), "{log}");

    let reader = Api::at(&url_of(&member_of(&db, "workflow_reader")), &[]);
    answers(&reader.url);
}
