//! Entities: runs and tasks, which have a state.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A run or a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entity {
    /// The kind.
    pub entity_type: EntityType,
    /// The id.
    pub id: Uuid,
}

/// Kinds of entities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityType {
    /// A run of a DAG.
    DagRun,
    /// A task of a run.
    TaskInstance,
}

impl EntityType {
    /// Returns the name used in SQL and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            EntityType::DagRun => "dag_run",
            EntityType::TaskInstance => "task_instance",
        }
    }
}

impl fmt::Display for EntityType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EntityType {
    type Err = UnknownEntityType;

    fn from_str(name: &str) -> Result<Self, UnknownEntityType> {
        match name {
            "dag_run" => Ok(EntityType::DagRun),
            "task_instance" => Ok(EntityType::TaskInstance),
            _ => Err(UnknownEntityType(name.to_owned())),
        }
    }
}

/// The name of an entity type that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown entity type \"{0}\"")]
pub struct UnknownEntityType(String);
