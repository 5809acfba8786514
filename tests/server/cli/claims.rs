//! Claims and queues: lists, `cancel` and `reap`.

use super::{ok, refused, run};
use pg_workflow_tests::*;
use postgres::Client;
use serde_json::json;
use uuid::Uuid;

/// Creates tasks that can be claimed, in a new run.
fn enqueue(client: &mut Client, queue: &str, names: &[&str]) -> (Uuid, Vec<Uuid>) {
    let (_, run) = create_run(client);
    let sql = "SELECT id FROM workflow.create_task_instances($1, $2, queue => $3, max_tries => 2)";
    let tasks = client.query(sql, &[&run, &names, &queue]).unwrap();
    (run, tasks.iter().map(|row| row.get(0)).collect())
}

fn claim(client: &mut Client, worker: &str, queue: &str, lease: &str) -> Uuid {
    let sql = format!("SELECT id FROM workflow.claim_tasks($1, ARRAY[$2], lease => '{lease}')");
    client.query_one(&sql, &[&worker, &queue]).unwrap().get(0)
}

#[test]
fn lists_show_claims_and_queues() {
    let db = Db::new();
    let client = &mut db.connect();
    let done = ok(&db, &["list", "claims"]);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", "no claims\n"));
    let (etl_run, _) = enqueue(client, "etl", &["load", "store"]);
    enqueue(client, "mail", &["send", "again"]);
    let [loading, sending] =
        [("w-1", "etl"), ("w-2", "mail")].map(|(worker, queue)| claim(client, worker, queue, "1 h"));
    client.query("SELECT workflow.request_cancel($1)", &[&loading]).unwrap();
    client.query("SELECT workflow.set_queue('etl', slots => 1, paused_until => 'infinity')", &[]).unwrap();

    let done = ok(&db, &["list", "claims"]);
    let table = done.table();
    assert_eq!(done.stdout.lines().next().unwrap().split("  ").filter(|head| !head.is_empty()).count(), 9);
    assert_eq!(table[1][..4], ["send", "mail", "w-2", "1"], "the newest task first");
    assert_eq!(table[2][..4], ["load", "etl", "w-1", "1"]);
    assert_eq!((table[1][6], table[1][7], table[2][6]), ("-", "-", "-"), "no timeout, and one was cancelled");
    assert_eq!((table[1][8], table[2][8]), (sending.to_string().as_str(), loading.to_string().as_str()));
    let of_run = etl_run.to_string();
    for args in [&["--run", &of_run][..], &["--queue", "etl"], &["--worker", "w-1"], &["--order-by", "id", "-n", "1"]] {
        let claims = ok(&db, &[&["list", "claims", "--json"], args].concat()).json();
        assert_eq!((claims.len(), &claims[0]["id"]), (1, &json!(loading)), "{args:?}");
        assert!(claims[0]["cancel_requested_at"].is_string() && claims[0]["lease_expires_at"].is_string());
    }
    let first = ok(&db, &["list", "claims", "--limit", "1"]);
    assert!(first.stderr.starts_with("1 claim, more with --all"), "{}", first.stderr);
    let cursor = first.stderr.rsplit(' ').next().unwrap().trim();
    assert_eq!(ok(&db, &["list", "claims", "--cursor", cursor]).table()[1][0], "load");

    let table = ok(&db, &["list", "queues"]);
    let table = table.table();
    assert_eq!((&table[1][..3], table[1][6], table[1][7]), (&["etl", "-", "1"][..], "1", "1"));
    assert!(table[1][9].starts_with("9999-12-31"), "{:?}", table[1]);
    assert_eq!((&table[2][..3], table[2][6], table[2][7], table[2][9]), (&["mail", "-", "1"][..], "1", "-", "-"));
    let queues = ok(&db, &["list", "queues", "--name", "mail", "--json"]).json();
    assert_eq!((queues.len(), &queues[0]["ready"], &queues[0]["running"]), (1, &json!(1), &json!(1)));
    let first = ok(&db, &["list", "queues", "--limit", "1"]);
    let cursor = first.stderr.rsplit(' ').next().unwrap().trim();
    assert_eq!(ok(&db, &["list", "queues", "--cursor", cursor]).table()[1][0], "mail");
}

