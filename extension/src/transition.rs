//! `transition`: one transition, from the state and version that the caller expects.

use crate::append::Words;
use crate::args;
use crate::call::{self, Call, Request};
use crate::direct::{Current, Entities, Move, Step};
use crate::entity::EntityType;
use crate::errors::{self, Attempt};
use crate::ffi::heap::Wait;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::Plan;
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::text_datum;
use crate::managed::error_of;
use crate::{fields, requests, rights};
use pgrx::pg_sys::{self, Datum};
use serde_json::json;

#[pgrx::pg_extern(sql = false)]
fn transition(
    entity_type: Option<&str>,
    id: Option<pgrx::Uuid>,
    old_state: Option<&str>,
    new_state: Option<&str>,
    metadata: Option<Jsonb>,
    expected_version: Option<i64>,
    request_id: Option<&str>,
) -> i64 {
    transition_one(args::entity_type(entity_type), id, old_state, new_state, metadata, expected_version, request_id)
}

#[pgrx::pg_extern(sql = false)]
fn transition_dag_run(
    id: Option<pgrx::Uuid>,
    old_state: Option<&str>,
    new_state: Option<&str>,
    metadata: Option<Jsonb>,
    expected_version: Option<i64>,
    request_id: Option<&str>,
) -> i64 {
    transition_one(EntityType::DagRun, id, old_state, new_state, metadata, expected_version, request_id)
}

#[pgrx::pg_extern(sql = false)]
fn transition_task_instance(
    id: Option<pgrx::Uuid>,
    old_state: Option<&str>,
    new_state: Option<&str>,
    metadata: Option<Jsonb>,
    expected_version: Option<i64>,
    request_id: Option<&str>,
) -> i64 {
    transition_one(EntityType::TaskInstance, id, old_state, new_state, metadata, expected_version, request_id)
}

fn transition_one(
    kind: EntityType,
    id: Option<pgrx::Uuid>,
    old_state: Option<&str>,
    new_state: Option<&str>,
    metadata: Option<Jsonb>,
    expected_version: Option<i64>,
    request_id: Option<&str>,
) -> i64 {
    rights::refuse_restricted_operation();
    let attempt = Attempt {
        kind,
        id: Uuid(*args::not_null("id", id).as_bytes()),
        from: args::state("old_state", old_state),
        to: args::state("new_state", new_state),
        expected_version,
    };
    let metadata = args::json_object("metadata", metadata);
    if !attempt.from.can_transition(attempt.to) {
        errors::transition_not_allowed(kind, attempt.id, attempt.from, attempt.to);
    }
    if let Some(request_id) = request_id {
        if request_id.is_empty() {
            errors::invalid_argument(
                "request_id",
                &json!(""),
                "must not be empty",
                "Set request_id to a text that is unique to this transition, or omit it.",
            );
        }
        fields::check_text("request_id", request_id);
        if ["claim ", "release "].iter().any(|kind| request_id.starts_with(kind)) {
            errors::invalid_argument(
                "request_id",
                &json!(errors::cut(request_id)),
                "must not begin like that of a claim's end",
                "Use another text: the functions that end claims use \"claim N\" and \"release N\".",
            );
        }
    }
    update_directly(&attempt, metadata, request_id)
        .or_else(|| earlier_version(&attempt, request_id?))
        .or_else(|| update(&attempt, metadata, request_id))
        .unwrap_or_else(|| fail(&attempt))
}

/// Makes the transition by the direct path and returns the new version; `None` if that cannot.
///
/// It changes the row only if no transaction has changed it since the statement's snapshot. So an earlier call with the
/// request ID is visible in the look-up, which needs no lock of the row.
fn update_directly(attempt: &Attempt, metadata: Jsonb, request_id: Option<&str>) -> Option<i64> {
    let entities = Entities::open(attempt.kind)?;
    let decide = |_: &Row, current: Current| {
        let is_expected = attempt.expected_version.is_none_or(|expected| expected == current.version);
        let accepts = current.state == attempt.from && is_expected;
        accepts.then(|| Move::by_hand(attempt.to, error_of(attempt.to, metadata)))
    };
    let is_repeated = request_id.is_some_and(|request_id| requests::find(attempt.id, request_id).is_some());
    let step = if is_repeated {
        Step::Unexpected
    } else {
        // A repeated request updates nothing.
        entities.heap.check_publications();
        entities.transition(attempt.id, Wait::Always, decide)
    };
    let (made, ready) = if let Step::Made(made, ready) = step { (Some(made), ready) } else { (None, None) };
    entities.record(made.as_slice(), ready.as_slice(), |_| Words { metadata, request_id });
    made.map(|transition| transition.version)
}

