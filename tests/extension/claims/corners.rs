//! Claims where rows, rights and triggers are not as usual.

use super::{claim, claim_one, enqueue, enqueue_in, outcomes, state_of};
use pg_workflow_tests::*;
use postgres::Client;
use postgres::error::SqlState;

fn problems(client: &mut Client) -> Vec<String> {
    let rows = client.query("SELECT DISTINCT problem FROM workflow.verify()", &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

fn recover(client: &mut Client) -> i64 {
    client.query_one("SELECT workflow.recover_ready()", &[]).unwrap().get(0)
}

#[test]
fn queue_that_a_savepoint_took_back_is_refused() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = enqueue(client, "default", 1)[0];
    client.batch_execute("BEGIN; SAVEPOINT s").unwrap();
    let create = "INSERT INTO workflow.queue_settings (tenant, name) VALUES ('', 'gone') RETURNING id";
    let queue: i32 = client.query_one(create, &[]).unwrap().get(0);
    let put = "UPDATE workflow.task_instances SET queue_id = $1 WHERE id = $2";
    client.execute(put, &[&queue, &task]).unwrap();
    client.batch_execute("ROLLBACK TO s").unwrap();
    let error = client.execute(put, &[&queue, &task]).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{error:?}");
    client.batch_execute("ROLLBACK").unwrap();
    for name in ["", " ", &"x".repeat(251)] {
        let error = client.execute("INSERT INTO workflow.queue_settings (tenant, name) VALUES ('', $1)", &[&name]);
        assert_eq!(error.unwrap_err().code(), Some(&SqlState::CHECK_VIOLATION), "{name}");
        let error = client.query("SELECT workflow.enqueue_task_instances('{}', $1)", &[&name]).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{name}");
    }
}

/// No trigger sets the worker of a task, also one that fires after the guard.
#[test]
fn trigger_cannot_give_a_task_a_worker() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = enqueue(client, "default", 1)[0];
    client
        .batch_execute(
            "CREATE FUNCTION give() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 NEW.worker := 'evil'; NEW.lease_expires_at := now(); RETURN NEW; END $$;
             CREATE TRIGGER zzz BEFORE UPDATE ON workflow.task_instances FOR EACH ROW
                 WHEN (NEW.state = 'running') EXECUTE FUNCTION give()",
        )
        .unwrap();
    let start = "UPDATE workflow.task_instances SET state = 'running' WHERE id = $1";
    client.execute(start, &[&task]).unwrap_err();
    assert!(claim(client, "default", 1).is_empty());
    client.batch_execute("DROP TRIGGER zzz ON workflow.task_instances").unwrap();
    assert_eq!(claim_one(&mut db.connect(), "default").id, task);
}

#[test]
fn claim_without_guard_is_refused() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = enqueue(client, "default", 1)[0];
    client.batch_execute("SET session_replication_role = replica").unwrap();
    let error = client.query("SELECT workflow.claim_tasks('worker')", &[]).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{error:?}");
    client.batch_execute("RESET session_replication_role").unwrap();
    assert_eq!(state_of(client, task), "queued");
    assert_eq!(claim_one(client, "default").id, task);
}

/// In a session in replica mode no trigger counts the version or records the transition.
#[test]
fn end_of_a_claim_without_guard_is_refused() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = enqueue(client, "default", 1)[0];
    let held = claim_one(client, "default").claim;
    client.batch_execute("SET session_replication_role = replica").unwrap();
    for call in [
        "complete_claim($1)",
        "fail_claim($1, 'boom')",
        "release_claims(ARRAY[$1])",
        "finish_claims(jsonb_build_array(jsonb_build_object('claim', $1::text, 'state', 'success')))",
    ] {
        let error = client.query(&format!("SELECT workflow.{call}"), &[&held]).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{call}: {error:?}");
    }
    client.batch_execute("RESET session_replication_role").unwrap();
    assert_eq!(state_of(client, task), "running");
    client.query_one("SELECT workflow.complete_claim($1)", &[&held]).unwrap();
    assert!(client.query("SELECT FROM workflow.verify()", &[]).unwrap().is_empty());
}

