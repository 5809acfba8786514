//! Loading a dump skips foreign keys: for pg_restore alone.

use pg_workflow_tests::*;
use postgres::Client;

/// A checkpoint of a consumer that does not exist (yet).
const ORPHAN: &str = "INSERT INTO workflow.consumer_checkpoints
    SELECT (jsonb_populate_record(c, '{\"consumer\": \"missing\"}')).* FROM workflow.consumer_checkpoints AS c";

fn is_replica(client: &mut Client) -> bool {
    client.query_one("SHOW session_replication_role", &[]).unwrap().get::<_, String>(0) == "replica"
}

fn create_checkpoint(client: &mut Client) {
    client
        .batch_execute("SELECT workflow.create_consumer('present'); SELECT workflow.save_checkpoint('present', '{1}')")
        .unwrap();
}

#[test]
fn pg_restore_skips_foreign_keys_in_its_transaction() {
    let db = Db::new();
    let client = &mut db.connect();
    create_checkpoint(client);
    assert_eq!(failure(client.batch_execute(ORPHAN)).sqlstate, "23503");
    client.batch_execute("SET application_name = 'pg_restore'").unwrap();
    client.batch_execute(ORPHAN).unwrap();
    assert!(!is_replica(client));
    client.batch_execute("DELETE FROM workflow.consumer_checkpoints").unwrap();
    // Not in a function that runs as its owner.
    create_checkpoint(client);
    let function =
        format!("CREATE FUNCTION public.load() RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ {ORPHAN} $$");
    client.batch_execute(&function).unwrap();
    assert_eq!(failure(client.batch_execute("SELECT public.load()")).sqlstate, "23503");
    // As another superuser, by pg_restore --role; not as another role.
    let roles = "CREATE ROLE other_superuser SUPERUSER; CREATE ROLE no_superuser IN ROLE workflow_writer";
    client.batch_execute(roles).unwrap();
    client.batch_execute("SET ROLE no_superuser").unwrap();
    client
        .batch_execute(
            "BEGIN; INSERT INTO workflow.consumer_checkpoints SELECT * FROM workflow.consumer_checkpoints WHERE false",
        )
        .unwrap();
    assert!(!is_replica(client));
    client.batch_execute("ROLLBACK; SET ROLE other_superuser").unwrap();
    client.batch_execute(ORPHAN).unwrap();
    client
        .batch_execute("RESET ROLE; DELETE FROM workflow.consumer_checkpoints; DROP ROLE other_superuser, no_superuser")
        .unwrap();
}

#[test]
fn application_name_switches_no_trigger_off() {
    let db = Db::new();
    let owner = &mut db.connect();
    let role = create_writer(owner);
    owner
        .batch_execute(
            "CREATE FUNCTION public.load() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
             $$ BEGIN INSERT INTO workflow.consumer_checkpoints SELECT * FROM workflow.consumer_checkpoints WHERE false; END $$",
        )
        .unwrap();
    let writer = &mut db.connect_as(&role);
    let task = create_task(writer);
    writer.batch_execute("SET application_name = 'pg_restore'; BEGIN; SELECT workflow.create_consumer('x')").unwrap();
    for load in
        ["SELECT workflow.save_checkpoint('x', '{1}')", "SELECT public.load()", "SELECT workflow.create_dag('d')"]
    {
        writer.batch_execute(load).unwrap();
        assert!(!is_replica(writer), "{load}");
    }
    let forged = "UPDATE workflow.task_instances SET state = 'upstream_failed', version = 9";
    assert_eq!(failure(writer.batch_execute(forged)).sqlstate, "428C9");
    writer.batch_execute("ROLLBACK").unwrap();
    let replica = "CREATE FUNCTION public.replica() RETURNS text LANGUAGE sql AS
        $$ SELECT public.load(); SELECT current_setting('session_replication_role') $$";
    owner.batch_execute(replica).unwrap();
    assert_eq!(writer.query_one("SELECT public.replica()", &[]).unwrap().get::<_, String>(0), "origin");
    assert_eq!(state_of(owner, "task_instance", task), ("queued".to_owned(), 1));
}
