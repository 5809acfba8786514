//! Running programs. An error names the command and has its output.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Prints a title, does the work, and prints how long it took if it took a second or more.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    timed(what, || work().with_context(|| what.to_owned()))
}

/// Runs a command as a step with the command as its title, which the error names once.
pub fn run_as_step(command: &mut Command) -> Result<()> {
    timed(&shown(command), || run(command))
}

fn timed<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("» {title}");
    let start = Instant::now();
    let result = work()?;
    let elapsed = start.elapsed().as_secs_f64();
    if elapsed >= 1.0 {
        eprintln!("  {elapsed:.1} s");
    }
    Ok(result)
}

/// Runs a command whose output the user sees.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command and returns what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    output_with_input(command, "")
}

/// Runs a command that reads `input`, and returns what it printed.
pub fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    let Output { status, stdout, stderr } =
        feed(command, input).with_context(|| format!("cannot run {}", shown(command)))?;
    let stdout = String::from_utf8_lossy(&stdout);
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr);
        bail!("{} failed: {status}\n{}{}", shown(command), stdout, stderr.trim_end());
    }
    Ok(stdout.trim_end().to_owned())
}

fn feed(command: &mut Command, input: &str) -> std::io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    std::thread::scope(|scope| {
        // A thread of its own: the program may print more than a pipe holds before it has read everything.
        // A program that ends early without reading is judged by its exit status, not by our broken pipe.
        scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
        child.wait_with_output()
    })
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The last lines of a log, for an error message.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(25)..];
    format!("the end of {}:\n{}", log.display(), last.join("\n"))
}

/// Finds a program in PATH.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| is_executable(file))
}

/// Whether this is a program.
pub fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