/// Tasks that a policy hides from one role stay for the others.
/// A trigger that returns NULL keeps the task as it is: its claim is not lost.
#[test]
fn end_that_a_trigger_withholds_is_no_loss() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 2);
    let claims: Vec<String> = claim(client, "default", 2).into_iter().map(|task| task.claim).collect();
    let withhold = "CREATE FUNCTION withhold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER a_withhold BEFORE UPDATE ON workflow.task_instances FOR EACH ROW
            WHEN (NEW.state <> OLD.state AND NEW.task_id = 'default_0') EXECUTE FUNCTION withhold()";
    client.batch_execute(withhold).unwrap();
    for end in ["complete_claim($1)", "fail_claim($1, 'x')", "release_claims(ARRAY[$1])"] {
        let error = client.query(&format!("SELECT workflow.{end}"), &[&claims[0]]).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{end}: {error:?}");
        assert!(error.as_db_error().unwrap().message().ends_with("a trigger withholds the change"), "{error:?}");
    }
    client.query("SELECT workflow.complete_claim($1)", &[&claims[1]]).unwrap();
    assert_eq!(outcomes(client, "renew_claims", &[&claims[0]]), ["renewed"]);
    client.batch_execute("DROP TRIGGER a_withhold ON workflow.task_instances").unwrap();
    client.query("SELECT workflow.complete_claim($1)", &[&claims[0]]).unwrap();
}

#[test]
fn claim_drops_no_task_that_its_role_may_not_see() {
    let db = Db::new();
    let client = &mut db.connect();
    let writer = create_writer(client);
    enqueue(client, "default", 3);
    client
        .batch_execute(&format!(
            "CREATE POLICY hide ON workflow.task_instances AS RESTRICTIVE TO {writer} USING (task_id = 'default_1')"
        ))
        .unwrap();
    client.batch_execute(&format!("SET ROLE {writer}")).unwrap();
    let seen = claim(client, "default", 10);
    client.batch_execute("RESET ROLE").unwrap();
    assert_eq!(seen.iter().map(|task| task.task_id.as_str()).collect::<Vec<_>>(), ["default_1"]);
    assert_eq!(claim(client, "default", 10).len(), 2);
    client
        .batch_execute(&format!(
            "DROP POLICY hide ON workflow.task_instances; DROP OWNED BY {writer}; DROP ROLE {writer}"
        ))
        .unwrap();
}

/// verify() tells of tasks whose tenant cannot claim them, and recover_ready() moves them.
#[test]
fn tasks_follow_their_tenant_into_its_queues() {
    let db = Db::new();
    let client = &mut db.connect();
    let [alice, bob] = [0, 1].map(|_| create_writer(client));
    let (dag, run) = create_run(client);
    enqueue_in(client, run, "default", 2);
    client.execute("UPDATE workflow.dags SET tenant = $1 WHERE id = $2", &[&alice, &dag]).unwrap();
    assert!(problems(client).is_empty());
    client.batch_execute("SELECT workflow.enable_row_security()").unwrap();
    for (tenant, count) in [(&alice, 2), (&bob, 1)] {
        client.execute("UPDATE workflow.dags SET tenant = $1 WHERE id = $2", &[tenant, &dag]).unwrap();
        assert_eq!(problems(client), ["queue of another tenant"]);
        client.batch_execute(&format!("SET ROLE {tenant}")).unwrap();
        assert!(claim(client, "default", 10).is_empty());
        client.batch_execute("RESET ROLE").unwrap();
        assert_eq!(recover(client), count);
        assert!(problems(client).is_empty());
        client.batch_execute(&format!("SET ROLE {tenant}")).unwrap();
        let held = claim_one(client, "default").claim;
        client.batch_execute("RESET ROLE").unwrap();
        client.query("SELECT workflow.complete_claim($1)", &[&held]).unwrap();
    }
    client.batch_execute(&format!("DROP OWNED BY {alice}, {bob}; DROP ROLE {alice}, {bob}")).unwrap();
}

