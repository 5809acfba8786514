//! A deletion reaches the handler from each source, and the entry in Redis has null as its new state.

use super::{CHANNEL, Running, STREAM, redis_at};
use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::subscriber::Subscriber as Source;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use serde_json::{Value, json};
use xtask::stack::redis::Redis;

#[test]
fn deletion_reaches_the_handler_from_every_source() {
    let db = Db::new();
    let redis = Redis::start("subscriber-deletion").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    server.wait_line("became leader", PATIENCE).unwrap();
    let (postgres, redis_server) = (|| PostgresServer::parse(db.url()).unwrap(), redis_at(redis.port()));
    let running = [
        Source::consumer(postgres(), "billing"),
        Source::follow(postgres(), None),
        Source::channel(redis_server.clone(), CHANNEL, postgres()),
        Source::group(redis_server, STREAM, "billing", "billing-1"),
    ]
    .map(Running::start);
    for one in &running {
        one.wait_ready(&db);
    }
    let client = &mut db.connect();
    let task = create_in_state(client, "task_instance", State::Running);
    client.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&task]).unwrap();
    for one in running {
        let find = || one.handled().into_iter().find(|event| event.entity_id == task && event.new_state.is_none());
        wait_until("the deletion", || find().is_some());
        let event = find().unwrap();
        assert_eq!((event.old_state, event.version, event.actor.as_str()), (Some(State::Running), 3, "postgres"));
        one.stop();
    }
    let entries: Vec<(String, Vec<String>)> = redis.command(&["XREVRANGE", STREAM, "+", "-", "COUNT", "1"]).unwrap();
    let text = entries[0].1.iter().find(|field| field.starts_with('{')).unwrap();
    let entry: Value = serde_json::from_str(text).unwrap();
    assert_eq!((&entry["entity_id"], entry.get("new_state")), (&json!(task), Some(&Value::Null)));
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}
