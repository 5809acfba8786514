//! Lists, page by page: which rows, in which order, and where the next page begins.
//!
//! Each order is one that an index serves with the filters it may be combined with, so that a page costs the same in a
//! large table as in a small one. A page begins after the last row of the one before, whatever was added or deleted
//! meanwhile: no row that stays is skipped or comes twice.

mod cursor;
mod order;
pub(crate) mod query;

use chrono::{DateTime, Utc};
use pg_workflow_state_machine::State;
use serde::Serialize;
use uuid::Uuid;

use crate::event::EntityType;

pub use order::{DagRunSort, DagSort, HistorySort, OrderBy, Sort, TaskInstanceSort, TaskLogSort};

/// Which part of a list, in which order.
///
/// ```
/// use pg_workflow_client::list::{DagSort, OrderBy, ListOptions};
///
/// let page = ListOptions { limit: 20, order_by: Some(OrderBy::ascending(DagSort::Name)), ..ListOptions::default() };
/// assert_eq!(page.order_by.unwrap().to_string(), "name");
/// ```
#[derive(Clone, Debug)]
pub struct ListOptions<S> {
    /// How many rows at most.
    pub limit: u32,
    /// The [`Page::next_cursor`] of the page before; none for the first.
    pub cursor: Option<String>,
    /// None for the order that suits the filter: see each list.
    pub order_by: Option<OrderBy<S>>,
}

impl<S> Default for ListOptions<S> {
    /// The first 50.
    fn default() -> ListOptions<S> {
        ListOptions { limit: 50, cursor: None, order_by: None }
    }
}

/// A page of a list.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Where the next page begins; none where there is nothing more.
    pub next_cursor: Option<String>,
}

/// Which DAGs. What is none does not restrict.
#[derive(Clone, Debug, Default)]
pub struct DagFilter {
    /// Of this name.
    pub name: Option<String>,
    /// Of a name that begins so.
    pub name_prefix: Option<String>,
    /// With this tag.
    pub tag: Option<String>,
    /// Paused, or not.
    pub paused: Option<bool>,
}

/// Which runs. What is none or empty does not restrict.
#[derive(Clone, Debug, Default)]
pub struct DagRunFilter {
    /// Of this DAG.
    pub dag_id: Option<Uuid>,
    /// In one of these states.
    pub states: Vec<State>,
    /// Of this execution date or later.
    pub execution_date_gte: Option<DateTime<Utc>>,
    /// Of an earlier execution date.
    pub execution_date_lt: Option<DateTime<Utc>>,
}

/// Which tasks. What is none or empty does not restrict.
#[derive(Clone, Debug, Default)]
pub struct TaskInstanceFilter {
    /// Of this run.
    pub dag_run_id: Option<Uuid>,
    /// In one of these states.
    pub states: Vec<State>,
    /// Of this name. Without a run it is looked up in one run after the other, and the order by `id` is that of the runs.
    pub task_id: Option<String>,
}

/// Which changes. What is none does not restrict.
#[derive(Clone, Debug, Default)]
pub struct HistoryFilter {
    /// Of runs, or of tasks.
    pub entity_type: Option<EntityType>,
    /// Of this run or task.
    pub entity_id: Option<Uuid>,
    /// At this moment or later.
    pub changed_at_gte: Option<DateTime<Utc>>,
    /// Earlier than this.
    pub changed_at_lt: Option<DateTime<Utc>>,
}

/// Which lines of a task's log. What is none does not restrict.
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskLogFilter {
    /// Printed by this try.
    pub try_number: Option<i32>,
}
