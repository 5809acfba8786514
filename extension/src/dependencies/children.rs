//! What a decision does to the children of a join: they can be claimed, or they end without an attempt.

use super::tasks::Tasks;
use crate::append::{Transition, Words};
use crate::call::{self, Call, Request};
use crate::direct::{Current, Entities, Move, Step};
use crate::entity::EntityType;
use crate::ffi::guc;
use crate::ffi::heap::Wait;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{text_array, text_datum};
use crate::ffi::{subtransaction, transaction};
use crate::joins::{Join, uuids_datum};
use crate::managed::error_of;
use crate::ready::{self, Ready};
use crate::{errors, memory, rights};
use pg_workflow_state_machine::State;
use pgrx::pg_sys::{self, Oid};
use serde_json::json;

/// What a look has decided, and has not written yet.
pub struct Decided {
    /// The role that acts.
    pub role: Oid,
    ready: Vec<Ready>,
    /// `None`: not opened yet; within: SQL statements must move the tasks.
    entities: Option<Option<Entities>>,
    made: Vec<Transition>,
    /// That of each transition.
    metadata: Vec<Jsonb>,
}

/// How far a decision is written. In ascending order of how soon another look is needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Settled {
    All,
    /// An error has kept some from being moved.
    Refused,
    /// Other transactions have locked, or change, some of what it moves.
    Busy,
}

/// The states of tasks that have not begun.
const SOURCES: [State; 2] = [State::Queued, State::Retrying];

/// The parents because of which children end: some names, and how many there are.
pub struct Why {
    pub names: Vec<String>,
    pub count: usize,
}

impl Why {
    /// Returns the metadata of a child that ends. `fate`: the state that the rule gives it; `to`: the one that it gets.
    fn metadata(&self, join: &Join, fate: State, to: State) -> Jsonb {
        let rule = join.rule.as_str();
        let more = self.count - self.names.len().min(self.count);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let names = || format!("{}{more}", self.names.join(", "));
        let (mut metadata, error) = match (fate, self.count) {
            (State::Failed, _) => (json!({ "reason": "upstream_failed" }), format!("upstream failed: {}", names())),
            (_, 0) => (json!({ "reason": "rule_not_met" }), format!("rule not met: {rule}")),
            _ => (json!({ "reason": "upstream_skipped" }), format!("upstream skipped: {}", names())),
        };
        metadata["rule"] = json!(rule);
        if self.count > 0 || fate == State::Failed {
            metadata["upstream"] = json!(self.names);
        }
        if to == State::Failed {
            metadata["error"] = json!(error);
        }
        Jsonb::of(&metadata)
    }
}

impl Decided {
    pub fn new(role: Oid) -> Decided {
        Decided { role, ready: Vec::new(), entities: None, made: Vec::new(), metadata: Vec::new() }
    }

    /// Lets the children be claimed that have not begun and have a queue.
    pub fn run(&mut self, join: &Join, tasks: &Tasks) -> Settled {
        for child in &join.children {
            tasks.ready(*child).into_iter().for_each(|row| memory::push(&mut self.ready, row));
        }
        Settled::All
    }

    /// Moves the children that have not begun to a state in which they end.
    pub fn end(&mut self, join: &Join, fate: State, why: &Why, tasks: &Tasks) -> Settled {
        let ends = SOURCES.map(|from| {
            // No transition leads from retrying to skipped.
            let to = if from == State::Queued { fate } else { State::Failed };
            (from, to, why.metadata(join, fate, to))
        });
        let rest = self.end_directly(join, &ends);
        let settle = |(from, to, metadata): (State, State, Jsonb)| {
            let rest = rest.iter().filter(|child| tasks.state_before_attempt(**child) == Some(from));
            let mut rest = memory::collect(rest.copied());
            if rest.is_empty() {
                return Settled::All;
            }
            rest.sort_unstable();
            move_by_statement(EntityType::TaskInstance, &rest, [from, to], metadata, self.role, true)
        };
        ends.into_iter().map(settle).max().unwrap_or(Settled::All)
    }

    /// Moves children by the direct path. Returns those that it cannot move.
    fn end_directly(&mut self, join: &Join, ends: &[(State, State, Jsonb)]) -> Vec<Uuid> {
        let entities = self.entities.get_or_insert_with(|| {
            let entities = Entities::open(EntityType::TaskInstance)?;
            entities.heap.check_publications();
            Some(entities)
        });
        let Some(entities) = entities else { return memory::collect(join.children.iter().copied()) };
        let end_from = |from: State| ends.iter().find(|end| end.0 == from);
        let mut rest = Vec::new();
        for child in &join.children {
            let mut found = None;
            let decide = |_: &Row, Current { state, start_date, .. }: Current| {
                found = end_from(state).filter(|_| ready::is_before_attempt(state, start_date));
                found.map(|(_, to, metadata)| Move::by_hand(*to, error_of(*to, *metadata)))
            };
            match entities.transition(*child, Wait::Never, decide) {
                Step::Made(made, _) => {
                    memory::push(&mut self.made, made);
                    found.into_iter().for_each(|(.., metadata)| memory::push(&mut self.metadata, *metadata));
                }
                Step::Unexpected => {}
                Step::Locked | Step::Concurrent => memory::push(&mut rest, *child),
            }
        }
        // What is moved here can be watched by others.
        transaction::next_command();
        rest
    }

