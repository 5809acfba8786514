//! `transition_many`: thousands of transitions in one statement, with an outcome for each.

use crate::append::Words;
use crate::args;
use crate::call::{self, Call, Request};
use crate::direct::{Current, Entities, Move, Step};
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::heap::Wait;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::snapshot;
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{text_array, text_datum, uuid_array};
use crate::managed::error_of;
use crate::{memory, rights};
use pg_workflow_state_machine::State;
use pgrx::iter::TableIterator;
use pgrx::{Array, name, pg_sys};
use std::collections::{HashMap, HashSet};

/// The result for one entity.
#[derive(Clone, Copy)]
struct Outcome {
    outcome: &'static str,
    state: Option<State>,
    version: Option<i64>,
}

const MISSING: Outcome = Outcome { outcome: "missing", state: None, version: None };

#[pgrx::pg_extern(sql = false)]
fn transition_many(
    entity_type: Option<&str>,
    ids: Option<Array<'_, pgrx::Uuid>>,
    old_state: Option<&str>,
    new_state: Option<&str>,
    metadata: Option<Jsonb>,
    dry_run: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(entity_id, pgrx::Uuid),
        name!(outcome, &'static str),
        name!(state, Option<&'static str>),
        name!(version, Option<i64>),
    ),
> {
    rights::refuse_restricted_operation();
    let kind = args::entity_type(entity_type);
    let ids = args::array("ids", ids);
    let from = old_state.map(|name| args::state("old_state", Some(name)));
    let to = args::state("new_state", new_state);
    let metadata = args::json_object("metadata", metadata);
    let dry_run = args::not_null("dry_run", dry_run);

    let in_order = distinct(&ids);
    let outcomes = Batch { kind, from, to }.outcomes(memory::collect(in_order.iter().copied()), metadata, dry_run);
    TableIterator::new(in_order.into_iter().map(move |id| {
        let Outcome { outcome, state, version } = outcomes.get(&id).copied().unwrap_or(MISSING);
        (pgrx::Uuid::from_bytes(id.0), outcome, state.map(State::as_str), version)
    }))
}

/// Returns each ID once, in the order of the array.
fn distinct(ids: &Array<pgrx::Uuid>) -> Vec<Uuid> {
    let mut seen = HashSet::new();
    seen.try_reserve(ids.len()).unwrap_or_else(|_| errors::out_of_memory());
    let ids = ids.iter().map(|id| Uuid(*args::not_null("ids", id).as_bytes()));
    memory::collect(ids.filter(|id| seen.insert(*id)))
}

struct Batch {
    kind: EntityType,
    from: Option<State>,
    to: State,
}

impl Batch {
    fn outcomes(&self, mut ids: Vec<Uuid>, metadata: Jsonb, dry_run: bool) -> HashMap<Uuid, Outcome> {
        ids.sort_unstable();
        let mut outcomes = HashMap::new();
        if !dry_run {
            let rest = self.update_directly(&ids, metadata, &mut outcomes);
            self.update(rest, metadata, &mut outcomes);
        }
        ids.retain(|id| !outcomes.contains_key(id));
        if !ids.is_empty() {
            self.explain(&ids, dry_run, &mut outcomes);
        }
        outcomes
    }

    /// Returns the states from which a row is moved.
    fn sources(&self) -> Vec<State> {
        let wanted = |state: &State| self.from.is_none_or(|from| from == *state) && state.can_transition(self.to);
        State::ALL.into_iter().filter(wanted).collect()
    }

    /// Moves the rows that can move by the direct path, in the order of their IDs. Adds their outcomes, and returns the rest.
    fn update_directly<'a>(
        &self,
        ids: &'a [Uuid],
        metadata: Jsonb,
        outcomes: &mut HashMap<Uuid, Outcome>,
    ) -> &'a [Uuid] {
        if ids.is_empty() || self.sources().is_empty() {
            return ids;
        }
        let Some(entities) = Entities::open(self.kind) else { return ids };
        entities.heap.check_publications();
        let step = Move::by_hand(self.to, error_of(self.to, metadata));
        let decide = |_: &Row, current: Current| {
            let accepts = self.from.is_none_or(|from| from == current.state);
            accepts.then_some(step)
        };
        let (mut made, mut ready) = (Vec::new(), Vec::new());
        let done = snapshot::with_latest(|| {
            ids.iter().position(|id| match entities.transition(*id, Wait::Always, decide) {
                Step::Made(transition, waits) => {
                    memory::push(&mut made, transition);
                    waits.into_iter().for_each(|row| memory::push(&mut ready, row));
                    false
                }
                Step::Unexpected => false,
                // The statement locks it and the rest, and looks at it again.
                Step::Locked | Step::Concurrent => true,
            })
        });
        reserve(outcomes, made.len());
        outcomes.extend(made.iter().map(|transition| (transition.id, self.applied(transition.version))));
        entities.record(&made, &ready, |_| Words { metadata, request_id: None });
        &ids[done.unwrap_or(ids.len())..]
    }

    fn applied(&self, version: i64) -> Outcome {
        Outcome { outcome: "applied", state: Some(self.to), version: Some(version) }
    }

    /// Moves the rows that can move, and adds their outcomes. First locks them in the order of their IDs, so that two
    /// batches do not deadlock: the planner chooses the order in which an UPDATE visits rows.
    fn update(&self, ids: &[Uuid], metadata: Jsonb, outcomes: &mut HashMap<Uuid, Outcome>) {
        let sources: Vec<_> = self.sources().into_iter().map(|state| text_datum(state.as_str())).collect();
        if sources.is_empty() || ids.is_empty() {
            return;
        }
        let args = [Some(id_array(ids)), Some(text_array(sources)), Some(text_datum(self.to.as_str()))];
        let applied = |rows: Rows| {
            reserve(outcomes, rows.len());
            outcomes.extend((0..rows.len()).map(|row| (row_id(&rows, row), self.applied(rows.i64(row, 2)))));
        };
        let request = Request::new(memory::collect(ids.iter().copied()), metadata, None);
        call::during(Call::Transition(request), || with_plans(self.kind, |plans| plans.update.run(&args, applied)))
    }

    /// Adds why each of these was not moved; in a dry run, whether it would move.
    fn explain(&self, ids: &[Uuid], dry_run: bool, outcomes: &mut HashMap<Uuid, Outcome>) {
        let sources = self.sources();
        with_plans(self.kind, |plans| {
            plans.look_up.run(&[Some(id_array(ids))], |rows| {
                reserve(outcomes, rows.len());
                for row in 0..rows.len() {
                    let state = rows.text(row, 2).and_then(|state| state.parse::<State>().ok());
                    let movable = state.is_some_and(|state| sources.contains(&state));
                    let expected = self.from.is_none_or(|from| state == Some(from));
                    let outcome = match (movable, expected) {
                        (true, _) if dry_run => "applied",
                        // It entered this state after the update had passed it.
                        (true, _) | (false, false) => "stale",
                        (false, true) => "illegal",
                    };
                    let outcome = Outcome { outcome, state, version: Some(rows.i64(row, 3)) };
                    outcomes.insert(row_id(&rows, row), outcome);
                }
            });
        });
    }
}

