//! Programs that run the blocks of a page one after the other, and keep the names of earlier blocks.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a block may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a block that runs until Ctrl-C runs if the page does not show its output.
const UNTIL_INTERRUPTED: Duration = Duration::from_secs(2);

/// Begins the line that a program prints at the end of a block; its status follows.
pub const END: &str = "@@ end of block ";

/// A running program, with its errors among its output.
pub struct Session {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

/// The end of a block.
pub struct Done {
    pub output: String,
    /// `0` or `00000` if it succeeded.
    pub status: String,
}

impl Session {
    /// Starts a program that reads what to do from its standard input.
    pub fn start(command: &Command) -> Session {
        // The shell only joins both outputs, in the order in which the program writes them.
        let mut joined = Command::new("sh");
        joined.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => joined.env(name, value),
                None => joined.env_remove(name),
            };
        }
        joined.current_dir(command.get_current_dir().expect("a folder to run in"));
        let mut child =
            joined.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn().expect("it starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
                line.clear();
            }
        });
        Session { stdin: child.stdin.take().expect("a pipe"), child, lines }
    }

    /// Gives it something to do, and waits until it prints that it has ended.
    pub fn run(&mut self, input: &str) -> Done {
        self.write(input);
        self.read(None)
    }

    /// The same for a block that runs until Ctrl-C, which comes once it has printed that many lines.
    pub fn run_until_interrupted(&mut self, input: &str, lines: usize) -> Done {
        self.write(input);
        self.read(Some(lines))
    }

    fn write(&mut self, input: &str) {
        // If it has ended, its output says why.
        let _ = self.stdin.write_all(input.as_bytes()).and_then(|()| self.stdin.flush());
    }

    fn read(&mut self, mut interrupt_after: Option<usize>) -> Done {
        let mut output = String::new();
        let mut deadline = Instant::now() + if interrupt_after == Some(0) { UNTIL_INTERRUPTED } else { PATIENCE };
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => match line.split_once(END) {
                    Some((rest, status)) => {
                        output += rest;
                        return Done { output, status: status.trim().to_owned() };
                    }
                    None => output += &line,
                },
                Err(RecvTimeoutError::Timeout) if interrupt_after.take().is_some() => {
                    self.signal(Signal::SIGINT);
                    deadline = Instant::now() + PATIENCE;
                }
                Err(error) => panic!("no end of the block ({error}); it has printed:\n{output}"),
            }
            let printed = output.lines().filter(|line| !line.trim().is_empty()).count();
            if interrupt_after.is_some_and(|lines| lines > 0 && printed >= lines) {
                deadline = Instant::now();
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        // Not one process of the group is left if it has ended by itself.
        let _ = killpg(group, signal);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
