//! Waiting for tasks.

use super::{claim, claim_one, enqueue};
use pg_workflow_tests::*;
use postgres::error::SqlState;
use std::time::{Duration, Instant};

/// Waits for tasks of the queue `default` in a session of its own, while `work` runs; returns what it was told, and after
/// how long.
fn wait_during(db: &Db, timeout: &str, work: impl FnOnce()) -> (bool, Duration) {
    std::thread::scope(|scope| {
        let call = format!("CALL workflow.wait_for_tasks('{{default}}', '{timeout}')");
        let mut waiter = db.connect();
        let waiting = scope.spawn(move || {
            let began = Instant::now();
            let told: bool = waiter.query_one(&call, &[]).unwrap().get(0);
            (told, began.elapsed())
        });
        let waits = "SELECT FROM pg_stat_activity
                     WHERE datname = current_database() AND query LIKE 'CALL%' AND wait_event = 'Extension'
                         AND backend_xmin IS NULL AND backend_xid IS NULL";
        let watcher = &mut db.connect();
        wait_until("the waiter, without a snapshot", || watcher.query(waits, &[]).unwrap().len() == 1);
        work();
        waiting.join().unwrap()
    })
}

#[test]
fn waiter_is_told_of_a_new_task_at_once() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut told_at = Instant::now();
    let (told, _) = wait_during(&db, "60 s", || {
        enqueue(client, "other", 1);
        told_at = Instant::now();
        enqueue(client, "default", 1);
    });
    assert!(told && told_at.elapsed() < Duration::from_millis(900), "{:?}", told_at.elapsed());
    let call = "CALL workflow.wait_for_tasks('{default}', '60 s')";
    assert!(client.query_one(call, &[]).unwrap().get::<_, bool>(0), "it is still there");
    claim_one(client, "default");
    let call = "CALL workflow.wait_for_tasks('{default}', '0')";
    assert!(!client.query_one(call, &[]).unwrap().get::<_, bool>(0));
}

#[test]
fn waiter_is_told_when_a_task_is_due() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    let sql = "SELECT workflow.create_task_instances($1, '{t}', queue => 'default', not_before => clock_timestamp() + '700 ms')";
    client.query(sql, &[&run]).unwrap();
    assert!(claim(client, "default", 1).is_empty());
    let (told, waited) = wait_during(&db, "60 s", || ());
    assert!(told && waited < Duration::from_millis(900), "{waited:?}");
    claim_one(client, "default");
}

#[test]
fn waiter_gives_up_after_its_time_and_is_refused_in_a_block() {
    let db = Db::new();
    let client = &mut db.connect();
    let (told, waited) = wait_during(&db, "300 ms", || ());
    assert!(!told && waited >= Duration::from_millis(300), "{waited:?}");
    client.batch_execute("BEGIN").unwrap();
    let error = client.query("CALL workflow.wait_for_tasks()", &[]).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::ACTIVE_SQL_TRANSACTION));
    client.batch_execute("ROLLBACK").unwrap();
    for arguments in ["NULL", "ARRAY[NULL]", "'{default}', NULL", "'{default}', '-1 s'"] {
        let error = client.query(&format!("CALL workflow.wait_for_tasks({arguments})"), &[]).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{arguments}: {error:?}");
    }
}

#[test]
fn waiter_is_told_when_a_pause_ends() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 1);
    client.query("SELECT workflow.set_queue('default', paused_until => 'infinity')", &[]).unwrap();
    assert!(claim(client, "default", 1).is_empty());
    let resume = "SELECT workflow.set_queue('default', paused_until => '-infinity')";
    let (told, _) = wait_during(&db, "60 s", || _ = client.query(resume, &[]).unwrap());
    assert!(told);
    claim_one(client, "default");
}

/// Long before its next look by itself.
#[test]
fn waiter_is_told_at_once_of_a_queue_that_is_set() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 1);
    for (close, open) in [("paused_until => 'infinity'", "paused_until => '-infinity'"), ("slots => 0", "slots => 5")] {
        client.query(&format!("SELECT workflow.set_queue('default', {close})"), &[]).unwrap();
        let mut opened = Instant::now();
        let (told, _) = wait_during(&db, "60 s", || {
            opened = Instant::now();
            client.query(&format!("SELECT workflow.set_queue('default', {open})"), &[]).unwrap();
        });
        assert!(told && opened.elapsed() < Duration::from_millis(500), "{open}: {:?}", opened.elapsed());
    }
}

