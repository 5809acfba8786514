//! Reports the ends of claims, in batches.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::held::Held;
use super::link::{Failed, Link};
use crate::Error;
use crate::connect::PostgresServer;
use crate::model::{ClaimResult, FinishOutcome, FinishResult, ReleaseOutcome};
use crate::repository::{Claims, Failure, Finish};

/// Ends reported at once.
const BATCH: usize = 500;
/// Pause between attempts to report an end that cannot be reported with others.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a release waits for a response, and for a lock: several tasks can be locked, and the time is short.
const RELEASE_LIMITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(100)];

/// The end of a handler. Its place is free after the database has acknowledged it.
pub struct Ended {
    end: Finish,
    /// Since when the database refuses it, and a failure as well.
    refused_since: Option<Instant>,
    is_logged: bool,
    _place: OwnedSemaphorePermit,
}

impl Ended {
    pub fn new(end: Finish, place: OwnedSemaphorePermit) -> Ended {
        Ended { end, refused_since: None, is_logged: false, _place: place }
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

    /// Reports ends until the server does it or refuses it: it answers a repetition as it did before.
    ///
    /// # Errors
    /// Returns an error if the reason can be one of the ends.
    async fn report(&mut self, ends: &[Finish]) -> Result<(), Error> {
        loop {
            match self.link.transaction(async |claims| claims.finish(ends).await).await {
                Ok(results) => {
                    self.link.succeeded();
                    results.iter().zip(ends).for_each(|(result, end)| self.acknowledged(result, end));
                    return Ok(());
                }
                Err(Failed::Outage(error)) => self.link.failed(&error).await,
                Err(Failed::Refused(error)) => return Err(error),
            }
        }
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
            let Err(error) = self.report_or_fail(&mut ended).await else { continue };
            let now = Instant::now();
            self.due = now + PAUSE;
            if !can_be_its_own(&error) {
                ended.refused_since = None;
            } else if now - *ended.refused_since.get_or_insert(now) > self.lease {
                tracing::error!("cannot end claim {}, its lease will run out: {error}", ended.end.claim());
                self.held.remove(ended.end.claim());
                continue;
            }
            self.alone.push_back(ended);
            return;
        }
    }

    /// Reports an end; if the database refuses it, a failure that says so. Logs the first error, unless it is about a lock.
    async fn report_or_fail(&mut self, ended: &mut Ended) -> Result<(), Error> {
        let Err(error) = self.report(std::slice::from_ref(&ended.end)).await else { return Ok(()) };
        let is_first = !is_lock(&error) && !std::mem::replace(&mut ended.is_logged, true);
        let claim = ended.end.claim();
        if !can_be_its_own(&error) {
            match is_first {
                true => tracing::warn!("cannot end claim {claim}: {error}; retrying. {}.", error.hint()),
                false => tracing::debug!("claim {claim} ends later: {error}"),
            }
            return Err(error);
        }
        if is_first {
            tracing::warn!("the database rejects the result of claim {claim}: {error}");
        }
        let failure = Failure::new(format!("the database rejects the result: {error}"));
        self.report(&[Finish::failure(claim, failure)]).await
    }
}

/// Whether the end itself can be the reason: it is too long, or a trigger on the task's row refuses it. The other errors
/// pass, or an administrator has to mend something: a result is kept until then.
fn can_be_its_own(error: &Error) -> bool {
    let others = ["08", "25", "28", "3D", "3F", "40", "42", "53", "55P03", "57", "58", "HV"];
    error.code().is_some_and(|code| !others.iter().any(|other| code.code().starts_with(other)))
}

fn is_lock(error: &Error) -> bool {
    error.code() == Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE)
}

/// Releases the claims of handlers that have stopped, until it is done.
pub async fn release(link: Link, held: &Held) {
    let (mut claims, running) = held.idle();
    if running > 0 {
        tracing::warn!("{running} handlers do not stop: the leases of their tasks will run out");
    }
    let [limit, lock_limit] = RELEASE_LIMITS;
    let mut link = link.with_limit(limit).with_lock_limit(lock_limit);
    while !claims.is_empty() {
        let mut released = 0;
        let statement = async |claims: Claims<'_, _>, part: &[String]| claims.release(part, Duration::ZERO).await;
        let count = |part: Vec<ClaimResult<_>>| {
            released += part.iter().filter(|result| result.outcome == ReleaseOutcome::Released).count();
        };
        let refused = link.in_parts(claims.clone(), statement, count).await;
        if released > 0 {
            tracing::info!("released {released} unfinished tasks");
        }
        match refused {
            Ok(refused) => {
                if let Some((_, error)) = refused.first() {
                    link.failed(error).await;
                }
                claims = refused.into_iter().map(|(claim, _)| claim).collect();
            }
            Err(error) => link.failed(&error).await,
        }
    }
}
