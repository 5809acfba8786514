use chrono::{DateTime, Utc};
use pg_workflow_state_machine::State;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use crate::Error;
use crate::event::{EntityType, Event, state};
use crate::list::query::{Plan, Query, Way};
use crate::list::{HistoryFilter, HistorySort, ListOptions, OrderBy, Page};
use crate::session::{self, Session};

/// Reads the audit trail.
///
/// It holds each creation, transition and deletion. It stays after the deletion.
///
/// ```no_run
/// use pg_workflow_client::{Error, History, event::EntityType, session::Session};
///
/// # async fn example(session: &impl Session, task: uuid::Uuid) -> Result<(), Error> {
/// for event in History::new(session).history(EntityType::TaskInstance, task, 100).await? {
///     println!("{} {:?} by {}", event.changed_at, event.new_state, event.actor);
/// }
/// # Ok(())
/// # }
/// ```
pub struct History<'a, S>(&'a S);

impl<'a, S: Session> History<'a, S> {
    /// Uses this session.
    pub fn new(session: &'a S) -> History<'a, S> {
        History(session)
    }

    /// Returns the latest events of a run or a task, up to `max`, the newest first.
    ///
    /// Returns none if the entity never existed.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if `max` is negative; [`Error::Denied`], [`Error::Postgres`] or [`Error::Timeout`]
    /// as every method.
    pub async fn history(&self, kind: EntityType, id: Uuid, max: i32) -> Result<Vec<Event>, Error> {
        let sql = format!("SELECT {} FROM workflow.history($1, $2, $3)", Event::COLUMNS);
        let kind = kind.as_str();
        let parameters: [session::Parameter<'_>; 3] = [(&kind, Type::TEXT), (&id, Type::UUID), (&max, Type::INT4)];
        session::once(self.0, &sql, &parameters).await?.iter().map(Event::from_row).collect()
    }

    /// Returns the state of a run or a task at a point in time.
    ///
    /// Returns `None` before its creation and after its deletion.
    ///
    /// # Errors
    /// See [`history`](History::history).
    pub async fn state_at(&self, kind: EntityType, id: Uuid, at: DateTime<Utc>) -> Result<Option<State>, Error> {
        let kind = kind.as_str();
        let parameters: [session::Parameter<'_>; 3] =
            [(&kind, Type::TEXT), (&id, Type::UUID), (&at, Type::TIMESTAMPTZ)];
        let row = session::one(self.0, "SELECT workflow.state_at($1, $2, $3)", &parameters).await?;
        row.try_get::<_, Option<&str>>(0)?.map(state).transpose()
    }

    /// Lists events, by default the newest first.
    ///
    /// To follow events, use a [feed](crate::feed) or a [subscriber](crate::subscriber): ids are in the order of
    /// writes, not of commits.
    ///
    /// # Errors
    /// Returns [`Error::Cursor`] if the cursor is not one of this list; see also [`history`](History::history).
    pub async fn list(&self, filter: &HistoryFilter, page: &ListOptions<HistorySort>) -> Result<Page<Event>, Error> {
        let order = page.order_by.unwrap_or(OrderBy::descending(HistorySort::Id));
        let entity_type = filter.entity_type.map(EntityType::as_str);
        let is_narrow = filter.entity_id.is_some() || filter.dag_run_id.is_some();
        // There is an index on entities, and none on runs.
        let of_run = "t.entity_id = ANY (ARRAY(
            SELECT $ UNION ALL SELECT i.id FROM workflow.task_instances AS i WHERE i.dag_run_id = $))";
        // The database looks times up as ids; the history of one entity is short.
        let [from, until] = [filter.changed_at_gte, filter.changed_at_lt].map(|at| at.filter(|_| !is_narrow));
        let until = if until.is_some() && !self.finds_last_ids().await? { None } else { until };
        let mut query = Query::default();
        query.and("t.entity_id = $", &filter.entity_id, Type::UUID);
        query.and(of_run, &filter.dag_run_id, Type::UUID);
        query.and("t.entity_type = $", &entity_type, Type::TEXT);
        query.and("t.dag_id = $", &filter.dag_id, Type::UUID);
        query.and("t.actor = $", &filter.actor, Type::TEXT);
        query.and("t.changed_at >= $", &filter.changed_at_gte, Type::TIMESTAMPTZ);
        query.and("t.changed_at < $", &filter.changed_at_lt, Type::TIMESTAMPTZ);
        query.and("t.id >= (SELECT workflow.event_id_at($))", &from, Type::TIMESTAMPTZ);
        query.and("t.id <= (SELECT workflow.event_id_before($))", &until, Type::TIMESTAMPTZ);
        query
            .list(self.0, &[], page, Plan { order, keys: &[0], way: if is_narrow { Way::Few } else { Way::Order } })
            .await
    }

    /// Returns which of these events the role of the session may see: with tenants, it is not all of a feed.
    ///
    /// # Errors
    /// See [`history`](History::history).
    pub async fn visible(&self, ids: &[i64]) -> Result<Vec<i64>, Error> {
        let sql = "SELECT h.id FROM workflow.state_history AS h WHERE h.id = ANY ($1)";
        let rows = session::fixed(self.0, sql, &[(&ids, Type::INT8_ARRAY)]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Whether the database looks the end of a time window up as an id: from 0.3.0 on.
    async fn finds_last_ids(&self) -> Result<bool, Error> {
        let sql = "SELECT to_regprocedure('workflow.event_id_before(timestamptz)') IS NOT NULL";
        Ok(session::one(self.0, sql, &[]).await?.try_get(0)?)
    }

    /// Returns each disagreement between history and rows: none in a healthy database.
    ///
    /// Reads both completely.
    ///
    /// # Errors
    /// See [`history`](History::history). Set a time limit of the session that suits the size of the database.
    pub async fn verify(&self) -> Result<Vec<Disagreement>, Error> {
        let sql = "SELECT entity_type, entity_id, problem, detail FROM workflow.verify()";
        let disagreement = |row: &tokio_postgres::Row| {
            let Json(detail) = row.try_get(3)?;
            Ok(Disagreement {
                entity_type: row.try_get(0)?,
                entity_id: row.try_get(1)?,
                problem: row.try_get(2)?,
                detail,
            })
        };
        session::once(self.0, sql, &[]).await?.iter().map(disagreement).collect()
    }
}

/// A disagreement between history and rows.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Disagreement {
    /// `dag_run` or `task_instance`.
    pub entity_type: String,
    /// The entity; `None` if all are concerned.
    pub entity_id: Option<Uuid>,
    /// The problem.
    pub problem: String,
    /// Details, a JSON object.
    pub detail: Box<RawValue>,
}
