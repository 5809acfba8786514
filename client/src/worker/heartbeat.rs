//! Renews leases, in a thread of its own: no handler can delay it, also none that blocks the threads of the runtime.

use std::io;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cancellation::CancelReason;
use super::held::Held;
use super::link::{Link, limited};
use crate::Error;
use crate::connect::PostgresServer;
use crate::model::{ClaimResult, RenewOutcome};
use crate::repository::Claims;

/// Claims of others that a heartbeat ends, if their time has run out.
const MOST_REAPED: i32 = 100;

/// Renews the leases every third of their time, until the result is dropped.
pub fn start(server: PostgresServer, lease: Duration, held: Held) -> io::Result<DropGuard> {
    let stop = CancellationToken::new();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (stopped, log) = (stop.clone(), tracing::dispatcher::get_default(Clone::clone));
    std::thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
        let beating = beat(Link::new(server), lease / 3, &held);
        tracing::dispatcher::with_default(&log, || runtime.block_on(stopped.run_until_cancelled(beating)));
    })?;
    Ok(stop.drop_guard())
}

async fn beat(mut link: Link, interval: Duration, held: &Held) {
    loop {
        tokio::time::sleep(interval).await;
        while let Err(error) = limited(renew(&mut link, held)).await {
            link.failed(&error).await;
        }
        link.succeeded();
        if let Err(error) = limited(reap(&mut link)).await {
            tracing::warn!("cannot end claims that have run out: {error}");
            link.close();
        }
    }
}

async fn renew(link: &mut Link, held: &Held) -> Result<(), Error> {
    let client = link.open().await?;
    let held_claims = held.claims();
    if !held_claims.is_empty() {
        let renewed = Claims::new(client).renew(&held_claims, None).await?;
        renewed.iter().for_each(|result| tell(result, held));
    }
    Ok(())
}

/// Ends claims of other workers: while all workers are busy, no session that waits does so.
async fn reap(link: &mut Link) -> Result<(), Error> {
    for reaped in Claims::new(link.open().await?).reap(MOST_REAPED).await? {
        tracing::info!("task {} of worker \"{}\" is {}: {}", reaped.id, reaped.worker, reaped.state, reaped.reason);
    }
    Ok(())
}

fn tell(result: &ClaimResult<RenewOutcome>, held: &Held) {
    let reason = match result.outcome {
        RenewOutcome::Renewed => return,
        RenewOutcome::Refused => {
            tracing::warn!(
                "cannot renew claim {}: the database refuses it, the log of the server tells why",
                result.claim
            );
            return;
        }
        RenewOutcome::Cancel => CancelReason::CancelRequested,
        RenewOutcome::Lost => CancelReason::LeaseLost,
    };
    if held.cancel(&result.claim, reason) {
        tracing::warn!("telling the handler of claim {} to stop: {reason}", result.claim);
    }
}
