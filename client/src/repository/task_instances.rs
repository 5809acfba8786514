use pg_workflow_state_machine::State;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Transition, TransitionMany, TransitionResult, change, delete, find, ids};
use crate::Error;
use crate::event::EntityType;
use crate::list::query::{Plan, Query, Way};
use crate::list::{ListOptions, OrderBy, Page, TaskInstanceFilter, TaskInstanceSort};
use crate::model::{StateCounts, TaskInstance};
use crate::session::{self, Session};

/// Tasks of one run to be created.
///
/// ```
/// use pg_workflow_client::NewTaskInstances;
///
/// # let run = uuid::Uuid::nil();
/// let tasks = NewTaskInstances { max_tries: 3, ..NewTaskInstances::of(run, ["extract", "load"]) };
/// ```
#[derive(Clone, Debug)]
pub struct NewTaskInstances {
    /// The run.
    pub dag_run_id: Uuid,
    /// Their names, each once; 1 to 500 characters, not blank.
    pub task_ids: Vec<String>,
    /// How often the scheduler may run each; recorded, not enforced.
    pub max_tries: i32,
}

impl NewTaskInstances {
    /// Tasks of these names, to be tried once.
    pub fn of(dag_run_id: Uuid, task_ids: impl IntoIterator<Item = impl Into<String>>) -> NewTaskInstances {
        NewTaskInstances { dag_run_id, task_ids: task_ids.into_iter().map(Into::into).collect(), max_tries: 1 }
    }
}

/// What to change of a task; what is none stays as it is. The state is moved, not changed.
#[derive(Clone, Debug, Default)]
pub struct TaskInstanceChanges {
    /// How often the scheduler may run it.
    pub max_tries: Option<i32>,
    /// What went wrong; `Some(None)` takes it away.
    pub error: Option<Option<String>>,
}

/// The tasks of a database.
///
/// ```no_run
/// use pg_workflow_client::{Error, State, TaskInstances, session::Session};
///
/// # async fn example(session: &impl Session, task: uuid::Uuid) -> Result<(), Error> {
/// match TaskInstances::new(session).transition(task, State::Queued, State::Running).await {
///     Ok(version) => println!("ours, at version {version}"),
///     Err(Error::Stale { current_state, .. }) => println!("somebody else was first: it is {current_state}"),
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
pub struct TaskInstances<'a, S>(&'a S);

