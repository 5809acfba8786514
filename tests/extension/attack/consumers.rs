//! Consumers, retention and partitions: a role harms those of no other.

use super::assert_withstood;
use pg_workflow_tests::attack::{Watch, World};
use pg_workflow_tests::{failure, next_partition};
use postgres::Client;

/// Everything that a role can try on the consumers of another, whose holder's name it knows from an error.
const ATTACKS: [&str; 13] = [
    "SELECT workflow.read_events('relay')",
    "SELECT workflow.ack_events('relay', max(id)) FROM workflow.state_history",
    "SELECT workflow.lease_consumer('relay', 'me')",
    "SELECT workflow.lease_consumer('leased', 'victim')",
    "SELECT workflow.release_consumer('leased', 1)",
    "SELECT workflow.read_events('leased', lease => 1)",
    "SELECT workflow.save_checkpoint('relay', '{9,9}')",
    "SELECT workflow.rewind_consumer('relay', '{1,1}')",
    "SELECT workflow.drop_consumer('relay')",
    "SELECT workflow.lock_consumer('relay', NULL)",
    "SELECT workflow.store_position('relay', workflow.first_position())",
    "UPDATE workflow.consumers SET acked_id = 0",
    "DELETE FROM workflow.consumer_checkpoints",
];

fn attack_consumers(mut world: World, role: &str) {
    let watch = Watch::start(&world.db);
    let client = &mut world.log_in(role);
    for attack in ATTACKS {
        let answer = client.query(attack, &[]);
        // Nothing to do is an answer too: row security hides the consumer.
        if let Ok(rows) = answer {
            let done = rows.iter().any(|row| row.try_get::<_, bool>(0).is_ok_and(|done| done));
            assert!(!done, "{role}: {attack}");
        }
    }
    let squat =
        "INSERT INTO workflow.consumers (name, floor_id, system_identifier, owner) VALUES ('x', 0, 0, 'victim')";
    assert!(client.batch_execute(squat).is_err(), "{role}: a consumer in another's name");
    assert_withstood(&mut world, &watch, role, &[]);
}

#[test]
fn writer_leaves_consumers_of_others_alone() {
    attack_consumers(World::start("attack-consumers"), "writer");
}

#[test]
fn tenant_leaves_consumers_of_others_alone() {
    attack_consumers(World::start_isolated("attack-tenant"), "tenant");
}

/// An administrator who is a tenant sees none of the victim's runs, and purges none.
#[test]
fn tenant_purges_no_run_of_another() {
    let mut world = World::start_isolated("attack-purge");
    next_partition(&mut world.db.connect());
    let watch = Watch::start(&world.db);
    let admin = &mut world.log_in("tenant_admin");
    for _ in 0..3 {
        admin.batch_execute("SELECT workflow.purge(now() + interval '1 day')").ok();
    }
    assert_withstood(&mut world, &watch, "purge()", &[("state_count_place", "+-", "purge() may refresh the counts")]);
}

/// The lock that a new partition needs is never held until the end of a caller's transaction.
#[test]
fn open_transaction_blocks_no_writer() {
    let mut world = World::start("attack-partitions");
    let watch = Watch::start(&world.db);
    let open = "SELECT workflow.open_partitions('hour')";
    assert_eq!(failure(world.log_in("writer").batch_execute(open)).sqlstate, "42501");
    assert_withstood(&mut world, &watch, "open_partitions()", &[]);

    let age = "UPDATE workflow.state_history SET changed_at = changed_at - interval '2 hours'";
    world.db.connect().batch_execute(age).unwrap();
    let admin = &mut world.log_in("admin");
    admin.batch_execute("BEGIN").unwrap();
    admin.batch_execute(open).ok();
    write(&mut world.log_in("writer"));
    admin.batch_execute("ROLLBACK").unwrap();
    admin.batch_execute(open).unwrap();
    write(&mut world.log_in("writer"));
}

fn write(client: &mut Client) {
    let sql = "SET lock_timeout = '5 s'; SELECT workflow.create_dag_run(id, clock_timestamp()) FROM workflow.dags";
    client.batch_execute(sql).expect("the history is not locked");
}

/// Positions that no function writes, but that the owner of a consumer may store.
const POSITIONS: [&str; 5] = [
    "snapshot = '1:5:', next_transaction_id = '18446744073709551615', floor_id = 9223372036854775807",
    "snapshot = '1:5:', next_transaction_id = '18446744073709551615', floor_id = 1000",
    "snapshot = '9223372036854775806:9223372036854775807:', next_transaction_id = '1', floor_id = -9223372036854775808",
    "snapshot = NULL, next_transaction_id = NULL, floor_id = -1, acked_id = 9223372036854775807",
    "system_identifier = -1, snapshot = '1:18446744073709551615:', next_transaction_id = '18446744073709551615', floor_id = 1000,
     window_snapshot = '1:1:', window_next_transaction_id = '18446744073709551615', window_floor_id = -1, window_ceiling_id = 9223372036854775807",
];

#[test]
fn impossible_positions_stop_no_reader_and_no_purge() {
    let world = World::start("attack-impossible");
    next_partition(&mut world.db.connect());
    let writer = &mut world.log_in("writer");
    let name = "UPDATE workflow.consumers SET name = repeat('x', 251)";
    writer.batch_execute("SELECT workflow.create_consumer('own', true)").unwrap();
    assert_eq!(failure(writer.batch_execute(name)).sqlstate, "23514");
    for position in POSITIONS {
        writer.batch_execute(&format!("UPDATE workflow.consumers SET {position}")).unwrap();
        for role in ["reader", "admin"] {
            let lag = world.log_in(role).query("TABLE workflow.consumer_lag", &[]);
            lag.unwrap_or_else(|error| panic!("{role}: {position}: {error:?}"));
        }
        let purge = "SELECT workflow.purge('2000-01-01'), workflow.purge(now(), dry_run => true)";
        world.log_in("admin").batch_execute(purge).unwrap_or_else(|error| panic!("{position}: {error:?}"));
    }
}
