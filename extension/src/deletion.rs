//! The deletion trigger: once per statement, appends the deleted runs and tasks to the history.
//!
//! A task whose run is gone has no event: the run's event says so for all its tasks. Nor have runs and tasks that
//! purge() deletes: it records what it took in the table `purges`. The stored counts note both.

use crate::append::append;
use crate::columns::Columns;
use crate::entity::EntityType;
use crate::event::Event;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::Plan;
use crate::ffi::session;
use crate::ffi::trigger::{AFTER_DELETE, Row, Trigger, Use};
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{clock, uuid_array};
use crate::history::Origin;
use crate::rights::export_trigger;
use crate::{call, counts, endings, memory, unrecorded};
use pgrx::pg_sys::{self, Datum};
use std::collections::BTreeMap;

export_trigger!(
    note_deletion_wrapper,
    pg_finfo_note_deletion_wrapper,
    note_deletion,
    [
        Use::new(AFTER_DELETE, "task_instances").argument(EntityType::TaskInstance.as_str()).old_rows(),
        Use::new(AFTER_DELETE, "dag_runs").argument(EntityType::DagRun.as_str()).old_rows(),
    ]
);

/// A run or a task that a statement deleted.
struct Deletion {
    id: Uuid,
    /// The DAG of a run, the run of a task.
    parent: Uuid,
    task_id: Option<String>,
    state: String,
    version: i64,
    updated_at: i64,
}

/// AFTER DELETE FOR EACH STATEMENT.
fn note_deletion(trigger: Trigger) -> Datum {
    let Some(kind) = EntityType::parse(trigger.argument()) else { return Datum::null() };
    let deletions = deletions_of(kind, trigger);
    if kind == EntityType::TaskInstance && !call::is_purge() {
        endings::note(deletions.iter().map(|deletion| deletion.id));
    }
    let events = session::as_owner(trigger.table_owner(), || {
        let (events, others) = events_among(kind, deletions);
        counts::note_deletions(kind, others.iter().map(|deletion| deletion.state.as_str()));
        events
    });
    if !events.is_empty() {
        append_events(kind, &events);
    }
    Datum::null()
}

fn deletions_of(kind: EntityType, trigger: Trigger) -> Vec<Deletion> {
    let columns = Columns::of(kind, trigger);
    let mut deletions = Vec::new();
    trigger.for_each_deletion(|row| {
        // A trigger can delete a row that its statement has moved or created.
        unrecorded::record_pending(kind, &columns, row);
        memory::push(&mut deletions, Deletion::of(row, &columns));
    });
    deletions
}

impl Deletion {
    fn of(row: &Row, columns: &Columns) -> Deletion {
        // These columns are NOT NULL.
        let uuid = |column| row.uuid(column).unwrap_or(Uuid([0; 16]));
        Deletion {
            id: uuid(columns.id),
            parent: uuid(columns.parent),
            task_id: columns.task.and_then(|task| row.text(task.task_id)).map(memory::copy),
            state: memory::copy(row.text(columns.state).unwrap_or_default()),
            version: row.i64(columns.version).unwrap_or(0),
            updated_at: row.i64(columns.updated_at).unwrap_or(i64::MIN),
        }
    }
}

/// Returns the deletions that have an event, each with its DAG, and the others.
fn events_among(kind: EntityType, deletions: Vec<Deletion>) -> (Vec<(Deletion, Uuid)>, Vec<Deletion>) {
    let (mut events, mut others) = (Vec::new(), Vec::new());
    if deletions.is_empty() || call::is_purge() || !takes_deletions() {
        return (events, deletions);
    }
    let dags = match kind {
        EntityType::DagRun => BTreeMap::new(),
        EntityType::TaskInstance => dags_of_existing(&deletions),
    };
    for deletion in deletions {
        let dag = match kind {
            // A DAG has no events, so each of its runs has one, also if a cascade deletes it.
            EntityType::DagRun => Some(deletion.parent),
            EntityType::TaskInstance => dags.get(&deletion.parent).copied(),
        };
        match dag {
            Some(dag) => memory::push(&mut events, (deletion, dag)),
            None => memory::push(&mut others, deletion),
        }
    }
    (events, others)
}

/// Whether the history can hold deletions. In the catalogs of 0.1.0 and 0.2.0 every event has a new state.
fn takes_deletions() -> bool {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT FROM pg_catalog.pg_attribute AS a \
             WHERE a.attrelid OPERATOR(pg_catalog.=) 'workflow.state_history'::pg_catalog.regclass \
                AND a.attname OPERATOR(pg_catalog.=) 'new_state' AND NOT a.attnotnull"
                .to_owned(),
            &[],
        );
    }
    LOOK_UP.with(|plan| plan.run(&[], |rows| rows.len() > 0))
}

/// Looks up the DAGs of the runs of these tasks, as far as the runs still exist.
fn dags_of_existing(tasks: &[Deletion]) -> BTreeMap<Uuid, Uuid> {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT r.id, r.dag_id FROM workflow.dag_runs AS r WHERE r.id OPERATOR(pg_catalog.=) ANY ($1)".to_owned(),
            &[pg_sys::UUIDARRAYOID],
        );
    }
    let mut runs = memory::collect(tasks.iter().map(|task| task.parent));
    runs.sort_unstable();
    runs.dedup();
    let ids = uuid_array(memory::collect(runs.iter().map(Uuid::as_datum)));
    LOOK_UP.with(|plan| {
        plan.run(&[Some(ids)], |rows| {
            (0..rows.len()).filter_map(|row| Some((rows.uuid(row, 1)?, rows.uuid(row, 2)?))).collect()
        })
    })
}

fn append_events(kind: EntityType, deletions: &[(Deletion, Uuid)]) {
    let (actor, metadata) = (session::session_user(), Jsonb::empty_object());
    let acted_as = session::acted_as(session::user());
    let origin = Origin { acted_as: acted_as.as_deref() };
    append(deletions, origin, |id, (deletion, dag_id)| Event {
        id,
        entity_type: kind.as_str(),
        entity_id: deletion.id,
        dag_id: *dag_id,
        dag_run_id: if kind == EntityType::DagRun { deletion.id } else { deletion.parent },
        task_id: deletion.task_id.as_deref(),
        old_state: Some(&deletion.state),
        new_state: None,
        version: deletion.version + 1,
        changed_at: clock().max(deletion.updated_at),
        actor: &actor,
        metadata,
        request_id: None,
    });
}