impl<'a, S: Session> TaskInstances<'a, S> {
    /// Works on this session.
    pub fn new(session: &'a S) -> TaskInstances<'a, S> {
        TaskInstances(session)
    }

    /// Creates a task that may be tried once, queued at version 1, with its history, and returns its id.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such run, [`Error::AlreadyExists`] where it has a task of that name,
    /// [`Error::Invalid`]; [`Error::Denied`], [`Error::Postgres`] and [`Error::Timeout`] here and everywhere.
    pub async fn create(&self, dag_run_id: Uuid, task_id: &str) -> Result<Uuid, Error> {
        let ids = self.create_many(&NewTaskInstances::of(dag_run_id, [task_id])).await?;
        ids.first().copied().ok_or_else(|| Error::Unknown("no id".to_owned()))
    }

    /// Creates tasks of a run, all or none, and returns their ids in the same order.
    ///
    /// # Errors
    /// As [`create`](TaskInstances::create).
    pub async fn create_many(&self, tasks: &NewTaskInstances) -> Result<Vec<Uuid>, Error> {
        let sql = "SELECT id FROM workflow.create_task_instances($1, $2, $3)";
        let parameters: [session::Parameter<'_>; 3] =
            [(&tasks.dag_run_id, Type::UUID), (&tasks.task_ids, Type::TEXT_ARRAY), (&tasks.max_tries, Type::INT4)];
        ids(&session::fixed(self.0, sql, &parameters).await?)
    }

    /// The task with this id, where there is one.
    ///
    /// # Errors
    /// See [`create`](TaskInstances::create).
    pub async fn get(&self, id: Uuid) -> Result<Option<TaskInstance>, Error> {
        find(self.0, "id = $1", &[(&id, Type::UUID)]).await
    }

    /// The run's task of this name, where there is one.
    ///
    /// # Errors
    /// See [`create`](TaskInstances::create).
    pub async fn get_by_task_id(&self, dag_run_id: Uuid, task_id: &str) -> Result<Option<TaskInstance>, Error> {
        let parameters: [session::Parameter<'_>; 2] = [(&dag_run_id, Type::UUID), (&task_id, Type::TEXT)];
        find(self.0, "dag_run_id = $1 AND task_id = $2", &parameters).await
    }

    /// Lists tasks. Where the page does not say otherwise: the newest first, or, with a run in the filter, by name.
    ///
    /// # Errors
    /// [`Error::Cursor`], and see [`create`](TaskInstances::create).
    pub async fn list(
        &self,
        filter: &TaskInstanceFilter,
        page: &ListOptions<TaskInstanceSort>,
    ) -> Result<Page<TaskInstance>, Error> {
        let is_narrow = filter.dag_run_id.is_some();
        let usual = if is_narrow {
            OrderBy::ascending(TaskInstanceSort::TaskId)
        } else {
            OrderBy::descending(TaskInstanceSort::Id)
        };
        let order = page.order_by.unwrap_or(usual);
        let mut query = Query::default();
        query.and("t.dag_run_id = $", &filter.dag_run_id, Type::UUID);
        query.and("t.task_id = $", &filter.task_id, Type::TEXT);
        let plan = match order.by {
            // A run has one task of a name, so the order of runs is one of these tasks too.
            _ if !is_narrow && filter.task_id.is_some() => Plan { order, keys: &[1], way: Way::Runs },
            TaskInstanceSort::Id => Plan { order, keys: &[0], way: if is_narrow { Way::Few } else { Way::Order } },
            // Not by the index on states, which has far more rows of a state than the run has.
            TaskInstanceSort::TaskId if is_narrow && !filter.states.is_empty() => {
                Plan { order, keys: &[1, 2], way: Way::Few }
            }
            TaskInstanceSort::TaskId => Plan { order, keys: &[1, 2], way: Way::Order },
        };
        query.list(self.0, &filter.states, page, plan).await
    }

    /// Counts the tasks in each state: all, without reading the table, or those of a run.
    ///
    /// # Errors
    /// See [`create`](TaskInstances::create).
    pub async fn count_by_state(&self, dag_run_id: Option<Uuid>) -> Result<StateCounts, Error> {
        let rows = match dag_run_id {
            Some(id) => {
                let sql = "SELECT state, count(*) FROM workflow.task_instances WHERE dag_run_id = $1 GROUP BY state";
                session::fixed(self.0, sql, &[(&id, Type::UUID)]).await?
            }
            None => {
                let sql = "SELECT state, count FROM workflow.state_counts WHERE entity_type = 'task_instance'";
                session::fixed(self.0, sql, &[]).await?
            }
        };
        StateCounts::from_rows(&rows)
    }

    /// Changes a task, and returns it as it is then.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], and see [`create`](TaskInstances::create).
    pub async fn update(&self, id: Uuid, changes: &TaskInstanceChanges) -> Result<TaskInstance, Error> {
        let assignments = "max_tries = coalesce($2, t.max_tries), error = CASE WHEN $3 THEN $4 ELSE t.error END";
        let (has_error, error) = (changes.error.is_some(), changes.error.clone().flatten());
        let parameters: [session::Parameter<'_>; 4] =
            [(&id, Type::UUID), (&changes.max_tries, Type::INT4), (&has_error, Type::BOOL), (&error, Type::TEXT)];
        change(self.0, assignments, id, &parameters).await
    }

    /// Deletes a task with its log. Its history stays.
    ///
    /// # Errors
    /// [`Error::NotFound`], and see [`create`](TaskInstances::create).
    pub async fn delete(&self, id: Uuid) -> Result<(), Error> {
        delete::<TaskInstance>(self.0, id).await
    }

    /// Moves a task and returns its new version.
    ///
    /// # Errors
    /// [`Error::Stale`] where it is not in that state, [`Error::NotAllowed`] where there is no such move,
    /// [`Error::NotFound`], and see [`create`](TaskInstances::create).
    pub async fn transition(&self, id: Uuid, from: State, to: State) -> Result<i64, Error> {
        self.transition_with(id, &Transition::new(from, to)).await
    }

    /// Moves tasks that are in this state, each as if alone; what has become of each.
    ///
    /// # Errors
    /// See [`create`](TaskInstances::create).
    pub async fn transition_many(&self, ids: &[Uuid], from: State, to: State) -> Result<Vec<TransitionResult>, Error> {
        self.transition_many_with(ids, &TransitionMany::to(to).from(from)).await
    }

    /// [`transition`](TaskInstances::transition) with metadata, an expected version, a request id.
    ///
    /// # Errors
    /// As [`transition`](TaskInstances::transition).
    pub async fn transition_with(&self, id: Uuid, transition: &Transition) -> Result<i64, Error> {
        transition.make(self.0, EntityType::TaskInstance, id).await
    }

    /// [`transition_many`](TaskInstances::transition_many) with metadata, from any state, or only to see what would
    /// happen.
    ///
    /// # Errors
    /// See [`create`](TaskInstances::create).
    pub async fn transition_many_with(
        &self,
        ids: &[Uuid],
        transitions: &TransitionMany,
    ) -> Result<Vec<TransitionResult>, Error> {
        transitions.make(self.0, EntityType::TaskInstance, ids).await
    }
}
