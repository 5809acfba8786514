//! A session that listens to events during a run, or before it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};

use super::Bench;

const NAME: &str = "bench listener";

/// Works while a session listens to `workflow_events` and reads the notifications.
pub fn while_listening<T>(bench: &Bench, work: impl FnOnce() -> Result<T>) -> Result<T> {
    bench.was_heard.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut psql = listen(bench)?;
    let result = work();
    if let Some(status) = psql.try_wait()? {
        bail!("psql stopped listening: {status}");
    }
    // Waits until the session has ended, and with it its LISTEN.
    let sql =
        format!("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = '{NAME}'");
    let ended = bench.cluster.psql("postgres", &sql)?;
    psql.wait()?;
    if ended != "t" {
        bail!("the listener's session did not end: {ended:?}");
    }
    result
}

/// Lets a session hear an event, and leave.
pub fn come_and_go(bench: &Bench) -> Result<()> {
    let sql = "SELECT id FROM workflow.create_task_instances((SELECT id FROM runs WHERE n = 0),
                   ARRAY['heard ' || clock_timestamp()])";
    while_listening(bench, || bench.cluster.psql("bench", sql)).map(drop)
}

fn listen(bench: &Bench) -> Result<Child> {
    let mut psql = bench.cluster.psql_command("bench");
    psql.env("PGAPPNAME", NAME).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // psql reads notifications after each statement, and prints them to /dev/null.
    let mut psql = psql.args(["--output", "/dev/null"]).spawn().context("cannot run psql")?;
    let mut statements = psql.stdin.take().context("psql has no input")?;
    statements.write_all(b"LISTEN workflow_events;\n\\echo listening\nSELECT \\watch 0.01\n")?;
    let mut line = String::new();
    BufReader::new(psql.stdout.take().context("psql has no output")?).read_line(&mut line)?;
    if line.trim() != "listening" {
        bail!("psql does not listen: {line:?}");
    }
    Ok(psql)
}
