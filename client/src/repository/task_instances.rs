use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pg_workflow_state_machine::{State, TriggerRule};
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use super::{Transition, TransitionMany, TransitionResult, change, delete, find, ids, seconds};
use crate::Error;
use crate::event::EntityType;
use crate::list::query::{Plan, Query, Way};
use crate::list::{ListOptions, OrderBy, Page, TaskInstanceFilter, TaskInstanceSort};
use crate::model::{PendingParent, StateCounts, TaskInstance};
use crate::session::{self, Session};

/// Tasks of a run to create.
///
/// ```
/// use std::collections::BTreeMap;
/// use pg_workflow_client::{NewTaskInstances, TriggerRule};
///
/// # let run = uuid::Uuid::nil();
/// let after = |parents: &[&str]| parents.iter().map(ToString::to_string).collect();
/// let tasks = NewTaskInstances {
///     max_tries: 3,
///     queue: Some("etl".to_owned()),
///     depends_on: Some(BTreeMap::from([
///         ("load".to_owned(), after(&["extract"])),
///         ("cleanup".to_owned(), after(&["extract", "load"])),
///     ])),
///     trigger_rules: BTreeMap::from([("cleanup".to_owned(), TriggerRule::AllDone)]),
///     ..NewTaskInstances::of(run, ["extract", "load", "cleanup"])
/// };
/// ```
#[derive(Clone, Debug)]
pub struct NewTaskInstances {
    /// The run.
    pub dag_run_id: Uuid,
    /// Their names, all different; 1 to 500 characters, not blank.
    pub task_ids: Vec<String>,
    /// Number of attempts; claims do not exceed it, transitions by hand do not look at it.
    pub max_tries: i32,
    /// The queue from which workers claim them; a new name creates it. `None`: they are moved by hand, or put into a
    /// queue later.
    pub queue: Option<String>,
    /// 0 (claimed first) to 9.
    pub priority: i32,
    /// Time before which no worker gets them.
    pub not_before: Option<DateTime<Utc>>,
    /// Longest time of an attempt by a claim.
    pub timeout: Option<Duration>,
    /// The tasks, of these or of the run, that each of these waits for. If it is not `None`, the run starts with its first
    /// claim, and ends itself; with an empty map, too.
    pub depends_on: Option<BTreeMap<String, Vec<String>>>,
    /// How those must have ended; [`TriggerRule::AllSuccess`] for tasks that are not listed.
    pub trigger_rules: BTreeMap<String, TriggerRule>,
}

impl NewTaskInstances {
    /// Creates tasks with these names and one attempt, in no queue, at priority 5.
    pub fn of(dag_run_id: Uuid, task_ids: impl IntoIterator<Item = impl Into<String>>) -> NewTaskInstances {
        let task_ids = task_ids.into_iter().map(Into::into).collect();
        NewTaskInstances {
            dag_run_id,
            task_ids,
            max_tries: 1,
            queue: None,
            priority: 5,
            not_before: None,
            timeout: None,
            depends_on: None,
            trigger_rules: BTreeMap::new(),
        }
    }

    fn has_dependencies(&self) -> bool {
        self.depends_on.is_some() || !self.trigger_rules.is_empty()
    }

    fn is_for_claims(&self) -> bool {
        self.queue.is_some() || self.priority != 5 || self.not_before.is_some() || self.timeout.is_some()
    }
}

/// Changes of a task. `None` keeps a field. To change the state, make a transition.
#[derive(Clone, Debug, Default)]
pub struct TaskInstanceChanges {
    /// Number of attempts.
    pub max_tries: Option<i32>,
    /// Error message; `Some(None)` removes it.
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
///     Err(Error::Stale { current_state, .. }) => println!("another worker was first: it is {current_state}"),
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
pub struct TaskInstances<'a, S>(&'a S);

