//! Reports the ends of claims, in batches.

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::held::Held;
use super::link::{Link, limited};
use crate::Error;
use crate::connect::PostgresServer;
use crate::model::{FinishOutcome, FinishResult};
use crate::repository::{Claims, Failure, Finish};

/// Ends reported at once.
const BATCH: usize = 500;

/// The end of a handler. Its place is free after the database has acknowledged it.
pub struct Ended {
    pub end: Finish,
    pub _place: OwnedSemaphorePermit,
}

pub struct Completer {
    link: Link,
    held: Held,
}

impl Completer {
    pub fn new(server: PostgresServer, held: Held) -> Completer {
        Completer { link: Link::new(server), held }
    }

    /// Reports all ends. While it reports some, the next ones gather.
    pub async fn run(mut self, mut ended: mpsc::UnboundedReceiver<Ended>) {
        let mut batch = Vec::new();
        while ended.recv_many(&mut batch, BATCH).await > 0 {
            let ends: Vec<Finish> = batch.iter().map(|ended| ended.end.clone()).collect();
            if let Err(error) = self.report(&ends).await {
                tracing::debug!("reporting {} ends one by one: {error}", ends.len());
                for end in ends {
                    self.report_alone(end).await;
                }
            }
            batch.clear();
        }
    }

    /// Reports ends, and repeats that until the database answers: it answers a repetition as it did before.
    ///
    /// # Errors
    /// Returns an error if the database rejects the content of one.
    async fn report(&mut self, ends: &[Finish]) -> Result<(), Error> {
        loop {
            match limited(self.attempt(ends)).await {
                Ok(results) => {
                    self.link.succeeded();
                    results.iter().zip(ends).for_each(|(result, end)| self.acknowledged(result, end));
                    return Ok(());
                }
                Err(error) if is_about_content(&error) => return Err(error),
                Err(error) => self.link.failed(&error).await,
            }
        }
    }

    async fn attempt(&mut self, ends: &[Finish]) -> Result<Vec<FinishResult>, Error> {
        Claims::new(self.link.open().await?).finish(ends).await
    }

    fn acknowledged(&self, result: &FinishResult, end: &Finish) {
        self.held.remove(&result.claim);
        if result.outcome == FinishOutcome::Lost {
            let outcome = if end.is_success() { "success" } else { "failure" };
            let now = result.state.map_or("deleted", |state| state.as_str());
            tracing::warn!("claim {} is lost: its {outcome} does not count, the task is {now}", result.claim);
        }
    }

    /// Reports an end; if its content is rejected, a failure that says so.
    async fn report_alone(&mut self, end: Finish) {
        let Err(error) = self.report(std::slice::from_ref(&end)).await else { return };
        tracing::warn!("the database rejects the result of claim {}: {error}", end.claim());
        let failure = Failure::new(format!("the database rejects the result: {error}"));
        let failure = [Finish::failure(end.claim(), failure)];
        if let Err(error) = self.report(&failure).await {
            tracing::error!("cannot end claim {}, its lease will run out: {error}", end.claim());
            self.held.remove(end.claim());
        }
    }
}

/// A result can be too long, or have characters that the database does not store.
fn is_about_content(error: &Error) -> bool {
    matches!(error, Error::Invalid { .. }) || error.code().is_some_and(|code| ["22", "54"].contains(&&code.code()[..2]))
}

/// Releases the claims of handlers that have stopped.
pub async fn release(server: PostgresServer, held: &Held) {
    let (claims, running) = held.idle();
    if running > 0 {
        tracing::warn!("{running} handlers do not stop: the leases of their tasks will run out");
    }
    let mut link = Link::new(server);
    while !claims.is_empty() {
        let released = limited(async { Claims::new(link.open().await?).release(&claims, Duration::ZERO).await });
        match released.await {
            Ok(_) => return tracing::info!("released {} unfinished tasks", claims.len()),
            Err(error) => link.failed(&error).await,
        }
    }
}
