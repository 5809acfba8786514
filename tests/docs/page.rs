//! Runs the blocks of a page in their order, in a database of its own, and compares their output.

use crate::markdown::{Block, Page, root};
use crate::mask::Mask;
use crate::session::{Done, END, Session};
use crate::{console, rust};
use pg_workflow_tests::{Db, log_of, own_cluster, serve, server_binary, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use xtask::setup::{npm, pypi};
use xtask::stack::postgres::{PRELOADED, Postgres};
use xtask::stack::process::clean_environment;
use xtask::stack::redis::Redis;
use xtask::stack::roles;
use xtask::stack::server::Server;

/// Languages of blocks that run.
const RUN: [&str; 5] = ["sql", "sh", "python", "js", "rust"];

/// Languages of blocks that a reader only reads, or puts into a file.
const READ: [&str; 11] = ["text", "json", "yaml", "toml", "ini", "mermaid", "go", "java", "diff", "html", "xml"];

/// Fails, with all faults, if the page is not true.
pub fn run(page: &Page) {
    let faults = faults(page);
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

fn faults(page: &Page) -> Vec<String> {
    let blocks = page.blocks();
    let mut faults = Vec::new();
    let mut reader: Option<Reader> = None;
    for block in &blocks {
        let language = block.language.split(',').next().unwrap_or_default();
        let fault = match language {
            "console" => console::fault(block),
            language if READ.contains(&language) => None,
            language if RUN.contains(&language) => {
                reader.get_or_insert_with(|| Reader::start(page, &blocks)).fault(language, block)
            }
            other => Some(format!("the harness does not know the language {other:?}")),
        };
        faults.extend(fault.map(|fault| format!("{}:{}: {fault}\n{}", page.name, block.line, block.text)));
    }
    faults.extend(reader.and_then(|reader| reader.denied()).map(|line| format!("{}: the server: {line}", page.name)));
    faults
}

/// A reader who does everything that the page shows.
struct Reader {
    // Fields are dropped in this order: clients go before their servers.
    psql: Option<Session>,
    sh: Option<Session>,
    python: Option<Session>,
    node: Option<Session>,
    /// What node runs: all blocks of the page, with a pause after each.
    program: String,
    server: Option<Server>,
    _redis: Option<Redis>,
    db: Db,
    _cluster: Option<Postgres>,
    /// The reader's folder: looks like a clone of the repository.
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
    /// UUIDs of this run, and those in the page.
    real: Mask,
    shown: Mask,
}

impl Reader {
    fn start(page: &Page, blocks: &[Block]) -> Reader {
        let mentions = |text: &str| blocks.iter().any(|block| block.language != "console" && block.text.contains(text));
        // Roles and settings of the server are not the database's own.
        let (cluster, db) = if mentions("ROLE ") || mentions("ALTER SYSTEM") {
            let (cluster, db) = own_cluster("page", &[("max_connections", "100"), PRELOADED]);
            (Some(cluster), db.without_verification())
        } else {
            (None, Db::new().without_verification())
        };
        // The tests' databases have stored counts; a new installation has none.
        let install = "DROP EXTENSION pg_workflow; CREATE EXTENSION pg_workflow";
        db.connect().batch_execute(&format!("{install}; {}", roles::SQL)).expect("a new installation");
        let mut variables = variables(&db, role_of(page));
        let (mut redis, mut server) = (None, None);
        if mentions("REDIS_URL") || mentions("WORKFLOW_URL") {
            let started = Redis::start("page").expect("Redis");
            let (running, url) = serve(&db.url_as(roles::SERVER), &started.url());
            variables.extend([("REDIS_URL", started.url()), ("WORKFLOW_URL", url)]);
            (redis, server) = (Some(started), Some(running));
        }
        let folder = folder();
        variables.push(("PATH", path(folder.path())));
        Reader {
            psql: None,
            sh: None,
            python: None,
            node: None,
            program: program(&page.blocks()),
            server,
            _redis: redis,
            db,
            _cluster: cluster,
            folder,
            variables,
            real: Mask::default(),
            shown: Mask::default(),
        }
    }

    /// Runs a block; how it differs from the page.
    fn fault(&mut self, language: &str, block: &Block) -> Option<String> {
        if language != "sql" {
            self.wait_for_relay();
        }
        let text = self.shown.translate(&self.real, &block.text);
        let done = match language {
            "sql" => self.run_sql(&text),
            "sh" => self.run_sh(block, &text),
            "python" => self.run_python(block, &text)?,
            "js" => self.run_js(block)?,
            _ => rust::run(block, &text, self.folder.path(), &self.variables),
        };
        let expected = expected_status(language, &block.text);
        if done.status != expected {
            return Some(format!("ends with {}, not with {expected}. It prints:\n{}", done.status, done.output));
        }
        if language == "sql" && done.output.matches("ERROR:").count() > usize::from(expected != "00000") {
            return Some(format!("has errors:\n{}", done.output));
        }
        let Some(shown) = &block.output else {
            let is_error = language == "sql" && expected != "00000";
            return is_error.then(|| "ends in an error that the page does not show".to_owned());
        };
        let (real, expected) = (self.real.lines(&done.output), self.shown.lines(shown));
        (real != expected).then(|| {
            let place = real.iter().zip(&expected).take_while(|(real, expected)| real == expected).count();
            let line = |lines: &[String]| lines.get(place).cloned().unwrap_or_else(|| "the end".to_owned());
            let (first, other) = (line(&real), line(&expected));
            format!("prints\n  {first}\nand the page shows\n  {other}\nAll that it prints:\n{}", done.output)
        })
    }

    fn run_sql(&mut self, text: &str) -> Done {
        let psql = self.psql.get_or_insert_with(|| {
            let mut psql = Command::new("psql");
            psql.arg("-X");
            Session::start(prepared(&mut psql, self.folder.path(), &self.variables))
        });
        psql.run(&format!("{text}\n\\echo {END}:SQLSTATE\n"))
    }

    fn run_sh(&mut self, block: &Block, text: &str) -> Done {
        let sh = self.sh.get_or_insert_with(|| {
            let mut sh = Session::start(prepared(&mut Command::new("sh"), self.folder.path(), &self.variables));
            // An interrupt is for the program that the block runs.
            sh.run(&format!("trap : INT; echo '{END}'\n"));
            sh
        });
        let file = format!("block-{}.sh", block.line);
        fs::write(self.folder.path().join(&file), text).expect("a file");
        run_in(sh, block, &format!(". ./{file} </dev/null; printf '\\n{END}%s\\n' $?\n"))
    }

    /// None if this machine cannot run Python with the packages.
    fn run_python(&mut self, block: &Block, text: &str) -> Option<Done> {
        let Some(python) = pypi::CLIENTS.find() else {
            eprintln!("skipped: no Python with psycopg and the other packages");
            return None;
        };
        let session = self.python.get_or_insert_with(|| {
            let mut python = Command::new(python);
            python.args(["-u", "-c", PYTHON, END]);
            Session::start(prepared(&mut python, self.folder.path(), &self.variables))
        });
        let file = format!("block-{}.py", block.line);
        fs::write(self.folder.path().join(&file), text).expect("a file");
        Some(run_in(session, block, &format!("{file}\n")))
    }

    /// None if this machine has no node with the packages.
    fn run_js(&mut self, block: &Block) -> Option<Done> {
        let Some(modules) = npm::modules() else {
            eprintln!("skipped: no node with pg and redis");
            return None;
        };
        let session = self.node.get_or_insert_with(|| {
            let file = self.folder.path().join("page.mjs");
            fs::write(&file, &self.program).expect("a file");
            let _ = std::os::unix::fs::symlink(modules, self.folder.path().join("node_modules"));
            let mut node = Command::new("node");
            node.arg(file);
            Session::start(prepared(&mut node, self.folder.path(), &self.variables))
        });
        Some(run_in(session, block, "\n"))
    }

    /// A right that the server's role lacks.
    fn denied(&self) -> Option<String> {
        let log = log_of(self.server.as_ref()?);
        // A page that isolates tenants closes the event feed to the server, too.
        let is_denied = |line: &str| line.contains("permission denied") && !line.contains("row security applies");
        log.lines().find(|line| is_denied(line) || line.contains("may not create")).map(str::to_owned)
    }

    /// Waits until the relay has published everything that has committed so far.
    fn wait_for_relay(&self) {
        if self.server.is_none() {
            return;
        }
        let client = &mut self.db.connect();
        let sql = "SELECT coalesce(sum(pending), 1)::bigint FROM workflow.consumer_lag WHERE consumer = 'relay'";
        wait_until("the relay", || client.query_one(sql, &[]).expect("its lag").get::<_, i64>(0) == 0);
    }
}

/// Runs each file that it is told, with the names of those before.
const PYTHON: &str = r#"
import sys, traceback
names = {"__name__": "__main__"}
for line in sys.stdin:
    status = 0
    try:
        exec(compile(open(line.strip()).read(), line.strip(), "exec"), names)
    except KeyboardInterrupt:
        pass
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    print("\n" + sys.argv[1] + str(status), flush=True)
"#;

/// The blocks in JavaScript as one module, which waits for a line of its standard input before each.
fn program(blocks: &[Block]) -> String {
    let pause = "import { createInterface as __lines } from 'node:readline';
        const __input = __lines({ input: process.stdin })[Symbol.asyncIterator]();\n";
    let blocks = blocks.iter().filter(|block| block.language == "js");
    let blocks = blocks.map(|block| format!("await __input.next();\n{}\nconsole.log('\\n{END}0');\n", block.text));
    std::iter::once(pause.to_owned()).chain(blocks).collect()
}

fn run_in(session: &mut Session, block: &Block, input: &str) -> Done {
    if block.text.contains("until Ctrl-C") {
        let shown = block.output.as_deref().unwrap_or_default();
        session.run_until_interrupted(input, shown.lines().filter(|line| !line.trim().is_empty()).count())
    } else {
        session.run(input)
    }
}

/// How a block must end: SQL that says `-- fails with SQLSTATE 23514` with that, commands that say `# exits with 3` with
/// that, all else with success.
fn expected_status(language: &str, text: &str) -> String {
    let (label, length, success) =
        if language == "sql" { ("with SQLSTATE ", 5, "00000") } else { ("# exits with ", 3, "0") };
    let stated = text.split_once(label).map(|(_, rest)| rest.chars().take(length).collect::<String>());
    let stated = stated.map(|stated| stated.split_whitespace().next().unwrap_or_default().to_owned());
    stated.unwrap_or_else(|| success.to_owned())
}

/// Operators install, upgrade and grant as a superuser. All others need no more than `workflow_writer`.
fn role_of(page: &Page) -> &'static str {
    if page.name.starts_with("docs/operations/") { "postgres" } else { roles::SCHEDULER }
}

/// The variables that `cargo xtask env` exports.
fn variables(db: &Db, role: &str) -> Vec<(&'static str, String)> {
    let address = db.url().split_once('@').expect("a URL").1;
    let (server, database) = address.split_once('/').expect("a URL");
    let (host, port) = server.split_once(':').expect("a URL");
    vec![
        ("DATABASE_URL", db.url_as(role)),
        ("ADMIN_URL", db.url_as(roles::ADMIN)),
        ("PGHOST", host.to_owned()),
        ("PGPORT", port.to_owned()),
        ("PGUSER", role.to_owned()),
        ("PGDATABASE", database.to_owned()),
        ("PGTZ", "UTC".to_owned()),
    ]
}

/// A folder with all that the repository has, in which blocks may leave files.
fn folder() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    for entry in fs::read_dir(root()).expect("the repository").flatten() {
        std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name())).expect("a link");
    }
    let bin = folder.path().join(".bin");
    fs::create_dir(&bin).expect("a folder");
    std::os::unix::fs::symlink(server_binary(), bin.join("workflow-server")).expect("a link");
    folder
}