/// Parked tasks cost nothing once they or their run are gone, and other runs nothing at all.
#[test]
fn parked_tasks_go_with_their_run() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    enqueue_in(client, run, "default", 20);
    for (from, to) in [("queued", "running"), ("running", "failed")] {
        client.query("SELECT workflow.transition('dag_run', $1, $2, $3)", &[&run, &from, &to]).unwrap();
    }
    assert!(claim(client, "default", 1).is_empty());
    client.query("SELECT workflow.request_cancel($1)", &[&run]).unwrap();
    let parked = "SELECT count(*), (SELECT sum(parked)::bigint FROM workflow.queues) FROM workflow.parked";
    let row = client.query_one(parked, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (20, 0), "a cancelled task does not wait");
    client.query("SELECT workflow.transition('dag_run', $1, 'failed', 'retrying')", &[&run]).unwrap();
    assert_eq!(client.query_one(parked, &[]).unwrap().get::<_, i64>(0), 0);
    assert!(claim(client, "default", 1).is_empty());
    assert_eq!(client.query("SELECT FROM workflow.ready", &[]).unwrap().len(), 0);

    let (_, run) = create_run(client);
    enqueue_in(client, run, "default", 5);
    client.query("SELECT workflow.transition('dag_run', $1, 'queued', 'running')", &[&run]).unwrap();
    client.query("SELECT workflow.transition('dag_run', $1, 'running', 'failed')", &[&run]).unwrap();
    assert!(claim(client, "default", 1).is_empty());
    client.execute("DELETE FROM workflow.dag_runs WHERE id = $1", &[&run]).unwrap();
    assert_eq!(client.query_one(parked, &[]).unwrap().get::<_, i64>(0), 0);
}

/// A claim tells another tenant nothing, also after its end.
#[test]
fn ended_claim_of_another_tenant_is_lost() {
    let db = Db::new();
    let client = &mut db.connect();
    let [alice, bob] = [0, 1].map(|_| create_writer(client));
    client.batch_execute("SELECT workflow.enable_row_security()").unwrap();
    client.batch_execute(&format!("SET ROLE {alice}")).unwrap();
    enqueue(client, "default", 1);
    let held = claim_one(client, "default").claim;
    client.query("SELECT workflow.complete_claim($1)", &[&held]).unwrap();
    client.batch_execute(&format!("RESET ROLE; SET ROLE {bob}")).unwrap();
    let error = client.query("SELECT workflow.complete_claim($1)", &[&held]).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{error:?}");
    assert_eq!(outcomes(client, "release_claims", &[&held]), ["lost"]);
    client.batch_execute(&format!("RESET ROLE; DROP OWNED BY {alice}, {bob}; DROP ROLE {alice}, {bob}")).unwrap();
}

#[test]
fn conf_is_shared_by_the_tasks_of_a_claim() {
    let db = Db::new();
    let client = &mut db.connect();
    let sql = "SELECT workflow.create_dag_run(workflow.create_dag('large'), conf => jsonb_build_object('text', repeat('x', 900000)))";
    let run: uuid::Uuid = client.query_one(sql, &[]).unwrap().get(0);
    enqueue_in(client, run, "default", 300);
    let peak = "SELECT substring(pg_read_file('/proc/self/status') FROM 'VmHWM:\\s*(\\d+)')::bigint / 1024";
    let before: i64 = client.query_one(peak, &[]).unwrap().get(0);
    let taken = "SELECT count(length(conf->>'text')) FROM workflow.claim_tasks('worker', max => 300)";
    assert_eq!(client.query_one(taken, &[]).unwrap().get::<_, i64>(0), 300);
    let after: i64 = client.query_one(peak, &[]).unwrap().get(0);
    assert!(after - before < 100, "{} MiB for 300 tasks with 1 MiB", after - before);
}
