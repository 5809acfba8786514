//! Reports the ends of claims, in batches.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::future;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::held::Held;
use super::link::{BEGIN, Link, limited};
use crate::Error;
use crate::connect::PostgresServer;
use crate::error::postgres;
use crate::model::{FinishOutcome, FinishResult};
use crate::repository::{Claims, Failure, Finish};

/// Ends reported at once.
const BATCH: usize = 500;
/// Pause between attempts to report an end that cannot be reported with others.
const PAUSE: Duration = Duration::from_millis(500);

/// The end of a handler. Its place is free after the database has acknowledged it.
pub struct Ended {
    end: Finish,
    refused_since: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

impl Ended {
    pub fn new(end: Finish, place: OwnedSemaphorePermit) -> Ended {
        Ended { end, refused_since: None, _place: place }
    }
}

pub struct Completer {
    link: Link,
    held: Held,
    lease: Duration,
    /// Ends of a batch of which the database has refused one, or one waits for a lock: they are reported one by one.
    alone: VecDeque<Ended>,
    /// When the next of them is due.
    due: Instant,
}

impl Completer {
    pub fn new(server: PostgresServer, held: Held, lease: Duration) -> Completer {
        Completer { link: Link::new(server), held, lease, alone: VecDeque::new(), due: Instant::now() }
    }

    /// Reports all ends. While it reports some, the next ones gather.
    pub async fn run(mut self, mut ended: mpsc::UnboundedReceiver<Ended>) {
        while let Some(batch) = self.next(&mut ended).await {
            let ends: Vec<Finish> = batch.iter().map(|ended| ended.end.clone()).collect();
            if !ends.is_empty()
                && let Err(error) = self.report(&ends).await
            {
                tracing::debug!("reporting {} ends one by one: {error}", ends.len());
                self.alone.extend(batch);
            }
            if self.due <= Instant::now() {
                self.report_alone().await;
            }
        }
    }

    /// Returns what has ended: nothing if an end is to be reported alone before. `None` after the last.
    async fn next(&mut self, ended: &mut mpsc::UnboundedReceiver<Ended>) -> Option<Vec<Ended>> {
        let mut batch = Vec::new();
        let receiving = ended.recv_many(&mut batch, BATCH);
        if self.alone.is_empty() {
            return (receiving.await > 0).then_some(batch);
        }
        if timeout_at(self.due, receiving).await == Ok(0) {
            sleep_until(self.due).await;
        }
        Some(batch)
    }

    /// Reports ends until the database answers: it answers a repetition as it did before.
    ///
    /// # Errors
    /// Returns an error if the database refuses one, or does not answer in time: perhaps because of one of them.
    async fn report(&mut self, ends: &[Finish]) -> Result<(), Error> {
        loop {
            match limited(self.attempt(ends)).await {
                Ok(results) => {
                    self.link.succeeded();
                    results.iter().zip(ends).for_each(|(result, end)| self.acknowledged(result, end));
                    return Ok(());
                }
                Err(error) if is_outage(&error) => self.link.failed(&error).await,
                Err(error) => {
                    self.link.close();
                    return Err(error);
                }
            }
        }
    }

    async fn attempt(&mut self, ends: &[Finish]) -> Result<Vec<FinishResult>, Error> {
        let client = self.link.open().await?;
        let claims = Claims::new(client);
        let (begun, results) = future::join(client.batch_execute(BEGIN), claims.finish(ends)).await;
        begun?;
        let results = results?;
        client.batch_execute("COMMIT").await?;
        Ok(results)
    }

    fn acknowledged(&self, result: &FinishResult, end: &Finish) {
        self.held.remove(&result.claim);
        if result.outcome == FinishOutcome::Lost {
            let outcome = if end.is_success() { "success" } else { "failure" };
            let now = result.state.map_or("deleted", |state| state.as_str());
            tracing::warn!("claim {} is lost: its {outcome} does not count, the task is {now}", result.claim);
        }
    }

    /// Reports ends one by one, up to the first that fails: it is tried again after the others.
    async fn report_alone(&mut self) {
        while let Some(mut ended) = self.alone.pop_front() {
            let Err(error) = self.report_or_fail(&ended.end, ended.refused_since.is_none()).await else { continue };
            let now = Instant::now();
            self.due = now + PAUSE;
            if is_lock(&error) {
                tracing::debug!("claim {} ends later: {error}", ended.end.claim());
            } else if now - *ended.refused_since.get_or_insert(now) > self.lease {
                tracing::error!("cannot end claim {}, its lease will run out: {error}", ended.end.claim());
                self.held.remove(ended.end.claim());
                continue;
            }
            self.alone.push_back(ended);
            return;
        }
    }

    /// Reports an end; if the database refuses it, a failure that says so.
    async fn report_or_fail(&mut self, end: &Finish, is_first: bool) -> Result<(), Error> {
        let Err(error) = self.report(std::slice::from_ref(end)).await else { return Ok(()) };
        if !can_be_its_own(&error) {
            return Err(error);
        }
        if is_first {
            tracing::warn!("the database rejects the result of claim {}: {error}", end.claim());
        }
        let failure = Failure::new(format!("the database rejects the result: {error}"));
        self.report(&[Finish::failure(end.claim(), failure)]).await
    }
}

/// Whether the server did not run the statement.
fn is_outage(error: &Error) -> bool {
    match error.code() {
        Some(code) => postgres::is_unavailable(code),
        None => !matches!(error, Error::Timeout(_) | Error::Invalid { .. }),
    }
}

/// Whether the end itself can be the reason: it is too long, or a trigger on the task's row fails. The other errors pass,
/// or an administrator has to mend something.
fn can_be_its_own(error: &Error) -> bool {
    let others = ["25", "28", "3D", "3F", "40", "42501", "55P03", "57", "58"];
    !is_outage(error)
        && !matches!(error, Error::Timeout(_))
        && !error.code().is_some_and(|code| others.iter().any(|other| code.code().starts_with(other)))
}

fn is_lock(error: &Error) -> bool {
    error.code() == Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE)
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