fn reserve(outcomes: &mut HashMap<Uuid, Outcome>, count: usize) {
    outcomes.try_reserve(count).unwrap_or_else(|_| errors::out_of_memory());
}

fn id_array(ids: &[Uuid]) -> pg_sys::Datum {
    uuid_array(memory::collect(ids.iter().map(Uuid::as_datum)))
}

fn row_id(rows: &Rows, row: usize) -> Uuid {
    // Column 1 of both statements is the primary key, which is not null.
    rows.uuid(row, 1).unwrap_or(Uuid([0; 16]))
}

struct Plans {
    update: Plan,
    look_up: Plan,
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
            // The states as an array, so that no index on the state is searched for each of them; no join, which could read
            // a whole index of a small table.
            update: Plan::new(
                format!(
                    "WITH locked AS ( \
                         SELECT e.id FROM {table} AS e \
                         WHERE e.id OPERATOR(pg_catalog.=) ANY ($1) AND $2 OPERATOR(pg_catalog.@>) ARRAY[e.state] \
                         ORDER BY e.id FOR NO KEY UPDATE \
                     ) \
                     UPDATE {table} AS e SET state = $3 \
                     WHERE e.id OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT l.id FROM locked AS l)) \
                         AND $2 OPERATOR(pg_catalog.@>) ARRAY[e.state] \
                     RETURNING e.id, e.version"
                ),
                &[pg_sys::UUIDARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTOID],
            ),
            look_up: Plan::new(
                format!("SELECT e.id, e.state, e.version FROM {table} AS e WHERE e.id OPERATOR(pg_catalog.=) ANY ($1)"),
                &[pg_sys::UUIDARRAYOID],
            ),
        }
    }
}
