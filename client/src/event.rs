//! Events: records of creations, transitions and deletions, as they are stored, relayed and listed.

use chrono::{DateTime, Utc};
use pg_workflow_state_machine::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_postgres::{Row, types::Json};
use uuid::Uuid;

use crate::{Error, json};

pub use crate::entity::EntityType;

/// The record of a creation, a transition or a deletion.
///
/// `(entity_id, version)` identifies an event: the versions of an entity are 1, 2, 3 …
///
/// ```
/// let json = r#"{"id":7,"entity_type":"dag_run","entity_id":"01890a5d-ac96-774b-bcce-b302099a8057",
///     "dag_id":"01890a5d-ac96-774b-bcce-b302099a8058","dag_run_id":"01890a5d-ac96-774b-bcce-b302099a8057",
///     "task_id":null,"old_state":"queued","new_state":"running","version":2,
///     "changed_at":"2026-11-23T22:10:25.123456Z","actor":"alice","metadata":{}}"#;
/// let event: pg_workflow_client::event::Event = serde_json::from_str(json)?;
/// assert_eq!(event.version, 2);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// In the order of writes, which is not the order of commits.
    pub id: i64,
    /// The kind of the entity.
    pub entity_type: EntityType,
    /// The id of the run or task instance.
    pub entity_id: Uuid,
    /// Its DAG.
    pub dag_id: Uuid,
    /// Its run; for a run, its own id.
    pub dag_run_id: Uuid,
    /// The task's name; `None` for a run.
    pub task_id: Option<String>,
    /// The state that it left; `None` at creation.
    pub old_state: Option<State>,
    /// The state that it entered; `None` at deletion. A run is deleted with its tasks, which have no such event.
    // Required: a JSON object without it is no deletion.
    #[serde(deserialize_with = "Option::deserialize")]
    pub new_state: Option<State>,
    /// The version that it reached; at deletion one more than its last.
    pub version: i64,
    /// The time of the event, by the clock of the database.
    #[serde(serialize_with = "json::time")]
    pub changed_at: DateTime<Utc>,
    /// The login role.
    pub actor: String,
    /// The metadata of the transition; `{}` if a notification omits it.
    // As text: jsonb can hold numbers and depths that a parsed value cannot, and one such event would stop the feed.
    #[serde(default = "no_metadata")]
    pub metadata: Box<RawValue>,
}

fn no_metadata() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_default()
}

impl Event {
    /// The columns that [`Event::from_row`] expects, of `read_events()` and of `state_history`.
    pub(crate) const COLUMNS: &'static str = "id, entity_type, entity_id, dag_id, dag_run_id, task_id, old_state, new_state, version, changed_at, actor, metadata";

    /// Returns its approximate size as JSON, in bytes.
    #[cfg(feature = "relay")]
    pub(crate) fn size(&self) -> usize {
        400 + self.metadata.get().len() + self.task_id.as_deref().map_or(0, str::len) + self.actor.len()
    }

    pub(crate) fn from_row(row: &Row) -> Result<Event, Error> {
        let Json(metadata) = row.try_get(11)?;
        Ok(Event {
            id: row.try_get(0)?,
            entity_type: row.try_get::<_, &str>(1)?.parse()?,
            entity_id: row.try_get(2)?,
            dag_id: row.try_get(3)?,
            dag_run_id: row.try_get(4)?,
            task_id: row.try_get(5)?,
            old_state: row.try_get::<_, Option<&str>>(6)?.map(state).transpose()?,
            new_state: row.try_get::<_, Option<&str>>(7)?.map(state).transpose()?,
            version: row.try_get(8)?,
            changed_at: row.try_get(9)?,
            actor: row.try_get(10)?,
            metadata,
        })
    }
}

/// Parses the name of a state.
pub(crate) fn state(name: &str) -> Result<State, Error> {
    name.parse().map_err(|_| Error::Unknown(format!("the state \"{name}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_documented_fields_in_order() {
        let text = concat!(
            r#"{"id":7,"entity_type":"task_instance","entity_id":"01890a5d-ac96-774b-bcce-b302099a8057","#,
            r#""dag_id":"01890a5d-ac96-774b-bcce-b302099a8058","dag_run_id":"01890a5d-ac96-774b-bcce-b302099a8059","#,
            r#""task_id":"load","old_state":null,"new_state":"upstream_failed","version":1,"#,
            r#""changed_at":"2026-11-23T22:10:25.120000Z","actor":"alice","metadata":{"n": 1e999}}"#,
        );
        let event: Event = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), text);
    }

    #[test]
    fn only_null_as_new_state_is_a_deletion() {
        let fields = concat!(
            r#"{"id":7,"entity_type":"dag_run","entity_id":"01890a5d-ac96-774b-bcce-b302099a8057","#,
            r#""dag_id":"01890a5d-ac96-774b-bcce-b302099a8058","dag_run_id":"01890a5d-ac96-774b-bcce-b302099a8059","#,
            r#""task_id":null,"old_state":"queued","version":2,"changed_at":"2026-11-23T22:10:25Z","actor":"alice""#,
        );
        let parse = |end: &str| serde_json::from_str::<Event>(&format!("{fields}{end}"));
        assert_eq!(parse(r#","new_state":null}"#).unwrap().new_state, None);
        assert!(parse("}").is_err(), "an object without new_state is no event");
    }

    #[test]
    fn event_parses_without_metadata() {
        let text = concat!(
            r#"{"id":7,"entity_type":"dag_run","entity_id":"01890a5d-ac96-774b-bcce-b302099a8057","#,
            r#""dag_id":"01890a5d-ac96-774b-bcce-b302099a8058","dag_run_id":"01890a5d-ac96-774b-bcce-b302099a8059","#,
            r#""task_id":null,"old_state":"queued","new_state":"running","version":2,"#,
            r#""changed_at":"2026-11-23T22:10:25+00:00","actor":"alice","metadata_omitted":true}"#,
        );
        let event: Event = serde_json::from_str(text).unwrap();
        assert_eq!(event.metadata.get(), "{}");
    }
}
