//! Whether the lists over HTTP cost the same in a large database as in a small one.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::ratio::median;
use super::{Bench, Options, Report, script};
use crate::command::step;
use crate::stack::Server;

const SMALL: u32 = 5;
const LARGE: u32 = 5_000;
const TASKS_A_RUN: u32 = 1_000;
/// Requests for each figure, and database.
const REQUESTS: usize = 200;
const GOAL: f64 = 1.2;

/// The requests, with limits that both databases reach. `{run}`, `{old_run}`, `{dag}`, `{task}` and `{time}` are filled in for each database.
const REQUESTS_FOR: &[&str] = &[
    "/api/v1/dags?limit=1",
    "/api/v1/dags?order_by=name&name_prefix=dag_&limit=1",
    "/api/v1/dag-runs?limit=3",
    "/api/v1/dag-runs?state=running,failed",
    "/api/v1/dag-runs?dag_id={dag}&limit=3",
    "/api/v1/dag-runs?execution_date_gte={time}&order_by=execution_date&limit=3",
    "/api/v1/dag-runs/counts",
    "/api/v1/task-instances",
    "/api/v1/task-instances?state=running",
    "/api/v1/task-instances?state=success",
    "/api/v1/task-instances?state=queued,failed,retrying",
    "/api/v1/task-instances?dag_run_id={old_run}",
    "/api/v1/task-instances?dag_run_id={run}&state=failed",
    "/api/v1/task-instances?dag_run_id={old_run}&order_by=-id",
    "/api/v1/task-instances?dag_run_id={run}&task_id=task_0500",
    "/api/v1/task-instances?cursor={middle}",
    "/api/v1/task-instances/counts",
    "/api/v1/task-instances/counts?dag_run_id={run}",
    "/api/v1/task-instances/{task}",
    "/api/v1/task-instances/{task}/logs",
    "/api/v1/history",
    "/api/v1/history?entity_id={task}",
    "/api/v1/history?changed_at_gte={time}&order_by=id",
    "/api/v1/history?changed_at_lt={time}",
];

/// How long a request takes in either database.
#[derive(Serialize)]
struct Figure {
    request: &'static str,
    /// Median of the times, large / small.
    ratio: f64,
    goal: f64,
    reached: bool,
    small_milliseconds: f64,
    large_milliseconds: f64,
}

/// A database and a server on it.
struct Subject {
    server: Server,
    agent: ureq::Agent,
    url: String,
    values: Vec<(&'static str, String)>,
}

pub fn measure(bench: &Bench, options: &Options) -> Result<Report> {
    let figures = if options.selects("lists") { compare_all(bench)? } else { Vec::new() };
    Report::new("lists", &figures, table(&figures))
}

fn compare_all(bench: &Bench) -> Result<Vec<Figure>> {
    let small = Subject::create(bench, SMALL)?;
    let large = Subject::create(bench, LARGE)?;
    let figures = REQUESTS_FOR.iter().map(|request| compare(request, &small, &large)).collect();
    for subject in [small, large] {
        subject.server.terminate()?;
    }
    figures
}

fn compare(request: &'static str, small: &Subject, large: &Subject) -> Result<Figure> {
    let (mut in_small, mut in_large) = (Vec::new(), Vec::new());
    for round in 0..REQUESTS {
        let (one, other) = if round % 2 == 0 { (small, large) } else { (large, small) };
        let (one, other) = (one.time(request)?, other.time(request)?);
        let (small, large) = if round % 2 == 0 { (one, other) } else { (other, one) };
        in_small.push(small.as_secs_f64() * 1e3);
        in_large.push(large.as_secs_f64() * 1e3);
    }
    let (small_milliseconds, large_milliseconds) = (median(in_small), median(in_large));
    let ratio = large_milliseconds / small_milliseconds;
    Ok(Figure { request, ratio, goal: GOAL, reached: ratio <= GOAL, small_milliseconds, large_milliseconds })
}

impl Subject {
    fn create(bench: &Bench, runs: u32) -> Result<Subject> {
        let name = format!("lists_{runs}");
        let tasks = u64::from(runs) * u64::from(TASKS_A_RUN);
        step(&format!("writing a database of {tasks} tasks"), || {
            bench.cluster.create_database(&name)?;
            bench.cluster.psql(&name, "CREATE EXTENSION pg_workflow")?;
            let sql = std::fs::read_to_string(script("lists"))?;
            bench.cluster.psql(&name, &format!("\\set runs {runs}\n{sql}"))
        })?;
        let arguments = ["serve", "--no-relay", "--listen", "127.0.0.1:0", "--log", "warn,workflow_server=info"];
        let url = bench.cluster.url(&name);
        let server = Server::start("lists", &bench.server_binary, &arguments, &[("DATABASE_URL", &url)])?;
        let line = server.wait_line("listening on", Duration::from_secs(30))?;
        let url = line.split_whitespace().next_back().context("no address")?.to_owned();
        Ok(Subject { server, agent: ureq::Agent::new_with_defaults(), url, values: values(bench, &name)? })
    }

    fn time(&self, request: &str) -> Result<Duration> {
        let request = self.values.iter().fold(request.to_owned(), |text, (name, value)| text.replace(name, value));
        let began = Instant::now();
        let mut answer = self.agent.get(format!("{}{request}", self.url)).call().with_context(|| request.clone())?;
        let body = answer.body_mut().read_to_vec()?;
        let took = began.elapsed();
        if body.len() < 50 {
            bail!("{request} was answered with {}", String::from_utf8_lossy(&body));
        }
        Ok(took)
    }
}

/// The values of the names in braces, in this database.
fn values(bench: &Bench, database: &str) -> Result<Vec<(&'static str, String)>> {
    let ask = |sql: &str| Ok::<_, anyhow::Error>(bench.cluster.psql(database, sql)?.trim().to_owned());
    let runs = "SELECT id FROM workflow.dag_runs ORDER BY execution_date";
    let middle = "SELECT concat_ws('.', id, dag_run_id, task_id) FROM workflow.task_instances ORDER BY id
                  OFFSET (SELECT count(*) / 2 FROM workflow.task_instances) LIMIT 1";
    Ok(vec![
        ("{old_run}", ask(&format!("{runs} LIMIT 1"))?),
        ("{run}", ask(&format!("{runs} DESC LIMIT 1"))?),
        ("{dag}", ask("SELECT dag_id FROM workflow.dag_runs ORDER BY execution_date LIMIT 1")?),
        ("{task}", ask("SELECT task_instance_id FROM workflow.task_logs ORDER BY id LIMIT 1")?),
        ("{time}", "2020-01-01T00:20:00Z".to_owned()),
        ("{middle}", ask(middle)?),
    ])
}

fn table(figures: &[Figure]) -> String {
    let mut table = String::new();
    if !figures.is_empty() {
        let (small, large) = (SMALL * TASKS_A_RUN, LARGE * TASKS_A_RUN);
        let _ = writeln!(table, "{:72} {:>6} {:>6}  {small:>9} {large:>9} tasks", "", "ratio", "goal");
    }
    for figure in figures {
        let Figure { request, ratio, goal, small_milliseconds, large_milliseconds, reached } = figure;
        let verdict = if *reached { "" } else { "  below target" };
        let _ = writeln!(
            table,
            "{request:72} {ratio:>6.2} {goal:>6.2}  {small_milliseconds:>6.2} ms {large_milliseconds:>6.2} ms{verdict}"
        );
    }
    table
}