impl<'a, S: Session> TaskInstances<'a, S> {
    /// Uses this session.
    pub fn new(session: &'a S) -> TaskInstances<'a, S> {
        TaskInstances(session)
    }

    /// Creates a task with one attempt, and its history; returns its id.
    ///
    /// The task is queued at version 1.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if the run does not exist, [`Error::AlreadyExists`] if it has a task with that
    /// name, [`Error::Invalid`] if a field is invalid; [`Error::Denied`], [`Error::Postgres`] or [`Error::Timeout`]
    /// as every method.
    pub async fn create(&self, dag_run_id: Uuid, task_id: &str) -> Result<Uuid, Error> {
        let ids = self.create_many(&NewTaskInstances::of(dag_run_id, [task_id])).await?;
        ids.first().copied().ok_or_else(|| Error::Unknown("no id".to_owned()))
    }

    /// Creates tasks of a run, all or none, and returns their ids in the same order.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if the dependencies have a cycle or an unknown name, [`Error::Postgres`] (55000, 54000)
    /// if the run has ended or gets too many tasks; see also [`create`](TaskInstances::create).
    pub async fn create_many(&self, tasks: &NewTaskInstances) -> Result<Vec<Uuid>, Error> {
        let seconds = tasks.timeout.map(seconds);
        let depends_on = tasks.depends_on.as_ref().map(Json);
        let rules = (!tasks.trigger_rules.is_empty()).then_some(Json(&tasks.trigger_rules));
        let parameters: [session::Parameter<'_>; 9] = [
            (&tasks.dag_run_id, Type::UUID),
            (&tasks.task_ids, Type::TEXT_ARRAY),
            (&tasks.max_tries, Type::INT4),
            (&tasks.queue, Type::TEXT),
            (&tasks.priority, Type::INT4),
            (&tasks.not_before, Type::TIMESTAMPTZ),
            (&seconds, Type::FLOAT8),
            (&depends_on, Type::JSONB),
            (&rules, Type::JSONB),
        ];
        let (sql, count) = match (tasks.has_dependencies(), tasks.is_for_claims()) {
            (true, _) => (
                "SELECT id FROM workflow.create_task_instances($1, $2, $3, $4, $5, $6, make_interval(secs => $7), $8, $9)",
                9,
            ),
            (false, true) => {
                ("SELECT id FROM workflow.create_task_instances($1, $2, $3, $4, $5, $6, make_interval(secs => $7))", 7)
            }
            // As before 0.3.0.
            (false, false) => ("SELECT id FROM workflow.create_task_instances($1, $2, $3)", 3),
        };
        let rows = session::fixed(self.0, sql, &parameters[..count]).await?;
        ids(&rows)
    }

    /// Returns the task with this id; `None` if it does not exist.
    ///
    /// # Errors
    /// See [`create`](TaskInstances::create).
    pub async fn get(&self, id: Uuid) -> Result<Option<TaskInstance>, Error> {
        find(self.0, "id = $1", &[(&id, Type::UUID)]).await
    }

    /// Returns the run's task with this name; `None` if it does not exist.
    ///
    /// # Errors
    /// See [`create`](TaskInstances::create).
    pub async fn get_by_task_id(&self, dag_run_id: Uuid, task_id: &str) -> Result<Option<TaskInstance>, Error> {
        let parameters: [session::Parameter<'_>; 2] = [(&dag_run_id, Type::UUID), (&task_id, Type::TEXT)];
        find(self.0, "dag_run_id = $1 AND task_id = $2", &parameters).await
    }

    /// Returns the tasks that a task waits for; none if it does not wait.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if it does not exist; see also [`create`](TaskInstances::create).
    pub async fn why_waiting(&self, id: Uuid) -> Result<Vec<PendingParent>, Error> {
        let sql = "SELECT parent_id, parent, state, since FROM workflow.why_waiting($1)";
        session::fixed(self.0, sql, &[(&id, Type::UUID)]).await?.iter().map(PendingParent::from_row).collect()
    }

    /// Returns at most `limit` of the tasks that a task waits for, those after the one with the id `after`, in the order of
    /// ids.
    ///
    /// # Errors
    /// See [`why_waiting`](TaskInstances::why_waiting).
    pub async fn why_waiting_after(
        &self,
        id: Uuid,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<PendingParent>, Error> {
        let sql = "SELECT parent_id, parent, state, since FROM workflow.why_waiting($1) WHERE parent_id > $2
                   ORDER BY parent_id LIMIT $3";
        let (after, limit) = (after.unwrap_or(Uuid::nil()), i64::from(limit));
        let parameters: [session::Parameter<'_>; 3] = [(&id, Type::UUID), (&after, Type::UUID), (&limit, Type::INT8)];
        session::fixed(self.0, sql, &parameters).await?.iter().map(PendingParent::from_row).collect()
    }

    /// Lists tasks, by default the newest first; with a run in the filter, by name.
    ///
    /// # Errors
    /// Returns [`Error::Cursor`] if the cursor is not one of this list; see also [`create`](TaskInstances::create).
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
            // A run has at most one task with a name, so the order of runs is also an order of these tasks.
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

    /// Counts the tasks in each state: those of a run, or all, from the stored counts.
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

    /// Changes a task, and returns the new row.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if it does not exist, [`Error::Invalid`] if a field is invalid; see also
    /// [`create`](TaskInstances::create).
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
    /// Returns [`Error::NotFound`] if it does not exist; see also [`create`](TaskInstances::create).
    pub async fn delete(&self, id: Uuid) -> Result<(), Error> {
        delete::<TaskInstance>(self.0, id).await
    }

    /// Moves a task and returns its new version.
    ///
    /// # Errors
    /// Returns [`Error::Stale`] if it is not in that state, [`Error::NotAllowed`] if the state machine does not allow
    /// the transition, [`Error::NotFound`] if it does not exist; see also [`create`](TaskInstances::create).
    pub async fn transition(&self, id: Uuid, from: State, to: State) -> Result<i64, Error> {
        self.transition_with(id, &Transition::new(from, to)).await
    }

    /// Moves tasks that are in this state; returns the outcome for each.
    ///
    /// # Errors
    /// See [`create`](TaskInstances::create).
    pub async fn transition_many(&self, ids: &[Uuid], from: State, to: State) -> Result<Vec<TransitionResult>, Error> {
        self.transition_many_with(ids, &TransitionMany::to(to).from(from)).await
    }

    /// Moves a task, with metadata, an expected version or an idempotency key.
    ///
    /// # Errors
    /// See [`transition`](TaskInstances::transition).
    pub async fn transition_with(&self, id: Uuid, transition: &Transition) -> Result<i64, Error> {
        transition.make(self.0, EntityType::TaskInstance, id).await
    }

    /// Moves tasks, with metadata, from any state, or as a dry run.
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
