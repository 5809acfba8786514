//! Recording: once a statement, all its moves go to `state_history`, and on to whoever listens.

use crate::announce::{self, Event};
use crate::columns::Columns;
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::session;
use crate::ffi::trigger::{SlotRow, Trigger, export_trigger};
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{bigint_array, text_array, text_datum, timestamptz_array, uuid_array};
use crate::request;
use pg_workflow_state_machine::State;
use pgrx::pg_sys::{self, Datum, Oid};

export_trigger!(record_wrapper, pg_finfo_record_wrapper, record);

/// A move that a statement made.
pub struct Move {
    pub id: Uuid,
    /// The DAG of a run, the run of a task.
    pub parent: Uuid,
    pub task_id: Option<String>,
    pub from: State,
    pub to: State,
    pub version: i64,
    pub changed_at: i64,
}

/// AFTER UPDATE FOR EACH STATEMENT.
fn record(trigger: Trigger) -> Datum {
    if let Some(kind) = EntityType::parse(trigger.argument()) {
        let moves = moves_of(kind, trigger);
        if !moves.is_empty() {
            write_history(kind, trigger.table_owner(), &moves);
        }
    }
    Datum::null()
}

fn moves_of(kind: EntityType, trigger: Trigger) -> Vec<Move> {
    let columns = Columns::of(kind, trigger);
    let mut moves = Vec::new();
    trigger.for_each_update(|old, new| moves.extend(move_between(kind, &columns, old, new)));
    moves
}

/// The move between two versions of a row, if its state changed. Looks once more at what the guard let through:
/// another trigger may have changed the row since.
fn move_between(kind: EntityType, columns: &Columns, old: &SlotRow, new: &SlotRow) -> Option<Move> {
    let id = new.uuid(columns.id);
    let (from, to) = (old.text(columns.state), new.text(columns.state));
    let versions = new.i64(columns.version) - old.i64(columns.version);
    if from == to && versions == 0 && old.uuid(columns.id) == id {
        return None;
    }
    let (Ok(from), Ok(to)) = (from.parse::<State>(), to.parse::<State>()) else {
        errors::changed_after_guard(kind, id)
    };
    if versions != 1 || !from.can_transition(to) || old.uuid(columns.id) != id {
        errors::changed_after_guard(kind, id);
    }
    Some(Move {
        id,
        parent: new.uuid(columns.parent),
        task_id: columns.task.map(|task| new.text(task.task_id).to_owned()),
        from,
        to,
        version: new.i64(columns.version),
        changed_at: new.i64(columns.updated_at),
    })
}

fn write_history(kind: EntityType, owner: Oid, moves: &[Move]) {
    // A statement is a request's whole or not at all, so its first move tells.
    let request = request::about(moves[0].id, |request| (request.metadata, request.request_id.clone()));
    let (metadata, request_id) = request.unwrap_or_else(|| (Jsonb::empty_object(), None));
    let actor = session::session_user();

    let mut args = vec![Some(text_datum(&actor)), Some(metadata.datum()), request_id.as_deref().map(text_datum)];
    let shape = match moves {
        [only] => {
            args.extend(one_move(only));
            Shape::One
        }
        many => {
            args.extend(many_moves(many));
            Shape::Many
        }
    };
    let announce = |rows: Rows| {
        announce::announce(moves.len(), |i| {
            let dag_id = rows.get(i, 2).map_or(moves[i].parent, |dag_id| {
                // SAFETY: the plan returns a uuid in column 2.
                unsafe { Uuid::from_datum(dag_id) }
            });
            moves[i].event(kind, rows.get_i64(i, 1), dag_id, &actor, metadata)
        });
    };
    // Ordinary roles may not write history: it is written for them.
    session::as_owner(owner, || with_plan(kind, shape, |plan| plan.run(&args, announce)));
}

impl Move {
    fn event<'a>(&'a self, kind: EntityType, id: i64, dag_id: Uuid, actor: &'a str, metadata: Jsonb) -> Event<'a> {
        Event {
            id,
            entity_type: kind.as_str(),
            entity_id: self.id,
            dag_id,
            dag_run_id: if kind == EntityType::DagRun { self.id } else { self.parent },
            task_id: self.task_id.as_deref(),
            old_state: Some(self.from.as_str()),
            new_state: self.to.as_str(),
            version: self.version,
            changed_at: self.changed_at,
            actor,
            metadata,
        }
    }
}

