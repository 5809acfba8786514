//! The page, in a real browser: what it shows, that it follows by itself, by keyboard, on a phone, and how fast.
//!
//! Its pictures are left in `target/page/`.

mod browser;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use browser::Browser;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use serde_json::{Value, json};
use uuid::Uuid;
use xtask::stack::port;
use xtask::stack::redis::Redis;
use xtask::stack::server::Server;

const RUNS: usize = 25;
const TASKS: usize = 80;
/// A name that would do something if it were taken for HTML.
const EVIL: &str = "<img src=x onerror=\"window.pwned = true\">";
/// All states of the cells, by the task's id.
const STATES: &str = "Object.fromEntries([...document.querySelectorAll('.cell')].map(cell => [cell.href.split('/').at(-1), cell.dataset.state]))";

/// A DAG with [`RUNS`] runs of [`TASKS`] tasks, a server, and a browser to look at it.
struct Stage {
    browser: Browser,
    server: Option<Server>,
    redis: Redis,
    db: Db,
    port: u16,
    dag: Uuid,
    /// Browsers that run at once would slow each other down.
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    /// None, with a message, where there is no browser.
    fn new() -> Option<Stage> {
        static ONE: Mutex<()> = Mutex::new(());
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let browser = Browser::start()?;
        let (db, redis) = (Db::new(), Redis::start("page").unwrap());
        let dag = create_grid(&mut db.connect());
        let start = |port| Ok((start_server(db.url(), &redis, port, &[])?, port));
        let (server, port) = port::retrying(start).unwrap();
        let mut stage = Stage { browser, server: Some(server), redis, db, port, dag, _alone: alone };
        stage.browser.resize(1280, 860);
        Some(stage)
    }

    fn open(&mut self, hash: &str) {
        self.browser.open(&format!("http://127.0.0.1:{}/{hash}", self.port));
    }

    fn open_grid(&mut self) {
        self.open(&format!("#/dags/{}", self.dag));
        self.browser.wait(&format!("document.querySelectorAll('.cell').length === {}", RUNS * TASKS));
        self.wait_live();
    }

    fn restart(&mut self, flags: &[&str]) {
        drop(self.server.take());
        self.server = Some(start_server(self.db.url(), &self.redis, self.port, flags).unwrap());
    }

    fn wait_live(&mut self) {
        self.browser.wait("document.querySelector('#live').textContent === 'live'");
    }

    /// Waits until all cells show what the database holds.
    fn wait_true(&mut self) {
        let states = states_of(&mut self.db.connect());
        wait_until("the page to show what is", || self.browser.evaluate(STATES) == states);
    }

    fn task(&self, name: &str) -> Uuid {
        let sql = "SELECT t.id FROM workflow.task_instances AS t JOIN workflow.dag_runs AS r ON r.id = t.dag_run_id \
                   WHERE t.task_id = $1 ORDER BY r.execution_date DESC LIMIT 1";
        self.db.connect().query_one(sql, &[&name]).unwrap().get(0)
    }

    fn wait_state(&mut self, task: Uuid, state: &str) {
        self.browser.wait(&format!("document.querySelector('.cell[href$=\"{task}\"]')?.dataset.state === '{state}'"));
    }

    fn assert_no_complaints(&mut self) {
        assert_eq!(self.browser.complaints(), [""; 0], "the page has failed, or its policy has refused it something");
    }
}

fn start_server(database: &str, redis: &Redis, port: u16, flags: &[&str]) -> anyhow::Result<Server> {
    let listen = format!("127.0.0.1:{port}");
    let envs = [("DATABASE_URL", database), ("REDIS_URL", &redis.url()), ("WORKFLOW_LISTEN", &listen)];
    let server = Server::start("page", &server_binary(), &[&["serve"], flags].concat(), &envs)?;
    server.wait_line("listening on", PATIENCE)?;
    Ok(server)
}