/// A waiter that is told of a task which another transaction takes would claim nothing, and ask again without a pause.
#[test]
fn waiter_is_not_told_of_tasks_that_others_take_now() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 2);
    let mut other = db.connect();
    let mut taking = other.transaction().unwrap();
    assert_eq!(claim(&mut taking, "default", 2).len(), 2);
    let call = "CALL workflow.wait_for_tasks('{default}', '0')";
    assert!(!client.query_one(call, &[]).unwrap().get::<_, bool>(0));
    taking.rollback().unwrap();
    assert!(client.query_one(call, &[]).unwrap().get::<_, bool>(0));
    let mut creating = other.transaction().unwrap();
    claim(client, "default", 2);
    let sql = "SELECT workflow.create_task_instances(workflow.create_dag_run(workflow.create_dag('new')), '{t}', queue => 'default')";
    creating.query(sql, &[]).unwrap();
    assert!(!client.query_one(call, &[]).unwrap().get::<_, bool>(0), "it is not committed");
}

/// A commit wakes one waiter for each task that it adds; the others continue to wait.
#[test]
fn commit_wakes_one_of_many_waiters() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 1);
    claim_one(client, "default");
    let taken = std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..8)
            .map(|_| {
                let mut waiter = db.connect();
                scope.spawn(move || {
                    let call = "CALL workflow.wait_for_tasks('{default}', '4 s')";
                    let told: bool = waiter.query_one(call, &[]).unwrap().get(0);
                    (told, claim(&mut waiter, "default", 1).len())
                })
            })
            .collect();
        let waits = "SELECT FROM pg_stat_activity
                     WHERE datname = current_database() AND query LIKE 'CALL%' AND wait_event = 'Extension'";
        let watcher = &mut db.connect();
        wait_until("all wait", || watcher.query(waits, &[]).unwrap().len() == 8);
        enqueue(client, "default", 1);
        waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect::<Vec<(bool, usize)>>()
    });
    assert_eq!(taken.iter().map(|(_, count)| count).sum::<usize>(), 1, "{taken:?}");
    assert!(taken.iter().filter(|(told, _)| *told).count() <= 2, "{taken:?}");
}

/// A commit need not tell when a task that another transaction has locked is free: the session asks again, not at once.
#[test]
fn worker_that_finds_only_locked_tasks_waits() {
    let db = Db::new();
    let (client, other) = (&mut db.connect(), &mut db.connect());
    let task = enqueue(client, "default", 1)[0];
    let mut locking = other.transaction().unwrap();
    locking.query("SELECT FROM workflow.task_instances WHERE id = $1 FOR UPDATE", &[&task]).unwrap();
    let began = Instant::now();
    for _ in 0..10 {
        client.query("CALL workflow.wait_for_tasks('{default}', '10 s')", &[]).unwrap();
        assert!(claim(client, "default", 1).is_empty());
    }
    assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
    // Others find it as soon as the lock is gone, also while the claimer's transaction is open.
    let mut claiming = client.transaction().unwrap();
    assert!(claim(&mut claiming, "default", 1).is_empty());
    locking.rollback().unwrap();
    assert_eq!(claim_one(other, "default").id, task);
}

