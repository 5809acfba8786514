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

/// Commits 4,000 events a second, for two seconds. Returns how many. In the server, so that no client delays it.
const COMMIT_EVENTS: &str = "
    CREATE PROCEDURE public.commit_events(run uuid, INOUT events bigint) LANGUAGE plpgsql AS $$
    DECLARE
        first constant timestamptz := clock_timestamp();
    BEGIN
        events := 0;
        WHILE clock_timestamp() < first + interval '2 s' LOOP
            PERFORM workflow.create_task_instances(run, ARRAY[format('task_%s', events)]);
            COMMIT;
            events := events + 1;
            WHILE clock_timestamp() < first + events * interval '250 us' LOOP END LOOP;
        END LOOP;
    END $$";

/// How long a process has used a processor.
fn processor_time(process: i32) -> Duration {
    let times = std::fs::read_to_string(format!("/proc/{process}/schedstat")).unwrap();
    Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn notifier_pauses_in_proportion_to_its_rounds() {
    let settings = [PRELOADED, NO_POLLING, ("pg_workflow.batch_delay", "0")];
    let (_cluster, db) = own_cluster("notifier-proportion", &settings);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    let (_, run) = create_run(client);
    listener.hear(1);
    client.batch_execute(COMMIT_EVENTS).unwrap();
    let notifier = wait_for_notifier(client);
    let (before, began) = (processor_time(notifier), Instant::now());
    let events: i64 = client.query_one("CALL public.commit_events($1, NULL)", &[&run]).unwrap().get(0);
    let share = (processor_time(notifier) - before).div_duration_f64(began.elapsed());
    listener.hear(events as usize);
    // It pauses 20 times as long as a round, but 10 ms at most. Without pauses, it would use five times as much.
    assert!(share < 0.12, "{share} of a processor, for {events} events");
}