    /// Writes what is decided.
    pub fn write(self) {
        /// As new tasks.
        const ALIKE: usize = 32;
        let Decided { role, mut ready, entities, made, metadata } = self;
        if let Some(entities) = entities.flatten() {
            entities.record_by(role, &made, &[], |n| Words { metadata: metadata[n], request_id: None });
        }
        for (n, row) in ready.iter_mut().enumerate() {
            row.ready_at = row.ready_at.saturating_add((n / ALIKE) as i64);
        }
        ready::add(&ready);
    }
}

/// Moves entities from a state by an UPDATE, which fires the triggers of others. The IDs must be sorted. If a trigger refuses
/// some, the others are moved one by one, and a WARNING tells: the end of a parent, and a claim, must not fail with them.
/// `is_at_end`: of the transaction, so that deferred triggers refuse here, too.
pub fn move_by_statement(
    kind: EntityType,
    ids: &[Uuid],
    [from, to]: [State; 2],
    metadata: Jsonb,
    role: Oid,
    is_at_end: bool,
) -> Settled {
    let attempt = |ids: &[Uuid]| {
        subtransaction::attempt(|| {
            let moved = update(kind, ids, [from, to], metadata, role);
            if is_at_end {
                transaction::fire_deferred_triggers();
            }
            moved
        })
    };
    let failure = match attempt(ids) {
        Ok(moved) if moved == ids.len() => return Settled::All,
        Ok(_) => {
            // Another transaction was in the way; or a trigger withholds or undoes the change, which it does again.
            let locked = lock(kind, ids, from);
            return match (locked.first(), attempt(&locked)) {
                (Some(id), Ok(0)) => {
                    errors::withheld_move(kind, *id, to);
                    // The others are busy.
                    if locked.len() < ids.len() { Settled::Busy } else { Settled::Refused }
                }
                _ => Settled::Busy,
            };
        }
        // For example at SERIALIZABLE: nothing is left of it, and another session does it.
        Err(failure) if failure.is_passing() => return Settled::Busy,
        Err(failure) => failure,
    };
    if let [id] = ids {
        errors::refused_move(kind, *id, to, &failure);
        return Settled::Refused;
    }
    let mut settled = Settled::All;
    for id in ids {
        settled = settled.max(move_by_statement(kind, &[*id], [from, to], metadata, role, is_at_end));
    }
    settled
}

/// Locks the entities that are still in a state, but for those that other transactions have locked. Returns them.
fn lock(kind: EntityType, ids: &[Uuid], from: State) -> Vec<Uuid> {
    thread_local! {
        static LOCK: [Plan; 2] = [EntityType::DagRun, EntityType::TaskInstance].map(|kind| Plan::new(
            format!(
                "SELECT e.id FROM {} AS e \
                 WHERE e.id OPERATOR(pg_catalog.=) ANY ($1) AND $2 OPERATOR(pg_catalog.@>) ARRAY[e.state] \
                 ORDER BY e.id FOR NO KEY UPDATE SKIP LOCKED",
                kind.table()
            ),
            &[pg_sys::UUIDARRAYOID, pg_sys::TEXTARRAYOID],
        ));
    }
    let values = [Some(uuids_datum(ids)), Some(text_array(vec![text_datum(from.as_str())]))];
    let read = |rows: Rows| memory::collect((0..rows.len()).filter_map(|row| rows.uuid(row, 1)));
    LOCK.with(|plans| plans[kind as usize].run(&values, read))
}

/// Moves entities from a state. Those that other transactions have locked stay. Returns how many it has moved.
fn update(kind: EntityType, ids: &[Uuid], [from, to]: [State; 2], metadata: Jsonb, role: Oid) -> usize {
    thread_local! {
        static UPDATE: [Plan; 2] = [EntityType::DagRun, EntityType::TaskInstance].map(plan_of_update);
    }
    let values =
        [Some(uuids_datum(ids)), Some(text_array(vec![text_datum(from.as_str())])), Some(text_datum(to.as_str()))];
    let request = Request::new(memory::collect(ids.iter().copied()), metadata, None).by(role);
    call::during(Call::Transition(request), || {
        guc::with_settings(rights::SETTINGS, || {
            let count =
                |rows: Rows| (0..rows.len()).filter(|row| rows.get(*row, 1).is_some_and(|is| is.value() != 0)).count();
            UPDATE.with(|plans| plans[kind as usize].run(&values, count))
        })
    })
}

fn plan_of_update(kind: EntityType) -> Plan {
    let table = kind.table();
    // A task between two attempts has begun.
    let is_meant = match kind {
        EntityType::DagRun => "true",
        EntityType::TaskInstance => "workflow.is_before_attempt(e.state, e.start_date)",
    };
    Plan::new(
        format!(
            "WITH locked AS ( \
                 SELECT e.id FROM {table} AS e \
                 WHERE e.id OPERATOR(pg_catalog.=) ANY ($1) AND $2 OPERATOR(pg_catalog.@>) ARRAY[e.state] AND {is_meant} \
                 ORDER BY e.id FOR NO KEY UPDATE SKIP LOCKED \
             ) \
             UPDATE {table} AS e SET state = $3 \
             WHERE e.id OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT l.id FROM locked AS l)) \
                 AND $2 OPERATOR(pg_catalog.@>) ARRAY[e.state] \
             RETURNING e.state OPERATOR(pg_catalog.=) $3"
        ),
        &[pg_sys::UUIDARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTOID],
    )
}
