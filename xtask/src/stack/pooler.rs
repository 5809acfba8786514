//! A private PgBouncer.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};

use anyhow::Result;

use super::process::{PATIENCE, Process, Program, Running};
use super::scratch::Scratch;
use super::{PostgresConfig, port, user};
use crate::setup;

/// A pooler that runs before a cluster. Dropping it stops it.
#[derive(Debug)]
pub struct Pooler {
    port: u16,
    // Fields are dropped in this order: the process goes before its folder.
    _process: Process,
    _scratch: Scratch,
}

/// What a pooler does with its connections to PostgreSQL.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `session` or `transaction`: for how long a client has one.
    pub mode: &'static str,
    /// How many there are to each database.
    pub connections: u32,
    /// Whether `options` with which clients connect are dropped in silence, rather than rejected.
    pub ignores_options: bool,
}

impl Pooler {
    /// Starts one in transaction mode before a cluster, with so many connections to each database. None if PgBouncer is not
    /// installed.
    pub fn start(cluster: &PostgresConfig, connections: u32) -> Result<Option<Self>> {
        Self::start_before(cluster.port(), Settings { mode: "transaction", connections, ignores_options: false })
    }

    /// Starts one before the server on this port. None if PgBouncer is not installed.
    pub fn start_before(server: u16, settings: Settings) -> Result<Option<Self>> {
        let Some(program) = setup::pooler() else { return Ok(None) };
        let (scratch, user) = (Scratch::new("pooler")?, user::for_postgres()?);
        let file = scratch.path().join("pgbouncer.ini");
        let Settings { mode, connections, ignores_options } = settings;
        let ignored = if ignores_options { "extra_float_digits,options" } else { "extra_float_digits" };
        let (port, process) = port::retrying(|port| {
            let settings = format!(
                "[databases]\n* = host=127.0.0.1 port={server}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
                 pool_mode = {mode}\ndefault_pool_size = {connections}\nserver_login_retry = 1\n\
                 ignore_startup_parameters = {ignored}\n"
            );
            // With auth_type any, the user of the connections to the server is named beside the host.
            fs::write(&file, settings.replace("host=", "user=postgres host="))?;
            let program = Program {
                program: program.clone(),
                args: vec![file.display().to_string()],
                envs: Vec::new(),
                user: user.clone(),
                dir: scratch.path(),
                log: scratch.path().join("pgbouncer.log"),
                stop_signal: "INT",
            };
            let process = Process::spawn(&program, scratch.lock())?;
            let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok();
            process.wait_ready("accepting connections", PATIENCE, connect)?;
            Ok((port, process))
        })?;
        Ok(Some(Self { port, _process: process, _scratch: scratch }))
    }

    /// The URL of a database through the pooler.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}
