//! The look-up of a repeated request, in a history of many partitions.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;

/// Buffers of a first request for a new task.
fn cost_of_new(client: &mut Client) -> i64 {
    let task = create_task(client);
    buffers(
        client,
        &format!("SELECT workflow.transition('task_instance', '{task}', 'queued', 'running', request_id => 'r')"),
    )
}

#[test]
fn request_of_new_task_reads_no_old_partition() {
    let db = Db::new();
    let client = &mut db.connect();
    let costs: Vec<i64> = (0..7)
        .map(|_| {
            let cost = cost_of_new(client);
            next_partition(client);
            cost
        })
        .collect();
    let allowed = costs[0] + 4;
    assert!(costs.iter().all(|cost| *cost <= allowed), "{costs:?}");
}

const REQUESTS: [(&str, State, State); 3] = [
    ("r0", State::Queued, State::Running),
    ("r1", State::Running, State::Retrying),
    ("r2", State::Retrying, State::Running),
];

/// A task that made one transition in each of three partitions.
fn long_lived(client: &mut Client) -> Uuid {
    let task = create_task(client);
    for (request, from, to) in REQUESTS {
        // The first event of the partition, which next_partition() makes older.
        create_task(client);
        Transition::of(task).from(from).to(to).request(request).run(client).unwrap();
        next_partition(client);
    }
    task
}

/// Repeats these requests and returns the versions.
fn repeat(client: &mut Client, task: Uuid) -> [i64; 3] {
    REQUESTS.map(|(request, from, to)| Transition::of(task).from(from).to(to).request(request).run(client).unwrap())
}

#[test]
fn repeated_request_is_found_in_older_partitions() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = long_lived(client);
    assert_eq!(repeat(client, task), [2, 3, 4]);
    let other = Transition::of(task).from(State::Running).to(State::Failed);
    assert_eq!(failure(other.clone().request("r0").run(client)).sqlstate, "22023");
    assert_eq!(other.request("r3").run(client).unwrap(), 5);
    client.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&task]).unwrap();
    assert_eq!(repeat(client, task), [2, 3, 4]);
}

#[test]
fn repeated_request_is_found_after_purge_of_first_event() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = long_lived(client);
    age(client);
    client
        .batch_execute(
            "UPDATE workflow.state_history SET changed_at = changed_at + interval '40 days'
             WHERE id >= workflow.partition_size()",
        )
        .unwrap();
    let purge = "SELECT outcome FROM workflow.purge(now() - interval '30 days') WHERE object = 'state_history_0'";
    assert_eq!(client.query_one(purge, &[]).unwrap().get::<_, String>(0), "dropped");
    let last = Transition::of(task).from(State::Retrying).to(State::Running).request("r2");
    assert_eq!(last.run(client).unwrap(), 4);
    // Its event is gone, so it counts as a new request.
    let first = Transition::of(task).from(State::Queued).to(State::Running).request("r0");
    assert_eq!(failure(first.run(client)).sqlstate, "40001");
}

#[test]
fn repeated_request_is_found_in_a_split_partition() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = long_lived(client);
    client.batch_execute(SPLIT).unwrap();
    assert_eq!(repeat(client, task), [2, 3, 4]);
    let next = Transition::of(task).from(State::Running).to(State::Failed).request("r3");
    assert_eq!(next.run(client).unwrap(), 5);
}
