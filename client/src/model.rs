//! Rows: DAGs, runs, tasks, their dependencies, log lines, queues and claims.

pub(crate) mod claim;
mod dag;
mod dag_run;
mod join;
mod queue;
mod rerun;
mod state_counts;
mod task_instance;
mod task_log;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::Error;
use crate::event::Event;
use crate::record::{Column, Record};

pub use claim::{
    CancelOutcome, ClaimResult, ClaimedTask, EnqueueOutcome, EnqueueResult, FinishOutcome, FinishResult, ReapedClaim,
    ReleaseOutcome, RenewOutcome,
};
pub use dag::Dag;
pub use dag_run::DagRun;
pub use join::{FailsOn, Join, PendingParent};
pub use queue::Queue;
pub use rerun::{RerunTask, RerunTasks};
pub use state_counts::StateCounts;
pub use task_instance::TaskInstance;
pub use task_log::{LogLevel, TaskLog};

// Times that users set can be infinite, or in years that RFC 3339 cannot express. One such row must not break a whole
// list.
macro_rules! within_rfc_3339 {
    ($column:literal) => {
        // least and greatest ignore null, which must stay null.
        concat!(
            "CASE WHEN ",
            $column,
            " IS NOT NULL THEN least(greatest(",
            $column,
            ", '0001-01-01T00:00:00Z'), '9999-12-31T23:59:59.999999Z') END"
        )
    };
}
use within_rfc_3339;

impl Record for Event {
    const NAME: &'static str = "event";
    const TABLE: &'static str = "workflow.state_history";
    const COLUMNS: &'static str = Event::COLUMNS;
    const KEYS: &'static [Column] = &[Column { name: "id", kind: Type::INT8 }];

    fn from_row(row: &Row) -> Result<Self, Error> {
        Event::from_row(row)
    }
}
