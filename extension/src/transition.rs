//! `transition`: one move, asked for by a caller who says what it expects.

use crate::args;
use crate::entity::EntityType;
use crate::errors::{self, Attempt};
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::Plan;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{text, text_datum};
use crate::request::{self, Request};
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
    move_one(args::entity_type(entity_type), id, old_state, new_state, metadata, expected_version, request_id)
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
    move_one(EntityType::DagRun, id, old_state, new_state, metadata, expected_version, request_id)
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
    move_one(EntityType::TaskInstance, id, old_state, new_state, metadata, expected_version, request_id)
}

fn move_one(
    kind: EntityType,
    id: Option<pgrx::Uuid>,
    old_state: Option<&str>,
    new_state: Option<&str>,
    metadata: Option<Jsonb>,
    expected_version: Option<i64>,
    request_id: Option<&str>,
) -> i64 {
    let attempt = Attempt {
        kind,
        id: Uuid(*args::not_null("id", id).as_bytes()),
        from: args::state("old_state", old_state),
        to: args::state("new_state", new_state),
        expected_version,
    };
    let metadata = args::json_object("metadata", metadata);
    if !attempt.from.can_transition(attempt.to) {
        errors::illegal_move(kind, attempt.id, attempt.from, attempt.to);
    }
    if let Some(request_id) = request_id {
        if request_id.is_empty() {
            errors::invalid_argument("request_id", &json!(""), "is empty", "Give a text that is unique to this move.");
        }
        if let Some(version) = earlier_answer(&attempt, request_id) {
            return version;
        }
    }
    update(&attempt, metadata, request_id).unwrap_or_else(|| refuse(&attempt))
}

/// The statements of one entity type.
struct Plans {
    update: Plan,
    lock: Plan,
    look: Plan,
    answer: Plan,
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
            look: Plan::new(
                format!("SELECT e.state, e.version FROM {table} AS e WHERE e.id OPERATOR(pg_catalog.=) $1"),
                &[pg_sys::UUIDOID],
            ),
            answer: Plan::new(
                "SELECT h.version, h.old_state, h.new_state FROM workflow.state_history AS h \
                 WHERE h.entity_id OPERATOR(pg_catalog.=) $1 AND h.request_id OPERATOR(pg_catalog.=) $2"
                    .to_owned(),
                &[pg_sys::UUIDOID, pg_sys::TEXTOID],
            ),
        }
    }
}

/// Makes the move; None where the entity is not as expected.
fn update(attempt: &Attempt, metadata: Jsonb, request_id: Option<&str>) -> Option<i64> {
    let args = [
        Some(attempt.id.as_datum()),
        Some(text_datum(attempt.from.as_str())),
        Some(text_datum(attempt.to.as_str())),
        attempt.expected_version.map(Datum::from),
    ];
    let request = Request { ids: vec![attempt.id], metadata, request_id: request_id.map(str::to_owned) };
    request::during(request, || {
        with_plans(attempt.kind, |plans| plans.update.run(&args, |rows| (rows.len() > 0).then(|| rows.get_i64(0, 1))))
    })
}

/// The version that this request led to when it was first made, if it was.
///
/// The entity's own history answers that, so no index is spent on request ids. The row is locked first: the same
/// request at work in another session has then either committed, and is seen, or rolled back.
fn earlier_answer(attempt: &Attempt, request_id: &str) -> Option<i64> {
    let id = Some(attempt.id.as_datum());
    with_plans(attempt.kind, |plans| {
        plans.lock.run(&[id], |_| ());
        plans.answer.run(&[id, Some(text_datum(request_id))], |rows| {
            if rows.len() == 0 {
                return None;
            }
            // SAFETY: columns 2 and 3 are texts, which live as long as the rows.
            let [from, to] = [2, 3].map(|column| rows.get(0, column).map(|value| unsafe { text(value) }));
            if (from, to) != (Some(attempt.from.as_str()), Some(attempt.to.as_str())) {
                errors::invalid(
                    &format!(
                        "request_id \"{request_id}\" has moved {} {} from {} to {} before",
                        attempt.kind.as_str(),
                        attempt.id,
                        from.unwrap_or("nothing"),
                        to.unwrap_or("nothing"),
                    ),
                    &json!({ "argument": "request_id", "value": request_id, "from": from, "to": to }),
                    "Give each move a request_id of its own; repeat one only to repeat the same move.",
                );
            }
            Some(rows.get_i64(0, 1))
        })
    })
}

/// The move was not made: says why.
fn refuse(attempt: &Attempt) -> ! {
    with_plans(attempt.kind, |plans| {
        plans.look.run(&[Some(attempt.id.as_datum())], |rows| {
            if rows.len() == 0 {
                let tried = format!("move it from {} to {}", attempt.from, attempt.to);
                errors::missing(attempt.kind.as_str(), &attempt.id.to_string(), &tried);
            }
            // SAFETY: column 1 is a text, which lives as long as the rows.
            let state = rows.get(0, 1).map(|value| unsafe { text(value) });
            errors::stale(attempt, state.unwrap_or_default(), rows.get_i64(0, 2))
        })
    })
}
