//! Each query that the extension plans on a growing table runs here with old statistics, and no query escapes: the test
//! reads their texts in the library's source and in the catalog.

use super::{calls, create_finished_run, drain, grow, grown};
use crate::feed::follow::current_position;
use pg_workflow_tests::{Db, SPLIT, create_tasks, next_partition, start_task, wait_until};
use postgres::{Client, Config, NoTls};
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use uuid::Uuid;
use xtask::setup;

const TABLES: &str = "(state_history|task_logs|task_instances|dag_runs|dags|ready)";

/// Beginnings of queries that may read many pages.
const LONG: [&str; 15] = [
    // verify().
    "WITH bound AS",
    // The first counts.
    "SELECT 'dag_run'::pg_catalog.text, r.state, pg_catalog.count(*)",
    // recover_ready() looks at all open tasks.
    "INSERT INTO workflow.queue_settings (tenant, name) SELECT DISTINCT",
    "UPDATE workflow.task_instances AS i SET queue_id",
    "INSERT INTO workflow.ready (queue_id, priority, ready_at, task_instance_id, version) SELECT t.queue_id",
    // stuck(): here nearly all tasks are in progress.
    "WITH in_progress AS",
    // purge() with dry_run counts all that it would remove.
    "WITH run AS",
    // event_id_at() and event_id_before(): no VACUUM has summarized these pages for the BRIN index.
    "coalesce((SELECT min(h.id + 0)",
    "coalesce((SELECT max(h.id + 0)",
    // reap_claims(), and the count of a queue with slots: here nearly all tasks run.
    "SELECT t.id FROM workflow.task_instances AS t WHERE t.state OPERATOR(pg_catalog.=) 'running' AND t.worker IS NOT NULL",
    "SELECT pg_catalog.count(*) FROM workflow.task_instances AS t",
    // Views that list or count them.
    "BEGIN; SELECT * FROM workflow.queues",
    "BEGIN; SELECT * FROM workflow.claims",
    "BEGIN; SELECT * FROM workflow.waiting",
    // The cascade of a plain DELETE: all tasks are of one run.
    "DELETE FROM ONLY",
];
/// Those of them that are to read whole tables.
const OF_WHOLE_TABLES: &[&str] = LONG.first_chunk::<5>().unwrap();

/// A session that calls a function often continues with plans for any argument.
const PLANS: [&str; 2] = ["", "SET plan_cache_mode = force_generic_plan"];

/// Whether PostgreSQL compares the cost of a hashed subplan without regard to enable_seqscan, as from 18 on.
static IGNORES_SETTING: LazyLock<bool> = LazyLock::new(|| setup::postgres_major().unwrap() >= Some(18));

/// A plan that ran, with the text of its query.
struct Ran {
    query: String,
    plan: Value,
}

/// A session that tells of each query that it runs, those of functions and triggers included.
struct Session {
    client: Client,
    ran: Arc<Mutex<Vec<Ran>>>,
}

impl Session {
    fn new(db: &Db, settings: &str) -> Session {
        let ran = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&ran);
        let mut config: Config = db.url().parse().unwrap();
        config.notice_callback(move |notice| {
            let Some((_, explained)) = notice.message().split_once("plan:\n") else { return };
            let explained: Value = serde_json::from_str(explained).unwrap();
            let query = with_single_spaces(explained["Query Text"].as_str().unwrap());
            heard.lock().unwrap().push(Ran { query, plan: explained["Plan"].clone() });
        });
        let mut client = config.connect(NoTls).unwrap();
        client
            .batch_execute(&format!(
                "LOAD 'auto_explain';
                 SET auto_explain.log_min_duration = 0;
                 SET auto_explain.log_nested_statements = on;
                 SET auto_explain.log_analyze = on;
                 SET auto_explain.log_buffers = on;
                 SET auto_explain.log_timing = off;
                 SET auto_explain.log_format = json;
                 SET auto_explain.log_level = notice;
                 {settings}"
            ))
            .unwrap();
        Session { client, ran }
    }
}

