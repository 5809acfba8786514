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
        loop {
            match limited(renew(&mut link, held)).await {
                Ok(renewed) => {
                    link.succeeded();
                    renewed.iter().for_each(|result| tell(result, held));
                    break;
                }
                Err(error) => link.failed(&error).await,
            }
        }
    }
}

/// Also ends claims of other workers: while all workers are busy, no session that waits does so.
async fn renew(link: &mut Link, held: &Held) -> Result<Vec<ClaimResult<RenewOutcome>>, Error> {
    let claims = Claims::new(link.open().await?);
    let held = held.claims();
    let renewed = if held.is_empty() { Vec::new() } else { claims.renew(&held, None).await? };
    for reaped in claims.reap(MOST_REAPED).await? {
        tracing::info!("task {} of worker \"{}\" is {}: {}", reaped.id, reaped.worker, reaped.state, reaped.reason);
    }
    Ok(renewed)
}

fn tell(result: &ClaimResult<RenewOutcome>, held: &Held) {
    let reason = match result.outcome {
        RenewOutcome::Renewed => return,
        RenewOutcome::Cancel => CancelReason::CancelRequested,
        RenewOutcome::Lost => CancelReason::LeaseLost,
    };
    if held.cancel(&result.claim, reason) {
        tracing::warn!("telling the handler of claim {} to stop: {reason}", result.claim);
    }
}
