//! `transition_many`: thousands of moves in one statement, with an answer for each.

use crate::args;
use crate::entity::EntityType;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{text, text_array, text_datum, uuid_array};
use crate::request::{self, Request};
use pg_workflow_state_machine::State;
use pgrx::iter::TableIterator;
use pgrx::{name, pg_sys};
use std::collections::{HashMap, HashSet};

/// What became of one id.
#[derive(Clone)]
struct Answer {
    outcome: &'static str,
    state: Option<String>,
    version: Option<i64>,
}

const MISSING: Answer = Answer { outcome: "missing", state: None, version: None };

#[pgrx::pg_extern(sql = false)]
fn transition_many(
    entity_type: Option<&str>,
    ids: Option<Vec<Option<pgrx::Uuid>>>,
    old_state: Option<&str>,
    new_state: Option<&str>,
    metadata: Option<Jsonb>,
    dry_run: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(entity_id, pgrx::Uuid),
        name!(outcome, &'static str),
        name!(state, Option<String>),
        name!(version, Option<i64>),
    ),
> {
    let kind = args::entity_type(entity_type);
    let ids = args::not_null("ids", ids).into_iter().map(|id| Uuid(*args::not_null("ids", id).as_bytes()));
    let from = old_state.map(|name| args::state("old_state", Some(name)));
    let to = args::state("new_state", new_state);
    let metadata = args::json_object("metadata", metadata);
    let dry_run = args::not_null("dry_run", dry_run);

    let mut seen = HashSet::new();
    let in_order: Vec<Uuid> = ids.filter(|id| seen.insert(*id)).collect();
    let answers = Batch { kind, from, to }.answers(in_order.clone(), metadata, dry_run);
    TableIterator::new(in_order.into_iter().map(move |id| {
        let Answer { outcome, state, version } = answers.get(&id).cloned().unwrap_or(MISSING);
        (pgrx::Uuid::from_bytes(id.0), outcome, state, version)
    }))
}

struct Batch {
    kind: EntityType,
    from: Option<State>,
    to: State,
}

impl Batch {
    fn answers(&self, mut ids: Vec<Uuid>, metadata: Jsonb, dry_run: bool) -> HashMap<Uuid, Answer> {
        ids.sort_unstable();
        let mut answers = if dry_run { HashMap::new() } else { self.update(&ids, metadata) };
        ids.retain(|id| !answers.contains_key(id));
        if !ids.is_empty() {
            self.look(&ids, dry_run, &mut answers);
        }
        answers
    }

    /// The states from which a row is moved.
    fn sources(&self) -> Vec<State> {
        let wanted = |state: &State| self.from.is_none_or(|from| from == *state) && state.can_transition(self.to);
        State::ALL.into_iter().filter(wanted).collect()
    }

    /// Moves what can be moved. Rows are locked in the order of their ids first, so that two batches never wait for
    /// each other in a circle: the planner chooses in which order an UPDATE visits them.
    fn update(&self, ids: &[Uuid], metadata: Jsonb) -> HashMap<Uuid, Answer> {
        let sources: Vec<_> = self.sources().into_iter().map(|state| text_datum(state.as_str())).collect();
        if sources.is_empty() || ids.is_empty() {
            return HashMap::new();
        }
        let args = [Some(id_array(ids)), Some(text_array(sources)), Some(text_datum(self.to.as_str()))];
        let state = Some(self.to.as_str().to_owned());
        let applied = |rows: Rows| {
            let answer = |row| Answer { outcome: "applied", state: state.clone(), version: Some(rows.get_i64(row, 2)) };
            (0..rows.len()).map(|row| (row_id(&rows, row), answer(row))).collect()
        };
        let request = Request { ids: ids.to_vec(), metadata, request_id: None };
        request::during(request, || with_plans(self.kind, |plans| plans.update.run(&args, applied)))
    }

    /// Says of each of these why it was not moved; in a dry run, whether it would be.
    fn look(&self, ids: &[Uuid], dry_run: bool, answers: &mut HashMap<Uuid, Answer>) {
        let sources = self.sources();
        with_plans(self.kind, |plans| {
            plans.look.run(&[Some(id_array(ids))], |rows| {
                for row in 0..rows.len() {
                    // SAFETY: column 2 is a text, which lives as long as the rows.
                    let state = rows.get(row, 2).map_or("", |value| unsafe { text(value) });
                    let movable = sources.iter().any(|source| source.as_str() == state);
                    let expected = self.from.is_none_or(|from| from.as_str() == state);
                    let outcome = match (movable, expected) {
                        (true, _) if dry_run => "applied",
                        // It came to this state after the update had passed it.
                        (true, _) | (false, false) => "stale",
                        (false, true) => "illegal",
                    };
                    let answer = Answer { outcome, state: Some(state.to_owned()), version: Some(rows.get_i64(row, 3)) };
                    answers.insert(row_id(&rows, row), answer);
                }
            });
        });
    }
}

fn id_array(ids: &[Uuid]) -> pg_sys::Datum {
    uuid_array(ids.iter().map(Uuid::as_datum).collect())
}

fn row_id(rows: &Rows, row: usize) -> Uuid {
    // SAFETY: column 1 of both statements is the primary key, a uuid.
    rows.get(row, 1).map_or(Uuid([0; 16]), |id| unsafe { Uuid::from_datum(id) })
}

struct Plans {
    update: Plan,
    look: Plan,
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
                    "WITH locked AS ( \
                         SELECT e.id FROM {table} AS e \
                         WHERE e.id OPERATOR(pg_catalog.=) ANY ($1) AND e.state OPERATOR(pg_catalog.=) ANY ($2) \
                         ORDER BY e.id FOR NO KEY UPDATE \
                     ) \
                     UPDATE {table} AS e SET state = $3 FROM locked \
                     WHERE e.id OPERATOR(pg_catalog.=) locked.id AND e.state OPERATOR(pg_catalog.=) ANY ($2) \
                     RETURNING e.id, e.version"
                ),
                &[pg_sys::UUIDARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTOID],
            ),
            look: Plan::new(
                format!("SELECT e.id, e.state, e.version FROM {table} AS e WHERE e.id OPERATOR(pg_catalog.=) ANY ($1)"),
                &[pg_sys::UUIDARRAYOID],
            ),
        }
    }
}
