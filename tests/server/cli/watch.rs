//! `watch`: events as they happen.

use super::{Etl, etl};
use pg_workflow_tests::*;
use serde_json::{Value, json};
use xtask::stack::server::Server;

#[test]
fn watch_shows_only_matching_events() {
    let db = Db::new();
    let client = &mut db.connect();
    let Etl { run: etl_run, .. } = etl(client);
    let id = etl_run.to_string();
    for filter in [["--dag", "etl"], ["--run", &id]] {
        let args = [&["watch", "--json"][..], &filter].concat();
        let watch = Server::start("watch", &server_binary(), &args, &[("DATABASE_URL", db.url())]).unwrap();
        // The log may not exist yet.
        let shown = || std::fs::read_to_string(watch.log()).unwrap_or_default();
        // The test cannot see whether `watch` listens yet, so it makes events until some are shown.
        let mut count = 0;
        wait_until("some lines", || {
            create_task(client);
            count += 1;
            let names = vec![format!("{} {count}", filter[0])];
            client.execute("SELECT workflow.create_task_instances($1, $2)", &[&etl_run, &names]).unwrap();
            shown().lines().count() >= 3
        });
        for line in shown().split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let event: Value = serde_json::from_str(line).unwrap();
            assert_eq!(event["dag_run_id"], json!(etl_run), "{filter:?}");
        }
        assert_eq!(watch.terminate().unwrap().code(), Some(0));
    }
}

#[test]
fn watch_shows_deletions() {
    let db = Db::new();
    let client = &mut db.connect();
    let watch = Server::start("watch", &server_binary(), &["watch"], &[("DATABASE_URL", db.url())]).unwrap();
    let shown = || std::fs::read_to_string(watch.log()).unwrap_or_default();
    wait_until("a deletion", || {
        let task = create_task(client);
        client.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&task]).unwrap();
        shown().lines().any(|line| line.contains("queued → deleted  v2  postgres"))
    });
    assert_eq!(watch.terminate().unwrap().code(), Some(0));
}