/// Statements that reach the queries which no call of an application does.
fn rare_calls(client: &mut Client, task: Uuid) -> Vec<String> {
    let sql =
        "SELECT r.id, r.dag_id FROM workflow.task_instances AS t JOIN workflow.dag_runs AS r ON r.id = t.dag_run_id
               WHERE t.id = $1";
    let row = client.query_one(sql, &[&task]).unwrap();
    let (run, dag): (Uuid, Uuid) = (row.get(0), row.get(1));
    let next = "SELECT id FROM workflow.read_events('reader', 1)";
    let next: i64 = client.query_one(next, &[]).unwrap().get(0);
    vec![
        format!("SELECT workflow.skip_event('reader', {next})"),
        // As after a read with an old snapshot.
        "UPDATE workflow.consumers
         SET snapshot = '3:3:', next_transaction_id = '100000', window_snapshot = NULL, window_next_transaction_id = NULL,
             window_floor_id = NULL, window_ceiling_id = NULL, acked_id = 0;
         SELECT workflow.consumer_has_events('reader')"
            .to_owned(),
        // All of the window is acknowledged.
        "UPDATE workflow.consumers
         SET snapshot = '3:3:', next_transaction_id = '100000', window_snapshot = pg_current_snapshot(),
             window_next_transaction_id = '100000', window_floor_id = last.id, window_ceiling_id = last.id, acked_id = last.id
         FROM (SELECT max(id) AS id FROM workflow.state_history) AS last WHERE name = 'reader';
         SELECT workflow.consumer_has_events('reader')"
            .to_owned(),
        "SELECT * FROM workflow.stuck()".to_owned(),
        "SELECT * FROM workflow.purge(now(), max_runs => 1)".to_owned(),
        "SELECT * FROM workflow.purge(now(), dry_run => true)".to_owned(),
        "SELECT * FROM workflow.state_counts".to_owned(),
        "SELECT workflow.forget_state_counts(); SELECT * FROM workflow.state_counts".to_owned(),
        "SELECT workflow.fold_state_counts()".to_owned(),
        "SELECT * FROM workflow.verify()".to_owned(),
        "SELECT * FROM workflow.open_partitions()".to_owned(),
        format!("SELECT * FROM workflow.latest_dag_run('{dag}')"),
        format!("SELECT workflow.pause_dag('{dag}'), workflow.pause_dag('{dag}')"),
        "SELECT workflow.event_id_at(now())".to_owned(),
        "SELECT workflow.event_id_before(now())".to_owned(),
        // A trigger's or another part's transition, before the statement has recorded its own.
        format!(
            "WITH started AS (UPDATE workflow.task_instances SET state = 'running' WHERE id = '{task}' RETURNING id)
             SELECT workflow.transition('task_instance', id, 'running', 'success') FROM started"
        ),
        format!("UPDATE workflow.dag_runs SET state = 'running' WHERE id = '{run}'"),
        claim_calls(dag, task),
        dependency_calls(dag),
        "SELECT * FROM workflow.waiting".to_owned(),
        "SELECT * FROM workflow.queues".to_owned(),
        "SELECT * FROM workflow.claims".to_owned(),
        // An index that is no plain one.
        format!(
            "CREATE INDEX ON workflow.ready (version) WHERE version > 0;
             SELECT workflow.enqueue_task_instances(ARRAY['{task}'::uuid])"
        ),
        // A repeated request, and a conflict.
        format!(
            "SELECT workflow.transition('task_instance', '{task}', 'queued', 'running', request_id => 'r');
             SELECT workflow.transition('task_instance', '{task}', 'queued', 'running', request_id => 'r')"
        ),
        format!(
            "DO $$ BEGIN
                 PERFORM workflow.transition('task_instance', '{task}', 'running', 'success');
             EXCEPTION WHEN serialization_failure THEN
             END $$"
        ),
    ]
}

