//! Renews leases, in a thread of its own: no handler can delay it, also none that blocks the threads of the runtime.

use std::io;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cancellation::CancelReason;
use super::held::Held;
use super::link::{Failed, Link};
use super::renewal;
use crate::connect::{PostgresServer, STATEMENT_TIMEOUT};
use crate::model::{ClaimResult, RenewOutcome};
use crate::outage::Outage;

/// Claims of others that a heartbeat ends, if their time has run out.
const MOST_REAPED: i32 = 100;
/// The shortest time limit of a statement.
const SHORTEST_LIMIT: Duration = Duration::from_secs(2);

/// Renews the leases every third of their time, until the result is dropped.
pub fn start(server: PostgresServer, lease: Duration, held: Held) -> io::Result<DropGuard> {
    let stop = CancellationToken::new();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (stopped, log) = (stop.clone(), tracing::dispatcher::get_default(Clone::clone));
    std::thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
        // A renewal that hangs because of one claim is split before the other leases run out.
        let limit = (lease / 6).clamp(SHORTEST_LIMIT, STATEMENT_TIMEOUT);
        let beating = beat(Link::new(server).with_limit(limit), lease / 3, &held);
        tracing::dispatcher::with_default(&log, || runtime.block_on(stopped.run_until_cancelled(beating)));
    })?;
    Ok(stop.drop_guard())
}

async fn beat(mut link: Link, interval: Duration, held: &Held) {
    let mut reaping = Outage::of("PostgreSQL to end claims that have run out");
    loop {
        tokio::time::sleep(interval).await;
        let can_renew = loop {
            match renewal::renew(&mut link, held, |result| tell(result, held)).await {
                Ok(can_renew) => break can_renew,
                Err(error) => link.failed(&error).await,
            }
        };
        link.succeeded();
        // A server that takes no writes can take them from now on: the next heartbeat renews before it ends claims.
        if !can_renew {
            continue;
        }
        match reap(&mut link).await {
            Ok(()) => reaping.ended(),
            Err(Failed::Refused(error) | Failed::Outage(error)) => reaping.began(&error),
        }
    }
}

/// Ends claims of other workers: while all workers are busy, no session that waits does so.
async fn reap(link: &mut Link) -> Result<(), Failed> {
    for reaped in link.transaction(async |claims| claims.reap(MOST_REAPED).await).await? {
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
