//! A standby: a copy of a running cluster that follows it and can be promoted.

use anyhow::{Context, Result};

use super::{Postgres, PostgresConfig, launch};
use crate::command;
use crate::stack::process::{PATIENCE, Running, clean_environment};
use crate::stack::scratch::Scratch;
use crate::stack::{port, user};

/// What a standby calls itself at its primary. One name serves for all: the primary waits for whichever is there.
const STANDBY: &str = "standby";

impl Postgres {
    /// Copies this running cluster and starts the copy as a standby that streams from it, on a port of its own.
    ///
    /// It follows at its leisure until [`wait_for_standby`](Self::wait_for_standby) makes commits wait for it.
    pub fn standby(&self, name: &str) -> Result<Self> {
        let (scratch, sockets) = (Scratch::new(name)?, Scratch::short()?);
        let copy = PostgresConfig { dir: scratch.path().to_owned(), port: 0, ..self.config.clone() };
        let mut backup = user::command(copy.install.program("pg_basebackup"), copy.user.as_ref());
        clean_environment(&mut backup);
        let primary = format!("host=127.0.0.1 port={} user=postgres application_name={STANDBY}", self.port());
        backup.current_dir(scratch.path()).args(["--dbname", &primary, "--write-recovery-conf", "--no-sync"]);
        // Not waiting for the next checkpoint that would have come anyway.
        backup.args(["--checkpoint=fast", "--wal-method=stream", "--pgdata"]).arg(copy.data());
        command::output(&mut backup)?;
        copy.configure(&[
            ("unix_socket_directories", &sockets.path().to_string_lossy()),
            // When its primary restarts it should be there again at once, not 5 s later.
            ("wal_retrieve_retry_interval", "100ms"),
        ])?;
        let (config, process) = port::retrying(|port| {
            let config = copy.on_port(port);
            let process = launch(&config, &scratch)?;
            Ok((config, process))
        })?;
        Ok(Self { config, process: Some(process).into(), scratch, sockets })
    }

    /// Makes every commit wait until a standby has it, and waits until there is one that has all.
    pub fn wait_for_standby(&self) -> Result<()> {
        self.psql(
            "postgres",
            &format!("ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'; SELECT pg_reload_conf();"),
        )?;
        let follows = "SELECT FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'";
        self.wait_ready_for("followed by a synchronous standby", || {
            self.psql("postgres", &format!("SELECT EXISTS ({follows})")).is_ok_and(|answer| answer == "t")
        })
    }

    /// Makes a standby the primary, and waits until it takes writes. The old primary must be gone.
    pub fn promote(&self) -> Result<()> {
        // It has copied the primary's settings, but has no standby to wait for.
        self.psql("postgres", "ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf();")?;
        self.psql("postgres", "SELECT pg_promote(wait => false)")?;
        self.wait_ready_for("promoted", || {
            self.psql("postgres", "SELECT pg_is_in_recovery()").is_ok_and(|answer| answer == "f")
        })
    }

    /// Waits until it takes connections: after a crash of one of its processes it restarts the others by itself.
    pub fn wait_recovered(&self) -> Result<()> {
        self.wait_ready_for("back", || self.psql("postgres", "SELECT 1").is_ok())
    }

    fn wait_ready_for(&self, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
        let process = self.process.lock().unwrap();
        let process = process.as_ref().context("PostgreSQL is stopped")?;
        process.wait_ready(what, PATIENCE, || condition().then_some(()))
    }
}
