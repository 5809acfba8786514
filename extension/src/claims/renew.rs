//! Renewing leases.

use super::end::holds;
use super::token::Claim;
use super::{leases, refused};
use crate::call::{self, Call};
use crate::direct::Entities;
use crate::entity::EntityType;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::snapshot;
use crate::{errors, memory, rights};
use pgrx::pg_sys::{self, Datum};

/// Renews claims; `None`: each for as long as it was claimed. Returns an outcome for each.
pub fn renew(claims: &[Claim], lease: Option<i64>) -> Vec<&'static str> {
    // In the order of the tasks, so that two batches do not deadlock.
    let mut order = memory::collect(0..claims.len());
    order.sort_unstable_by_key(|n| claims[*n]);
    let mut outcomes = memory::collect(claims.iter().map(|_| None));
    if let Some(entities) = Entities::open(EntityType::TaskInstance) {
        snapshot::with_latest(|| {
            for n in &order {
                outcomes[*n] = in_memory(&entities, &claims[*n], lease);
            }
        });
        entities.heap.close();
    }
    order.retain(|n| outcomes[*n].is_none());
    if !order.is_empty() {
        refused::check_right();
        renew_rows(claims, &order, lease, &mut outcomes);
    }
    memory::collect(outcomes.into_iter().map(|outcome| outcome.unwrap_or("lost")))
}

/// Renews claims in their rows. If the database refuses one, each is renewed alone, so that the others have their leases.
fn renew_rows(claims: &[Claim], order: &[usize], lease: Option<i64>, outcomes: &mut [Option<&'static str>]) {
    let all = || order.iter().for_each(|n| outcomes[*n] = Some(in_row(&claims[*n], lease)));
    let Err(failure) = refused::attempt(all) else { return };
    if let [n] = order {
        errors::refused_task("renew the claim of", claims[*n].task, REFUSED, &failure);
        outcomes[*n] = Some("refused");
        return;
    }
    order.chunks(1).for_each(|one| renew_rows(claims, one, lease, outcomes));
}

const REFUSED: &str = "Renew it again before its lease runs out, or remove the cause.";

/// Renews a claim in shared memory; `None` if its row must be written. It writes nothing, and waits for no lock.
fn in_memory(entities: &Entities, claim: &Claim, lease: Option<i64>) -> Option<&'static str> {
    let of_claim = entities.columns.task?.claim?;
    let held = entities.read(claim.task, |row, current| {
        let is_held = holds(*claim, current) && row.text(of_claim.worker).is_some();
        is_held.then(|| row.i64(of_claim.cancel_requested_at).is_some())
    });
    let Some(is_cancelled) = held else { return Some("lost") };
    leases::renew(claim, lease.unwrap_or(claim.lease)).then_some(if is_cancelled { "cancel" } else { "renewed" })
}

const HELD: &str = "FROM workflow.task_instances AS t \
    WHERE t.id OPERATOR(pg_catalog.=) $1 AND t.version OPERATOR(pg_catalog.=) $2 \
        AND t.start_date OPERATOR(pg_catalog.=) $3 AND ARRAY[t.state] OPERATOR(pg_catalog.=) '{running}' \
        AND t.worker IS NOT NULL";

/// Renews a claim in its row. If another transaction has locked the row, the lease is in shared memory instead; without, the
/// claim is not reaped for as long, nor before its holder had time for another renewal (`late.rs`). To wait would let the
/// leases of the other claims run out.
fn in_row(claim: &Claim, lease: Option<i64>) -> &'static str {
    thread_local! {
        static RENEW: Plan = Plan::new(
            format!(
                "UPDATE workflow.task_instances AS u \
                 SET lease_expires_at = pg_catalog.clock_timestamp() \
                     OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => $4) \
                 WHERE u.id OPERATOR(pg_catalog.=) (SELECT t.id {held} FOR NO KEY UPDATE SKIP LOCKED) \
                 RETURNING u.cancel_requested_at IS NOT NULL",
                held = HELD
            ),
            &[pg_sys::UUIDOID, pg_sys::INT8OID, pg_sys::TIMESTAMPTZOID, pg_sys::FLOAT8OID],
        );
        static IS_HELD: Plan = Plan::new(
            format!("SELECT t.cancel_requested_at IS NOT NULL {held}", held = HELD),
            &[pg_sys::UUIDOID, pg_sys::INT8OID, pg_sys::TIMESTAMPTZOID],
        );
    }
    let duration = lease.unwrap_or(claim.lease);
    let seconds = Some(Datum::from((duration as f64 / 1e6).to_bits()));
    let values =
        [Some(claim.task.as_datum()), Some(Datum::from(claim.version)), Some(Datum::from(claim.start_date)), seconds];
    let read = |rows: Rows| (rows.len() > 0).then(|| rows.get(0, 1).is_some_and(|value| value.value() != 0));
    let update = || RENEW.with(|plan| plan.run(&values, read));
    let held = || IS_HELD.with(|plan| plan.run_with_latest(&values[..3], read));
    let renewed = call::during(Call::Hold, update);
    let outcome = renewed.or_else(|| {
        let is_cancelled = held()?;
        // A policy can let the role read the task, and not change it.
        let task = EntityType::TaskInstance.relation();
        let can_lock = || rights::as_owner_of(task, || refused::can_lock(claim.task, claim.version, None));
        Some(call::during(Call::Hold, || refused::change(update, can_lock)).unwrap_or(is_cancelled))
    });
    // An earlier renewal may be in memory: the newest one counts.
    if outcome.is_some() {
        leases::renew(claim, duration);
    }
    outcome.map_or("lost", |is_cancelled| if is_cancelled { "cancel" } else { "renewed" })
}
