//! Claims tasks, and waits for them.

use std::time::Duration;

use futures_util::future;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use super::held::Held;
use super::link::{BEGIN, Link, limited};
use crate::Error;
use crate::connect::PostgresServer;
use crate::model::{ClaimedTask, RenewOutcome};
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
        match self.claim_or_wait(wanted, shutdown).await {
            Ok(tasks) => Ok(tasks),
            Err(error) if is_about_options(&error) => Err(error),
            Err(error) => {
                self.must_renew = true;
                let _ = shutdown.run_until_cancelled(self.link.failed(&error)).await;
                Ok(Vec::new())
            }
        }
    }

    async fn claim_or_wait(
        &mut self,
        wanted: &ClaimTasks,
        shutdown: &CancellationToken,
    ) -> Result<Vec<ClaimedTask>, Error> {
        let tasks = limited(self.claim(wanted)).await?;
        self.link.succeeded();
        if tasks.is_empty() {
            match shutdown.run_until_cancelled(limited(self.wait(wanted))).await {
                Some(waited) => waited?,
                // Otherwise the session would wait on for a while.
                None => self.link.close(),
            }
        }
        Ok(tasks)
    }

    /// Claims tasks in two steps, so that none is lost with a connection: if the answer to the first does not arrive,
    /// nothing is committed, and if the answer to COMMIT does not, a renewal tells which claims are ours.
    async fn claim(&mut self, wanted: &ClaimTasks) -> Result<Vec<ClaimedTask>, Error> {
        let client = self.link.open().await?;
        let claims = Claims::new(client);
        if self.must_renew {
            let held = self.held.claims();
            if !held.is_empty() {
                claims.renew(&held, None).await?;
            }
            self.must_renew = false;
        }
        if !self.unsure.is_empty() {
            let names: Vec<&str> = self.unsure.iter().map(|task| task.claim.as_str()).collect();
            let renewed = claims.renew(&names, None).await?;
            let mut ours = renewed.into_iter().map(|result| result.outcome != RenewOutcome::Lost);
            self.unsure.retain(|_| ours.next() == Some(true));
            return Ok(std::mem::take(&mut self.unsure));
        }
        // The driver sends both, and the server runs them in this order.
        let (begun, tasks) = future::join(client.batch_execute(BEGIN), claims.claim(wanted)).await;
        begun?;
        self.unsure = tasks?;
        client.batch_execute("COMMIT").await?;
        Ok(std::mem::take(&mut self.unsure))
    }

    /// Returns the claims of which it does not know whether they are ours.
    pub fn into_unsure(self) -> Vec<ClaimedTask> {
        self.unsure
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
}

/// A name can also have a character that the database does not store.
fn is_about_options(error: &Error) -> bool {
    matches!(error, Error::Invalid { .. }) || error.code().is_some_and(|code| code.code().starts_with("22"))
}
