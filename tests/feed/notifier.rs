//! The notifier: a background worker sends notifications after each commit, through every disturbance.

mod absent;
mod clocks;
mod cost;
mod databases;
mod foreign;
mod handover;
mod listeners;
mod recovery;
mod reload;
mod sending;
mod waiting;

use pg_workflow_tests::*;
use postgres::Client;
use serde_json::Value;
use uuid::Uuid;

/// A session that listens for notifications.
struct Listener(Client);

impl Listener {
    fn start(db: &Db) -> Listener {
        let mut client = db.connect();
        client.batch_execute("LISTEN workflow_events").unwrap();
        Listener(client)
    }

    /// Waits for the next `count` events, and returns their entities and versions.
    fn hear(&mut self, count: usize) -> Vec<(String, i64)> {
        let payloads = self.payloads(count);
        let events = payloads.iter().map(|payload| serde_json::from_str::<Value>(payload).expect("JSON"));
        events
            .map(|event| (event["entity_id"].as_str().unwrap().to_owned(), event["version"].as_i64().unwrap()))
            .collect()
    }

    fn payloads(&mut self, count: usize) -> Vec<String> {
        use fallible_iterator::FallibleIterator;
        let mut notifications = self.0.notifications();
        let heard = notifications.timeout_iter(PATIENCE).take(count).map(|heard| Ok(heard.payload().to_owned()));
        let heard: Vec<String> = heard.collect().unwrap();
        assert_eq!(heard.len(), count, "heard only {heard:?}");
        heard
    }

    /// Waits until nothing is pending, and returns the ids of the events heard since the last call, in ascending order.
    /// `client` is a session of the same database.
    fn ids(&mut self, client: &mut Client) -> Vec<i64> {
        let pending = "SELECT pending FROM workflow.notifier";
        wait_until("all notifications", || {
            client.query_opt(pending, &[]).unwrap().is_none_or(|row| row.get::<_, i64>(0) == 0)
        });
        let marker = Uuid::new_v4().to_string();
        client.batch_execute(&format!("NOTIFY workflow_events, '{marker}'")).unwrap();
        let heard = std::iter::repeat_with(|| self.payloads(1).remove(0)).take_while(|payload| *payload != marker);
        let id = |payload: String| serde_json::from_str::<Value>(&payload).expect("JSON")["id"].as_i64().unwrap();
        let mut ids: Vec<i64> = heard.map(id).collect();
        ids.sort_unstable();
        ids
    }

    /// Counts the notifications before a marker that the test sends.
    fn hear_until_marker(&mut self, db: &Db) -> usize {
        let marker = Uuid::new_v4().to_string();
        db.connect().batch_execute(&format!("NOTIFY workflow_events, '{marker}'")).unwrap();
        (0..).take_while(|_| self.payloads(1)[0] != marker).count()
    }
}

fn pid(client: &mut Client) -> Option<i32> {
    client.query_opt("SELECT pid FROM workflow.notifier", &[]).unwrap().and_then(|row| row.get(0))
}

/// Waits for the notifier, and returns its process id.
fn wait_for_notifier(client: &mut Client) -> i32 {
    let mut found = None;
    wait_until("the notifier", || {
        found = pid(client);
        found.is_some()
    });
    found.unwrap()
}

fn version_2(id: Uuid) -> Vec<(String, i64)> {
    vec![(id.to_string(), 2)]
}

/// Returns the ids of all events, in ascending order.
fn all_ids(client: &mut Client) -> Vec<i64> {
    let sql = "SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM workflow.state_history";
    client.query_one(sql, &[]).unwrap().get(0)
}