/// More locked tasks than a call passes by keep neither a worker from those behind, nor its processor busy.
#[test]
fn worker_finds_the_tasks_behind_a_thousand_locked_ones() {
    let db = Db::new();
    let (client, other) = (&mut db.connect(), &mut db.connect());
    enqueue(client, "default", 2500);
    let mut locking = other.transaction().unwrap();
    locking.execute("SELECT FROM workflow.task_instances FOR NO KEY UPDATE", &[]).unwrap();
    let free = enqueue(client, "default", 40);
    let mut taken = Vec::new();
    for _ in 0..3 + 40 {
        taken.extend(claim(client, "default", 1).into_iter().map(|claim| claim.id));
    }
    // But for the turns of the oldest.
    assert!(taken.len() >= 36, "{} tasks", taken.len());
    while taken.len() < 40 {
        taken.extend(claim(client, "default", 1).into_iter().map(|claim| claim.id));
    }
    // Those that are ready at the same time come in any order.
    let sorted = |mut tasks: Vec<uuid::Uuid>| {
        tasks.sort();
        tasks
    };
    assert_eq!(sorted(taken), sorted(free));

    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap()
    };
    let (before, began) = (ticks(), Instant::now());
    while began.elapsed() < Duration::from_secs(3) {
        client.query("CALL workflow.wait_for_tasks('{default}', '10 s')", &[]).unwrap();
        assert!(claim(client, "default", 1).is_empty());
    }
    let used = ticks() - before;
    assert!(used < 100, "{used} hundredths of a second of 3 s");

    // A new task wakes the worker, and the old ones come when they are free.
    let new = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut taken = Vec::new();
            while taken.is_empty() {
                client.query("CALL workflow.wait_for_tasks('{default}', '10 s')", &[]).unwrap();
                taken = claim(client, "default", 1);
            }
            (client, taken.remove(0).id)
        });
        std::thread::sleep(Duration::from_millis(300));
        let task = enqueue(&mut db.connect(), "default", 1)[0];
        let (client, taken) = waiting.join().unwrap();
        assert_eq!(taken, task);
        client
    });
    locking.rollback().unwrap();
    let mut count = 0;
    while count < 2500 {
        new.query("CALL workflow.wait_for_tasks('{default}', '10 s')", &[]).unwrap();
        count += claim(new, "default", 1000).len();
    }
    assert_eq!(count, 2500);
}

/// A session that waits for a queue that does not exist may be woken for any. It takes no wake-up from others.
#[test]
fn waiter_of_an_unknown_queue_takes_no_wake_up() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = enqueue(client, "default", 1);
    assert_eq!(claim(client, "default", 1)[0].id, task[0]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let mut other = db.connect();
            scope.spawn(move || other.execute("CALL workflow.wait_for_tasks('{nowhere}', '4 s')", &[]).unwrap());
        }
        let waits = "SELECT FROM pg_stat_activity
                     WHERE datname = current_database() AND query LIKE '%nowhere%' AND query LIKE 'CALL%'
                         AND wait_event = 'Extension'";
        wait_until("the others", || client.query(waits, &[]).unwrap().len() == 3);
        let mut waiter = db.connect();
        let mut slowest = Duration::ZERO;
        for _ in 0..3 {
            let waiting = scope.spawn(move || {
                waiter.execute("CALL workflow.wait_for_tasks('{default}', '10 s')", &[]).unwrap();
                (waiter, Instant::now())
            });
            let waits = "SELECT FROM pg_stat_activity
                         WHERE datname = current_database() AND query LIKE '%{default}%' AND query LIKE 'CALL%'
                             AND wait_event = 'Extension'";
            wait_until("the waiter", || client.query(waits, &[]).unwrap().len() == 1);
            enqueue(client, "default", 1);
            let created = Instant::now();
            let (back, told) = waiting.join().unwrap();
            waiter = back;
            slowest = slowest.max(told.saturating_duration_since(created));
            claim_one(client, "default");
        }
        assert!(slowest < Duration::from_millis(400), "{slowest:?}: it looked by itself");
    });
}

/// Each look of a waiting session asks for its queues by name.
#[test]
fn session_that_is_woken_often_does_not_grow() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    let mut waiter = db.connect();
    let pid: i32 = waiter.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<i64>().unwrap()
    };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let names = "SELECT array_agg(repeat('q', 200) || n) FROM generate_series(1, 200) AS n";
            let names: Vec<String> = waiter.query_one(names, &[]).unwrap().get(0);
            // To an unknown queue all tasks are news.
            let call = "CALL workflow.wait_for_tasks($1, '60 s')";
            waiter.execute(call, &[&names]).unwrap_err()
        });
        let mut number = 0;
        let mut create = |count| {
            for _ in 0..count {
                number += 1;
                let sql = "SELECT FROM workflow.create_task_instances($1, ARRAY[$2], queue => 'default')";
                client.query(sql, &[&run, &format!("t{number}")]).unwrap();
            }
        };
        create(200);
        let before = memory();
        create(600);
        let grown = memory() - before;
        client.query("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
        assert_eq!(waiting.join().unwrap().code(), Some(&SqlState::QUERY_CANCELED));
        assert!(grown < 4_000, "{grown} kB");
    });
}