#[test]
fn show_tells_who_holds_a_task() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "etl", &["load"]);
    let task = claim(client, "w-1", "etl", "1 h").to_string();
    let shown = ok(&db, &["show", &task]);
    assert!(shown.table().contains(&vec!["worker", "w-1"]), "{}", shown.stdout);
    assert_eq!(ok(&db, &["show", &task, "--json"]).json()[0]["claim"]["worker"], "w-1");
    client.batch_execute("UPDATE workflow.task_instances SET state = 'success'").unwrap();
    assert_eq!(ok(&db, &["show", &task, "--json"]).json()[0]["claim"], json!(null));
}

#[test]
fn cancel_ends_waiting_tasks_and_asks_running_ones() {
    let db = Db::new();
    let client = &mut db.connect();
    let (etl_run, tasks) = enqueue(client, "etl", &["load", "store", "index"]);
    let held = claim(client, "w-1", "etl", "1 h");
    let waiting: Vec<String> = tasks.iter().filter(|task| **task != held).map(Uuid::to_string).collect();
    let (held, etl_run) = (held.to_string(), etl_run.to_string());
    let done = ok(&db, &["cancel", &held, &waiting[0]]);
    assert_eq!(done.table(), [vec!["ID", "OUTCOME"], vec![&held, "requested"], vec![&waiting[0], "skipped"]]);
    let outcomes = ok(&db, &["cancel", "--json", &waiting[0], &etl_run]).json();
    assert_eq!(
        outcomes,
        [json!({"id": waiting[0], "outcome": "ended"}), json!({"id": etl_run, "outcome": "requested"})]
    );
    assert_eq!(ok(&db, &["list", "tasks", "--state", "skipped", "--json"]).json().len(), 2);

    let unknown = Uuid::new_v4().to_string();
    assert!(refused(&db, &["cancel", &unknown], 3).contains(&unknown));
    let done = run(&db, &["cancel", &held, &unknown, &waiting[1]]);
    assert_eq!((done.code, done.table().len()), (Some(3), 2), "it stops there: {}", done.stderr);
}

#[test]
fn reap_ends_all_claims_that_have_run_out() {
    let db = Db::new();
    let client = &mut db.connect();
    let names: Vec<String> = (0..150).map(|n| format!("task_{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    enqueue(client, "etl", &names);
    let alive = claim(client, "alive", "etl", "1 h");
    client.query("SELECT workflow.claim_tasks('gone', '{etl}', 1000, '1 ms')", &[]).unwrap();
    client
        .query("SELECT pg_sleep_until(max(lease_expires_at)) FROM workflow.claims WHERE worker = 'gone'", &[])
        .unwrap();
    let done = ok(&db, &["reap"]);
    let table = done.table();
    assert_eq!(table.len(), 150, "{}", done.stderr);
    assert_eq!(table[0], ["ID", "WORKER", "REASON", "STATE"]);
    assert_eq!(table[1][1..], ["gone", "lease", "expired", "retrying"]);
    let done = ok(&db, &["reap", "--json"]);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", "no claim has run out\n"));
    assert_eq!(ok(&db, &["list", "claims", "--json"]).json()[0]["id"], json!(alive));
}

#[test]
fn reap_warns_once_of_each_claim_that_it_cannot_end() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "etl", &["poison", "a"]);
    client
        .batch_execute(
            "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql
                 AS $$ BEGIN RAISE 'poisoned'; END $$;
             CREATE TRIGGER refuse AFTER UPDATE ON workflow.task_instances FOR EACH ROW
                 WHEN (NEW.task_id = 'poison' AND NEW.state = 'retrying') EXECUTE FUNCTION public.refuse()",
        )
        .unwrap();
    client.query("SELECT workflow.claim_tasks('gone', '{etl}', 2, '1 ms')", &[]).unwrap();
    client.query("SELECT pg_sleep_until(max(lease_expires_at)) FROM workflow.claims", &[]).unwrap();
    let id: Uuid =
        client.query_one("SELECT id FROM workflow.task_instances WHERE task_id = 'poison'", &[]).unwrap().get(0);
    let warning = format!("workflow-server: cannot end the claim of task_instance {id}: poisoned (P0001)\n");
    let done = ok(&db, &["reap"]);
    assert_eq!((done.table().len(), done.stderr.as_str()), (2, warning.as_str()));
    assert_eq!(ok(&db, &["reap"]).stderr, warning);
}