/// Everything that claims do, with a task that waits.
fn claim_calls(dag: Uuid, task: Uuid) -> String {
    format!(
        "DO $$
         DECLARE
             held text;
             queue integer;
             path text := current_setting('pg_workflow.direct_path');
             -- A task of the other run is locked.
             fresh uuid := workflow.create_dag_run('{dag}', now() + '1 year');
         BEGIN
             PERFORM workflow.enqueue_task_instances(ARRAY['{task}'::uuid, gen_random_uuid()], 'plans');
             PERFORM workflow.set_queue('plans', slots => 1000000);
             PERFORM workflow.seconds_to_task('{{plans}}');
             SELECT c.claim INTO held FROM workflow.claim_tasks('w', '{{plans}}') AS c;
             PERFORM workflow.renew_claims(ARRAY[held]);
             PERFORM set_config('pg_workflow.direct_path', 'off', true);
             PERFORM workflow.renew_claims(ARRAY[held]);
             PERFORM set_config('pg_workflow.direct_path', path, true);
             PERFORM workflow.request_cancel('{task}');
             PERFORM workflow.fail_claim(held, 'cancelled');
             PERFORM workflow.fail_claim(held, 'cancelled');
             BEGIN
                 PERFORM workflow.complete_claim(held);
             EXCEPTION WHEN serialization_failure THEN
             END;
             -- Parked and brought back, then expired.
             UPDATE workflow.task_instances SET state = 'retrying' WHERE id = '{task}';
             PERFORM workflow.pause_dag('{dag}');
             PERFORM workflow.claim_tasks('w', '{{plans}}');
             PERFORM workflow.unpause_dag('{dag}');
             PERFORM workflow.claim_tasks('w', '{{plans}}', lease => '1 us');
             PERFORM workflow.reap_claims();
             SELECT t.queue_id INTO queue FROM workflow.task_instances AS t WHERE t.id = '{task}';
             UPDATE workflow.task_instances SET queue_id = NULL WHERE id = '{task}';
             UPDATE workflow.task_instances SET queue_id = queue WHERE id = '{task}';
             PERFORM workflow.create_task_instances(fresh, '{{in queue,waits}}', queue => 'plans');
             PERFORM workflow.finish_claims(jsonb_agg(jsonb_build_object('claim', c.claim, 'state', 'success')))
             FROM workflow.claim_tasks('w', '{{plans}}', 1) AS c;
             PERFORM workflow.recover_ready();
             -- A run that comes back.
             PERFORM workflow.transition('dag_run', fresh, 'queued', 'running');
             PERFORM workflow.transition('dag_run', fresh, 'running', 'failed');
             PERFORM workflow.claim_tasks('w', '{{plans}}');
             PERFORM workflow.transition('dag_run', fresh, 'failed', 'retrying');
             PERFORM workflow.request_cancel(fresh);
         END
         $$"
    )
}

/// Everything that dependencies do. Its commit looks at what has ended.
fn dependency_calls(dag: Uuid) -> String {
    format!(
        "DO $$
         DECLARE
             fresh uuid := workflow.create_dag_run('{dag}', clock_timestamp() + '2 years');
             broken uuid := workflow.create_dag_run('{dag}', clock_timestamp() + '3 years');
         BEGIN
             PERFORM workflow.create_task_instances(broken, '{{a,b}}', depends_on => '{{\"b\": [\"a\"]}}');
             UPDATE workflow.task_instances AS t SET state = 'failed' WHERE t.dag_run_id = broken AND t.task_id = 'a';
             PERFORM workflow.rerun_tasks(broken, dry_run => true);
             PERFORM workflow.rerun_tasks(broken);
             PERFORM workflow.create_task_instances(fresh, '{{a,b}}', queue => 'depends', depends_on => '{{\"b\": [\"a\"]}}');
             PERFORM workflow.create_task_instances(fresh, '{{c,d}}', depends_on => '{{\"c\": [\"b\"], \"d\": [\"c\"]}}');
             PERFORM workflow.create_task_instances(fresh, '{{e}}');
             PERFORM workflow.why_waiting(t.id) FROM workflow.task_instances AS t WHERE t.dag_run_id = fresh AND t.task_id = 'b';
             PERFORM workflow.dag_run_graph(fresh);
             -- Of a task that waits, one that is in a queue, and one that depends on others.
             PERFORM workflow.add_dependencies(fresh, '{{a}}', '{{d}}');
             PERFORM workflow.create_task_instances(fresh, '{{f,g}}', queue => 'depends');
             PERFORM workflow.add_dependencies(fresh, '{{d}}', '{{f}}');
             BEGIN
                 PERFORM workflow.add_dependencies(fresh, '{{f}}', '{{b}}');
             EXCEPTION WHEN invalid_parameter_value THEN
             END;
             PERFORM workflow.look_at_joins();
             PERFORM workflow.claim_tasks('w', '{{depends}}');
             PERFORM workflow.set_fails_on(fresh, 'leaves');
             UPDATE workflow.task_instances AS t SET state = 'skipped' WHERE t.dag_run_id = fresh AND t.task_id = 'e';
             UPDATE workflow.task_instances AS t SET state = 'skipped' WHERE t.dag_run_id = fresh AND t.task_id = 'g';
             UPDATE workflow.task_instances AS t SET state = 'failed' WHERE t.dag_run_id = fresh AND t.task_id = 'a';
         END
         $$"
    )
}

