use chrono::{DateTime, Utc};
use pg_workflow_state_machine::State;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use super::{Transition, TransitionMany, TransitionResult, change, delete, find, ids};
use crate::event::EntityType;
use crate::list::query::{Plan, Query, Way};
use crate::list::{DagRunFilter, DagRunSort, ListOptions, OrderBy, Page};
use crate::model::{DagRun, FailsOn, Join, RerunTask, RerunTasks, StateCounts};
use crate::session::{self, RowsRead, Session};
use crate::{Error, json};

/// A run to create.
///
/// ```
/// use pg_workflow_client::NewDagRun;
/// use serde_json::json;
///
/// # let dag_id = uuid::Uuid::nil();
/// let run = NewDagRun { conf: json!({"day": "2026-11-24"}), ..NewDagRun::of(dag_id) };
/// ```
#[derive(Clone, Debug, Serialize)]
pub struct NewDagRun {
    /// The DAG.
    pub dag_id: Uuid,
    /// Execution date (Airflow: logical date); unique within the DAG.
    #[serde(serialize_with = "json::time")]
    pub execution_date: DateTime<Utc>,
    /// Its parameters, a JSON object.
    pub conf: Value,
}

impl NewDagRun {
    /// Creates a run of this DAG for the current time, without parameters.
    pub fn of(dag_id: Uuid) -> NewDagRun {
        NewDagRun { dag_id, execution_date: Utc::now(), conf: Value::Object(serde_json::Map::new()) }
    }
}

/// Changes of a run. `None` keeps a field. To change the state, make a transition.
#[derive(Clone, Debug, Default)]
pub struct DagRunChanges {
    /// New execution date.
    pub execution_date: Option<DateTime<Utc>>,
    /// New parameters, a JSON object.
    pub conf: Option<Value>,
}

/// The runs of a database.
///
/// ```no_run
/// use pg_workflow_client::{DagRuns, Error, NewDagRun, State, pool::Pool};
///
/// # async fn example(pool: Pool, dag_id: uuid::Uuid) -> Result<(), Error> {
/// let mut connection = pool.get().await?;
/// let transaction = connection.transaction().await?;
/// let runs = DagRuns::new(&transaction);
/// let run = runs.create(&NewDagRun::of(dag_id)).await?;
/// runs.transition(run, State::Queued, State::Running).await?;
/// transaction.commit().await
/// # }
/// ```
pub struct DagRuns<'a, S>(&'a S);

