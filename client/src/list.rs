//! Lists: filters, orders, pages and cursors.
//!
//! An index serves each order with the filters that it can be combined with, so a page costs the same in a large
//! table as in a small one. A page begins after the last row of the previous page, whatever was added or deleted
//! since: no remaining row is skipped or repeated.

mod claims;
mod cursor;
mod order;
pub(crate) mod query;

use chrono::{DateTime, Utc};
use pg_workflow_state_machine::State;
use serde::Serialize;
use uuid::Uuid;

use crate::event::EntityType;
use crate::model::LogLevel;

pub use claims::{ClaimFilter, HeldClaim, HeldClaims};
pub use order::{ClaimSort, DagRunSort, DagSort, HistorySort, OrderBy, QueueSort, Sort, TaskInstanceSort, TaskLogSort};

/// Selects a page of a list, and its order.
///
/// ```
/// use pg_workflow_client::list::{DagSort, OrderBy, ListOptions};
///
/// let page = ListOptions { limit: 20, order_by: Some(OrderBy::ascending(DagSort::Name)), ..ListOptions::default() };
/// assert_eq!(page.order_by.unwrap().to_string(), "name");
/// ```
#[derive(Clone, Debug)]
pub struct ListOptions<S> {
    /// Maximum number of rows.
    pub limit: u32,
    /// The page ends before the row that would exceed this size, in bytes as PostgreSQL sends them; `None` for no limit.
    /// A page has at least one row.
    pub max_bytes: Option<usize>,
    /// The [`Page::next_cursor`] of the previous page; `None` for the first page.
    pub cursor: Option<String>,
    /// The order; `None` for the default of the list.
    pub order_by: Option<OrderBy<S>>,
}

impl<S> Default for ListOptions<S> {
    /// The first 50 rows.
    fn default() -> ListOptions<S> {
        ListOptions { limit: 50, max_bytes: None, cursor: None, order_by: None }
    }
}

/// A page of a list.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Cursor of the next page; `None` on the last.
    pub next_cursor: Option<String>,
}

/// Filters DAGs. `None` matches all.
#[derive(Clone, Debug, Default)]
pub struct DagFilter {
    /// With this name.
    pub name: Option<String>,
    /// With a name that starts with this text.
    pub name_prefix: Option<String>,
    /// With this tag.
    pub tag: Option<String>,
    /// Whether they are paused.
    pub paused: Option<bool>,
}

/// Filters runs. `None` or an empty list matches all.
#[derive(Clone, Debug, Default)]
pub struct DagRunFilter {
    /// Of this DAG.
    pub dag_id: Option<Uuid>,
    /// In one of these states.
    pub states: Vec<State>,
    /// With this execution date or a later one.
    pub execution_date_gte: Option<DateTime<Utc>>,
    /// With an earlier execution date.
    pub execution_date_lt: Option<DateTime<Utc>>,
}

/// Filters tasks. `None` or an empty list matches all.
#[derive(Clone, Debug, Default)]
pub struct TaskInstanceFilter {
    /// Of this run.
    pub dag_run_id: Option<Uuid>,
    /// In one of these states.
    pub states: Vec<State>,
    /// With this name. Without a run, runs are searched one after another, and the order by `id` is that of the runs.
    pub task_id: Option<String>,
}

/// Filters events. `None` matches all.
#[derive(Clone, Debug, Default)]
pub struct HistoryFilter {
    /// Of runs, or of tasks.
    pub entity_type: Option<EntityType>,
    /// Of this run or task.
    pub entity_id: Option<Uuid>,
    /// Of this run, and of its tasks that exist.
    pub dag_run_id: Option<Uuid>,
    /// Of runs and tasks of this DAG. As `actor`, it is compared with each event: give times, too, if there are millions.
    pub dag_id: Option<Uuid>,
    /// By this login role.
    pub actor: Option<String>,
    /// At this time or later.
    pub changed_at_gte: Option<DateTime<Utc>>,
    /// Before this time.
    pub changed_at_lt: Option<DateTime<Utc>>,
}

/// Filters queues. `None` matches all.
#[derive(Clone, Debug, Default)]
pub struct QueueFilter {
    /// With this name; one for each tenant that the role sees.
    pub name: Option<String>,
}

/// Filters lines of a task's log. `None` or an empty list matches all.
#[derive(Clone, Debug, Default)]
pub struct TaskLogFilter {
    /// Printed by this attempt.
    pub try_number: Option<i32>,
    /// Of one of these levels.
    pub levels: Vec<LogLevel>,
}
