//! The direct path: rows of runs, tasks and events written without a plan, an executor and triggers.
//!
//! It does the same as the SQL statements of `transition.rs`, `transition_many.rs` and `creation.rs`, with the checks of
//! the guard. It decides success only. If anything is unusual, or an entity is not as expected, the SQL statement runs,
//! with its own errors: so nothing here raises one that a user can cause.

use crate::append::Words;
use crate::call;
use crate::columns::Columns;
use crate::entity::EntityType;
use crate::ffi::definition::{Check, Default, Event};
use crate::ffi::heap::{Heap, Lock, Updated, Wait};
use crate::ffi::table_cache::TableCache;
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::text_datum;
use crate::ffi::{member, session, transaction};
use crate::hold::Given;
use crate::managed::{Fixed, Managed, now_after};
use crate::ready::Ready;
use crate::{append, isolation, memory, ready, settings, unrecorded};
use pg_workflow_state_machine::State;
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::CStr;

/// Whether the session's next statement may be left out.
///
/// With a fixed snapshot an UPDATE can fail where this would succeed. In a replica session no triggers fire. A hook of
/// another extension wants to see each statement. Within a statement of ours, or one whose transitions are not recorded
/// yet, the triggers know the order of events.
fn is_possible() -> bool {
    settings::direct_path() && session::may_write_directly() && call::is_none() && unrecorded::is_none()
}

/// What was asked about a table, once.
#[derive(Clone, Copy)]
struct Facts {
    takes_locks: bool,
    takes_transitions: bool,
    takes_creations: bool,
    /// Whether row security hides no row from any role.
    shows_all_rows: bool,
}

/// The table of an entity type, open for transitions or creations.
pub struct Entities {
    kind: EntityType,
    pub heap: Heap,
    pub columns: Columns,
    facts: Facts,
}

/// A transition to make.
#[derive(Clone, Copy)]
pub struct Move<'a> {
    pub to: State,
    /// That of its metadata.
    pub error: Option<Datum>,
    pub given: Given<'a>,
}

impl Move<'_> {
    pub fn by_hand(to: State, error: Option<Datum>) -> Move<'static> {
        Move { to, error, given: Given::default() }
    }
}

/// The result for one entity.
pub enum Step {
    /// With the row that says from when on the task can be claimed.
    Made(append::Transition, Option<Ready>),
    /// Nothing was changed: the statement sees no such entity, or it is not as expected.
    Unexpected,
    /// Nothing was changed: another transaction has locked the entity.
    Locked,
    /// Nothing was changed: a transaction has changed the entity, another one meanwhile, or this one before.
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
            && session::may_use_schema(heap.schema())
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
        let Some(columns) = Columns::of_table(kind, table, |name| heap.find_column(name)) else {
            heap.close();
            return None;
        };
        thread_local! {
            static KNOWN: TableCache<Facts> = const { TableCache::new() };
        }
        let facts = KNOWN.with(|known| known.get(table, || Facts::look_up(kind, &heap, &columns)));
        Some(Entities { kind, heap, columns, facts })
    }

    /// Reads an entity; `None` if the statement sees no such entity, or `read` returns none.
    pub fn read<R>(&self, id: Uuid, read: impl FnOnce(&Row, Current) -> Option<R>) -> Option<R> {
        pgrx::check_for_interrupts!();
        let found = self.heap.find(self.columns.id, id)?;
        let row = found.row();
        let result = Current::of(&row, &self.columns).and_then(|current| read(&row, current));
        found.release();
        result
    }

    /// Makes the transition that `decide` chooses for an entity as it is; none if it chooses none.
    pub fn transition<'a>(&self, id: Uuid, wait: Wait, decide: impl FnOnce(&Row, Current) -> Option<Move<'a>>) -> Step {
        let columns = &self.columns;
        pgrx::check_for_interrupts!();
        let Some(found) = self.heap.find(columns.id, id) else { return Step::Unexpected };
        let row = found.row();
        let managed = Managed::of(&row, columns);
        let decided = Current::of(&row, columns).and_then(|current| {
            let state = current.state;
            decide(&row, current).filter(|step| state.can_transition(step.to)).map(|step| (state, step))
        });
        let step = decided.map_or(Step::Unexpected, |(from, Move { to, error, given })| {
            let changed_at = now_after(&row, columns.updated_at);
            let mut changes = managed.changes([from, to], changed_at, given, managed.hold, columns, || error);
            changes.push((columns.state, Some(text_datum(to.as_str()))));
            match self.heap.update(&found, &changes, wait) {
                Updated::Made => {}
                Updated::Locked => return Step::Locked,
                Updated::Refused => return Step::Concurrent,
            }
            let Fixed { parent, task_id, .. } = Fixed::of(&row, columns);
            let (task_id, version) = (task_id.map(memory::copy), managed.version + 1);
            let is_before_attempt = ready::is_before_attempt(to, managed.start_date);
            let ready = Ready::of(&row, columns, to, is_before_attempt, version, given.not_before);
            Step::Made(append::Transition { id, parent, task_id, from, to, version, changed_at }, ready)
        });
        found.release();
        step
    }

    /// Records the transitions with the words of each, and closes the table.
    pub fn record<'a>(self, made: &'a [append::Transition], ready: &[Ready], words: impl Fn(usize) -> Words<'a>) {
        self.record_by(session::user(), made, ready, words);
    }

    /// As above, for another role.
    pub fn record_by<'a>(
        self,
        role: Oid,
        made: &'a [append::Transition],
        ready: &[Ready],
        words: impl Fn(usize) -> Words<'a>,
    ) {
        if !made.is_empty() {
            append::append_transitions_by(role, self.kind, made, words);
            ready::add(ready);
            transaction::next_command();
        }
        self.heap.close();
    }
}

