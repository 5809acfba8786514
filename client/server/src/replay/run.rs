//! The run in the database.

use pg_workflow_client::connect::Client;
use pg_workflow_client::{self as client, DagRuns, Dags, NewDag, NewDagRun, NewTaskInstances, TaskInstances};
use serde_json::json;
use uuid::Uuid;

use crate::wfformat::Trace;

/// The workers of a replay can be killed.
const MAX_TRIES: i32 = 5;

pub struct Run {
    pub id: Uuid,
    pub dag_id: Uuid,
    /// The ids of its tasks, in the order of the trace.
    pub tasks: Vec<Uuid>,
}

impl Run {
    /// Creates the run in one transaction: if that fails, only the DAG remains.
    pub async fn create(mut client: Client, trace: &Trace, speed: f64) -> Result<Run, client::Error> {
        let dag_id = find_or_create_dag(&client, trace).await?;
        let conf = json!({
            "trace": trace.source,
            "executed_at": trace.executed_at,
            "created_at": trace.created_at,
            "schema_version": trace.schema_version,
            "speed": speed,
        });
        let run = NewDagRun { conf, ..NewDagRun::of(dag_id) };
        let task_ids = trace.tasks.iter().map(|task| task.id.as_str());

        let transaction = client.transaction().await?;
        let id = DagRuns::new(&transaction).create(&run).await?;
        let tasks = NewTaskInstances { max_tries: MAX_TRIES, ..NewTaskInstances::of(id, task_ids) };
        let tasks = TaskInstances::new(&transaction).create_many(&tasks).await?;
        transaction.commit().await?;
        Ok(Run { id, dag_id, tasks })
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
