//! Renewals of the leases that a worker holds.

use super::held::Held;
use super::link::Link;
use crate::Error;
use crate::model::{ClaimResult, RenewOutcome};

/// Renews all leases, and calls `tell` with the results. A lease that the database does not renew runs out, and keeps
/// none of the others: from then on it is renewed after them. Returns false if the database renewed none.
///
/// # Errors
/// Returns an error if the server is unavailable.
pub async fn renew(
    link: &mut Link,
    held: &Held,
    mut tell: impl FnMut(&ClaimResult<RenewOutcome>),
) -> Result<bool, Error> {
    let (mut told, mut refusals) = (0, 0);
    for claims in held.claims() {
        if claims.is_empty() {
            continue;
        }
        let tell_all = |results: Vec<_>| {
            told += results.len();
            results.iter().for_each(&mut tell);
        };
        let refused = link.in_parts(claims, async |claims, part| claims.renew(part, None).await, tell_all).await?;
        refusals += refused.len();
        let news: Vec<_> = refused.iter().filter(|(claim, _)| held.set_refused(claim)).collect();
        match news.as_slice() {
            [] => (),
            [(claim, error)] => tracing::warn!("cannot renew the lease of claim {claim}: {error}"),
            [(claim, error), ..] => {
                tracing::warn!("cannot renew {} leases; the first is of claim {claim}: {error}", news.len());
            }
        }
    }
    Ok(told > 0 || refusals == 0)
}
