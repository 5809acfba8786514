//! Recording: once a statement, all its moves go to `state_history`, and on to whoever listens.

use crate::announce::Event;
use crate::columns::Columns;
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::session;
use crate::ffi::trigger::{SlotRow, Trigger, export_trigger};
use crate::ffi::uuid::Uuid;
use crate::history::{self, History};
use crate::request;
use pg_workflow_state_machine::State;
use pgrx::pg_sys::{Datum, Oid};

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
            write_history(kind, trigger, &moves);
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

fn write_history(kind: EntityType, trigger: Trigger, moves: &[Move]) {
    // A statement is a request's whole or not at all, so its first move tells.
    let request = request::about(moves[0].id, |request| (request.metadata, request.request_id.clone()));
    let (metadata, request_id) = request.unwrap_or_else(|| (Jsonb::empty_object(), None));
    let actor = session::session_user();
    // Before the table is open: it may have to be asked.
    let dags: Vec<Uuid> = moves.iter().map(|a_move| a_move.dag(kind, trigger.table_owner())).collect();
    let history = History::open();
    let announcer = history.announcer();
    for (a_move, dag_id) in moves.iter().zip(dags) {
        let event = Event {
            id: history.next_id(),
            entity_type: kind.as_str(),
            entity_id: a_move.id,
            dag_id,
            dag_run_id: if kind == EntityType::DagRun { a_move.id } else { a_move.parent },
            task_id: a_move.task_id.as_deref(),
            old_state: Some(a_move.from.as_str()),
            new_state: a_move.to.as_str(),
            version: a_move.version,
            changed_at: a_move.changed_at,
            actor: &actor,
            metadata,
        };
        history.write(&event, request_id.as_deref());
        announcer.announce(&event);
    }
    history.close();
}

impl Move {
    fn dag(&self, kind: EntityType, owner: Oid) -> Uuid {
        match kind {
            EntityType::DagRun => self.parent,
            // Who moves a task need not be allowed to read runs.
            EntityType::TaskInstance => session::as_owner(owner, || history::dag_of(self.parent))
                .unwrap_or_else(|| errors::missing("dag_run", &self.parent.to_string(), "move a task of it")),
        }
    }
}
