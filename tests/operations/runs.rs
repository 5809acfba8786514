//! Runs with dependencies outlast a dump, a promotion and a purge.

use super::backup::{program, run};
use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;
use xtask::stack::postgres::{PRELOADED, Postgres};

/// Creates a run and leaves it in its middle: a parent is held by a worker, and a join watches no task, because a transaction
/// that was about to end the last parent has rolled back.
fn begin(db: &Db) -> Uuid {
    let [client, other] = &mut [db.connect(), db.connect()];
    let (_, run) = create_run(client);
    let create = "SELECT count(*) FROM workflow.create_task_instances($1, '{a,b,c,d,e}', queue => 'survival',
        depends_on => '{\"c\": [\"a\", \"b\"], \"d\": [\"c\"], \"e\": [\"c\"]}', trigger_rules => '{\"e\": \"one_failed\"}')";
    client.query_one(create, &[&run]).unwrap();
    assert_eq!(claim(client), ["a", "b"]);
    let mut open = other.transaction().unwrap();
    end(&mut open, run, "a");
    end(client, run, "b");
    open.rollback().unwrap();
    let left = "SELECT count(*) FROM workflow.waits WHERE watched < '00000000-0000-0001-0000-000000000000'";
    assert_eq!(client.query_one(left, &[]).unwrap().get::<_, i64>(0), 1);
    run
}

fn claim(client: &mut Client) -> Vec<String> {
    let sql = "SELECT task_id FROM workflow.claim_tasks('worker', '{survival}', 10) ORDER BY task_id";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn end(client: &mut impl postgres::GenericClient, run: Uuid, task: &str) {
    let sql = "UPDATE workflow.task_instances SET state = 'success' WHERE dag_run_id = $1 AND task_id = $2";
    assert_eq!(client.execute(sql, &[&run, &task]).unwrap(), 1);
}

/// Works on a run that was left in its middle, to its end.
fn finish(client: &mut Client, run: Uuid) {
    end(client, run, "a");
    assert_eq!(claim(client), ["c"]);
    end(client, run, "c");
    assert_eq!(claim(client), ["d"]);
    end(client, run, "d");
    let states =
        "SELECT r.state, t.state FROM workflow.dag_runs AS r JOIN workflow.task_instances AS t ON t.dag_run_id = r.id
        WHERE r.id = $1 AND t.task_id = 'e'";
    let states = client.query_one(states, &[&run]).unwrap();
    assert_eq!((states.get(0), states.get(1)), ("success", "skipped"));
    assert_eq!(client.query_one("SELECT count(*) FROM workflow.waits", &[]).unwrap().get::<_, i64>(0), 0);
}

#[test]
fn run_goes_on_in_a_restored_copy() {
    let (cluster, db) = own_cluster("runs-dump", &[PRELOADED]);
    let id = begin(&db);
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("archive");
    for (dump, restore, options) in [
        (["-Fc", "-Z0"], "pg_restore", ["--exit-on-error", "--jobs=2"]),
        (["--inserts", "--rows-per-insert=3"], "psql", ["-qX", "-vON_ERROR_STOP=1"]),
    ] {
        run(program(&cluster, "pg_dump").args(dump).arg("--file").arg(&archive).args(["--dbname", db.url()]));
        let copy = Db::at(cluster.create_database("copy").unwrap());
        let mut program = program(&cluster, restore);
        program.args(options).args(["--dbname", copy.url()]);
        program.args((restore == "psql").then_some("--file"));
        run(program.arg(&archive));
        finish(&mut copy.connect(), id);
        drop(copy);
        cluster.psql("postgres", "DROP DATABASE copy WITH (FORCE)").unwrap();
    }
    finish(&mut db.connect(), id);
}

#[test]
fn run_goes_on_after_a_promotion() {
    let (primary, db) = own_cluster("runs-promoted", &[PRELOADED]);
    let standby = primary.standby("runs-promoted").unwrap();
    let run = begin(&db);
    catch_up(&primary, &standby);
    drop(db.without_verification());
    primary.kill().unwrap();
    standby.promote().unwrap();
    let promoted = Db::at(standby.url("workflow"));
    finish(&mut promoted.connect(), run);
}

fn catch_up(primary: &Postgres, standby: &Postgres) {
    let end = primary.psql("workflow", "SELECT pg_current_wal_flush_lsn()").unwrap();
    let has_replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
    wait_until("the standby", || standby.psql("workflow", &has_replayed).unwrap() == "t");
}

#[test]
fn purge_and_deletion_remove_the_joins_of_a_run() {
    let db = Db::new();
    let client = &mut db.connect();
    let (ended, open) = (begin(&db), begin_another(client));
    finish_beside(client, ended);
    let purge = "SELECT outcome FROM workflow.purge(now() + interval '1 day') WHERE object = 'dag_runs'";
    client.query(purge, &[]).unwrap();
    let joins = "SELECT array_agg(DISTINCT dag_run_id) FROM workflow.joins";
    assert_eq!(client.query_one(joins, &[]).unwrap().get::<_, Vec<Uuid>>(0), [open]);
    client.execute("DELETE FROM workflow.dag_runs WHERE id = $1", &[&open]).unwrap();
    let left = "SELECT (SELECT count(*) FROM workflow.joins), (SELECT count(*) FROM workflow.waits)";
    let left = client.query_one(left, &[]).unwrap();
    assert_eq!((left.get::<_, i64>(0), left.get::<_, i64>(1)), (0, 0));
}

/// Creates a run whose tasks wait in another queue.
fn begin_another(client: &mut Client) -> Uuid {
    let (_, run) = create_run(client);
    let create = "SELECT count(*) FROM workflow.create_task_instances($1, '{x,y}', depends_on => '{\"y\": [\"x\"]}')";
    client.query_one(create, &[&run]).unwrap();
    run
}

fn finish_beside(client: &mut Client, run: Uuid) {
    end(client, run, "a");
    for task in ["c", "d"] {
        assert_eq!(claim(client), [task]);
        end(client, run, task);
    }
}