fn task_names() -> Vec<String> {
    let verbs = ["extract", "validate", "clean", "join", "enrich", "aggregate", "train", "score", "publish", "notify"];
    let things = ["orders", "customers", "invoices", "clicks", "stock", "prices", "returns", "regions"];
    let mut names: Vec<String> = verbs.iter().flat_map(|verb| things.map(|thing| format!("{verb}_{thing}"))).collect();
    names[11] = EVIL.to_owned();
    names
}

/// 24 runs that have ended and one under way, with tasks in every state.
fn create_grid(client: &mut Client) -> Uuid {
    let sql = "SELECT workflow.create_dag('billing_nightly', 'Bills and reports of the day', '0 3 * * *', tags => '[\"finance\", \"core\"]')";
    let dag: Uuid = client.query_one(sql, &[]).unwrap().get(0);
    for day in 0..RUNS as i32 {
        let sql = "SELECT workflow.create_dag_run($1, '2026-11-01 03:00+00'::timestamptz + make_interval(days => $2), '{\"region\": \"eu\"}')";
        let run: Uuid = client.query_one(sql, &[&dag, &day]).unwrap().get(0);
        let sql = "SELECT * FROM workflow.create_task_instances($1, $2, max_tries => 3)";
        client.query(sql, &[&run, &task_names()]).unwrap();
    }
    client.batch_execute(MOVES).unwrap();
    client.batch_execute(DATES).unwrap();
    dag
}

/// n is a task's number, day the run's; both make up a number that looks random.
const MOVES: &str = "
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

/// Tasks that have taken a while, so that there is something to see: the guard, which keeps these columns, looks away.
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

fn states_of(client: &mut Client) -> Value {
    let rows = client.query("SELECT id, state FROM workflow.task_instances", &[]).unwrap();
    rows.iter().map(|row| (row.get::<_, Uuid>(0).to_string(), json!(row.get::<_, String>(1)))).collect()
}

#[test]
fn grid_shows_every_task_and_follows_changes() {
    let Some(mut stage) = Stage::new() else { return };
    stage.open("");
    stage.browser.wait("document.querySelectorAll('.recent .mark').length >= 14");
    stage.browser.screenshot("dags");
    stage.open_grid();
    stage.wait_true();
    stage.browser.screenshot("grid");

    // Names for those who do not see the colours.
    let mut names = Vec::new();
    wait_until("a link for each cell and run, for screen readers", || {
        names = stage.browser.link_names(".grid");
        names.len() == RUNS * TASKS + RUNS
    });
    let sql = "SELECT task_id || ', ' || to_char(execution_date AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI, ') || replace(t.state, '_', ' ') \
               FROM workflow.task_instances AS t JOIN workflow.dag_runs AS r ON r.id = dag_run_id";
    let expected: Vec<String> = stage.db.connect().query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    for name in expected {
        assert!(names.contains(&name), "{name}");
    }

    // What users have named is text.
    let shown = "[...document.querySelectorAll('[role=rowheader]')].map(name => name.textContent)";
    assert_eq!(stage.browser.evaluate(shown), json!(task_names()), "in the order of creation");
    assert_eq!(stage.browser.evaluate("[window.pwned ?? null, document.images.length]"), json!([null, 0]));

    // A move made elsewhere.
    let task = stage.task("notify_stock");
    stage.browser.evaluate("window.marker = 'not loaded again'");
    let client = &mut stage.db.connect();
    for (from, to) in [(State::Queued, State::Running), (State::Running, State::Failed)] {
        transition(client, "task_instance", task, from, to).unwrap();
        stage.wait_state(task, to.as_str());
    }
    let label = format!("document.querySelector('.cell[href$=\"{task}\"]').getAttribute('aria-label')");
    assert_eq!(stage.browser.evaluate(&label), "notify_stock, 2026-11-25 03:00, failed");

    // A run that is new, and one that has a task more.
    let sql = "SELECT workflow.create_dag_run($1, '2026-11-26 03:00+00')";
    let run: Uuid = client.query_one(sql, &[&stage.dag]).unwrap().get(0);
    let sql = "SELECT id FROM workflow.create_task_instances($1, ARRAY['extract_orders', 'quite_new'])";
    let tasks: Vec<Uuid> = client.query(sql, &[&run]).unwrap().iter().map(|row| row.get(0)).collect();
    stage.wait_state(tasks[1], "queued");
    let columns = "document.querySelectorAll('.head a').length";
    assert_eq!(stage.browser.evaluate(columns), RUNS, "the oldest has made room");
    stage
        .browser
        .evaluate("[...document.querySelectorAll('button')].find(b => b.textContent.includes('older')).click()");
    stage.browser.wait(&format!("{columns} === {RUNS} + 1"));
    assert_eq!(stage.browser.evaluate("window.marker"), "not loaded again");
    stage.assert_no_complaints();
}

