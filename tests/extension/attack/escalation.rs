//! Ways to run code as a superuser, to write history by hand, and to switch the triggers off.

use super::assert_withstood;
use pg_workflow_tests::attack::{ATTACKERS, Watch, World};
use pg_workflow_tests::{Db, failure};
use postgres::Client;

fn sqlstate(client: &mut Client, sql: &str) -> String {
    failure(client.batch_execute(sql)).sqlstate
}

fn is_superuser(db: &Db, role: &str) -> bool {
    let sql = "SELECT rolsuper FROM pg_roles WHERE rolname = $1";
    db.connect().query_one(sql, &[&role]).unwrap().get(0)
}

/// A cast of the attacker's own type, in a trigger function that writes into a table of the extension.
const CAST: &str = "
    CREATE TYPE pg_temp.s AS ENUM ('queued');
    CREATE FUNCTION pg_temp.f(x pg_temp.s) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'ALTER ROLE reader SUPERUSER'; RETURN 'queued'; END $$;
    CREATE CAST (pg_temp.s AS text) WITH FUNCTION pg_temp.f(pg_temp.s) AS ASSIGNMENT;
    CREATE TEMP TABLE t (id uuid, state pg_temp.s);
    INSERT INTO t VALUES (gen_random_uuid(), 'queued')";

#[test]
fn cast_in_a_trigger_gains_no_right() {
    let mut world = World::start("attack-cast");
    let watch = Watch::start(&world.db);
    let reader = &mut world.log_in("reader");
    reader.batch_execute(CAST).unwrap();
    let trigger = "CREATE TRIGGER d AFTER DELETE ON t REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION workflow.note_deletion('task_instance')";
    assert_eq!(sqlstate(reader, trigger), "42501");
    let owner = &mut world.db.connect();
    owner.batch_execute("GRANT EXECUTE ON FUNCTION workflow.note_deletion() TO reader").unwrap();
    reader.batch_execute(trigger).unwrap();
    assert_eq!(sqlstate(reader, "DELETE FROM t"), "39P01");
    assert!(!is_superuser(&world.db, "reader"));
    owner.batch_execute("REVOKE EXECUTE ON FUNCTION workflow.note_deletion() FROM reader").unwrap();
    assert_withstood(&mut world, &watch, "a cast", &[]);
}

/// PostgreSQL checks a foreign key as the owner of the table that it refers to, with a cast of the column's type.
const KEY: &str = "
    CREATE TYPE own.id AS (x text);
    CREATE FUNCTION own.f(id own.id) RETURNS uuid LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('ALTER ROLE %I SUPERUSER', session_user); RETURN (id).x; END $$;
    CREATE CAST (own.id AS uuid) WITH FUNCTION own.f(own.id) AS IMPLICIT";

#[test]
fn foreign_keys_with_own_casts_are_rejected() {
    let mut world = World::start("attack-foreign-key");
    let owner = &mut world.db.connect();
    let task = world.victim.task;
    for role in ATTACKERS {
        owner.batch_execute(&format!("CREATE SCHEMA own AUTHORIZATION {role}")).unwrap();
        let watch = Watch::start(&world.db);
        let client = &mut world.log_in(role);
        client.batch_execute(KEY).unwrap();
        for table in ["dags", "dag_runs", "task_instances"] {
            let create = format!("CREATE TABLE own.t (id own.id REFERENCES workflow.{table})");
            let insert = format!("INSERT INTO own.t VALUES (ROW('{task}')::own.id)");
            let error = failure(client.batch_execute(&create).and_then(|()| client.batch_execute(&insert)));
            assert_eq!(error.sqlstate, "42501", "{role}: {table}");
        }
        // Nor does a key that a superuser has created change its type.
        client.batch_execute("CREATE TABLE own.t (id uuid)").unwrap();
        owner.batch_execute("ALTER TABLE own.t ADD FOREIGN KEY (id) REFERENCES workflow.task_instances").unwrap();
        let change = "ALTER TABLE own.t ALTER COLUMN id TYPE own.id USING ROW(id::text)::own.id";
        assert_eq!(sqlstate(client, change), "42501", "{role}");
        owner.batch_execute("DROP SCHEMA own CASCADE").unwrap_or_else(|error| panic!("{role}: {error:?}"));
        assert_withstood(&mut world, &watch, "a foreign key", &[]);
    }
}

/// A member of this role needs no grant, but row security and triggers apply to it.
#[test]
fn role_that_writes_all_data_writes_no_history() {
    let mut world = World::start("attack-write-all");
    world.db.connect().batch_execute("GRANT pg_write_all_data TO reader").unwrap();
    let watch = Watch::start(&world.db);
    let reader = &mut world.log_in("reader");
    let values = "SELECT 1000 + id, entity_type, gen_random_uuid(), new_state, new_state, 9, metadata, 'postgres', changed_at, dag_id, dag_run_id FROM workflow.state_history";
    for forgery in [
        &format!("INSERT INTO workflow.state_history {values}"),
        &format!("INSERT INTO workflow.state_history_0 {values}"),
        "UPDATE workflow.state_history SET actor = 'postgres'",
        "DELETE FROM workflow.state_history",
        "INSERT INTO workflow.dag_runs (dag_id) SELECT id FROM workflow.dags",
        "DELETE FROM workflow.row_security",
        "UPDATE workflow.row_security SET is_enabled = true",
        "INSERT INTO workflow.row_security VALUES (true)",
    ] {
        assert_eq!(sqlstate(reader, forgery), "42501", "{forgery}");
    }
    assert_withstood(&mut world, &watch, "pg_write_all_data", &[]);
}

