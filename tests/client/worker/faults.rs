//! Every statement of a worker against every fault of one task: no other task suffers from it.
//!
//! The faults come from triggers, as those of users: a task has the name of its fault.

use super::*;

/// Errors that a trigger raises: of the classes that a server uses for itself, and of those about data.
const ERRORS: [&str; 19] = [
    "08001", "0A000", "22012", "22021", "22P02", "23505", "25006", "28000", "3F000", "40001", "42501", "42P01",
    "53400", "55P03", "57014", "57P01", "58030", "P0001", "XX000",
];
/// The statement takes longer than any limit; its connection breaks; COMMIT is refused; the row stays as it was.
const OTHERS: [&str; 4] = ["hangs", "breaks", "deferred", "withheld"];
const HEALTHY: [&str; 3] = ["healthy 1", "healthy 2", "healthy 3"];

fn all() -> Vec<&'static str> {
    // In the order of their ids, some come before the faults.
    [&HEALTHY[..1], &ERRORS, &HEALTHY[1..2], &OTHERS, &HEALTHY[2..]].concat()
}

/// Creates triggers that make the faults of statements with this effect.
async fn prepare(db: &Db, effect: &str) -> pg_workflow_client::connect::Client {
    let client = server(db.url()).connect().await.unwrap();
    let sql = format!(
        "CREATE TABLE public.faults AS SELECT true AS are_on;
         CREATE FUNCTION public.fault() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NOT (SELECT are_on FROM public.faults) THEN
                 RETURN NEW;
             ELSIF NEW.task_id = 'hangs' THEN
                 PERFORM pg_sleep(60);
             ELSIF NEW.task_id = 'breaks' THEN
                 PERFORM pg_terminate_backend(pg_backend_pid());
                 PERFORM pg_sleep(60);
             ELSIF NEW.task_id = 'deferred' THEN
                 RAISE 'deferred';
             ELSIF NEW.task_id = 'withheld' THEN
                 RETURN NULL;
             END IF;
             RAISE 'a fault' USING ERRCODE = NEW.task_id;
         END $$;
         CREATE TRIGGER fault AFTER UPDATE ON workflow.task_instances FOR EACH ROW
             WHEN ({effect} AND NEW.task_id NOT IN ('deferred', 'withheld') AND NEW.task_id NOT LIKE 'healthy%')
             EXECUTE FUNCTION public.fault();
         CREATE TRIGGER withheld BEFORE UPDATE ON workflow.task_instances FOR EACH ROW
             WHEN ({effect} AND NEW.task_id = 'withheld') EXECUTE FUNCTION public.fault();
         CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON workflow.task_instances DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN ({effect} AND NEW.task_id = 'deferred') EXECUTE FUNCTION public.fault()"
    );
    client.batch_execute(&sql).await.expect("triggers");
    client
}

/// Starts a worker that holds all tasks until `end`, and waits until it does.
async fn hold_all(db: &Db, client: &Client, options: Worker, end: &CancellationToken) -> (Running, Calls) {
    let (calls, end) = (Calls::default(), end.clone());
    let noted = calls.clone();
    enqueue(client, &all(), 1).await;
    let worker = Running::start(db, Worker { concurrency: all().len() + 2, ..options }, move |task, _| {
        noted.note(&task);
        let end = end.clone();
        async move {
            end.cancelled().await;
            Ok(())
        }
    });
    wait_for("all tasks run", async || calls.len() == all().len()).await;
    (worker, calls)
}

/// Not those that cancel or end the whole statement or its commit: the database cannot take the next task instead.
#[test]
fn claim_that_fails_keeps_no_other_task() {
    let (_cluster, db) = own_cluster("worker-claims", &[]);
    run(async {
        let client = prepare(&db, "OLD.state <> 'running' AND NEW.state = 'running'").await;
        let of_all = ["57014", "hangs", "breaks", "deferred"];
        let names: Vec<_> = all().into_iter().filter(|name| !of_all.contains(name)).collect();
        enqueue(&client, &names, 1).await;
        let calls = Calls::default();
        let noted = calls.clone();
        let worker = Running::start(&db, Worker { concurrency: 2, ..Worker::default() }, move |task, _| {
            noted.note(&task);
            async { Ok(()) }
        });
        wait_for("the others", async || count(&client, "state = 'success'").await == HEALTHY.len()).await;
        client.batch_execute("UPDATE public.faults SET are_on = false").await.unwrap();
        wait_for("all tasks", async || count(&client, "state = 'success'").await == names.len()).await;
        worker.stop().await;
        calls.assert_each_once();
    });
}

#[test]
fn end_that_fails_delays_no_other_and_is_kept() {
    let (_cluster, db) = own_cluster("worker-ends", &[]);
    run(async {
        let client = prepare(&db, "OLD.state = 'running' AND NEW.state <> 'running'").await;
        let end = CancellationToken::new();
        let options = Worker { lease: Duration::from_secs(60), ..Worker::default() };
        let (worker, calls) = hold_all(&db, &client, options, &end).await;
        let lock = server(db.url()).connect().await.unwrap();
        let locked = "BEGIN; SELECT FROM workflow.task_instances WHERE task_id = 'healthy 2' FOR UPDATE";
        lock.batch_execute(locked).await.unwrap();
        end.cancel();
        wait_for("the others", async || count(&client, "state = 'success'").await == 2).await;
        let later = enqueue(&client, &["healthy later"], 1).await;
        wait_for_state(&client, later[0], State::Success).await;
        lock.batch_execute("ROLLBACK").await.unwrap();
        client.batch_execute("UPDATE public.faults SET are_on = false").await.unwrap();
        wait_for("all tasks", async || count(&client, "state = 'success'").await == all().len() + 1).await;
        worker.stop().await;
        calls.assert_each_once();
    });
}

#[test]
fn renewal_that_fails_costs_no_other_lease() {
    // Renewals are written to rows: the library is not preloaded.
    let (_cluster, db) = own_cluster("worker-renewals", &[]);
    run(async {
        let client = prepare(&db, "OLD.state = 'running' AND NEW.state = 'running'").await;
        let (end, lease) = (CancellationToken::new(), Duration::from_secs(12));
        let (worker, calls) = hold_all(&db, &client, Worker { lease, ..Worker::default() }, &end).await;
        // This one ends claims that have run out.
        let other = Running::start(&db, Worker::default(), |_, _| async { Ok(()) });
        tokio::time::sleep(2 * lease).await;
        end.cancel();
        wait_for("the others", async || count(&client, "state <> 'running'").await == all().len()).await;
        assert_eq!(count(&client, "task_id LIKE 'healthy%' AND state = 'success'").await, HEALTHY.len());
        worker.stop().await;
        other.stop().await;
        calls.assert_each_once();
    });
}

#[test]
fn release_that_fails_keeps_no_other_task() {
    let (_cluster, db) = own_cluster("worker-releases", &[]);
    run(async {
        let client = prepare(&db, "OLD.state = 'running' AND NEW.state <> 'running'").await;
        let options = Worker { shutdown_limit: Duration::from_millis(100), ..Worker::default() };
        let (worker, _) = hold_all(&db, &client, options, &CancellationToken::new()).await;
        let lock = server(db.url()).connect().await.unwrap();
        let locked = "BEGIN; SELECT FROM workflow.task_instances WHERE task_id = 'healthy 2' FOR UPDATE";
        lock.batch_execute(locked).await.unwrap();
        worker.stop().await;
        let released = "state = 'retrying' AND uncounted_tries = 1";
        assert_eq!(count(&client, released).await, 2);
        assert_eq!(count(&client, "state = 'running'").await, all().len() - 2);
    });
}
