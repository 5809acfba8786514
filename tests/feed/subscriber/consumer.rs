//! Source: a consumer, whose position the database stores.

use super::{Running, at, last_id};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::subscriber::Subscriber as Source;
use pg_workflow_tests::chaos::proxy::{Cut, Proxy};
use pg_workflow_tests::*;

#[test]
fn consumer_misses_no_event_through_outages() {
    let (cluster, db) = own_cluster("subscriber-consumer", &[]);
    let way = Proxy::start(cluster.port()).unwrap();
    let source = || Source::consumer(at(way.port()), "billing");
    let running = Running::start(source());
    let start = running.wait_ready(&db);
    create_finished_tasks(&mut db.connect(), 20);
    way.cut(Cut::Reset);
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, start);
    // The session hangs with an intact connection: the subscriber must notice by itself, and open another one.
    let sql = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%workflow.read_events%' AND pid <> pg_backend_pid()";
    let pid = Pid::from_raw(db.connect().query_one(sql, &[]).unwrap().get(0));
    kill(pid, Signal::SIGSTOP).unwrap();
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, start);
    kill(pid, Signal::SIGCONT).unwrap();
    cluster.kill().unwrap();
    cluster.start_again().unwrap();
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, start);
    let last = last_id(&db);
    running.stop();
    // While the subscriber is stopped, the database stores its position.
    create_finished_tasks(&mut db.connect(), 20);
    let running = Running::start(source());
    running.assert_complete(&db, last);
    assert!(running.stop().iter().all(|event| event.id > last), "acknowledged events are not redelivered");
}

#[test]
fn second_consumer_of_a_name_takes_over() {
    let db = Db::new();
    let source = || Source::consumer(PostgresServer::parse(db.url()).unwrap(), "pair");
    let first = Running::start(source());
    let start = first.wait_ready(&db);
    let second = Running::start(source());
    create_finished_tasks(&mut db.connect(), 20);
    first.assert_complete(&db, start);
    let last = last_id(&db);
    first.stop();
    create_finished_tasks(&mut db.connect(), 20);
    second.assert_complete(&db, last);
    assert!(second.stop().iter().all(|event| event.id > last));
}

#[test]
fn vanished_consumer_is_not_recreated_by_its_subscriber() {
    let db = Db::new();
    let running = Running::start(Source::consumer(PostgresServer::parse(db.url()).unwrap(), "dropped"));
    let start = running.wait_ready(&db);
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.drop_consumer('dropped')").unwrap();
    create_finished_tasks(client, 20);
    wait_until("the reason", || running.log.count("consumer \"dropped\" no longer exists") > 0);
    client.batch_execute("SELECT workflow.create_consumer('dropped', true)").unwrap();
    running.assert_complete(&db, start);
    running.stop();
}
