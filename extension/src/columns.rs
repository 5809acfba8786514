//! The column numbers of the entity tables.

use crate::entity::EntityType;
use crate::ffi::table_cache::TableCache;
use crate::ffi::trigger::Trigger;
use pgrx::pg_sys::Oid;

/// Column numbers (from 1) of dag_runs or task_instances.
#[derive(Clone, Copy)]
pub struct Columns {
    pub id: usize,
    /// The DAG of a run, the run of a task.
    pub parent: usize,
    pub state: usize,
    pub version: usize,
    pub start_date: usize,
    pub end_date: usize,
    pub created_at: usize,
    pub updated_at: usize,
    pub task: Option<TaskColumns>,
    pub run: Option<RunColumns>,
}

/// The columns that only runs have.
#[derive(Clone, Copy)]
pub struct RunColumns {
    pub execution_date: usize,
    pub conf: usize,
}

/// The columns that only tasks have.
#[derive(Clone, Copy)]
pub struct TaskColumns {
    pub task_id: usize,
    pub try_number: usize,
    pub duration: usize,
    pub error: usize,
    /// `None` in the tables of 0.1.0 and 0.2.0.
    pub claim: Option<ClaimColumns>,
    /// As above.
    pub join_id: Option<usize>,
}

/// The columns of tasks for claims.
#[derive(Clone, Copy)]
pub struct ClaimColumns {
    pub max_tries: usize,
    pub queue_id: usize,
    pub priority: usize,
    pub not_before: usize,
    pub timeout: usize,
    pub worker: usize,
    pub lease_expires_at: usize,
    pub cancel_requested_at: usize,
    pub uncounted_tries: usize,
}

pub const fn parent_name(kind: EntityType) -> &'static str {
    match kind {
        EntityType::DagRun => "dag_id",
        EntityType::TaskInstance => "dag_run_id",
    }
}

impl Columns {
    /// Finds the columns of a trigger's table.
    pub fn of(kind: EntityType, trigger: Trigger) -> Columns {
        Columns::of_table(kind, trigger.table(), |name| trigger.find_column(name))
            .unwrap_or_else(|| panic!("table {} lacks a column", trigger.table_name()))
    }

    /// Finds the columns by name, so that the library works with a table of any version; `None` if one is missing. Looks
    /// up each table once.
    pub fn of_table(kind: EntityType, table: Oid, column: impl Fn(&str) -> Option<usize>) -> Option<Columns> {
        thread_local! {
            static KNOWN: TableCache<Columns> = const { TableCache::new() };
        }
        KNOWN.with(|known| known.find(table, || Columns::look_up(kind, column)))
    }

    fn look_up(kind: EntityType, column: impl Fn(&str) -> Option<usize>) -> Option<Columns> {
        Some(Columns {
            id: column("id")?,
            parent: column(parent_name(kind))?,
            state: column("state")?,
            version: column("version")?,
            start_date: column("start_date")?,
            end_date: column("end_date")?,
            created_at: column("created_at")?,
            updated_at: column("updated_at")?,
            task: match kind {
                EntityType::DagRun => None,
                EntityType::TaskInstance => Some(TaskColumns {
                    task_id: column("task_id")?,
                    try_number: column("try_number")?,
                    duration: column("duration")?,
                    error: column("error")?,
                    claim: ClaimColumns::look_up(&column),
                    join_id: column("join_id"),
                }),
            },
            run: match kind {
                EntityType::DagRun => {
                    Some(RunColumns { execution_date: column("execution_date")?, conf: column("conf")? })
                }
                EntityType::TaskInstance => None,
            },
        })
    }
}

impl ClaimColumns {
    fn look_up(column: impl Fn(&str) -> Option<usize>) -> Option<ClaimColumns> {
        Some(ClaimColumns {
            max_tries: column("max_tries")?,
            queue_id: column("queue_id")?,
            priority: column("priority")?,
            not_before: column("not_before")?,
            timeout: column("timeout")?,
            worker: column("worker")?,
            lease_expires_at: column("lease_expires_at")?,
            cancel_requested_at: column("cancel_requested_at")?,
            uncounted_tries: column("uncounted_tries")?,
        })
    }
}