/// Statements after the switch to another partition, and those that wait for transactions in progress.
const WAITING: [&str; 9] = [
    // A trigger of an administrator withholds a claim.
    "CREATE FUNCTION withhold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
     CREATE TRIGGER withhold BEFORE UPDATE ON workflow.task_instances FOR EACH ROW
     WHEN (NEW.state = 'running') EXECUTE FUNCTION withhold();
     SELECT workflow.create_task_instances(workflow.create_dag_run(workflow.create_dag('withheld')), '{one}', queue => 'withheld');
     SELECT workflow.claim_tasks('w', '{withheld}')",
    "SELECT workflow.enable_row_security();
     CREATE ROLE tenant_of_plans IN ROLE workflow_writer;
     SET LOCAL ROLE tenant_of_plans;
     SELECT workflow.create_task_instances(workflow.create_dag_run(workflow.create_dag('mine')), '{one}')",
    "SELECT workflow.position_has_events(workflow.current_position())",
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
     SELECT workflow.create_consumer('beginner', from_beginning => true), workflow.read_events('beginner', 1);
     DO $$ BEGIN
         PERFORM workflow.append_task_log(gen_random_uuid(), 'a line', claim => 'none');
     EXCEPTION WHEN invalid_parameter_value THEN
     END $$",
    "DELETE FROM workflow.dag_runs",
    "SELECT * FROM workflow.purge(now())",
    "SELECT * FROM workflow.purge(now(), dry_run => true)",
    "SELECT * FROM workflow.finish_copy()",
    "TRUNCATE workflow.state_history",
];

/// Runs statements in new sessions, and undoes them. Returns what ran.
fn run_all(db: &Db, statements: &[String], settings: &str) -> Vec<Ran> {
    let mut all = Vec::new();
    for statement in statements {
        let Session { mut client, ran } = Session::new(db, settings);
        let undone = format!("BEGIN; {statement}; ROLLBACK");
        // It takes part in no other transaction, or is about its end.
        let is_own = ["open_partitions", "finish_copy", "look_at_joins"].iter().any(|name| statement.contains(name));
        let result = client.batch_execute(if is_own { statement } else { &undone });
        result.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        all.append(&mut ran.lock().unwrap());
    }
    all
}

/// The nodes of a plan.
fn nodes(plan: &Value) -> Vec<&Value> {
    let below = plan["Plans"].as_array().into_iter().flatten().flat_map(nodes);
    std::iter::once(plan).chain(below).collect()
}

impl Ran {
    /// Buffers of growing tables and their indexes.
    fn buffers(&self, growing: &Regex) -> i64 {
        let of_table = |node: &&Value| {
            let is_growing = |key: &str| node[key].as_str().is_some_and(|name| growing.is_match(name));
            node["Node Type"] != "ModifyTable" && (is_growing("Relation Name") || is_growing("Index Name"))
        };
        let below = |node: &Value| node["Plans"].as_array().into_iter().flatten().map(buffers).sum::<i64>();
        nodes(&self.plan).into_iter().filter(of_table).map(|node| buffers(node) - below(node)).sum()
    }

