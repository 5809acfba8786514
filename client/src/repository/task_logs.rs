use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use super::find;
use crate::list::query::{Plan, Query, Way};
use crate::list::{ListOptions, OrderBy, Page, TaskLogFilter, TaskLogSort};
use crate::model::{LogLevel, TaskLog};
use crate::session::{self, Session};
use crate::{Error, json};

/// A line to append to the log of a task.
///
/// ```
/// use pg_workflow_client::{LogLevel, NewTaskLog};
///
/// # let task = uuid::Uuid::nil();
/// let line = NewTaskLog { level: LogLevel::Warning, ..NewTaskLog::of(task, "slow: 3 s") };
/// ```
#[derive(Clone, Debug, Serialize)]
pub struct NewTaskLog {
    /// The task.
    pub task_instance_id: Uuid,
    /// The text.
    pub message: String,
    /// Its level.
    pub level: LogLevel,
    /// Time when it was printed; `None` for the current time of the database.
    #[serde(serialize_with = "json::time_or_null")]
    pub logged_at: Option<DateTime<Utc>>,
}

impl NewTaskLog {
    /// Creates a line at level INFO, printed now.
    pub fn of(task_instance_id: Uuid, message: impl Into<String>) -> NewTaskLog {
        NewTaskLog { task_instance_id, message: message.into(), level: LogLevel::Info, logged_at: None }
    }
}

/// The logs of tasks.
///
/// A line belongs to the attempt during which it was appended, and cannot be changed.
///
/// ```no_run
/// use pg_workflow_client::{Error, LogLevel, TaskLogs, session::Session};
///
/// # async fn example(session: &impl Session, task: uuid::Uuid) -> Result<(), Error> {
/// TaskLogs::new(session).append(task, LogLevel::Info, "12,000 rows read").await?;
/// # Ok(())
/// # }
/// ```
pub struct TaskLogs<'a, S>(&'a S);

impl<'a, S: Session> TaskLogs<'a, S> {
    /// Uses this session.
    pub fn new(session: &'a S) -> TaskLogs<'a, S> {
        TaskLogs(session)
    }

    /// Appends a line, printed now, and returns its id.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if the task does not exist; [`Error::Denied`], [`Error::Postgres`] or
    /// [`Error::Timeout`] as every method.
    pub async fn append(&self, task_instance_id: Uuid, level: LogLevel, message: &str) -> Result<i64, Error> {
        let line = NewTaskLog { level, ..NewTaskLog::of(task_instance_id, message) };
        let ids = self.append_many(&[line]).await?;
        ids.first().copied().ok_or_else(|| Error::Unknown("no id".to_owned()))
    }

    /// Appends lines, all or none, and returns their ids in the same order.
    ///
    /// # Errors
    /// See [`append`](TaskLogs::append).
    pub async fn append_many(&self, lines: &[NewTaskLog]) -> Result<Vec<i64>, Error> {
        let sql = "SELECT workflow.append_task_log(l.task_instance_id, l.message, l.level,
                       coalesce(l.logged_at, clock_timestamp()))
                   FROM (
                       SELECT * FROM ROWS FROM (jsonb_to_recordset($1) AS (task_instance_id uuid, message text,
                           level text, logged_at timestamptz)) WITH ORDINALITY
                       ORDER BY ordinality
                   ) AS l";
        let rows = session::fixed(self.0, sql, &[(&Json(lines), Type::JSONB)]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Returns the line with this id; `None` if it does not exist.
    ///
    /// # Errors
    /// See [`append`](TaskLogs::append).
    pub async fn get(&self, id: i64) -> Result<Option<TaskLog>, Error> {
        find(self.0, "id = $1", &[(&id, Type::INT8)]).await
    }

    /// Lists the log of a task, by default in the order of arrival.
    ///
    /// # Errors
    /// Returns [`Error::Cursor`] if the cursor is not one of this list; see also [`append`](TaskLogs::append).
    pub async fn list(
        &self,
        task_instance_id: Uuid,
        filter: &TaskLogFilter,
        page: &ListOptions<TaskLogSort>,
    ) -> Result<Page<TaskLog>, Error> {
        let order = page.order_by.unwrap_or(OrderBy::ascending(TaskLogSort::Id));
        let task = Some(task_instance_id);
        let levels: Vec<&str> = filter.levels.iter().map(|level| level.as_str()).collect();
        let levels = (!levels.is_empty()).then_some(levels);
        let mut query = Query::default();
        query.and("t.task_instance_id = $", &task, Type::UUID);
        query.and("t.try_number = $", &filter.try_number, Type::INT4);
        query.and("t.level = ANY ($)", &levels, Type::TEXT_ARRAY);
        query.list(self.0, &[], page, Plan { order, keys: &[0], way: Way::Order }).await
    }

    /// Deletes a line.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if it does not exist; see also [`append`](TaskLogs::append).
    pub async fn delete(&self, id: i64) -> Result<(), Error> {
        let sql = "DELETE FROM workflow.task_logs WHERE id = $1 RETURNING id";
        match session::fixed(self.0, sql, &[(&id, Type::INT8)]).await?.is_empty() {
            true => Err(Error::not_found("task_log", id)),
            false => Ok(()),
        }
    }
}