impl<'a, S: Session> DagRuns<'a, S> {
    /// Uses this session.
    pub fn new(session: &'a S) -> DagRuns<'a, S> {
        DagRuns(session)
    }

    /// Creates a run, and its history; returns its id.
    ///
    /// The run is queued at version 1.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if the DAG does not exist, [`Error::AlreadyExists`] if it has a run with that
    /// execution date, [`Error::Invalid`] if a field is invalid; [`Error::Denied`], [`Error::Postgres`] or
    /// [`Error::Timeout`] as every method.
    pub async fn create(&self, run: &NewDagRun) -> Result<Uuid, Error> {
        let sql = "SELECT workflow.create_dag_run($1, $2, $3)";
        let conf = Json(&run.conf);
        let parameters: [session::Parameter<'_>; 3] =
            [(&run.dag_id, Type::UUID), (&run.execution_date, Type::TIMESTAMPTZ), (&conf, Type::JSONB)];
        Ok(session::one(self.0, sql, &parameters).await?.try_get(0)?)
    }

    /// Creates runs, all or none, and returns their ids in the same order.
    ///
    /// # Errors
    /// See [`create`](DagRuns::create).
    pub async fn create_many(&self, runs: &[NewDagRun]) -> Result<Vec<Uuid>, Error> {
        let sql = "SELECT workflow.create_dag_run(r.dag_id, r.execution_date, r.conf)
                   FROM (
                       SELECT * FROM ROWS FROM (jsonb_to_recordset($1) AS (dag_id uuid, execution_date timestamptz,
                           conf jsonb)) WITH ORDINALITY
                       ORDER BY ordinality
                   ) AS r";
        ids(&session::fixed(self.0, sql, &[(&Json(runs), Type::JSONB)]).await?)
    }

    /// Returns the run with this id; `None` if it does not exist.
    ///
    /// # Errors
    /// See [`create`](DagRuns::create).
    pub async fn get(&self, id: Uuid) -> Result<Option<DagRun>, Error> {
        find(self.0, "id = $1", &[(&id, Type::UUID)]).await
    }

    /// Returns the DAG's run with this execution date; `None` if it does not exist.
    ///
    /// # Errors
    /// See [`create`](DagRuns::create).
    pub async fn get_by_execution_date(&self, dag_id: Uuid, date: DateTime<Utc>) -> Result<Option<DagRun>, Error> {
        let parameters: [session::Parameter<'_>; 2] = [(&dag_id, Type::UUID), (&date, Type::TIMESTAMPTZ)];
        find(self.0, "dag_id = $1 AND execution_date = $2", &parameters).await
    }

    /// Returns the DAG's run with the latest execution date.
    ///
    /// Returns `None` if the DAG has no runs.
    ///
    /// # Errors
    /// See [`create`](DagRuns::create).
    pub async fn latest(&self, dag_id: Uuid) -> Result<Option<DagRun>, Error> {
        find(self.0, "dag_id = $1 ORDER BY t.execution_date DESC LIMIT 1", &[(&dag_id, Type::UUID)]).await
    }

    /// Returns the dependencies of a run, one [`Join`] for all tasks that wait for the same ones; none if the run does not
    /// exist.
    ///
    /// # Errors
    /// See [`create`](DagRuns::create).
    pub async fn graph(&self, id: Uuid) -> Result<Vec<Join>, Error> {
        Ok(self.graph_within(id, usize::MAX).await?.unwrap_or_default())
    }

    /// Returns the dependencies of a run as [`graph`](DagRuns::graph) does; `None` if they are larger than `max_bytes`, as
    /// PostgreSQL sends them.
    ///
    /// # Errors
    /// See [`create`](DagRuns::create).
    pub async fn graph_within(&self, id: Uuid, max_bytes: usize) -> Result<Option<Vec<Join>>, Error> {
        let sql = "SELECT join_id, trigger_rule, parents, children, is_decided FROM workflow.dag_run_graph($1)";
        let RowsRead { rows, is_cut } = session::once_within(self.0, sql, &[(&id, Type::UUID)], max_bytes).await?;
        if is_cut {
            self.0.abandon();
            return Ok(None);
        }
        rows.iter().map(Join::from_row).collect::<Result<_, Error>>().map(Some)
    }

    /// Sets which failures make a run with dependencies fail.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if the run does not exist, [`Error::Postgres`] if it has ended, or has no dependencies; see
    /// also [`create`](DagRuns::create).
    pub async fn set_fails_on(&self, id: Uuid, fails_on: FailsOn) -> Result<(), Error> {
        let sql = "SELECT workflow.set_fails_on($1, $2)";
        session::fixed(self.0, sql, &[(&id, Type::UUID), (&fails_on.as_str(), Type::TEXT)]).await.map(drop)
    }

    /// Runs failed tasks of a run again, and those that never ran because of them, and returns them. A failed run is running
    /// again.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if the run does not exist, [`Error::Postgres`] if it succeeded or was skipped, if a named
    /// task did not fail, or if it would fail again at once; see also [`create`](DagRuns::create).
    pub async fn rerun_tasks(&self, id: Uuid, which: &RerunTasks) -> Result<Vec<RerunTask>, Error> {
        let sql = "SELECT id, task_id, old_state, new_state, is_ready FROM workflow.rerun_tasks($1, $2, $3, $4)";
        let RerunTasks { tasks, downstream, dry_run } = which;
        let parameters: [session::Parameter<'_>; 4] =
            [(&id, Type::UUID), (tasks, Type::TEXT_ARRAY), (downstream, Type::BOOL), (dry_run, Type::BOOL)];
        session::fixed(self.0, sql, &parameters).await?.iter().map(RerunTask::from_row).collect()
    }

    /// Lists runs, by default the newest first.
    ///
    /// With a DAG or a date in the filter, the default is the latest execution date first.
    ///
    /// # Errors
    /// Returns [`Error::Cursor`] if the cursor is not one of this list; see also [`create`](DagRuns::create).
    pub async fn list(&self, filter: &DagRunFilter, page: &ListOptions<DagRunSort>) -> Result<Page<DagRun>, Error> {
        let has_date = filter.execution_date_gte.is_some() || filter.execution_date_lt.is_some();
        let is_narrow = filter.dag_id.is_some() || has_date;
        let usual = if is_narrow { DagRunSort::ExecutionDate } else { DagRunSort::Id };
        let order = page.order_by.unwrap_or(OrderBy::descending(usual));
        let mut query = Query::default();
        query.and("t.dag_id = $", &filter.dag_id, Type::UUID);
        query.and("t.execution_date >= $", &filter.execution_date_gte, Type::TIMESTAMPTZ);
        query.and("t.execution_date < $", &filter.execution_date_lt, Type::TIMESTAMPTZ);
        let plan = match order.by {
            DagRunSort::Id => Plan { order, keys: &[1], way: if is_narrow { Way::Few } else { Way::Order } },
            DagRunSort::ExecutionDate => Plan { order, keys: &[0, 1], way: Way::Order },
        };
        query.list(self.0, &filter.states, page, plan).await
    }

    /// Counts the runs in each state: those of a DAG, or all, from the stored counts.
    ///
    /// # Errors
    /// See [`create`](DagRuns::create).
    pub async fn count_by_state(&self, dag_id: Option<Uuid>) -> Result<StateCounts, Error> {
        let rows = match dag_id {
            Some(id) => {
                let sql = "SELECT state, count(*) FROM workflow.dag_runs WHERE dag_id = $1 GROUP BY state";
                session::fixed(self.0, sql, &[(&id, Type::UUID)]).await?
            }
            None => {
                let sql = "SELECT state, count FROM workflow.state_counts WHERE entity_type = 'dag_run'";
                session::fixed(self.0, sql, &[]).await?
            }
        };
        StateCounts::from_rows(&rows)
    }

    /// Changes a run, and returns the new row.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if it does not exist, [`Error::AlreadyExists`] if the DAG has a run with the new
    /// execution date; see also [`create`](DagRuns::create).
    pub async fn update(&self, id: Uuid, changes: &DagRunChanges) -> Result<DagRun, Error> {
        let assignments = "execution_date = coalesce($2, t.execution_date), conf = coalesce($3, t.conf)";
        let conf = changes.conf.as_ref().map(Json);
        let parameters: [session::Parameter<'_>; 3] =
            [(&id, Type::UUID), (&changes.execution_date, Type::TIMESTAMPTZ), (&conf, Type::JSONB)];
        change(self.0, assignments, id, &parameters).await
    }

    /// Deletes a run with its tasks and logs. Their history stays.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if it does not exist; see also [`create`](DagRuns::create).
    pub async fn delete(&self, id: Uuid) -> Result<(), Error> {
        delete::<DagRun>(self.0, id).await
    }

    /// Moves a run and returns its new version.
    ///
    /// # Errors
    /// Returns [`Error::Stale`] if it is not in that state, [`Error::NotAllowed`] if the state machine does not allow
    /// the transition, [`Error::NotFound`] if it does not exist; see also [`create`](DagRuns::create).
    pub async fn transition(&self, id: Uuid, from: State, to: State) -> Result<i64, Error> {
        self.transition_with(id, &Transition::new(from, to)).await
    }

    /// Moves runs that are in this state; returns the outcome for each.
    ///
    /// # Errors
    /// See [`create`](DagRuns::create).
    pub async fn transition_many(&self, ids: &[Uuid], from: State, to: State) -> Result<Vec<TransitionResult>, Error> {
        self.transition_many_with(ids, &TransitionMany::to(to).from(from)).await
    }

    /// Moves a run, with metadata, an expected version or an idempotency key.
    ///
    /// # Errors
    /// See [`transition`](DagRuns::transition).
    pub async fn transition_with(&self, id: Uuid, transition: &Transition) -> Result<i64, Error> {
        transition.make(self.0, EntityType::DagRun, id).await
    }

    /// Moves runs, with metadata, from any state, or as a dry run.
    ///
    /// # Errors
    /// See [`create`](DagRuns::create).
    pub async fn transition_many_with(
        &self,
        ids: &[Uuid],
        transitions: &TransitionMany,
    ) -> Result<Vec<TransitionResult>, Error> {
        transitions.make(self.0, EntityType::DagRun, ids).await
    }
}
