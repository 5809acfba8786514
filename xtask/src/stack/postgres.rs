//! A private PostgreSQL cluster.

mod standby;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use nix::unistd::User;

use super::clock::Clock;
use super::process::{PATIENCE, Process, Program, Running, clean_environment};
use super::scratch::Scratch;
use super::{port, user};
use crate::command;
use crate::setup::{self, PostgresInstall};

/// Settings for tests that need not survive a power failure. What was committed does survive the server's being killed:
/// it has been handed to the system by then. (With synchronous_commit off it would not have been.)
pub const FAST: &[(&str, &str)] = &[("fsync", "off")];

/// Preloads the library, so that the notifier sends notifications, and not each transaction.
pub const PRELOADED: (&str, &str) = ("shared_preload_libraries", "pg_workflow");

/// How PostgreSQL is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Waits until every client has gone by itself.
    Smart,
    /// Disconnects the clients, and writes everything out.
    Fast,
    /// Quits at once; the next start recovers from the log.
    Immediate,
}

impl Shutdown {
    fn signal(self) -> &'static str {
        match self {
            Self::Smart => "TERM",
            Self::Fast => "INT",
            Self::Immediate => "QUIT",
        }
    }
}

/// A cluster on disk, and how to reach it when it runs. Its superuser is `postgres`; every client is trusted, so
/// it only listens on the loopback interface.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    install: PostgresInstall,
    user: Option<User>,
    dir: PathBuf,
    port: u16,
    /// Of its processes, beside our own.
    environment: Vec<(String, String)>,
}

impl PostgresConfig {
    /// Makes a cluster below `dir`, which belongs to the user that PostgreSQL runs as.
    pub fn create(dir: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        Self::create_with(setup::toolchain()?.postgres.clone(), dir, settings)
    }

    fn create_with(install: PostgresInstall, dir: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let user = user::for_postgres()?;
        let this = Self { install, user, dir: dir.to_owned(), port: 0, environment: Vec::new() };
        let mut initdb = user::command(this.install.program("initdb"), this.user.as_ref());
        clean_environment(&mut initdb);
        initdb.current_dir(dir).arg("--pgdata").arg(this.data());
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
        if this.install.major >= 18 {
            // As before 18, because pg_upgrade wants it the same on both sides.
            initdb.arg("--no-data-checksums");
        }
        command::output(&mut initdb)?;
        this.configure(settings)?;
        Ok(this)
    }

    /// Appends settings to postgresql.conf, where the last one of a name wins. They hold from the next start.
    pub fn configure(&self, settings: &[(&str, &str)]) -> Result<()> {
        use std::io::Write;
        let path = self.data().join("postgresql.conf");
        let mut file = fs::OpenOptions::new().append(true).open(&path).context("cannot open postgresql.conf")?;
        for (name, value) in settings {
            writeln!(file, "{name} = '{}'", value.replace('\'', "''"))?;
        }
        Ok(())
    }

    /// The same cluster on another port.
    pub fn on_port(&self, port: u16) -> Self {
        Self { port, ..self.clone() }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("postgres.log")
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The installation that it is run by, for its programs.
    pub fn install(&self) -> &PostgresInstall {
        &self.install
    }

    /// The URL of a database of this cluster, for its superuser.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// The URL of a database of this cluster, for another role.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        // From version 18 on psql refuses spaces.
        format!("postgres://{role}@127.0.0.1:{}/{}", self.port, database.replace(' ', "%20"))
    }

    /// How to run it.
    pub fn program(&self) -> Program<'_> {
        let (data, port) = (self.data().display().to_string(), self.port.to_string());
        let args = ["-D", &data, "-p", &port, "-c", "listen_addresses=127.0.0.1"];
        Program {
            program: self.install.program("postgres"),
            args: args.map(str::to_owned).into(),
            envs: self.environment.clone(),
            user: self.user.clone(),
            dir: &self.dir,
            log: self.log(),
            // Its data is removed when its owner ends: no reason to write it all out first.
            stop_signal: Shutdown::Immediate.signal(),
        }
    }

    /// Waits until it takes connections.
    pub fn wait_ready(&self, running: &impl Running) -> Result<()> {
        let status = self.data().join("postmaster.pid");
        running.wait_ready("ready for connections", PATIENCE, || {
            // The first line is the pid (after a crash the file is still there, from another life), the eighth the
            // state: "standby" is a replica that takes connections.
            let text = fs::read_to_string(&status).ok()?;
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            let is_this_one = lines.first()?.parse() == Ok(running.pid());
            let is_ready = matches!(lines.get(7), Some(&"ready" | &"standby"));
            (is_this_one && is_ready).then_some(())
        })
    }

    /// Runs SQL in psql, and returns what it printed: unaligned, without headers. An error ends it.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        command::output_with_input(&mut self.psql_command(database), sql)
    }

    /// psql, connected to a database, reading its standard input.
    pub fn psql_command(&self, database: &str) -> Command {
        let mut psql = Command::new(self.install.program("psql"));
        clean_environment(&mut psql);
        psql.args(["-X", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--dbname"]);
        psql.arg(self.url(database));
        psql
    }

    /// Creates a database and returns its URL.
    pub fn create_database(&self, name: &str) -> Result<String> {
        self.psql("postgres", &format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\"")))?;
        Ok(self.url(name))
    }
}

