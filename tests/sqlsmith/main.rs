//! `cargo xtask sqlsmith` runs this: SQLsmith sends random statements as a reader and as a writer. Exit code 1: the server
//! crashed, or something has changed.

use clap::Parser;
use pg_workflow_tests::attack::{Watch, World};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;
use xtask::stack::scratch::Scratch;

/// Sends random statements, and checks that they harm nothing.
#[derive(Parser)]
struct Arguments {
    /// Seed of all statements
    #[arg(long)]
    seed: u32,
    /// Time of the statements, in seconds
    #[arg(long)]
    seconds: u64,
    /// The program of SQLsmith
    #[arg(long)]
    program: PathBuf,
}

/// SQLsmith, as one role.
struct Smith {
    role: &'static str,
    process: Child,
    progress: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { seed, seconds, program } = Arguments::parse();
    let mut world = World::start("sqlsmith");
    let watch = Watch::start(&world.db);
    let folder = Scratch::new("sqlsmith").expect("a folder");
    let start = |role, seed| Smith::start(&program, &world, folder.path(), role, seed);
    let smiths = [start("reader", seed), start("writer", seed.wrapping_add(1))];
    std::thread::sleep(Duration::from_secs(seconds));
    println!("role      statements  succeeded");
    let are_busy = smiths.map(Smith::stop).iter().all(|statements| *statements > 0);
    // It rolls each statement back.
    let mut faults: Vec<String> = watch.changes(&world.db).iter().map(|change| format!("{change:?}")).collect();
    faults.extend(world.db.problems());
    faults.extend(world.alarms());
    faults.extend((!world.holder_lives()).then(|| "the session of another role has ended".to_owned()));
    faults.extend((!are_busy).then(|| "SQLsmith sent no statement".to_owned()));
    for fault in &faults {
        println!("seed {seed}: {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Smith {
    fn start(program: &Path, world: &World, folder: &Path, role: &'static str, seed: u32) -> Smith {
        let progress = folder.join(role);
        let target = format!("host=127.0.0.1 port={} dbname=workflow user={role}", world.cluster.port());
        let process = Command::new(program)
            .arg(format!("--target={target}"))
            .args(["--exclude-catalog", "--verbose", &format!("--seed={seed}")])
            .stdout(Stdio::null())
            .stderr(File::create(&progress).expect("a file"))
            .spawn()
            .expect("SQLsmith starts");
        Smith { role, process, progress }
    }

    /// Ends it, prints its numbers, and returns that of its statements.
    fn stop(mut self) -> usize {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it ends");
        let text = std::fs::read_to_string(&self.progress).expect("its progress");
        // After the last message a character for each statement: a dot, or the kind of its error.
        let (_, progress) = text.rsplit_once("done.").unwrap_or_default();
        let statements = progress.chars().filter(|char| ".etSC".contains(*char)).count();
        println!("{:8}  {statements:10}  {:9}", self.role, progress.matches('.').count());
        statements
    }
}
