//! `serve` ends claims that have run out, so that no other program needs to.

use pg_workflow_tests::*;
use postgres::Client;
use xtask::stack::redis::Redis;

/// Lets a worker claim a task and vanish.
fn lose_a_worker(client: &mut Client) {
    let (_, run) = create_run(client);
    let create = "SELECT workflow.create_task_instances($1, '{t}', queue => 'default', max_tries => 9)";
    client.query(create, &[&run]).unwrap();
    client.query("SELECT workflow.claim_tasks('gone', lease => '1 ms')", &[]).unwrap();
}

fn held(client: &mut Client) -> i64 {
    client.query_one("SELECT count(*) FROM workflow.claims", &[]).unwrap().get(0)
}

#[test]
fn one_of_several_servers_ends_a_claim() {
    let db = Db::new();
    let client = &mut db.connect();
    lose_a_worker(client);
    let redis = Redis::start("reaping").unwrap();
    // The second one is a standby relay.
    let servers = [(); 2].map(|()| serve(db.url(), &redis.url()).0);
    wait_until("the claim has ended", || held(client) == 0);
    let ended = "SELECT count(*), min(metadata->>'worker') FROM workflow.state_history WHERE new_state = 'retrying'";
    let row = client.query_one(ended, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, String>(1)), (1, "gone".to_owned()));
    let logged = || servers.each_ref().map(log_of).concat().matches("lease expired: task").count();
    wait_until("one of them logs it", || logged() > 0);
    assert_eq!(logged(), 1);
}

#[test]
fn lock_of_another_session_keeps_no_server_from_reaping() {
    let db = Db::new();
    let client = &mut db.connect();
    let redis = Redis::start("reaping-lock").unwrap();
    // Any role that may connect can take an advisory lock.
    let lock = "SELECT pg_advisory_lock(hashtextextended('pg_workflow reap_claims', 0))";
    let mut other = db.connect();
    other.query(lock, &[]).unwrap();
    lose_a_worker(client);
    let _server = serve(db.url(), &redis.url()).0;
    wait_until("the claim has ended", || held(client) == 0);
}