#[test]
fn keyboard_reaches_a_cell_and_its_history() {
    let Some(mut stage) = Stage::new() else { return };
    let task = stage.task("notify_regions");
    let client = &mut stage.db.connect();
    let sql = "SELECT workflow.append_task_log($1, '<b>bold</b>', 'WARNING')";
    client.query_one(sql, &[&task]).unwrap();
    stage.open_grid();

    stage.browser.press("/");
    stage.browser.wait("document.activeElement.matches('input[type=search]')");
    stage.browser.press("Tab");
    let focus = "document.activeElement.getAttribute('aria-label')";
    assert_eq!(
        stage.browser.evaluate(focus),
        "extract_orders, 2026-11-25 03:00, success",
        "one Tab leads into the grid"
    );
    stage.browser.press("ArrowUp");
    assert_eq!(stage.browser.evaluate(focus), "run of 2026-11-25 03:00, running");
    for _ in 0..TASKS {
        stage.browser.press("ArrowDown");
    }
    stage.browser.press("ArrowLeft");
    assert_eq!(stage.browser.evaluate(focus), "notify_regions, 2026-11-24 03:00, success");
    stage.browser.press("ArrowRight");
    assert_eq!(stage.browser.evaluate(focus), "notify_regions, 2026-11-25 03:00, queued");
    let hidden = "(() => { const box = document.activeElement.getBoundingClientRect(); \
                  return document.elementFromPoint(box.x + 5, box.y + 5) !== document.activeElement; })()";
    assert_eq!(stage.browser.evaluate(hidden), false, "the cell with the focus is in sight");
    stage.browser.press("Enter");
    stage.browser.wait(&format!("location.hash === '#/history/task_instance/{task}'"));
    stage.browser.wait(
        "document.querySelectorAll('[aria-label=Moves] tbody tr').length === 1 && document.querySelector('.log b')",
    );
    assert_eq!(stage.browser.evaluate("document.querySelector('.log pre').textContent"), "<b>bold</b>");

    // It grows while one looks at it.
    transition(client, "task_instance", task, State::Queued, State::Running).unwrap();
    let metadata = json!({"error": "disk full", "worker": "w-7"});
    let sql = "SELECT workflow.transition('task_instance', $1, 'running', 'failed', $2)";
    client.query_one(sql, &[&task, &metadata]).unwrap();
    stage.browser.wait("document.querySelectorAll('[aria-label=Moves] tbody tr').length === 3");
    let first = stage.browser.evaluate("document.querySelector('[aria-label=Moves] tbody tr').innerText");
    let first = first.as_str().unwrap().to_owned();
    for part in ["running", "failed", "3", "postgres", "w-7"] {
        assert!(first.contains(part), "{part}: {first}");
    }
    stage.browser.screenshot("history");

    // Back is where one was.
    stage.browser.evaluate("history.back()");
    stage.browser.wait(&format!("{focus}?.startsWith('notify_regions, 2026-11-25')"));
    stage.assert_no_complaints();
}