/// An entity before a transition.
#[derive(Clone, Copy)]
pub struct Current {
    pub state: State,
    pub version: i64,
    pub start_date: Option<i64>,
}

impl Current {
    fn of(row: &Row, columns: &Columns) -> Option<Current> {
        let state = row.text(columns.state)?.parse().ok()?;
        Some(Current { state, version: row.i64(columns.version)?, start_date: row.i64(columns.start_date) })
    }
}

/// Locks a run as a foreign key of its tasks does, and returns its DAG; `None` if an SQL statement must do it, or if there
/// is no such run. The role must be the table's owner.
pub fn lock_run(run: Uuid) -> Option<Uuid> {
    let Entities { heap, columns, facts, .. } = Entities::open_with(EntityType::DagRun, Lock::Rows)?;
    let found = if facts.takes_locks { heap.find(columns.id, run) } else { None };
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
        let is_ordinary = heap.is_ordinary() && has_our_columns(heap, columns) && heap.has_primary_key(columns.id);
        let is_ours = is_ordinary
            && !heap.is_partition()
            && heap.foreign_keys() == [(parent_table(kind), vec![columns.parent])]
            && has_our_checks(kind, heap, columns);
        Facts {
            takes_locks: is_ordinary && session::may_lock_rows(heap.relation().rd_id, heap.owner()),
            takes_transitions: is_ours && heap.fires_only(Event::Update, &[c"guard", c"record"].map(function)),
            takes_creations: is_ours
                && kind == EntityType::TaskInstance
                && session::may_insert(heap.relation().rd_id, heap.owner())
                && heap.fires_only(Event::Insert, &[c"refuse_insert"].map(function))
                && has_our_defaults(heap),
            shows_all_rows: isolation::shows_all_tenants() && heap.has_only_policy(function(c"shows_all_tenants")),
        }
    }
}

