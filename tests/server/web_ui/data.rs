//! The DAG that the web UI shows in these tests.

use super::RUNS;
use postgres::Client;
use uuid::Uuid;

/// A name that would run a script if it were taken for HTML.
const EVIL: &str = "<img src=x onerror=\"window.pwned = true\">";

pub fn task_names() -> Vec<String> {
    let verbs = ["extract", "validate", "clean", "join", "enrich", "aggregate", "train", "score", "publish", "notify"];
    let things = ["orders", "customers", "invoices", "clicks", "stock", "prices", "returns", "regions"];
    let mut names: Vec<String> = verbs.iter().flat_map(|verb| things.map(|thing| format!("{verb}_{thing}"))).collect();
    names[11] = EVIL.to_owned();
    names
}

/// Creates 24 finished runs and one in progress, with tasks in every state.
pub fn create_grid(client: &mut Client) -> Uuid {
    let sql = "SELECT workflow.create_dag('billing_nightly', 'Bills and reports of the day', '0 3 * * *', tags => '[\"finance\", \"core\"]')";
    let dag: Uuid = client.query_one(sql, &[]).unwrap().get(0);
    for day in 0..RUNS as i32 {
        let sql = "SELECT workflow.create_dag_run($1, '2026-11-01 03:00+00'::timestamptz + make_interval(days => $2), '{\"region\": \"eu\"}')";
        let run: Uuid = client.query_one(sql, &[&dag, &day]).unwrap().get(0);
        let sql = "SELECT * FROM workflow.create_task_instances($1, $2, max_tries => 3)";
        client.query(sql, &[&run, &task_names()]).unwrap();
    }
    client.batch_execute(TRANSITIONS).unwrap();
    client.batch_execute(DATES).unwrap();
    dag
}

/// `n` is the number of a task and `day` the number of its run; together they determine a number that looks random.
const TRANSITIONS: &str = "
    CREATE TEMPORARY TABLE plan AS
    SELECT t.id, n, day, pg_catalog.hashint4((n * 31 + day)::integer) & 1023 AS luck, day = 25 AS is_last
    FROM (SELECT *, row_number() OVER (ORDER BY execution_date) AS day FROM workflow.dag_runs) AS r
    CROSS JOIN LATERAL (SELECT id, row_number() OVER (ORDER BY id) AS n FROM workflow.task_instances WHERE dag_run_id = r.id) AS t;
    UPDATE workflow.task_instances AS t SET state = 'skipped' FROM plan WHERE t.id = plan.id AND luck < 25 AND NOT is_last;
    UPDATE workflow.dag_runs SET state = 'running';
    UPDATE workflow.task_instances AS t SET state = 'running' FROM plan
    WHERE t.id = plan.id AND t.state = 'queued' AND (NOT is_last OR n <= 44);
    SELECT workflow.transition('task_instance', t.id, 'running', 'failed', '{\"error\": \"connection reset by peer\"}')
    FROM workflow.task_instances AS t JOIN plan ON plan.id = t.id
    WHERE t.state = 'running' AND luck < 70 AND (NOT is_last OR n < 36);
    UPDATE workflow.task_instances AS t SET state = 'upstream_failed' FROM plan
    WHERE t.id = plan.id AND t.state = 'running' AND day IN (4, 16) AND n > 40;
    UPDATE workflow.task_instances AS t SET state = 'success' FROM plan
    WHERE t.id = plan.id AND t.state = 'running' AND (NOT is_last OR n < 36);
    UPDATE workflow.task_instances AS t SET state = 'retrying' FROM plan
    WHERE t.id = plan.id AND t.state = 'failed' AND day NOT IN (4, 16);
    UPDATE workflow.task_instances AS t SET state = 'success' FROM plan
    WHERE t.id = plan.id AND t.state = 'retrying' AND NOT is_last AND luck > 30;
    UPDATE workflow.dag_runs SET state = CASE WHEN extract(day FROM execution_date) IN (4, 16) THEN 'failed' ELSE 'success' END
    WHERE execution_date < '2026-11-25';";

/// Gives the tasks visible durations. These are managed columns, so the guard trigger must be off.
const DATES: &str = "
    SET session_replication_role = replica;
    UPDATE workflow.task_instances AS t
    SET start_date = now() - interval '4 min' + make_interval(secs => (n / 8) * 40 + luck / 60.0),
        end_date = CASE WHEN t.end_date IS NOT NULL THEN now() - interval '4 min' + make_interval(secs => (n / 8) * 40 + luck / 60.0 + 4 + luck / 30.0) END,
        duration = CASE WHEN t.duration IS NOT NULL THEN 4 + luck / 30.0 END
    FROM plan WHERE t.id = plan.id AND t.start_date IS NOT NULL;
    UPDATE workflow.dag_runs SET start_date = now() - interval '4 min',
        end_date = CASE WHEN end_date IS NOT NULL THEN now() + make_interval(secs => 200 + extract(day FROM execution_date)::integer * 37 % 60) END;
    RESET session_replication_role;";