    /// Whether our settings chose a plan that reads a growing table as a whole. The user's settings choose those of the
    /// user's own statement, and mostly those of foreign keys.
    fn reads_whole_table(&self, growing: &Regex) -> bool {
        let is_ours = !self.query.starts_with("BEGIN; ") && !self.query.contains(r#" FROM ONLY "workflow"."#);
        let reads_all = |node: &Value| {
            let table = node["Relation Name"].as_str().unwrap_or_default();
            // The policy of a tenant. It is planned again when dags, which is small, is analyzed.
            let is_policy = *IGNORES_SETTING && table == "dags" && node["Parent Relationship"] == "SubPlan";
            node["Node Type"] == "Seq Scan" && growing.is_match(table) && !is_policy
        };
        is_ours && nodes(&self.plan).into_iter().any(reads_all)
    }

    fn is_one_of(&self, beginnings: &[&str]) -> bool {
        beginnings.iter().any(|beginning| self.query.starts_with(beginning))
    }
}

/// Buffers of a node with those below it.
fn buffers(node: &Value) -> i64 {
    ["Shared Hit Blocks", "Shared Read Blocks"].map(|name| node[name].as_i64().unwrap()).iter().sum()
}

/// The texts of the library's statements on growing tables. A part that the library fills in is `{…}`.
fn library_queries() -> BTreeSet<String> {
    let growing = Regex::new(&format!(r"(workflow\.{TABLES}|\{{table\}}) AS|INTO workflow\.{TABLES}\b")).unwrap();
    let literal = Regex::new(r#"(?s)Plan::(?:new|of_whole_tables)\(\s*(?:format!\(\s*)?"((?:[^"\\]|\\.)*)""#).unwrap();
    let continued = Regex::new(r"\\\n\s*").unwrap();
    let mut queries = BTreeSet::new();
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../extension/src")) {
        let source = fs::read_to_string(file).unwrap();
        for found in literal.captures_iter(&source) {
            let query = continued.replace_all(&found[1], "").into_owned();
            if growing.is_match(&query) {
                queries.insert(query);
            }
        }
    }
    queries
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.append(&mut sources(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// The beginnings of the queries of PL/pgSQL functions, from the name of a growing table on; for functions and views in
/// SQL, which become part of other queries, their names.
fn catalog_queries(client: &mut Client) -> BTreeSet<String> {
    let growing = Regex::new(&format!(r"(?:FROM|JOIN|INTO|UPDATE) workflow\.{TABLES} AS ")).unwrap();
    let end = Regex::new(r";| LOOP\b| THEN\b| INTO\b").unwrap();
    let functions = "SELECT p.proname::text, l.lanname::text, p.prosrc FROM pg_proc AS p
                     JOIN pg_language AS l ON l.oid = p.prolang
                     WHERE p.pronamespace = 'workflow'::regnamespace AND l.lanname <> 'c'
                         -- Its conditions become part of other queries.
                         AND p.proname <> 'create_policy'";
    let mut queries = BTreeSet::new();
    for row in client.query(functions, &[]).unwrap() {
        let (name, language, source): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let source = with_single_spaces(&source);
        for found in growing.find_iter(&source) {
            if language == "sql" {
                queries.insert(format!("workflow.{name}("));
            } else {
                let query = end.split(&source[found.start()..]).next().unwrap_or_default();
                queries.insert(query.chars().take(120).collect());
            }
        }
    }
    let views = format!(
        "SELECT viewname::text FROM pg_views WHERE schemaname = 'workflow' AND definition ~ 'workflow\\.{TABLES} '"
    );
    queries
        .extend(client.query(&views, &[]).unwrap().iter().map(|row| format!("workflow.{}", row.get::<_, String>(0))));
    queries
}

fn with_single_spaces(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a query has these parts in their order.
fn has_parts(query: &str, parts: &[&str]) -> bool {
    let mut rest = query;
    parts.iter().all(|part| {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
        true
    })
}

/// Waits for events in one session, and commits one in another.
fn run_woken_read(db: &Db, client: &mut Client, task: Uuid, settings: &str) -> Vec<Ran> {
    client.batch_execute("SELECT workflow.create_consumer('waiting')").unwrap();
    let ran = std::thread::scope(|scope| {
        let read = || run_all(db, &["SELECT * FROM workflow.read_events('waiting', 1, '60 s')".to_owned()], settings);
        let reader = scope.spawn(read);
        let waits = "SELECT FROM pg_stat_activity
                     WHERE datname = current_database() AND query LIKE '%read_events%' AND wait_event = 'Extension'";
        wait_until("the reader", || client.query(waits, &[]).unwrap().len() == 1);
        start_task(client, task);
        reader.join().unwrap()
    });
    client.batch_execute("SELECT workflow.drop_consumer('waiting')").unwrap();
    ran
}

fn growing_tables() -> Regex {
    Regex::new(&format!("^{TABLES}(_|$)")).unwrap()
}

/// PostgreSQL plans again for another role, also while the tables are small.
#[test]
fn plans_are_by_index_after_each_change_of_role() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 3);
    client.batch_execute("ANALYZE").unwrap();
    let starts = ["RESET ROLE", "SET ROLE workflow_admin", "RESET ROLE"].iter().zip(tasks).map(|(role, task)| {
        format!(
            "{role}; SELECT workflow.transition('task_instance', '{task}', 'queued', 'running', request_id => '{task}')"
        )
    });
    let ran = run_all(&db, &[starts.collect::<Vec<_>>().join("; ")], "SET pg_workflow.direct_path = off");
    let whole: Vec<&str> =
        ran.iter().filter(|ran| ran.reads_whole_table(&growing_tables())).map(|ran| ran.query.as_str()).collect();
    assert!(ran.len() > 6 && whole.is_empty(), "{whole:#?} of {}", ran.len());
}

#[test]
fn every_planned_query_reads_few_pages() {
    let (db, tasks) = grown();
    let client = &mut db.connect();
    let (late, others) = tasks.split_at(2);
    let (calm, others) = others.split_at(20);
    let mut holder = db.connect();
    holder.batch_execute("BEGIN").unwrap();
    start_task(&mut holder, late[0]);
    grow(client, others);
    drain(client);
    start_task(client, late[1]);
    create_finished_run(client);
    client.batch_execute("SELECT workflow.fold_state_counts()").unwrap();
    let position = current_position(client);
    let pages: i64 =
        client.query_one("SELECT pg_relation_size('workflow.state_history_0') / 8192", &[]).unwrap().get(0);

    let mut statements = calls(client, calm, &position);
    statements.append(&mut rare_calls(client, calm[0]));
    let mut ran = Vec::new();
    for path in ["on", "off"] {
        for plans in PLANS {
            ran.append(&mut run_all(&db, &statements, &format!("SET pg_workflow.direct_path = {path}; {plans}")));
        }
    }
    holder.batch_execute("COMMIT").unwrap();
    for (plans, task) in PLANS.iter().zip(&calm[1..]) {
        ran.append(&mut run_woken_read(&db, client, *task, plans));
    }
    next_partition(client);
    ran.append(&mut run_all(&db, &[format!("{SPLIT}; SELECT * FROM workflow.consumer_lag")], ""));
    // As in a restored dump.
    client.batch_execute("UPDATE workflow.consumers SET system_identifier = 1 WHERE name = 'reader'").unwrap();
    ran.append(&mut run_all(&db, &WAITING.map(str::to_owned), ""));
    // This partition has never been analyzed.
    grow(client, others);
    drain(client);
    start_task(client, calm[3]);
    let position = current_position(client);
    let mut statements = calls(client, calm, &position);
    statements.append(&mut rare_calls(client, calm[0]));
    // The user's own settings plan a view, which can read such a partition as a whole.
    statements.retain(|statement| !statement.contains("consumer_lag"));
    ran.append(&mut run_all(&db, &statements, PLANS[1]));
    ran.append(&mut run_woken_read(&db, client, calm[4], PLANS[1]));

    let mut queries = library_queries();
    assert!(queries.len() > 10, "{queries:#?}");
    queries.append(&mut catalog_queries(client));
    let texts: BTreeSet<&str> = ran.iter().map(|ran| ran.query.as_str()).collect();
    // What the library fills in.
    let filled = Regex::new(r"\{[a-z_]*\}").unwrap();
    queries.retain(|query| {
        let parts: Vec<&str> = filled.split(query).collect();
        !texts.iter().any(|text| has_parts(text, &parts))
    });
    assert!(queries.is_empty(), "not run: {queries:#?}");

    let growing = growing_tables();
    let is_costly = |ran: &&Ran| {
        (ran.buffers(&growing) > pages / 4 && !ran.is_one_of(&LONG))
            || (ran.reads_whole_table(&growing) && !ran.is_one_of(OF_WHOLE_TABLES))
    };
    let costly: BTreeSet<_> =
        ran.iter().filter(is_costly).map(|ran| format!("{}\n{:#}", ran.query, ran.plan)).collect();
    assert!(costly.is_empty(), "{}", Vec::from_iter(costly).join("\n"));
}
