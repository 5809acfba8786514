use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::within_rfc_3339;
use crate::record::{Column, Record};
use crate::{Error, json};

/// A line of a task's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TaskLog {
    /// In the order of arrival.
    pub id: i64,
    /// The task.
    pub task_instance_id: Uuid,
    /// The attempt that printed it.
    pub try_number: i32,
    /// Time when it was printed; a time outside the years 1 to 9999 becomes their limit.
    #[serde(serialize_with = "json::time")]
    pub logged_at: DateTime<Utc>,
    /// Its level.
    pub level: LogLevel,
    /// The text.
    pub message: String,
}

/// Levels of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogLevel {
    /// Details for debugging.
    Debug,
    /// Normal operation.
    #[default]
    Info,
    /// A possible problem.
    Warning,
    /// A failure.
    Error,
    /// A failure that stops the work.
    Critical,
}

impl LogLevel {
    /// All levels, the lowest first.
    pub const ALL: [LogLevel; 5] =
        [LogLevel::Debug, LogLevel::Info, LogLevel::Warning, LogLevel::Error, LogLevel::Critical];

    /// Returns the name used in SQL and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Debug => "DEBUG",
            LogLevel::Info => "INFO",
            LogLevel::Warning => "WARNING",
            LogLevel::Error => "ERROR",
            LogLevel::Critical => "CRITICAL",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LogLevel {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let level = LogLevel::ALL.into_iter().find(|level| level.as_str() == name);
        level.ok_or_else(|| Error::Unknown(format!("the level \"{name}\"")))
    }
}

impl Record for TaskLog {
    const NAME: &'static str = "task_log";
    const TABLE: &'static str = "workflow.task_logs";
    const COLUMNS: &'static str =
        concat!("id, task_instance_id, try_number, ", within_rfc_3339!("logged_at"), ", level, message");
    const KEYS: &'static [Column] = &[Column { name: "id", kind: Type::INT8 }];

    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(TaskLog {
            id: row.try_get(0)?,
            task_instance_id: row.try_get(1)?,
            try_number: row.try_get(2)?,
            logged_at: row.try_get(3)?,
            level: row.try_get::<_, &str>(4)?.parse()?,
            message: row.try_get(5)?,
        })
    }
}
