//! Tells a handler to stop, and why.

use std::fmt;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// Tells a handler to stop its task, and why. Cheap to clone.
///
/// A handler that ignores it runs to its end.
///
/// ```
/// use pg_workflow_client::{Failure, worker::Cancellation};
///
/// async fn download(cancellation: Cancellation) -> Result<(), Failure> {
///     tokio::select! {
///         () = tokio::time::sleep(std::time::Duration::from_secs(60)) => Ok(()),
///         reason = cancellation.cancelled() => Err(Failure::new(reason.to_string())),
///     }
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cancellation {
    token: CancellationToken,
    reason: Arc<OnceLock<CancelReason>>,
}

/// Reasons to stop a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancelReason {
    /// The claim is lost: another worker can have the task, and the result of this handler does not count.
    LeaseLost,
    /// A client called `request_cancel()`. If the handler fails now, the task is not retried.
    CancelRequested,
    /// The worker stops, and its time limit is over. If the handler fails now, the task is released, and this attempt
    /// does not count.
    Shutdown,
}

impl fmt::Display for CancelReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            CancelReason::LeaseLost => "the claim is lost",
            CancelReason::CancelRequested => "cancelled",
            CancelReason::Shutdown => "the worker stops",
        })
    }
}

impl Cancellation {
    /// Waits until the handler should stop. Never ends otherwise.
    pub async fn cancelled(&self) -> CancelReason {
        loop {
            self.token.cancelled().await;
            if let Some(reason) = self.reason() {
                return reason;
            }
        }
    }

    /// Returns why the handler should stop; `None` if it should not.
    pub fn reason(&self) -> Option<CancelReason> {
        self.reason.get().copied()
    }

    /// Returns a token for functions that take one.
    pub fn token(&self) -> CancellationToken {
        self.token.child_token()
    }

    /// Tells the handler to stop; returns false if it was told before. The first reason stays.
    pub(super) fn cancel(&self, reason: CancelReason) -> bool {
        let is_first = self.reason.set(reason).is_ok();
        self.token.cancel();
        is_first
    }
}
