//! The notifier is woken only when it sleeps, and pauses in proportion to its work.

use super::{Listener, version_2, wait_for_notifier};
use pg_workflow_tests::*;
use std::time::{Duration, Instant};
use xtask::stack::postgres::PRELOADED;

const NO_POLLING: (&str, &str) = ("pg_workflow.poll_interval", "60s");

/// How often a process has begun to wait.
fn waits(process: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn single_event_wakes_the_sleeping_notifier_at_once() {
    let (_cluster, db) = own_cluster("notifier-asleep", &[PRELOADED, NO_POLLING]);
    let client = &mut db.connect();
    let tasks = create_tasks(client, 300);
    let mut listener = Listener::start(&db);
    let began = Instant::now();
    for (n, task) in tasks.iter().enumerate() {
        // The commit comes at each point of the pause, and of falling asleep after it.
        std::thread::sleep(Duration::from_micros(n as u64 * 40));
        start_task(client, *task);
        assert_eq!(listener.hear(1), version_2(*task));
    }
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
}

#[test]
fn commits_do_not_wake_the_pausing_or_unheard_notifier() {
    let settings = [PRELOADED, NO_POLLING, ("pg_workflow.batch_delay", "1s")];
    let (_cluster, db) = own_cluster("notifier-pausing", &settings);
    let client = &mut db.connect();
    let tasks = create_tasks(client, 600);
    let (heard, unheard) = tasks.split_at(300);
    let mut listener = Listener::start(&db);
    let notifier = wait_for_notifier(client);
    let before = waits(notifier);
    heard.iter().for_each(|task| start_task(client, *task));
    listener.hear(300);
    let began = waits(notifier) - before;
    assert!(began < 100, "waited {began} times");
    listener.0.batch_execute("UNLISTEN *").unwrap();
    let before = waits(notifier);
    unheard.iter().for_each(|task| start_task(client, *task));
    let began = waits(notifier) - before;
    assert!(began < 20, "waited {began} times");
}

/// Creates 100 tasks again and again, each time as soon as those before have been notified. Returns the shortest time
/// between two rounds of the notifier. In the server, so that no client delays it.
const SHORTEST_PAUSE: &str = "
    CREATE PROCEDURE public.shortest_pause(run uuid, INOUT seconds double precision) LANGUAGE plpgsql AS $$
    DECLARE
        before record;
        after record;
    BEGIN
        SELECT n.events, n.announced_at INTO before FROM workflow.notifier AS n;
        FOR n IN 1..50 LOOP
            PERFORM workflow.create_task_instances(run, ARRAY(SELECT format('task_%s_%s', n, i) FROM generate_series(1, 100) AS i));
            COMMIT;
            LOOP
                SELECT n.events, n.announced_at INTO after FROM workflow.notifier AS n;
                EXIT WHEN after.events >= before.events + 100;
            END LOOP;
            seconds := least(seconds, extract(epoch FROM after.announced_at - before.announced_at));
            before := after;
        END LOOP;
    END $$;
    SET statement_timeout = '60s'";

#[test]
fn notifier_pauses_in_proportion_to_its_rounds() {
    let settings = [PRELOADED, NO_POLLING, ("pg_workflow.batch_delay", "0")];
    let (_cluster, db) = own_cluster("notifier-proportion", &settings);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    let (_, run) = create_run(client);
    listener.hear(1);
    client.batch_execute(SHORTEST_PAUSE).unwrap();
    let row = client.query_one("CALL public.shortest_pause($1, NULL)", &[&run]).unwrap();
    let seconds: f64 = row.get(0);
    // It pauses 20 times as long as a round, which takes 0.4 ms at least.
    assert!(seconds > 0.008, "{seconds} s");
}
