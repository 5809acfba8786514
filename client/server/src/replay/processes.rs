//! Workers in processes of their own, which can be killed.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::Error;

/// How long the processes may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Running processes that work on a trace. They stop when this one ends, however it ends: their standard input ends.
pub struct Processes(Vec<(Child, Option<ChildStdin>)>);

impl Processes {
    /// Starts processes. Each must end when [`parent_ended`] returns.
    ///
    /// # Errors
    /// Returns [`Error::Workers`] if one does not start.
    pub fn start(count: usize, command: impl Fn() -> io::Result<Command>) -> Result<Processes, Error> {
        let start = |_| {
            let mut child = command()?.stdin(Stdio::piped()).spawn()?;
            // A wait would close it.
            let input = child.stdin.take();
            Ok((child, input))
        };
        let children: io::Result<Vec<_>> = (0..count).map(start).collect();
        children.map(Processes).map_err(|error| Error::Workers(format!("cannot start a process: {error}")))
    }

    /// Waits until all have ended, which none does by itself.
    pub(super) async fn all_ended(&mut self) -> Error {
        let mut ends = Vec::new();
        for (child, _) in &mut self.0 {
            ends.push(child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string()));
        }
        Error::Workers(ends.join(", "))
    }

    pub(super) async fn stop(self) {
        let (mut children, inputs): (Vec<Child>, Vec<_>) = self.0.into_iter().unzip();
        drop(inputs);
        for child in &mut children {
            if timeout(STOP_LIMIT, child.wait()).await.is_err() {
                tracing::warn!("worker process {:?} does not stop", child.id());
            }
        }
    }
}

/// Returns when the process that started this one has ended, or wants it to stop.
pub async fn parent_ended() {
    let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
}