/// A cluster of one's own that runs. Dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Postgres {
    config: PostgresConfig,
    // Fields are dropped in this order: the server goes before its folders.
    process: Mutex<Option<Process>>,
    scratch: Scratch,
    sockets: Scratch,
}

impl Postgres {
    /// Makes a cluster and starts it on a free port. `name` names its folder.
    pub fn start(name: &str, settings: &[(&str, &str)]) -> Result<Self> {
        Self::start_with(setup::toolchain()?.postgres.clone(), name, settings)
    }

    /// The same with a clock that can be set. Its standbys have the same clock.
    pub fn start_by_clock(name: &str, settings: &[(&str, &str)], clock: &Clock) -> Result<Self> {
        Self::start_in(setup::toolchain()?.postgres.clone(), name, settings, clock.environment())
    }

    /// The same of another installation than the one that is built for.
    pub fn start_with(install: PostgresInstall, name: &str, settings: &[(&str, &str)]) -> Result<Self> {
        Self::start_in(install, name, settings, Vec::new())
    }

    fn start_in(
        install: PostgresInstall,
        name: &str,
        settings: &[(&str, &str)],
        environment: Vec<(String, String)>,
    ) -> Result<Self> {
        let (scratch, sockets) = (Scratch::new(name)?, Scratch::short()?);
        let config = PostgresConfig::create_with(install, scratch.path(), settings)?;
        let config = PostgresConfig { environment, ..config };
        config.configure(&[("unix_socket_directories", &sockets.path().to_string_lossy())])?;
        let (config, process) = port::retrying(|port| {
            let config = config.on_port(port);
            let process = launch(&config, &scratch)?;
            Ok((config, process))
        })?;
        Ok(Self { config, process: Mutex::new(Some(process)), scratch, sockets })
    }

    /// Stops it; an error unless it ended of its own will within the time that is given to it.
    pub fn stop(&self, how: Shutdown) -> Result<()> {
        self.end(how.signal())
    }

    /// Kills the postmaster, and waits until its other processes have noticed.
    pub fn kill(&self) -> Result<()> {
        self.end("KILL")
    }

    /// Starts it after [`stop`](Self::stop) or [`kill`](Self::kill), with the same data on the same port.
    pub fn start_again(&self) -> Result<()> {
        let mut process = self.process.lock().unwrap();
        if process.is_some() {
            bail!("PostgreSQL has not been stopped");
        }
        *process = Some(launch(&self.config, &self.scratch)?);
        Ok(())
    }

    /// Has pg_upgrade bring all the data of an older cluster here. Both must be stopped.
    pub fn upgrade_from(&self, older: &Postgres) -> Result<()> {
        let mut upgrade = user::command(self.install.program("pg_upgrade"), self.user.as_ref());
        clean_environment(&mut upgrade);
        // It writes its scripts and logs into the current folder.
        upgrade.current_dir(&self.dir).args(["--username=postgres", "--jobs=2", "--socketdir"]).arg(self.socket_dir());
        upgrade.arg("--old-bindir").arg(&older.install.bindir).arg("--new-bindir").arg(&self.install.bindir);
        upgrade.arg("--old-datadir").arg(older.data()).arg("--new-datadir").arg(self.data());
        upgrade.args(["--old-port", &older.port().to_string(), "--new-port", &self.port().to_string()]);
        let done = command::output(&mut upgrade);
        done.with_context(|| self.upgrade_logs())?;
        Ok(())
    }

    /// The errors in what pg_upgrade's programs have written, which it does not print itself.
    fn upgrade_logs(&self) -> String {
        let pattern = self.data().join("pg_upgrade_output.d/*/log/*.log");
        let logs = glob::glob(&pattern.to_string_lossy()).expect("a valid pattern").flatten();
        let texts: Vec<String> = logs.filter_map(|log| fs::read_to_string(log).ok()).collect();
        let errors = texts.iter().flat_map(|text| text.lines()).filter(|line| line.contains("ERROR"));
        errors.collect::<Vec<_>>().join("\n")
    }

    /// The postmaster's process id; None while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.lock().unwrap().as_ref().map(Running::pid)
    }

    /// The folder of its Unix socket, for a connection without TCP.
    pub fn socket_dir(&self) -> &Path {
        self.sockets.path()
    }

    fn end(&self, signal: &str) -> Result<()> {
        let process = self.process.lock().unwrap().take();
        process.context("PostgreSQL is stopped already")?.stop(signal)?;
        Ok(())
    }
}

/// A running cluster is a cluster: its URL, log, psql.
impl std::ops::Deref for Postgres {
    type Target = PostgresConfig;

    fn deref(&self) -> &PostgresConfig {
        &self.config
    }
}

fn launch(config: &PostgresConfig, scratch: &Scratch) -> Result<Process> {
    let process = Process::spawn(&config.program(), scratch.lock())?;
    config.wait_ready(&process)?;
    Ok(process)
}
