use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use super::{change, delete, find, ids};
use crate::list::query::{Plan, Query, Way};
use crate::list::{DagFilter, DagSort, ListOptions, OrderBy, Page};
use crate::model::Dag;
use crate::record::Record;
use crate::session::{self, Session};
use crate::{Error, json};

/// A DAG to create.
///
/// ```
/// use pg_workflow_client::NewDag;
///
/// let dag = NewDag { schedule: Some("@daily".into()), tags: vec!["etl".into()], ..NewDag::named("orders") };
/// ```
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewDag {
    /// Unique; 1 to 250 characters, not blank.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// When to run, in the format of the scheduler.
    pub schedule: Option<String>,
    /// Start of the schedule.
    #[serde(serialize_with = "json::time_or_null")]
    pub start_date: Option<DateTime<Utc>>,
    /// Labels.
    pub tags: Vec<String>,
    /// Whether schedulers must not start runs.
    pub is_paused: bool,
}

impl NewDag {
    /// Creates a DAG with this name and defaults.
    pub fn named(name: impl Into<String>) -> NewDag {
        NewDag { name: name.into(), ..NewDag::default() }
    }
}

/// Changes of a DAG. `None` keeps a field.
#[derive(Clone, Debug, Default)]
pub struct DagChanges {
    /// New name.
    pub name: Option<String>,
    /// New description; `Some(None)` removes it.
    pub description: Option<Option<String>>,
    /// New schedule; `Some(None)` removes it.
    pub schedule: Option<Option<String>>,
    /// New start; `Some(None)` removes it.
    pub start_date: Option<Option<DateTime<Utc>>>,
    /// New labels.
    pub tags: Option<Vec<String>>,
}

/// The DAGs of a database.
///
/// ```no_run
/// use pg_workflow_client::{Dags, NewDag, connect::PostgresServer};
///
/// # async fn example() -> Result<(), pg_workflow_client::Error> {
/// let client = PostgresServer::parse("postgres://alice@db.example/workflow")?.connect().await?;
/// let dags = Dags::new(&client);
/// let id = dags.create(&NewDag::named("orders")).await?;
/// dags.pause(id).await?;
/// # Ok(())
/// # }
/// ```
pub struct Dags<'a, S>(&'a S);