/// The server, psql and the other programs of PostgreSQL, Python with the packages, and redis-cli come first.
fn path(folder: &Path) -> String {
    let toolchain = xtask::setup::toolchain().expect("PostgreSQL and Redis");
    let mut folders = vec![folder.join(".bin"), toolchain.postgres.bindir.clone()];
    let programs = [pypi::CLIENTS.find(), Some(toolchain.redis_server.clone())];
    folders.extend(programs.into_iter().flatten().filter_map(|program| program.parent().map(PathBuf::from)));
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    std::env::join_paths(folders).expect("folders").into_string().expect("text")
}

/// The command in the reader's folder and environment.
pub fn prepared<'a>(command: &'a mut Command, folder: &Path, variables: &[(&str, String)]) -> &'a Command {
    clean_environment(command);
    command.current_dir(folder).envs(variables.iter().map(|(name, value)| (name, value)));
    command
}

pub fn harness_notices_wrong_output() {
    let page = |text: &str| Page { name: "docs/made-up.md".to_owned(), text: text.to_owned() };
    let right = "```sql\nSELECT 1 AS one;\n```\n```text\n one\n---\n 1\n(1 row)\n```\n\n```sh\nexit_with() { return $1; }; exit_with 3 # exits with 3\n```\n";
    assert_eq!(faults(&page(right)), [""; 0]);
    for wrong in [
        right.replace(" 1\n(1", " 2\n(1"),
        right.replace("SELECT 1 AS one", "SELECT 1/0 AS one"),
        right.replace("SELECT 1 AS one", "SELECT 1/0; SELECT 1 AS one"),
        right.replace("# exits with 3", ""),
        right.replace("```sql", "```basic"),
        "```sql\n-- fails with SQLSTATE 22012\nSELECT 1/0;\n```\n".to_owned(),
        "```console\n$ cargo xtask demos\n```\n".to_owned(),
        "```console\n$ cat docker/missing.yaml\n```\n".to_owned(),
        "```console\n$ workflow-server serve --no-such-flag\n```\n".to_owned(),
    ] {
        assert_eq!(faults(&page(&wrong)).len(), 1, "{wrong}");
    }
}
