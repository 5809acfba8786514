//! The two kinds of entity.

use std::ffi::CStr;

/// A kind of entity, with its name and its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntityType {
    DagRun,
    TaskInstance,
}

impl EntityType {
    pub const fn as_str(self) -> &'static str {
        match self {
            EntityType::DagRun => "dag_run",
            EntityType::TaskInstance => "task_instance",
        }
    }

    /// The name of its table, in the schema of the extension.
    pub const fn relation(self) -> &'static CStr {
        match self {
            EntityType::DagRun => c"dag_runs",
            EntityType::TaskInstance => c"task_instances",
        }
    }

    pub const fn table(self) -> &'static str {
        match self {
            EntityType::DagRun => "workflow.dag_runs",
            EntityType::TaskInstance => "workflow.task_instances",
        }
    }

    pub fn parse(name: &str) -> Option<EntityType> {
        [EntityType::DagRun, EntityType::TaskInstance].into_iter().find(|kind| kind.as_str() == name)
    }
}