#[test]
fn page_reconnects_after_server_restart() {
    let Some(mut stage) = Stage::new() else { return };
    stage.open_grid();
    stage.browser.evaluate("window.marker = 'not loaded again'");
    let task = stage.task("notify_stock");
    let moves = [("queued", "running"), ("running", "failed"), ("failed", "retrying"), ("retrying", "running")];
    // At the first restart no event has come yet from which it could go on.
    for pair in moves.chunks(2) {
        stage.server.take().unwrap().terminate().unwrap();
        stage.browser.wait("document.querySelector('#live').textContent === 'reconnecting'");
        let move_on = |client: &mut Client, (from, to): (&str, &str)| {
            let sql = "SELECT workflow.transition('task_instance', $1, $2, $3)";
            client.query_one(sql, &[&task, &from, &to]).unwrap();
        };
        let client = &mut stage.db.connect();
        move_on(client, pair[0]);
        stage.restart(&[]);
        stage.wait_state(task, pair[0].1);
        stage.wait_live();
        move_on(client, pair[1]);
        stage.wait_state(task, pair[1].1);
    }
    stage.wait_true();
    assert_eq!(stage.browser.evaluate("window.marker"), "not loaded again");
    stage.assert_no_complaints();
}

#[test]
fn page_asks_for_token_and_explains_problems() {
    let Some(mut stage) = Stage::new() else { return };
    stage.open_grid();
    stage.restart(&["--token", "s3cret"]);
    let why = "document.querySelector('dialog[open] p')?.textContent ?? ''";
    for (token, expected) in [("wrong", "asks for a token"), ("s3cret", "does not accept")] {
        stage.browser.wait(&format!("({why}).includes('{expected}')"));
        for letter in token.chars() {
            stage.browser.press(&letter.to_string());
        }
        stage.browser.press("Enter");
    }
    stage.wait_live();
    stage.wait_true();

    // A database that is away; and things that are not there.
    stage.server = None;
    let nowhere = format!("postgres://postgres@127.0.0.1:{}/postgres", port::free().unwrap());
    stage.server = Some(start_server(&nowhere, &stage.redis, stage.port, &[]).unwrap());
    let problem = "(document.querySelector('#problem:not([hidden])')?.textContent ?? '')";
    stage.browser.open("about:blank");
    stage.open("#/dags");
    stage.browser.wait(&format!("{problem}.includes('cannot answer now')"));
    stage.browser.screenshot("problem");
    stage.restart(&[]);
    stage.browser.wait("document.querySelectorAll('.recent .mark').length >= 14");
    assert_eq!(stage.browser.evaluate(problem), "");
    stage.open(&format!("#/runs/{}", Uuid::nil()));
    stage.browser.wait(&format!("{problem}.includes('there is no dag run')"));
    stage.open("#/dags");
    stage.wait_live();
    assert_eq!(stage.browser.evaluate(problem), "");
    stage.assert_no_complaints();
}

#[test]
fn pages_fit_a_phone() {
    let Some(mut stage) = Stage::new() else { return };
    stage.browser.resize(360, 740);
    let task = stage.task("extract_orders");
    let sql = "SELECT dag_run_id FROM workflow.task_instances WHERE id = $1";
    let run: Uuid = stage.db.connect().query_one(sql, &[&task]).unwrap().get(0);
    let views = [
        ("phone-dags", "#/dags".to_owned(), ".recent .mark"),
        ("phone", format!("#/dags/{}", stage.dag), ".cell"),
        ("phone-run", format!("#/runs/{run}"), ".timeline .task"),
        ("phone-history", format!("#/history/task_instance/{task}"), "[aria-label=Moves] tbody tr"),
    ];
    for (name, hash, sign) in views {
        stage.open(&hash);
        stage.browser.wait(&format!("document.querySelector({sign:?})"));
        stage.wait_live();
        let widths = stage.browser.evaluate("[document.documentElement.scrollWidth, innerWidth]");
        assert_eq!(widths, json!([360, 360]), "{name}");
        stage.browser.screenshot(name);
    }
    stage.open_grid();
    let sticky = "document.querySelector('[role=rowheader]').getBoundingClientRect().left - document.querySelector('.grid').getBoundingClientRect().left";
    assert!(
        stage.browser.evaluate("document.querySelector('.grid').scrollLeft").as_f64() > Some(100.0),
        "the newest run"
    );
    assert!(stage.browser.evaluate(sticky).as_f64() < Some(3.0), "the names of the tasks stay");

    stage.browser.resize(1280, 860);
    stage.open(&format!("#/runs/{run}"));
    stage.browser.wait("document.querySelectorAll('.timeline .task').length === 80");
    stage.wait_live();
    stage.browser.screenshot("run");
    let counts = stage.browser.evaluate("Object.fromEntries([...document.querySelectorAll('.chips button:not([hidden])')].map(b => [b.querySelector('.state').textContent, Number(b.querySelector('b').textContent)]))");
    let sql =
        "SELECT replace(state, '_', ' '), count(*) FROM workflow.task_instances WHERE dag_run_id = $1 GROUP BY state";
    let rows = stage.db.connect().query(sql, &[&run]).unwrap();
    let expected: BTreeMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(counts, json!(expected));
    stage.assert_no_complaints();
}

