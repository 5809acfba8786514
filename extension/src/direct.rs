//! The direct path: rows of runs, tasks and events written without a plan, an executor and triggers.
//!
//! It does the same as the SQL statements of `transition.rs`, `transition_many.rs` and `creation.rs`, with the checks of
//! the guard. It decides success only. If anything is unusual, or an entity is not as expected, the SQL statement runs,
//! with its own errors: so nothing here raises one that a user can cause.

use crate::call;
use crate::columns::Columns;
use crate::entity::EntityType;
use crate::ffi::definition::{Default, Event};
use crate::ffi::heap::{Heap, Lock};
use crate::ffi::jsonb::Jsonb;
use crate::ffi::table_cache::TableCache;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::text_datum;
use crate::ffi::{member, session, transaction};
use crate::managed::{Fixed, Managed, now_after};
use crate::{append, isolation, memory, settings, unrecorded};
use pg_workflow_state_machine::State;
use pgrx::pg_sys::Oid;
use std::ffi::CStr;

/// Whether the session's next statement may be left out.
///
/// With a fixed snapshot an UPDATE can fail where this would succeed. In a replica session no triggers fire. A hook of
/// another extension wants to see each statement. Within a statement of ours, or one whose transitions are not recorded
/// yet, the triggers know the order of events.
pub fn is_possible() -> bool {
    settings::direct_path() && session::may_write_directly() && call::is_none() && unrecorded::is_none()
}

/// What was asked about a table, once.
#[derive(Clone, Copy)]
struct Facts {
    is_ordinary: bool,
    takes_transitions: bool,
    takes_creations: bool,
    /// Whether row security hides no row from any role.
    shows_all_rows: bool,
}

/// The table of an entity type, open for transitions or creations.
pub struct Entities {
    pub kind: EntityType,
    pub heap: Heap,
    pub columns: Columns,
    facts: Facts,
}

/// The result for one entity.
pub enum Step {
    Made(append::Transition),
    /// Nothing was changed: the statement sees no such entity, or it is not as expected.
    Unexpected,
    /// Nothing was changed: another transaction has changed the entity meanwhile.
    Concurrent,
}

impl Entities {
    /// Opens the table for transitions; `None` if SQL statements must make them.
    pub fn open(kind: EntityType) -> Option<Entities> {
        let entities = Entities::open_with(kind, Lock::Write)?;
        let Entities { heap, facts, columns, .. } = &entities;
        let table = heap.relation().rd_id;
        if facts.takes_transitions
            && session::may_update(table, columns.state)
            && (facts.shows_all_rows || !session::is_restricted_in(table, session::user()))
        {
            return Some(entities);
        }
        entities.heap.close();
        None
    }

    /// Opens the table for creations; `None` if SQL statements must make them. The role must be its owner.
    pub fn open_for_creation(kind: EntityType) -> Option<Entities> {
        let entities = Entities::open_with(kind, Lock::Write)?;
        if entities.facts.takes_creations {
            return Some(entities);
        }
        entities.heap.close();
        None
    }

    fn open_with(kind: EntityType, lock: Lock) -> Option<Entities> {
        if !is_possible() {
            return None;
        }
        let (table, _) = member::relation(kind.relation())?;
        transaction::next_command();
        let heap = Heap::open(table, lock)?;
        let columns = Columns::of_table(kind, table, |name| heap.column(name));
        thread_local! {
            static KNOWN: TableCache<Facts> = const { TableCache::new() };
        }
        let facts = KNOWN.with(|known| known.get(table, || Facts::look_up(kind, &heap, &columns)));
        Some(Entities { kind, heap, columns, facts })
    }

