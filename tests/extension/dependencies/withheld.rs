//! Children that a trigger of others keeps from ending: they are told, and only the sweep looks at them again.

use super::*;
use serde_json::json;

/// Lets a trigger keep the task "held" as it is.
fn withhold(client: &mut Client, work: &str) {
    client
        .batch_execute(&format!(
            "CREATE FUNCTION withhold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {work} END $$;
             CREATE TRIGGER a_withhold BEFORE UPDATE ON workflow.task_instances FOR EACH ROW
             WHEN (NEW.task_id = 'held' AND NEW.state = 'failed') EXECUTE FUNCTION withhold()"
        ))
        .unwrap();
}

/// Drops the trigger, and waits until the run has failed.
fn recover(client: &mut Client, graph: &Graph) {
    client.batch_execute("DROP TRIGGER a_withhold ON workflow.task_instances").unwrap();
    wait_until("a sweep", || {
        client.batch_execute(REAP).unwrap();
        graph.state(client, "held") == "failed"
    });
}

fn warning(graph: &Graph) -> String {
    format!("cannot move task_instance {} to failed: a trigger withholds the change", graph.id("held"))
}

#[test]
fn withheld_child_is_told_and_left_to_the_sweep() {
    for work in ["RETURN NULL;", "NEW.state := OLD.state; RETURN NEW;"] {
        let db = Db::new();
        let (mut client, warnings) = connect_with_warnings(&db);
        let client = &mut client;
        withhold(client, work);
        let graph = Graph::create(client, &["a", "held"], json!({"held": ["a"]}), json!({}));
        graph.end(client, "a", "failed");
        assert_eq!(*warnings.lock().unwrap(), [warning(&graph)], "{work}");
        assert_eq!(db.problems().len(), 1, "{work}");
        recover(client, &graph);
        assert_eq!(graph.run_state(client), "failed", "{work}");
    }
}

#[test]
fn withheld_child_does_not_delay_a_busy_one() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    withhold(client, "RETURN NULL;");
    let graph = Graph::create(client, &["a", "held", "b"], json!({"held": ["a"], "b": ["a"]}), json!({}));
    let mut holds = other.transaction().unwrap();
    holds.query("SELECT FROM workflow.task_instances WHERE id = $1 FOR UPDATE", &[&graph.id("b")]).unwrap();
    graph.end(client, "a", "failed");
    assert_eq!(graph.state(client, "b"), "queued");
    holds.rollback().unwrap();
    client.execute("SELECT FROM workflow.claim_tasks('worker', ARRAY['graph'])", &[]).unwrap();
    assert_eq!(graph.state(client, "b"), "failed");
    recover(client, &graph);
}