#[test]
fn two_thousand_cells_stay_smooth_under_load() {
    let Some(mut stage) = Stage::new() else { return };
    stage.open("");
    stage.browser.wait("document.querySelector('.recent .mark')");
    let opening = format!(
        "(async () => {{
            const start = performance.now();
            location.hash = '#/dags/{}';
            const frame = () => new Promise(requestAnimationFrame);
            while (document.querySelectorAll('.cell').length < {}) await frame();
            await frame();
            return [performance.now() - start, performance.getEntriesByName('grid', 'measure')[0].duration];
        }})()",
        stage.dag,
        RUNS * TASKS
    );
    let opened = stage.browser.evaluate(&opening);
    stage.wait_live();
    stage.browser.evaluate(
        "window.gaps = []; (() => { let last = performance.now();
         const frame = now => { gaps.push(now - last); last = now; requestAnimationFrame(frame); }; requestAnimationFrame(frame); })()",
    );
    let moves = storm(&mut stage.db.connect(), Duration::from_secs(3));
    stage.wait_true();
    let gaps = "(() => { const sorted = gaps.toSorted((a, b) => a - b); return [sorted.length, sorted[sorted.length >> 1], sorted.at(-1)]; })()";
    let gaps = stage.browser.evaluate(gaps);
    println!("2,000 cells: shown {} ms after the click, of which built in {} ms", opened[0], opened[1]);
    println!("{moves} moves in 3 s: {} frames, median {} ms, longest {} ms", gaps[0], gaps[1], gaps[2]);
    assert!(moves > 600, "only {moves} moves in 3 s");
    assert!(opened[1].as_f64() < Some(1000.0), "{opened}");
    assert!(gaps[2].as_f64() < Some(1000.0), "{gaps}");
    stage.assert_no_complaints();
}

/// Moves tasks round in circles, some at a time; how many moves there were.
fn storm(client: &mut Client, length: Duration) -> u64 {
    let sql = "UPDATE workflow.task_instances SET state = CASE state WHEN 'running' THEN 'failed' WHEN 'failed' THEN 'retrying' ELSE 'running' END \
               WHERE id IN (SELECT id FROM workflow.task_instances WHERE state IN ('queued', 'running', 'failed', 'retrying') ORDER BY random() LIMIT 10)";
    let (start, mut moves) = (Instant::now(), 0);
    while start.elapsed() < length {
        moves += client.execute(sql, &[]).unwrap();
        std::thread::sleep(Duration::from_millis(15));
    }
    moves
}

#[test]
fn page_is_cached_and_has_a_strict_policy() {
    let (db, redis) = (Db::new(), Redis::start("page-headers").unwrap());
    let (_server, url) = serve(db.url(), &redis.url());
    let mut answer = ureq::get(&url).call().unwrap();
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    assert_eq!((header("cache-control"), header("x-content-type-options")), ("no-cache".into(), "nosniff".into()));
    let policy = header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let tag = header("etag");
    let page = answer.body_mut().read_to_string().unwrap();
    assert!(page.contains("<title>pg_workflow</title>"));
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
        assert_eq!(ureq::get(&url).header("If-None-Match", known).call().unwrap().status(), 304);
    }
    assert_eq!(ureq::get(&url).header("If-None-Match", "\"other\"").call().unwrap().status(), 200);
}
