//! Claims tasks, and waits for them.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use super::held::Held;
use super::link::{Failed, Link, within};
use super::renewal;
use crate::Error;
use crate::connect::{PostgresServer, STATEMENT_TIMEOUT};
use crate::model::{ClaimResult, ClaimedTask, RenewOutcome};
use crate::repository::{ClaimTasks, Claims};

/// How long the database waits for tasks. After that, the server is checked.
const WAIT: Duration = Duration::from_secs(5);
/// How long a worker behind a pooler waits before it asks again. A random part is left out.
const POLL: Duration = Duration::from_secs(1);

pub struct Claimer {
    link: Link,
    held: Held,
    /// After an outage, the leases of what the worker holds can have run out. They are renewed before a session of this
    /// worker waits: such a session ends claims that have run out.
    must_renew: bool,
    /// Claims whose commit was not answered: they may be ours.
    unsure: Vec<ClaimedTask>,
}

impl Claimer {
    pub fn new(server: PostgresServer, held: Held) -> Claimer {
        Claimer { link: Link::new(server), held, must_renew: false, unsure: Vec::new() }
    }

    /// Claims tasks. If there are none, waits for some, up to `shutdown`, and returns none; so also after an outage.
    ///
    /// # Errors
    /// Returns an error if the database refuses the options.
    pub async fn next(&mut self, wanted: &ClaimTasks, shutdown: &CancellationToken) -> Result<Vec<ClaimedTask>, Error> {
        let error = match self.claim_or_wait(wanted, shutdown).await {
            Ok(tasks) => return Ok(tasks),
            Err(Failed::Refused(error)) if is_about_options(&error) => return Err(error),
            Err(Failed::Refused(error) | Failed::Outage(error)) => error,
        };
        self.must_renew = true;
        let _ = shutdown.run_until_cancelled(self.link.failed(&error)).await;
        Ok(Vec::new())
    }

    async fn claim_or_wait(
        &mut self,
        wanted: &ClaimTasks,
        shutdown: &CancellationToken,
    ) -> Result<Vec<ClaimedTask>, Failed> {
        let tasks = match self.unsure.is_empty() {
            true => self.claim(wanted).await?,
            false => self.ask().await.map_err(Failed::Outage)?,
        };
        self.link.succeeded();
        if tasks.is_empty() {
            if self.must_renew {
                renewal::renew(&mut self.link, &self.held, |_| ()).await.map_err(Failed::Outage)?;
                self.must_renew = false;
            }
            match shutdown.run_until_cancelled(within(STATEMENT_TIMEOUT, self.wait(wanted))).await {
                Some(waited) => waited.map_err(Failed::Outage)?,
                // Otherwise the session would wait on for a while.
                None => self.link.close(),
            }
        }
        Ok(tasks)
    }

    /// Claims tasks in two steps, so that none is lost with a connection: if the answer to the first does not arrive,
    /// nothing is committed.
    async fn claim(&mut self, wanted: &ClaimTasks) -> Result<Vec<ClaimedTask>, Failed> {
        self.unsure = self.link.begin(async |claims| claims.claim(wanted).await).await?;
        self.link.commit().await.map_err(Failed::Outage)?;
        Ok(std::mem::take(&mut self.unsure))
    }

    /// Returns those of the unsure claims that are ours, as soon as their commit is decided.
    async fn ask(&mut self) -> Result<Vec<ClaimedTask>, Error> {
        let names = self.unsure.iter().map(|task| task.claim.clone()).collect();
        let mut ours = Vec::new();
        let renewed = |results: Vec<ClaimResult<_>>| {
            let held = results.into_iter().filter(|result| result.outcome != RenewOutcome::Lost);
            ours.extend(held.map(|result| result.claim));
        };
        let refused = self.link.in_parts(names, async |claims, part| claims.renew(part, None).await, renewed).await?;
        for (claim, error) in refused {
            tracing::warn!("cannot learn whether claim {claim} is held, its lease will run out: {error}");
        }
        self.unsure.retain(|task| ours.contains(&task.claim));
        Ok(std::mem::take(&mut self.unsure))
    }

    async fn wait(&mut self, wanted: &ClaimTasks) -> Result<(), Error> {
        let client = self.link.open().await?;
        // Waiting in the database holds one of the pooler's sessions, which heartbeats may need.
        let limit = if client.is_pooled() { Duration::ZERO } else { WAIT };
        match Claims::new(client).wait(&wanted.queues, limit).await {
            Ok(false) if client.is_pooled() => tokio::time::sleep(POLL.mul_f64(rand::random_range(0.5..1.0))).await,
            // The role's statement_timeout is shorter.
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => (),
            waited => drop(waited?),
        }
        Ok(())
    }

    /// Adds the claims that may be ours to those that the worker holds, and returns the link, whose next transaction
    /// begins when that is decided.
    pub fn into_link(self) -> Link {
        self.unsure.iter().for_each(|task| drop(self.held.add(task)));
        self.link
    }
}

/// A trigger can raise errors of the same class. A name can also have a character that the database does not store.
fn is_about_options(error: &Error) -> bool {
    match error {
        Error::Invalid { argument, .. } => ["worker", "queues", "max", "lease"].contains(&argument.as_str()),
        _ => error.code() == Some(&SqlState::CHARACTER_NOT_IN_REPERTOIRE),
    }
}
