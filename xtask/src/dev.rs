//! `cargo xtask up`, `env` and `down`: a stack for development that runs until `down`.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::build::{self, Profile};
use crate::command::step;
use crate::stack::detached::Detached;
use crate::stack::process::{PATIENCE, Program, Running};
use crate::stack::{FAST, PRELOADED, PostgresConfig, RedisConfig, port, roles, scratch};
use crate::{setup, workspace};

const DATABASE: &str = "workflow";

/// How to be more than the role of `DATABASE_URL`.
const ADMINISTRATORS: &str = "To delete and purge: psql \"$ADMIN_URL\". As a superuser: psql -U postgres";

/// The servers that are running; kept in a file, as they outlive the command that started them.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stack {
    /// The servers' data and logs.
    dir: PathBuf,
    /// In the order in which they were started.
    servers: Vec<Detached>,
    /// How clients find them.
    variables: Vec<(String, String)>,
    /// The database, for workflow-server. Only `up` needs it.
    #[serde(skip)]
    server_url: String,
}

/// Starts the stack, if it does not run already.
pub fn up() -> Result<()> {
    match Stack::load()? {
        Some(stack) if stack.is_running() => {
            println!("Already running (`cargo xtask down` stops it).");
            stack.describe();
            return Ok(());
        }
        Some(remains) => step("Removing what an earlier stack has left", || remains.remove())?,
        None => {}
    }
    let toolchain = setup::ensure()?;
    let artifacts = build::build_and_install(toolchain, Profile::Quick)?;
    let mut stack = Stack { dir: scratch::lasting("dev")?, ..Stack::default() };
    if let Err(error) = stack.start(&artifacts.server) {
        stack.remove()?;
        return Err(error);
    }
    stack.describe();
    Ok(())
}

/// Prints the variables that lead to the stack.
pub fn env() -> Result<()> {
    let stack = Stack::load()?.filter(Stack::is_running).context("nothing is running: `cargo xtask up` starts it")?;
    for (name, value) in &stack.variables {
        println!("export {name}={value}");
    }
    eprintln!("{ADMINISTRATORS}");
    Ok(())
}

/// Stops the stack and removes its data.
pub fn down() -> Result<()> {
    match Stack::load()? {
        Some(stack) => step("Stopping the servers and removing their data", || stack.remove()),
        None => {
            println!("Nothing is running.");
            Ok(())
        }
    }
}

impl Stack {
    fn start(&mut self, server: &Path) -> Result<()> {
        self.save()?;
        step("Starting PostgreSQL", || self.start_postgres())?;
        step("Starting Redis", || self.start_redis())?;
        step("Starting workflow-server", || self.start_server(server))?;
        self.save()
    }

    fn start_postgres(&mut self) -> Result<()> {
        let postgres = PostgresConfig::create(&self.dir, FAST)?;
        // Without a Unix socket: one program less that must find a short path.
        postgres.configure(&[PRELOADED, ("unix_socket_directories", "")])?;
        let postgres = port::retrying(|port| {
            let postgres = postgres.on_port(port);
            let process = self.spawn(&postgres.program())?;
            postgres.wait_ready(&process)?;
            Ok(postgres)
        })?;
        postgres.create_database(DATABASE)?;
        postgres.psql(DATABASE, "CREATE EXTENSION pg_workflow")?;
        roles::create(&postgres, DATABASE)?;
        self.server_url = postgres.url_as(roles::SERVER, DATABASE);
        self.set("DATABASE_URL", postgres.url_as(roles::SCHEDULER, DATABASE));
        self.set("ADMIN_URL", postgres.url_as(roles::ADMIN, DATABASE));
        self.set("PGHOST", "127.0.0.1");
        self.set("PGPORT", postgres.port());
        self.set("PGUSER", roles::SCHEDULER);
        self.set("PGDATABASE", DATABASE);
        Ok(())
    }

    fn start_redis(&mut self) -> Result<()> {
        let redis = port::retrying(|port| {
            let redis = RedisConfig::new(&self.dir, port)?;
            let process = self.spawn(&redis.program())?;
            redis.wait_ready(&process)?;
            Ok(redis)
        })?;
        self.set("REDIS_URL", redis.url());
        Ok(())
    }

    fn start_server(&mut self, binary: &Path) -> Result<()> {
        let port = port::retrying(|port| {
            let dir = self.dir.clone();
            let mut envs = self.variables.clone();
            // Of two values of a name the last one holds.
            envs.push(("DATABASE_URL".to_owned(), self.server_url.clone()));
            envs.push(("WORKFLOW_LISTEN".to_owned(), format!("127.0.0.1:{port}")));
            let process = self.spawn(&Program {
                program: binary.to_owned(),
                args: vec!["serve".to_owned()],
                envs,
                user: None,
                dir: &dir,
                log: dir.join("server.log"),
                stop_signal: "TERM",
            })?;
            process.wait_ready("healthy", PATIENCE, || is_healthy(port).then_some(port))
        })?;
        self.set("WORKFLOW_URL", format!("http://127.0.0.1:{port}"));
        Ok(())
    }

    /// Starts a server, and notes it down at once: from then on `down` knows of it, even if `up` is interrupted.
    fn spawn(&mut self, program: &Program<'_>) -> Result<Detached> {
        let process = Detached::spawn(program)?;
        self.servers.push(process.clone());
        self.save()?;
        Ok(process)
    }

    fn set(&mut self, name: &str, value: impl ToString) {
        self.variables.push((name.to_owned(), value.to_string()));
    }

    fn is_running(&self) -> bool {
        // A stack without an address has not started completely.
        self.variables.iter().any(|(name, _)| name == "WORKFLOW_URL") && self.servers.iter().all(Detached::is_running)
    }

    fn describe(&self) {
        println!();
        for (name, value) in self.variables.iter().filter(|(name, _)| name.ends_with("_URL")) {
            println!("{name:>13} {value}");
        }
        println!("{:>13} {}", "logs", self.dir.display());
        println!("\neval \"$(cargo xtask env)\" exports these, and lets plain `psql` connect.\n{ADMINISTRATORS}");
    }

    /// Stops the servers, the last one first, and removes all traces.
    fn remove(&self) -> Result<()> {
        for server in self.servers.iter().rev() {
            server.stop()?;
        }
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))?;
        }
        fs::remove_file(state_file()?).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error.into()),
        })
    }

    fn save(&self) -> Result<()> {
        let path = state_file()?;
        fs::create_dir_all(path.parent().expect("a path in the target directory"))?;
        fs::write(&path, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn load() -> Result<Option<Self>> {
        let path = state_file()?;
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path)?;
        Ok(Some(serde_json::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))?))
    }
}

fn state_file() -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join("stack/dev/state.json"))
}

/// Whether `GET /health` returns 200.
fn is_healthy(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        connection.write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
}