    /// Moves an entity whose state and version are accepted. Waits for a transaction that changes it.
    pub fn transition(&self, id: Uuid, accepts: impl Fn(State, i64) -> bool, to: State, metadata: Jsonb) -> Step {
        let columns = &self.columns;
        pgrx::check_for_interrupts!();
        let Some(found) = self.heap.find(columns.id, id) else { return Step::Unexpected };
        let row = found.row();
        let current = Managed::of(&row, columns);
        let state = row.text(columns.state).and_then(|state| state.parse::<State>().ok());
        let from = state.filter(|state| state.can_transition(to) && accepts(*state, current.version));
        let step = from.map_or(Step::Unexpected, |from| {
            let changed_at = now_after(&row, columns.updated_at);
            let mut changes = current.changes(to, changed_at, columns, || Some(metadata));
            changes.push((columns.state, Some(text_datum(to.as_str()))));
            if !self.heap.update(&found, &changes) {
                return Step::Concurrent;
            }
            let Fixed { parent, task_id, .. } = Fixed::of(&row, columns);
            let (task_id, version) = (task_id.map(memory::copy), current.version + 1);
            Step::Made(append::Transition { id, parent, task_id, from, to, version, changed_at })
        });
        found.release();
        step
    }

    /// Records the transitions, and closes the table.
    pub fn record(self, made: &[append::Transition], metadata: Jsonb, request_id: Option<&str>) {
        if !made.is_empty() {
            append::append_transitions_by(session::user(), self.kind, made, metadata, request_id);
            transaction::next_command();
        }
        self.heap.close();
    }
}

/// Locks a run as a foreign key of its tasks does, and returns its DAG; `None` if an SQL statement must do it, or if there
/// is no such run. The role must be the table's owner.
pub fn lock_run(run: Uuid) -> Option<Uuid> {
    let Entities { heap, columns, facts, .. } = Entities::open_with(EntityType::DagRun, Lock::Rows)?;
    let found = if facts.is_ordinary { heap.find(columns.id, run) } else { None };
    let dag = found.and_then(|found| {
        let dag = heap.lock_key(&found).then(|| found.row().uuid(columns.parent)).flatten();
        found.release();
        dag
    });
    heap.close();
    dag
}

impl Facts {
    fn look_up(kind: EntityType, heap: &Heap, columns: &Columns) -> Facts {
        let is_ordinary = heap.is_ordinary();
        let is_ours = is_ordinary && !heap.is_partition() && heap.checks() == checks(kind);
        let keys = heap.foreign_keys();
        let has_our_keys = keys.len() == 1 && keys[0].1 == [columns.parent];
        Facts {
            is_ordinary,
            takes_transitions: is_ours
                && has_our_keys
                && heap.fires_only(Event::Update, &[c"guard", c"record"].map(function)),
            takes_creations: is_ours
                && has_our_keys
                && kind == EntityType::TaskInstance
                && heap.fires_only(Event::Insert, &[c"refuse_insert"].map(function))
                && has_our_defaults(heap),
            shows_all_rows: isolation::shows_all_tenants() && heap.has_only_policy(function(c"shows_all_tenants")),
        }
    }
}

/// The CHECK constraints of a table. The functions check their arguments by the same rules.
const fn checks(kind: EntityType) -> &'static [&'static str] {
    match kind {
        EntityType::DagRun => &["dag_runs_conf_check", "dag_runs_state_check"],
        EntityType::TaskInstance => &["task_instances_check"],
    }
}

/// Returns a function of the extension without arguments; an invalid OID if it has none.
fn function(name: &CStr) -> Oid {
    member::function(name, &[]).unwrap_or(Oid::INVALID)
}

/// Whether a new row of task_instances has the defaults of the extension in all columns that a creation does not write.
fn has_our_defaults(heap: &Heap) -> bool {
    let default = |name| heap.find_column(name).map(|column| heap.default(column));
    let nulls = ["start_date", "end_date", "duration", "error"];
    heap.width() == TASK_COLUMNS
        && default("id") == Some(Default::Function(function(c"uuid_v7")))
        && default("state") == Some(Default::Text(State::Queued.as_str().to_owned()))
        && default("version") == Some(Default::Integer(1))
        && default("try_number") == Some(Default::Integer(0))
        && nulls.iter().all(|name| default(name) == Some(Default::Null))
}

/// The columns of task_instances. The functions leave a column that an administrator has added to its default.
const TASK_COLUMNS: usize = 13;