/// Whether the columns have the types of the extension, and take the nulls that it writes.
fn has_our_columns(heap: &Heap, columns: &Columns) -> bool {
    let mut types = vec![
        (columns.id, pg_sys::UUIDOID),
        (columns.parent, pg_sys::UUIDOID),
        (columns.state, pg_sys::TEXTOID),
        (columns.version, pg_sys::INT8OID),
    ];
    let times = [columns.start_date, columns.end_date, columns.created_at, columns.updated_at];
    types.extend(times.map(|column| (column, pg_sys::TIMESTAMPTZOID)));
    let mut nullable = vec![columns.start_date, columns.end_date];
    if let Some(task) = columns.task {
        types.extend([(task.task_id, pg_sys::TEXTOID), (task.try_number, pg_sys::INT4OID)]);
        types.extend([(task.duration, pg_sys::FLOAT8OID), (task.error, pg_sys::TEXTOID)]);
        nullable.extend([task.duration, task.error]);
        if let Some(claim) = task.claim {
            types.extend([
                (claim.queue_id, pg_sys::INT4OID),
                (claim.priority, pg_sys::INT2OID),
                (claim.not_before, pg_sys::TIMESTAMPTZOID),
                (claim.timeout, pg_sys::INTERVALOID),
                (claim.worker, pg_sys::TEXTOID),
                (claim.lease_expires_at, pg_sys::TIMESTAMPTZOID),
                (claim.cancel_requested_at, pg_sys::TIMESTAMPTZOID),
                (claim.uncounted_tries, pg_sys::INT4OID),
            ]);
            types.extend(task.join_id.map(|column| (column, pg_sys::UUIDOID)));
            let set = [claim.not_before, claim.worker, claim.lease_expires_at, claim.cancel_requested_at];
            nullable.extend(set.into_iter().chain([claim.uncounted_tries]));
        }
    }
    types.into_iter().all(|(column, expected)| heap.has_type(column, expected))
        && !nullable.into_iter().any(|column| heap.is_not_null(column))
}

/// The table that the foreign key refers to; an invalid OID if it is missing.
fn parent_table(kind: EntityType) -> Oid {
    let name = match kind {
        EntityType::DagRun => c"dags",
        EntityType::TaskInstance => EntityType::DagRun.relation(),
    };
    member::relation(name).map_or(Oid::INVALID, |(table, _)| table)
}

/// Whether the CHECK constraints are those of the extension: the functions check their arguments by the same rules.
fn has_our_checks(kind: EntityType, heap: &Heap, columns: &Columns) -> bool {
    const STATES: &str = "(state = ANY ('{queued,running,success,failed,retrying,upstream_failed,skipped}'::text[]))";
    let checks = heap.checks();
    match (kind, columns.task, heap.find_column("max_tries")) {
        (EntityType::TaskInstance, Some(task), Some(max_tries)) => {
            let arguments = [pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::INT4OID];
            let check = member::function(c"check_task_instance", &arguments).unwrap_or(Oid::INVALID);
            checks == [Check::Call(check, vec![task.task_id, columns.state, max_tries])]
        }
        _ => {
            let texts = ["(jsonb_typeof(conf) = 'object'::text)", STATES].map(|text| Check::Text(text.to_owned()));
            checks == texts
        }
    }
}

/// Returns a function of the extension without arguments; an invalid OID if it has none.
fn function(name: &CStr) -> Oid {
    member::function(name, &[]).unwrap_or(Oid::INVALID)
}

/// The columns of task_instances, before claims, and with them and with dependencies. The functions leave a column that an administrator has added
/// to its default.
const TASK_COLUMNS: [usize; 2] = [13, 22];

/// Whether a new row of task_instances has the defaults of the extension in all columns that a creation does not write.
fn has_our_defaults(heap: &Heap) -> bool {
    let default = |name| heap.find_column(name).map(|column| heap.default(column));
    let nulls = ["start_date", "end_date", "duration", "error"];
    let of_claims = [
        "queue_id",
        "priority",
        "not_before",
        "timeout",
        "worker",
        "lease_expires_at",
        "cancel_requested_at",
        "uncounted_tries",
        "join_id",
    ];
    let has_claims = heap.find_column("queue_id").is_some();
    heap.live_columns() == TASK_COLUMNS[usize::from(has_claims)]
        && (!has_claims || of_claims.iter().all(|name| default(name) == Some(Default::Null)))
        && heap.find_column("max_tries").is_some_and(|column| heap.has_type(column, pg_sys::INT4OID))
        && default("id") == Some(Default::Function(function(c"uuid_v7")))
        && default("state") == Some(Default::Text(State::Queued.as_str().to_owned()))
        && default("version") == Some(Default::Integer(1))
        && default("try_number") == Some(Default::Integer(0))
        && nulls.iter().all(|name| default(name) == Some(Default::Null))
}