impl<'a, S: Session> Dags<'a, S> {
    /// Uses this session.
    pub fn new(session: &'a S) -> Dags<'a, S> {
        Dags(session)
    }

    /// Creates a DAG and returns its id.
    ///
    /// # Errors
    /// Returns [`Error::AlreadyExists`] if a DAG with that name exists, [`Error::Invalid`] if a field is invalid;
    /// [`Error::Denied`], [`Error::Postgres`] or [`Error::Timeout`] as every method.
    pub async fn create(&self, dag: &NewDag) -> Result<Uuid, Error> {
        let sql = "SELECT workflow.create_dag($1, $2, $3, $4, $5, $6)";
        let tags = Json(&dag.tags);
        let parameters: [session::Parameter<'_>; 6] = [
            (&dag.name, Type::TEXT),
            (&dag.description, Type::TEXT),
            (&dag.schedule, Type::TEXT),
            (&dag.start_date, Type::TIMESTAMPTZ),
            (&tags, Type::JSONB),
            (&dag.is_paused, Type::BOOL),
        ];
        Ok(session::one(self.0, sql, &parameters).await?.try_get(0)?)
    }

    /// Creates DAGs, all or none, and returns their ids in the same order.
    ///
    /// # Errors
    /// See [`create`](Dags::create).
    pub async fn create_many(&self, dags: &[NewDag]) -> Result<Vec<Uuid>, Error> {
        let sql = "SELECT workflow.create_dag(d.name, d.description, d.schedule, d.start_date, d.tags, d.is_paused)
                   FROM (
                       SELECT * FROM ROWS FROM (jsonb_to_recordset($1) AS (name text, description text, schedule text,
                           start_date timestamptz, tags jsonb, is_paused boolean)) WITH ORDINALITY
                       ORDER BY ordinality
                   ) AS d";
        ids(&session::fixed(self.0, sql, &[(&Json(dags), Type::JSONB)]).await?)
    }

    /// Returns the DAG with this id; `None` if it does not exist.
    ///
    /// # Errors
    /// See [`create`](Dags::create).
    pub async fn get(&self, id: Uuid) -> Result<Option<Dag>, Error> {
        find(self.0, "id = $1", &[(&id, Type::UUID)]).await
    }

    /// Returns the DAGs with these ids, in no order; omits those that do not exist.
    ///
    /// # Errors
    /// See [`create`](Dags::create).
    pub async fn get_many(&self, ids: &[Uuid]) -> Result<Vec<Dag>, Error> {
        let sql = format!("SELECT {} FROM {} WHERE id = ANY ($1)", Dag::COLUMNS, Dag::TABLE);
        session::once(self.0, &sql, &[(&ids, Type::UUID_ARRAY)]).await?.iter().map(Dag::from_row).collect()
    }

    /// Returns the DAG with this name; `None` if it does not exist.
    ///
    /// # Errors
    /// See [`create`](Dags::create).
    pub async fn get_by_name(&self, name: &str) -> Result<Option<Dag>, Error> {
        find(self.0, "name = $1", &[(&name, Type::TEXT)]).await
    }

    /// Lists DAGs, by default the newest first.
    ///
    /// # Errors
    /// Returns [`Error::Cursor`] if the cursor is not one of this list; see also [`create`](Dags::create).
    pub async fn list(&self, filter: &DagFilter, page: &ListOptions<DagSort>) -> Result<Page<Dag>, Error> {
        let order = page.order_by.unwrap_or(OrderBy::descending(DagSort::Id));
        let prefix = filter.name_prefix.as_deref().map(like_prefix);
        let mut query = Query::default();
        query.and("t.name = $", &filter.name, Type::TEXT);
        query.and("t.name LIKE $", &prefix, Type::TEXT);
        query.and("t.tags ? $", &filter.tag, Type::TEXT);
        query.and("t.is_paused = $", &filter.paused, Type::BOOL);
        let keys: &[usize] = match order.by {
            DagSort::Id => &[0],
            DagSort::Name => &[1],
        };
        query.list(self.0, &[], page, Plan { order, keys, way: Way::Order }).await
    }

    /// Changes a DAG, and returns the new row.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if it does not exist, [`Error::AlreadyExists`] if another DAG has the new name;
    /// see also [`create`](Dags::create).
    pub async fn update(&self, id: Uuid, changes: &DagChanges) -> Result<Dag, Error> {
        let assignments = "name = coalesce($2, t.name),
             description = CASE WHEN $3 THEN $4 ELSE t.description END,
             schedule = CASE WHEN $5 THEN $6 ELSE t.schedule END,
             start_date = CASE WHEN $7 THEN $8 ELSE t.start_date END,
             tags = coalesce($9, t.tags)";
        let (description, schedule) = (changes.description.clone().flatten(), changes.schedule.clone().flatten());
        let start_date = changes.start_date.flatten();
        let tags = changes.tags.as_ref().map(Json);
        let (has_description, has_schedule) = (changes.description.is_some(), changes.schedule.is_some());
        let has_start_date = changes.start_date.is_some();
        let parameters: [session::Parameter<'_>; 9] = [
            (&id, Type::UUID),
            (&changes.name, Type::TEXT),
            (&has_description, Type::BOOL),
            (&description, Type::TEXT),
            (&has_schedule, Type::BOOL),
            (&schedule, Type::TEXT),
            (&has_start_date, Type::BOOL),
            (&start_date, Type::TIMESTAMPTZ),
            (&tags, Type::JSONB),
        ];
        change(self.0, assignments, id, &parameters).await
    }

    /// Deletes a DAG with its runs, tasks and logs. Their history stays.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if it does not exist; see also [`create`](Dags::create).
    pub async fn delete(&self, id: Uuid) -> Result<(), Error> {
        delete::<Dag>(self.0, id).await
    }

    /// Pauses a DAG: schedulers must not start new runs. Returns whether this changed.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if it does not exist; see also [`create`](Dags::create).
    pub async fn pause(&self, id: Uuid) -> Result<bool, Error> {
        Ok(session::one(self.0, "SELECT workflow.pause_dag($1)", &[(&id, Type::UUID)]).await?.try_get(0)?)
    }

    /// Unpauses a DAG. Returns whether this changed.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if it does not exist; see also [`create`](Dags::create).
    pub async fn unpause(&self, id: Uuid) -> Result<bool, Error> {
        Ok(session::one(self.0, "SELECT workflow.unpause_dag($1)", &[(&id, Type::UUID)]).await?.try_get(0)?)
    }
}

/// Returns the pattern of names that start with a text.
fn like_prefix(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for letter in prefix.chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_pattern_escapes_wildcards() {
        assert_eq!(like_prefix(r"50%_\a"), r"50\%\_\\a%");
    }
}