#[test]
fn copied_tables_forge_no_history() {
    let mut world = World::start("attack-forgery");
    let owner = &mut world.db.connect();
    owner.batch_execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA workflow TO reader").unwrap();
    let watch = Watch::start(&world.db);
    for (table, kind) in [("task_instances", "task_instance"), ("dag_runs", "dag_run")] {
        let reader = &mut world.log_in("reader");
        let forge = format!(
            "CREATE TEMP TABLE {table} (LIKE workflow.{table});
             INSERT INTO {table} SELECT * FROM workflow.{table} WHERE state = 'running';
             CREATE TRIGGER zz_record AFTER UPDATE ON {table} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
                 FOR EACH STATEMENT EXECUTE FUNCTION workflow.record('{kind}')"
        );
        reader.batch_execute(&forge).unwrap();
        let update = format!("UPDATE {table} SET state = 'success', version = version + 1");
        assert_eq!(sqlstate(reader, &update), "39P01", "{kind}");
    }
    assert_withstood(&mut world, &watch, "forged transitions", &[]);
}

/// A database without the extension, where tables and functions only have its names.
#[test]
fn listen_runs_nothing_of_a_database_without_the_extension() {
    let world = World::start("attack-listen");
    let db = Db::at(world.cluster.create_database("fake").unwrap()).without_verification();
    db.connect().batch_execute("GRANT CREATE ON DATABASE fake TO stranger").unwrap();
    let stranger = &mut Client::connect(&db.url().replace("postgres@", "stranger@"), postgres::NoTls).unwrap();
    stranger
        .batch_execute(
            "CREATE SCHEMA workflow;
             GRANT USAGE ON SCHEMA workflow TO PUBLIC;
             CREATE SEQUENCE workflow.state_history_id_seq;
             CREATE TABLE workflow.state_history (id bigint, transaction_id xid8, metadata jsonb);
             CREATE TABLE workflow.loot (who text, session text);
             CREATE FUNCTION workflow.rob() RETURNS trigger LANGUAGE plpgsql SECURITY INVOKER
                 AS $$ BEGIN INSERT INTO workflow.loot SELECT current_user, session_user WHERE TG_OP = 'UPDATE'; RETURN NULL; END $$;
             CREATE TABLE workflow.bait (id int);
             INSERT INTO workflow.bait VALUES (1);
             CREATE CONSTRAINT TRIGGER rob AFTER UPDATE ON workflow.bait DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION workflow.rob();
             CREATE FUNCTION workflow.current_place(OUT snapshot pg_snapshot, OUT next_transaction_id xid8, OUT floor_id bigint, OUT ceiling_id bigint)
                 LANGUAGE plpgsql AS $$ BEGIN UPDATE workflow.bait SET id = id + 1; snapshot := pg_current_snapshot(); next_transaction_id := '3'; floor_id := 0; ceiling_id := 0; END $$",
        )
        .unwrap();
    let superuser = &mut db.connect();
    superuser.batch_execute("LISTEN workflow_events").unwrap();
    superuser.batch_execute("BEGIN; LISTEN workflow_events; COMMIT").unwrap();
    let loot = stranger.query("SELECT who FROM workflow.loot", &[]).unwrap();
    assert_eq!(loot.iter().map(|row| row.get(0)).collect::<Vec<String>>(), [""; 0]);
    let moved: i32 = stranger.query_one("SELECT id FROM workflow.bait", &[]).unwrap().get(0);
    assert_eq!(moved, 1, "a function of the database ran");
}
/// `pg_restore` loads tables without triggers: no other session may, whatever its name.
#[test]
fn name_of_pg_restore_switches_no_trigger_off() {
    let mut world = World::start("attack-restore");
    let watch = Watch::start(&world.db);
    for role in ["writer", "admin"] {
        for call in [
            "SELECT workflow.create_consumer('x'); SELECT workflow.save_checkpoint('x', '{1}')",
            "SELECT workflow.create_dag_run(workflow.create_dag('x'))",
            "SELECT workflow.create_task_instances(id, '{x}') FROM workflow.dag_runs",
            "SELECT workflow.append_task_log(id, 'x') FROM workflow.task_instances",
            "SELECT workflow.fold_state_counts()",
            "SELECT workflow.purge(now())",
            "SELECT workflow.open_partitions('hour')",
        ] {
            let client = &mut world.log_in(role);
            client.batch_execute("SET application_name = 'pg_restore'; BEGIN; SAVEPOINT a").unwrap();
            if client.batch_execute(call).is_err() {
                client.batch_execute("ROLLBACK TO a").unwrap();
            }
            let setting = client.query_one("SHOW session_replication_role", &[]).unwrap();
            assert_eq!(setting.get::<_, String>(0), "origin", "{role}: {call}");
            let update = "UPDATE workflow.task_instances SET state = 'upstream_failed' WHERE state = 'success'";
            assert_eq!(sqlstate(client, update), "23514", "{role}: {call}");
        }
    }
    assert_withstood(&mut world, &watch, "application_name", &[]);
}
