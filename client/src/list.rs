//! Lists of DAGs, runs, tasks and history: newest first, page by page.

use pg_workflow_state_machine::State;
use serde::Serialize;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::Error;
use crate::event::{EntityType, Event};
use crate::model::{Dag, DagRun, Record, TaskInstance};

/// Which part of a list.
#[derive(Clone, Copy, Debug)]
pub struct Page<Id> {
    /// How many rows at most.
    pub limit: u32,
    /// Only rows that come after the one with this id.
    pub after: Option<Id>,
}

/// A page of a list.
#[derive(Clone, Debug, Serialize)]
pub struct List<T> {
    /// The rows, newest first.
    pub items: Vec<T>,
    /// The id to give as [`Page::after`] for the next page; none where there is nothing more.
    pub next_cursor: Option<String>,
}

/// Which DAGs. What is none or empty does not restrict.
#[derive(Clone, Debug, Default)]
pub struct DagFilter {
    /// Of this name.
    pub name: Option<String>,
    /// With this tag.
    pub tag: Option<String>,
    /// Paused, or not.
    pub paused: Option<bool>,
}

/// Which runs. What is none or empty does not restrict.
#[derive(Clone, Debug, Default)]
pub struct DagRunFilter {
    /// Of this DAG.
    pub dag_id: Option<Uuid>,
    /// In one of these states.
    pub states: Vec<State>,
}

/// Which tasks. What is none or empty does not restrict.
#[derive(Clone, Debug, Default)]
pub struct TaskInstanceFilter {
    /// Of this run.
    pub dag_run_id: Option<Uuid>,
    /// In one of these states.
    pub states: Vec<State>,
    /// Of this name. No index helps across runs: give the run too.
    pub task_id: Option<String>,
}

/// Which changes. What is none does not restrict.
#[derive(Clone, Debug, Default)]
pub struct HistoryFilter {
    /// Of runs, or of tasks.
    pub entity_type: Option<EntityType>,
    /// Of this run or task.
    pub entity_id: Option<Uuid>,
}

/// Lists DAGs.
///
/// # Errors
/// [`Error::Postgres`], here and below.
///
/// ```no_run
/// use pg_workflow_client::{connect, list};
///
/// # async fn example() -> Result<(), pg_workflow_client::Error> {
/// let client = connect::connect(&connect::config("postgres://postgres@127.0.0.1/workflow")?).await?;
/// let daily = list::DagFilter { tag: Some("daily".into()), ..Default::default() };
/// for dag in list::dags(&client, &daily, list::Page { limit: 50, after: None }).await?.items {
///     println!("{} {}", dag.id, dag.name);
/// }
/// # Ok(())
/// # }
/// ```
pub async fn dags(client: &Client, filter: &DagFilter, page: Page<Uuid>) -> Result<List<Dag>, Error> {
    let mut query = Query::default();
    query.and("t.name = $", &filter.name, Type::TEXT);
    query.and("t.tags ? $", &filter.tag, Type::TEXT);
    query.and("t.is_paused = $", &filter.paused, Type::BOOL);
    query.and("t.id < $", &page.after, Type::UUID);
    query.list(client, &[], page.limit).await
}

/// Lists runs.
///
/// # Errors
/// [`Error::Postgres`].
pub async fn dag_runs(client: &Client, filter: &DagRunFilter, page: Page<Uuid>) -> Result<List<DagRun>, Error> {
    let mut query = Query::default();
    query.and("t.dag_id = $", &filter.dag_id, Type::UUID);
    query.and("t.id < $", &page.after, Type::UUID);
    query.list(client, &filter.states, page.limit).await
}

/// Lists tasks.
///
/// # Errors
/// [`Error::Postgres`].
pub async fn task_instances(
    client: &Client,
    filter: &TaskInstanceFilter,
    page: Page<Uuid>,
) -> Result<List<TaskInstance>, Error> {
    let mut query = Query::default();
    query.and("t.dag_run_id = $", &filter.dag_run_id, Type::UUID);
    query.and("t.task_id = $", &filter.task_id, Type::TEXT);
    query.and("t.id < $", &page.after, Type::UUID);
    query.list(client, &filter.states, page.limit).await
}

