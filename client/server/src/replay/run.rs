//! The run in the database.

use std::time::Duration;

use pg_workflow_client::connect::Client;
use pg_workflow_client::tokio_postgres::types::Type;
use pg_workflow_client::{
    self as client, DagRuns, Dags, NewDag, NewDagRun, NewTaskInstances, State, TaskInstances, session,
};
use serde_json::json;
use uuid::Uuid;

use super::Error;
use super::worker::{Parameters, queue};
use crate::wfformat::{Task, Trace};

/// The workers of a replay can be killed.
const MAX_TRIES: i32 = 5;
/// Time limit of a statement.
const LIMIT: Duration = Duration::from_secs(30);

pub struct Run {
    pub id: Uuid,
    pub dag_id: Uuid,
}

impl Run {
    /// Creates the run in one transaction: if that fails, only the DAG remains. The database knows from then on which tasks
    /// may run, and ends the run.
    pub async fn create(client: &mut Client, trace: &Trace, speed: f64) -> Result<Run, client::Error> {
        let dag_id = find_or_create_dag(client, trace).await?;
        let conf = json!({
            "trace": trace.source,
            "executed_at": trace.executed_at,
            "created_at": trace.created_at,
            "schema_version": trace.schema_version,
            "speed": speed,
        });
        let run = NewDagRun { conf, ..NewDagRun::of(dag_id) };
        let name_of = |task: &Task| task.id.clone();
        let parents_of = |task: &Task| task.parents.iter().map(|place| name_of(&trace.tasks[*place])).collect();
        let waiting = trace.tasks.iter().filter(|task| !task.parents.is_empty());

        let transaction = client.transaction().await?;
        let id = DagRuns::new(&transaction).create(&run).await?;
        let tasks = NewTaskInstances {
            max_tries: MAX_TRIES,
            queue: Some(queue(trace)),
            depends_on: Some(waiting.map(|task| (name_of(task), parents_of(task))).collect()),
            ..NewTaskInstances::of(id, trace.tasks.iter().map(name_of))
        };
        TaskInstances::new(&transaction).create_many(&tasks).await?;
        transaction.commit().await?;
        Ok(Run { id, dag_id })
    }

    /// Finds a run of the trace that an earlier replay created.
    pub async fn find(client: &Client, trace: &Trace, id: Uuid) -> Result<Run, Error> {
        let run = DagRuns::new(client).get(id).await?.ok_or(Error::NoRun(id))?;
        let dag = Dags::new(client).get(run.dag_id).await?.ok_or(Error::NoRun(id))?;
        if dag.name != trace.name {
            return Err(Error::Resume(
                id,
                format!("it is a run of \"{}\", the trace is of \"{}\"", dag.name, trace.name),
            ));
        }
        if run.parse_conf::<Parameters>().is_err() {
            return Err(Error::Resume(id, "no replay has created it".to_owned()));
        }
        let sql = "SELECT EXISTS (SELECT FROM workflow.joins WHERE id = $1)";
        let ends_itself = session::once_in(client, LIMIT, sql, &[(&id, Type::UUID)]).await?;
        if !ends_itself.first().is_some_and(|row| row.get(0)) {
            return Err(Error::Resume(id, "a version before 0.3.0 has created it".to_owned()));
        }
        let found = Run { id, dag_id: run.dag_id };
        match found.find_unsuccessful(client, trace).await? {
            Some((task_id, None)) => Err(Error::Resume(id, format!("it has no task \"{task_id}\""))),
            _ => Ok(found),
        }
    }

    /// Returns a task of the trace that has not succeeded, preferably one that was deleted or has failed in an attempt; and
    /// its state, `None` if it was deleted.
    pub async fn find_unsuccessful(
        &self,
        client: &Client,
        trace: &Trace,
    ) -> Result<Option<(String, Option<State>)>, client::Error> {
        let sql = "SELECT n.task_id, t.state
                   FROM unnest($2::text[]) AS n (task_id)
                   LEFT JOIN workflow.task_instances AS t ON t.dag_run_id = $1 AND t.task_id = n.task_id
                   WHERE t.state IS DISTINCT FROM 'success'
                   ORDER BY t.id IS NOT NULL, t.state <> 'failed', t.try_number = 0, t.id
                   LIMIT 1";
        let names: Vec<&str> = trace.tasks.iter().map(|task| task.id.as_str()).collect();
        let parameters: [session::Parameter<'_>; 2] = [(&self.id, Type::UUID), (&names, Type::TEXT_ARRAY)];
        let rows = session::once_in(client, LIMIT, sql, &parameters).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let state = row.try_get::<_, Option<&str>>(1)?;
        Ok(Some((row.try_get(0)?, state.and_then(|name| name.parse().ok()))))
    }
}

/// Returns the DAG with the name of the trace, and creates it if it does not exist.
async fn find_or_create_dag(client: &Client, trace: &Trace) -> Result<Uuid, client::Error> {
    let dags = Dags::new(client);
    if let Some(dag) = dags.get_by_name(&trace.name).await? {
        return Ok(dag.id);
    }
    let new = NewDag {
        description: trace.description.clone(),
        tags: vec!["replay".to_owned()],
        ..NewDag::named(&trace.name)
    };
    match dags.create(&new).await {
        // Another client created it first.
        Err(error @ client::Error::AlreadyExists { .. }) => {
            let dag = dags.get_by_name(&trace.name).await?;
            dag.map(|dag| dag.id).ok_or(error)
        }
        created => created,
    }
}