/// The statements for one entity type.
struct Plans {
    update: Plan,
    lock: Plan,
    look_up: Plan,
    earlier: Plan,
}

fn with_plans<R>(kind: EntityType, run: impl FnOnce(&Plans) -> R) -> R {
    thread_local! {
        static PLANS: [Plans; 2] = [EntityType::DagRun, EntityType::TaskInstance].map(Plans::new);
    }
    PLANS.with(|plans| run(&plans[kind as usize]))
}

impl Plans {
    fn new(kind: EntityType) -> Plans {
        let table = kind.table();
        Plans {
            update: Plan::new(
                format!(
                    "UPDATE {table} AS e SET state = $3 \
                     WHERE e.id OPERATOR(pg_catalog.=) $1 AND e.state OPERATOR(pg_catalog.=) $2 \
                       AND ($4 IS NULL OR e.version OPERATOR(pg_catalog.=) $4) \
                     RETURNING e.version"
                ),
                &[pg_sys::UUIDOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::INT8OID],
            ),
            lock: Plan::new(
                format!("SELECT FROM {table} AS e WHERE e.id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE"),
                &[pg_sys::UUIDOID],
            ),
            look_up: Plan::new(
                format!("SELECT e.state, e.version FROM {table} AS e WHERE e.id OPERATOR(pg_catalog.=) $1"),
                &[pg_sys::UUIDOID],
            ),
            earlier: Plan::new(
                "SELECT h.version, h.old_state, h.new_state FROM workflow.state_history AS h \
                 WHERE h.entity_id OPERATOR(pg_catalog.=) $1 AND h.request_id OPERATOR(pg_catalog.=) $2 \
                   AND h.id OPERATOR(pg_catalog.>=) $3 AND h.id OPERATOR(pg_catalog.<=) $4"
                    .to_owned(),
                &[pg_sys::UUIDOID, pg_sys::TEXTOID, pg_sys::INT8OID, pg_sys::INT8OID],
            ),
        }
    }
}

/// Makes the transition and returns the new version; `None` if the entity is not as expected.
fn update(attempt: &Attempt, metadata: Jsonb, request_id: Option<&str>) -> Option<i64> {
    let args = [
        Some(attempt.id.as_datum()),
        Some(text_datum(attempt.from.as_str())),
        Some(text_datum(attempt.to.as_str())),
        attempt.expected_version.map(Datum::from),
    ];
    let request = Request::new(vec![attempt.id], metadata, request_id);
    call::during(Call::Transition(request), || {
        with_plans(attempt.kind, |plans| plans.update.run(&args, |rows| (rows.len() > 0).then(|| rows.i64(0, 1))))
    })
}

/// Returns the version that an earlier call with this request ID led to.
///
/// The entity's own history is short, so request IDs need no index. The row is locked first: the same request in
/// another session has then either committed, and is visible, or rolled back.
fn earlier_version(attempt: &Attempt, request_id: &str) -> Option<i64> {
    let id = Some(attempt.id.as_datum());
    with_plans(attempt.kind, |plans| {
        plans.lock.run(&[id], |_| ());
        let [first, last] = requests::find(attempt.id, request_id)?.map(|id| Some(Datum::from(id)));
        plans.earlier.run(&[id, Some(text_datum(request_id)), first, last], |rows| {
            if rows.len() == 0 {
                return None;
            }
            let [from, to] = [2, 3].map(|column| rows.text(0, column));
            if (from, to) != (Some(attempt.from.as_str()), Some(attempt.to.as_str())) {
                errors::reused_request_id(attempt, request_id, from, to);
            }
            Some(rows.i64(0, 1))
        })
    })
}

/// Raises the error that explains why the transition was not made.
fn fail(attempt: &Attempt) -> ! {
    with_plans(attempt.kind, |plans| {
        plans.look_up.run(&[Some(attempt.id.as_datum())], |rows| {
            if rows.len() == 0 {
                let tried = format!("move it from {} to {}", attempt.from, attempt.to);
                errors::missing(attempt.kind.as_str(), &attempt.id.to_string(), &tried);
            }
            errors::stale(attempt, rows.text(0, 1).unwrap_or_default(), rows.i64(0, 2))
        })
    })
}
