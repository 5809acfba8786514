//! Transitions of runs and tasks.

use std::str::FromStr;

use pg_workflow_state_machine::State;
use serde_json::{Map, Value};
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::Error;
use crate::event::{EntityType, state};
use crate::session::{self, Session};

/// A transition to make, with its options.
///
/// ```
/// use pg_workflow_client::{Transition, State};
///
/// let start = Transition::new(State::Queued, State::Running)
///     .with_metadata("worker", "w-7")
///     .expecting_version(1)
///     .with_request_id("a1b2c3");
/// ```
#[derive(Clone, Debug)]
pub struct Transition {
    from: State,
    to: State,
    metadata: Map<String, Value>,
    expected_version: Option<i64>,
    request_id: Option<String>,
}

impl Transition {
    /// Creates a transition from one state to another.
    pub fn new(from: State, to: State) -> Transition {
        Transition { from, to, metadata: Map::new(), expected_version: None, request_id: None }
    }

    /// Adds metadata, which the history stores. `error` becomes the error of a task.
    pub fn with_metadata(mut self, key: &str, value: impl Into<Value>) -> Transition {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// Requires this version.
    pub fn expecting_version(mut self, version: i64) -> Transition {
        self.expected_version = Some(version);
        self
    }

    /// Sets an idempotency key.
    ///
    /// A retry with the same key returns the first response rather than [`Error::Stale`].
    pub fn with_request_id(mut self, request_id: impl Into<String>) -> Transition {
        self.request_id = Some(request_id.into());
        self
    }

    pub(super) async fn make(&self, session: &impl Session, kind: EntityType, id: Uuid) -> Result<i64, Error> {
        let sql = "SELECT workflow.transition($1, $2, $3, $4, $5, $6, $7)";
        let (kind, from, to) = (kind.as_str(), self.from.as_str(), self.to.as_str());
        let metadata = tokio_postgres::types::Json(&self.metadata);
        let parameters: [session::Parameter<'_>; 7] = [
            (&kind, Type::TEXT),
            (&id, Type::UUID),
            (&from, Type::TEXT),
            (&to, Type::TEXT),
            (&metadata, Type::JSONB),
            (&self.expected_version, Type::INT8),
            (&self.request_id, Type::TEXT),
        ];
        Ok(session::one(session, sql, &parameters).await?.try_get(0)?)
    }
}

/// One transition of many entities.
///
/// ```
/// use pg_workflow_client::{TransitionMany, State};
///
/// let give_up = TransitionMany::to(State::Skipped).from(State::Queued).with_metadata("reason", "superseded").dry_run();
/// ```
#[derive(Clone, Debug)]
pub struct TransitionMany {
    from: Option<State>,
    to: State,
    metadata: Map<String, Value>,
    is_dry_run: bool,
}

impl TransitionMany {
    /// Moves entities to a state, from whatever state each is in.
    pub fn to(to: State) -> TransitionMany {
        TransitionMany { from: None, to, metadata: Map::new(), is_dry_run: false }
    }

    /// Requires this state.
    pub fn from(mut self, from: State) -> TransitionMany {
        self.from = Some(from);
        self
    }

    /// Adds metadata, which the history stores for each entity.
    pub fn with_metadata(mut self, key: &str, value: impl Into<Value>) -> TransitionMany {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// Changes nothing; returns what would happen.
    pub fn dry_run(mut self) -> TransitionMany {
        self.is_dry_run = true;
        self
    }

    pub(super) async fn make(
        &self,
        session: &impl Session,
        kind: EntityType,
        ids: &[Uuid],
    ) -> Result<Vec<TransitionResult>, Error> {
        let sql = "SELECT entity_id, outcome, state, version FROM workflow.transition_many($1, $2, $3, $4, $5, $6)";
        let (kind, from, to) = (kind.as_str(), self.from.map(State::as_str), self.to.as_str());
        let metadata = tokio_postgres::types::Json(&self.metadata);
        let parameters: [session::Parameter<'_>; 6] = [
            (&kind, Type::TEXT),
            (&ids, Type::UUID_ARRAY),
            (&from, Type::TEXT),
            (&to, Type::TEXT),
            (&metadata, Type::JSONB),
            (&self.is_dry_run, Type::BOOL),
        ];
        let rows = session::fixed(session, sql, &parameters).await?;
        let moved = |row: &tokio_postgres::Row| {
            Ok(TransitionResult {
                entity_id: row.try_get(0)?,
                outcome: row.try_get::<_, &str>(1)?.parse()?,
                state: row.try_get::<_, Option<&str>>(2)?.map(state).transpose()?,
                version: row.try_get(3)?,
            })
        };
        rows.iter().map(moved).collect()
    }
}

/// The result for one of many entities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransitionResult {
    /// The run or the task.
    pub entity_id: Uuid,
    /// Whether it moved, and why not.
    pub outcome: Outcome,
    /// Its current state; `None` if it does not exist.
    pub state: Option<State>,
    /// Its current version; `None` if it does not exist.
    pub version: Option<i64>,
}

/// Outcomes for one of many entities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It moved; in a dry run, it would.
    Applied,
    /// It is not in the expected state.
    Stale,
    /// The state machine does not allow the transition.
    Illegal,
    /// It does not exist.
    Missing,
}

impl FromStr for Outcome {
    type Err = Error;

    fn from_str(name: &str) -> Result<Outcome, Error> {
        match name {
            "applied" => Ok(Outcome::Applied),
            "stale" => Ok(Outcome::Stale),
            "illegal" => Ok(Outcome::Illegal),
            "missing" => Ok(Outcome::Missing),
            _ => Err(Error::Unknown(format!("the outcome \"{name}\""))),
        }
    }
}