/// How the moves reach the statement that writes them. Both write the same.
#[derive(Clone, Copy)]
enum Shape {
    One,
    Many,
}

fn one_move(only: &Move) -> [Option<Datum>; 7] {
    [
        Some(only.id.as_datum()),
        Some(only.parent.as_datum()),
        only.task_id.as_deref().map(text_datum),
        Some(text_datum(only.from.as_str())),
        Some(text_datum(only.to.as_str())),
        Some(Datum::from(only.version)),
        Some(Datum::from(only.changed_at)),
    ]
}

fn many_moves(moves: &[Move]) -> [Option<Datum>; 7] {
    let state_names = State::ALL.map(|state| (state, text_datum(state.as_str())));
    let name_of =
        |state: State| state_names.iter().find(|(known, _)| *known == state).map_or(Datum::null(), |(_, name)| *name);
    [
        Some(uuid_array(moves.iter().map(|a_move| a_move.id.as_datum()).collect())),
        Some(uuid_array(moves.iter().map(|a_move| a_move.parent.as_datum()).collect())),
        Some(text_array(moves.iter().filter_map(|a_move| a_move.task_id.as_deref()).map(text_datum).collect())),
        Some(text_array(moves.iter().map(|a_move| name_of(a_move.from)).collect())),
        Some(text_array(moves.iter().map(|a_move| name_of(a_move.to)).collect())),
        Some(bigint_array(moves.iter().map(|a_move| a_move.version))),
        Some(timestamptz_array(moves.iter().map(|a_move| a_move.changed_at))),
    ]
}

fn with_plan<R>(kind: EntityType, shape: Shape, run: impl FnOnce(&Plan) -> R) -> R {
    thread_local! {
        static PLANS: [[Plan; 2]; 2] = [EntityType::DagRun, EntityType::TaskInstance]
            .map(|kind| [Shape::One, Shape::Many].map(|shape| insert_plan(kind, shape)));
    }
    PLANS.with(|plans| run(&plans[kind as usize][shape as usize]))
}

fn insert_plan(kind: EntityType, shape: Shape) -> Plan {
    let (run, dag) = match kind {
        EntityType::DagRun => ("m.id", "m.parent"),
        EntityType::TaskInstance => {
            ("m.parent", "(SELECT r.dag_id FROM workflow.dag_runs AS r WHERE r.id OPERATOR(pg_catalog.=) m.parent)")
        }
    };
    let moves = match shape {
        Shape::One => "(VALUES ($4, $5, $6, $7, $8, $9, $10))",
        // Unqualified on purpose: that is how PostgreSQL spells its unnest of several arrays; it means its own.
        Shape::Many => "unnest($4, $5, $6, $7, $8, $9, $10)",
    };
    let sql = format!(
        "INSERT INTO workflow.state_history (actor, metadata, request_id, entity_type, entity_id, dag_run_id, dag_id, \
                                             task_id, old_state, new_state, version, changed_at) \
         SELECT $1, $2, $3, '{}', m.id, {run}, {dag}, m.task_id, m.old_state, m.new_state, m.version, m.changed_at \
         FROM {moves} AS m (id, parent, task_id, old_state, new_state, version, changed_at) \
         RETURNING id, dag_id",
        kind.as_str()
    );
    Plan::new(
        sql,
        match shape {
            Shape::One => &ONE_TYPES,
            Shape::Many => &MANY_TYPES,
        },
    )
}

const ONE_TYPES: [Oid; 10] = [
    pg_sys::TEXTOID,
    pg_sys::JSONBOID,
    pg_sys::TEXTOID,
    pg_sys::UUIDOID,
    pg_sys::UUIDOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::INT8OID,
    pg_sys::TIMESTAMPTZOID,
];

const MANY_TYPES: [Oid; 10] = [
    pg_sys::TEXTOID,
    pg_sys::JSONBOID,
    pg_sys::TEXTOID,
    pg_sys::UUIDARRAYOID,
    pg_sys::UUIDARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::INT8ARRAYOID,
    pg_sys::TIMESTAMPTZARRAYOID,
];