/// Lists changes. Ids are in the order of writing; to follow what happens, use a [feed](crate::feed).
///
/// # Errors
/// [`Error::Postgres`].
pub async fn history(client: &Client, filter: &HistoryFilter, page: Page<i64>) -> Result<List<Event>, Error> {
    let mut query = Query::default();
    let entity_type = filter.entity_type.map(EntityType::as_str);
    query.and("t.entity_type = $", &entity_type, Type::TEXT);
    query.and("t.entity_id = $", &filter.entity_id, Type::UUID);
    query.and("t.id < $", &page.after, Type::INT8);
    query.list(client, &[], page.limit).await
}

/// Finds one row by its id.
///
/// # Errors
/// [`Error::Postgres`].
pub async fn get<T: Record<Id = Uuid>>(client: &Client, id: Uuid) -> Result<Option<T>, Error> {
    let sql = format!("SELECT {} FROM {} WHERE id = $1", T::COLUMNS, T::TABLE);
    let row = client.query_typed_opt(&sql, &[(&id, Type::UUID)]).await?;
    row.map(|row| T::from_row(&row)).transpose()
}

/// Conditions and their parameters. The text is made of this file's constants only.
#[derive(Default)]
struct Query<'a> {
    conditions: Vec<String>,
    parameters: Vec<(&'a (dyn ToSql + Sync), Type)>,
}

impl<'a> Query<'a> {
    /// The number of the parameter.
    fn bind(&mut self, value: &'a (dyn ToSql + Sync), kind: Type) -> usize {
        self.parameters.push((value, kind));
        self.parameters.len()
    }

    /// Adds a condition, whose `$` stands for the value, where there is a value.
    fn and(&mut self, condition: &'static str, value: &'a Option<impl ToSql + Sync>, kind: Type) {
        if let Some(value) = value {
            let number = self.bind(value, kind);
            self.conditions.push(condition.replace('$', &format!("${number}")));
        }
    }

    /// Runs the query. It reads one row more than asked for, to know whether there are more.
    async fn list<T: Record>(mut self, client: &Client, states: &[State], limit: u32) -> Result<List<T>, Error> {
        let one_more = i64::from(limit) + 1;
        let mut names: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        names.sort_unstable();
        names.dedup();

        let limit_number = self.bind(&one_more, Type::INT8);
        let states_number = (!names.is_empty()).then(|| self.bind(&names, Type::TEXT_ARRAY));
        let sql = self.sql::<T>(limit_number, states_number);
        let rows = client.query_typed(&sql, &self.parameters).await?;

        let more = rows.len() > limit as usize;
        let items: Vec<T> = rows.iter().take(limit as usize).map(T::from_row).collect::<Result<_, _>>()?;
        let next_cursor = items.last().filter(|_| more).map(|item| item.id().to_string());
        Ok(List { items, next_cursor })
    }

    fn sql<T: Record>(&self, limit: usize, states: Option<usize>) -> String {
        let (columns, table) = (T::COLUMNS, T::TABLE);
        let conditions = if self.conditions.is_empty() { "true".to_owned() } else { self.conditions.join(" AND ") };
        match states {
            None => format!("SELECT {columns} FROM {table} AS t WHERE {conditions} ORDER BY t.id DESC LIMIT ${limit}"),
            // The newest of each state from the index on (state, id), then the newest of those. With "state = ANY" the
            // planner walks back through every newer row, or sorts all rows of the states.
            Some(states) => format!(
                "SELECT {columns} FROM unnest(${states}) AS wanted (name) \
                 CROSS JOIN LATERAL (SELECT * FROM {table} AS t WHERE t.state = wanted.name AND {conditions} \
                 ORDER BY t.id DESC LIMIT ${limit}) AS t ORDER BY t.id DESC LIMIT ${limit}"
            ),
        }
    }
}
