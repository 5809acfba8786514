//! Source: a follower, which stores its own position.

use super::{Running, at, last_id};
use pg_workflow_client::subscriber::Subscriber as Source;
use pg_workflow_tests::chaos::proxy::{Cut, Proxy};
use pg_workflow_tests::*;
use xtask::stack::postgres::Shutdown;

#[test]
fn follower_misses_no_event_and_resumes_from_position() {
    let (cluster, db) = own_cluster("subscriber-follow", &[]);
    let way = Proxy::start(cluster.port()).unwrap();
    let running = Running::start(Source::follow(at(way.port()), None));
    let start = running.wait_ready(&db);
    create_finished_tasks(&mut db.connect(), 20);
    way.cut(Cut::Finish);
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, start);
    cluster.stop(Shutdown::Immediate).unwrap();
    cluster.start_again().unwrap();
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, start);
    // The position is updated with the next request for events.
    let last = last_id(&db);
    wait_until("the position", || {
        let position = running.positions.borrow().clone();
        let sql = "SELECT count(*) FROM workflow.follow_events($1)";
        db.connect().query_one(sql, &[&position]).unwrap().get::<_, i64>(0) == 0
    });
    let position = running.positions.borrow().clone();
    running.stop();
    create_finished_tasks(&mut db.connect(), 20);
    let running = Running::start(Source::follow(at(way.port()), position));
    running.assert_complete(&db, last);
    assert!(running.stop().iter().all(|event| event.id > last));
    let consumers = db.connect().query_one("SELECT count(*) FROM workflow.consumers", &[]).unwrap();
    assert_eq!(consumers.get::<_, i64>(0), 0, "it leaves no trace");
    // An invalid position is logged, and following starts now.
    let running = Running::start(Source::follow(at(way.port()), Some("nonsense".to_owned())));
    running.wait_ready(&db);
    running.stop();
}
