//! `cargo xtask compose-test`: builds the images, starts `docker/compose.yaml`, and runs a workflow through it.

mod engine;
mod images;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::command::{self, step};
use crate::stack::port;
use crate::stack::process::PATIENCE;
use crate::workspace;
use engine::Engine;

/// The project's name in the engine, so that the test does not touch the containers of a user of the compose file.
const PROJECT: &str = "pg_workflow_test";

/// Starts an engine if none runs, builds, tests, and removes containers and volumes. Images stay, as a cache.
pub fn run() -> Result<()> {
    for file in ["docker/Dockerfile", "docker/compose.yaml"] {
        let version = env!("CARGO_PKG_VERSION");
        ensure!(fs::read_to_string(workspace::root().join(file))?.contains(version), "{file} is not of {version}");
    }
    let engine = Engine::find_or_start()?;
    let images = images::base_images(&engine)?;
    let mut project = Project { engine: &engine, variables: images.variables() };
    for variable in ["POSTGRES_PORT", "WORKFLOW_PORT"] {
        project.variables.push((variable, port::free()?.to_string()));
    }
    project.remove()?;
    step("Building the images", || project.check_output(&["build"]))?;
    let outcome = project.test();
    if outcome.is_err() {
        let _ = command::run(&mut project.compose(&["ps", "--all"]));
        let _ = command::run(&mut project.compose(&["logs", "--tail", "40"]));
    }
    step("Removing containers and volumes", || project.remove())?;
    outcome?;
    let ours = ["images", "--filter", "reference=pg_workflow/*", "--format", "{{.Repository}}  {{.Size}}"];
    println!("{}", engine.output(&ours)?);
    Ok(())
}

/// How many sessions of workflow-server belong to superusers, and whether there are any sessions.
const SUPERUSERS: &str = "SELECT count(*) FILTER (WHERE usesuper) || ' of ' || (count(*) > 0) FROM pg_stat_activity
     JOIN pg_user USING (usesysid) WHERE application_name LIKE 'workflow-server%'";

/// The services of compose.yaml.
struct Project<'a> {
    engine: &'a Engine,
    variables: Vec<(&'static str, String)>,
}

impl Project<'_> {
    fn test(&self) -> Result<()> {
        step("Starting, until all are healthy", || self.up())?;
        step("Running a workflow", || self.check_output(&["run", "--rm", "replay"]))?;
        step("Comparing", || self.compare())?;
        step("Stopping Redis, and starting it again", || self.lose_redis())?;
        step("Starting again on the same volumes", || {
            self.check_output(&["down"])?;
            self.up()?;
            self.compare()
        })
    }

    fn up(&self) -> Result<()> {
        self.check_output(&["up", "--no-build", "--wait", "--wait-timeout", "120"])
    }

    /// Every event is in Redis once, the page is there, and rows and history agree; by a role that is no superuser.
    fn compare(&self) -> Result<()> {
        let written = self.sql("SELECT count(*) FROM workflow.state_history")?;
        ensure!(written.parse::<u64>().is_ok_and(|count| count > 50), "{written} events written");
        let url = format!("http://127.0.0.1:{}", self.variable("WORKFLOW_PORT"));
        await_relay(&url)?;
        let relayed = self.output(&["exec", "-T", "redis", "redis-cli", "xlen", "workflow:stream"])?;
        ensure!(relayed == written, "{written} events written, {relayed} in the stream");
        ureq::get(&url).call()?;
        self.check_output(&["exec", "-T", "server", "workflow-server", "verify"])?;
        let superusers = self.sql(SUPERUSERS)?;
        ensure!(superusers == "0 of true", "superusers among the sessions of workflow-server: {superusers}");
        ensure!(self.sql("SELECT workflow.is_preloaded()")? == "t", "the library is not preloaded");
        eprintln!("  {written} events, each in the stream; rows and history agree");
        Ok(())
    }

    /// The same check as the HEALTHCHECK of the image.
    fn lose_redis(&self) -> Result<()> {
        self.check_output(&["stop", "redis"])?;
        let health = self.compose(&["exec", "-T", "server", "workflow-server", "health"]).output()?;
        let said = String::from_utf8_lossy(&health.stderr);
        ensure!(!health.status.success() && said.contains(r#""redis":false"#), "without Redis: {said}");
        self.up()
    }

    fn sql(&self, query: &str) -> Result<String> {
        let psql = ["exec", "-T", "postgres", "psql", "-XAtU", "postgres", "-d", "workflow", "-c", query];
        self.output(&psql)
    }

    fn check_output(&self, arguments: &[&str]) -> Result<()> {
        self.output(arguments).map(drop)
    }

    fn output(&self, arguments: &[&str]) -> Result<String> {
        command::output(&mut self.compose(arguments))
    }

    fn remove(&self) -> Result<()> {
        // With its profile, because an interrupted test may have left its container.
        self.check_output(&["--profile", "replay", "down", "--volumes", "--remove-orphans"])
    }

    fn compose(&self, arguments: &[&str]) -> Command {
        let mut compose = self.engine.docker();
        compose.args(["compose", "--progress", "plain", "--project-name", PROJECT, "--file"]);
        compose.arg(workspace::root().join("docker/compose.yaml")).args(arguments);
        compose.envs(self.variables.iter().map(|(name, value)| (name, value)));
        compose
    }

    /// A variable in the environment of `docker compose`.
    fn variable(&self, name: &str) -> &str {
        let found = self.variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }
}

/// Waits until all events have been relayed.
fn await_relay(url: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // It answers 503 as long as something is not there: an error, here.
        let answer =
            ureq::get(format!("{url}/health")).call().and_then(|mut answer| answer.body_mut().read_to_string());
        let health: Value = answer.as_ref().ok().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
        if health["relay"]["role"] == "leader" && health["relay"]["lag_events"] == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "after {PATIENCE:?}, /health says {answer:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
