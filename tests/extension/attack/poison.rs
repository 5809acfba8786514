//! Values that the database would take, and then could neither deliver nor dump; and values that break other roles' queries.

use super::assert_withstood;
use pg_workflow_tests::attack::{Watch, World};
use pg_workflow_tests::failure;
use std::process::Command;
use xtask::stack::process::clean_environment;

/// 1 GB of text in 2.3 kB.
const BOMB: &str = "('{\"a\":[' || repeat('1e131071,', 8299) || '1]}')::jsonb";

#[test]
fn value_that_cannot_be_delivered_is_rejected() {
    let mut world = World::start("attack-poison");
    let watch = Watch::start(&world.db);
    let writer = &mut world.log_in("writer");
    let (dag, run, task) = (world.victim.dag, world.victim.run, world.victim.task);
    let text = "repeat('x', 20000000)";
    for poison in [
        format!("SELECT workflow.transition('dag_run', '{run}', 'running', 'success', {BOMB})"),
        format!("SELECT workflow.transition_task_instance('{task}', 'running', 'success', {BOMB})"),
        format!("SELECT workflow.transition_many('task_instance', '{{{task}}}', 'running', 'success', {BOMB})"),
        format!(
            "SELECT workflow.transition_task_instance('{task}', 'running', 'failed', jsonb_build_object('error', {text}))"
        ),
        format!("SELECT workflow.transition_task_instance('{task}', 'running', 'failed', request_id => {text})"),
        format!("SELECT workflow.create_dag_run('{dag}', now(), {BOMB})"),
        format!("UPDATE workflow.dag_runs SET conf = {BOMB} WHERE id = '{run}'"),
        format!("UPDATE workflow.task_instances SET error = {text} WHERE id = '{task}'"),
        format!("SELECT workflow.append_task_log('{task}', {text})"),
        format!("INSERT INTO workflow.task_logs (task_instance_id, try_number, message) VALUES ('{task}', 1, {text})"),
        format!("SELECT workflow.create_dag('x', description => {text})"),
        format!("SELECT workflow.create_dag('x', schedule => {text})"),
        format!("SELECT workflow.create_dag('x', tags => jsonb_build_array({text}))"),
        format!("UPDATE workflow.dags SET description = {text}"),
        format!("INSERT INTO workflow.dags (name, tags) VALUES ('x', jsonb_build_array({text}))"),
    ] {
        let refused = failure(writer.batch_execute(&poison));
        assert_eq!(refused.sqlstate, "22023", "{poison}: {:.300}", refused.message);
        assert!(refused.hint.contains("max_field_size"), "{poison}: {}", refused.hint);
    }
    assert_withstood(&mut world, &watch, "poison", &[]);
    let read = "SELECT FROM workflow.read_events('relay', 1000)";
    assert!(world.log_in("victim").query(read, &[]).unwrap().len() > 5);
    let mut dump = Command::new(world.cluster.install().program("pg_dump"));
    clean_environment(&mut dump);
    let dump = dump.arg("--dbname").arg(world.db.url()).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
}

#[test]
fn infinite_date_is_rejected() {
    let mut world = World::start("attack-infinity");
    let watch = Watch::start(&world.db);
    let writer = &mut world.log_in("writer");
    let (dag, run, task) = (world.victim.dag, world.victim.run, world.victim.task);
    for date in ["infinity", "-infinity"] {
        for call in [
            format!("SELECT workflow.append_task_log('{task}', 'm', 'INFO', '{date}')"),
            format!(
                "INSERT INTO workflow.task_logs (task_instance_id, try_number, message, logged_at) VALUES ('{task}', 1, 'm', '{date}')"
            ),
            format!("SELECT workflow.create_dag_run('{dag}', '{date}')"),
            format!("UPDATE workflow.dag_runs SET execution_date = '{date}' WHERE id = '{run}'"),
            format!("SELECT workflow.create_dag('x', start_date => '{date}')"),
            format!("UPDATE workflow.dags SET start_date = '{date}'"),
        ] {
            assert_eq!(failure(writer.batch_execute(&call)).sqlstate, "22023", "{call}");
        }
    }
    assert_withstood(&mut world, &watch, "infinite dates", &[]);
    for query in ["SELECT workflow.stuck('0')", "SELECT workflow.stuck('10 years')"] {
        world.log_in("reader").batch_execute(query).unwrap();
    }
}
