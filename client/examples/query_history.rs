//! The history: transitions of a task, its state at a point in time, lists with filters, and verification.
//!
//! ```sh
//! DATABASE_URL=postgres://… cargo run --example query_history
//! ```

use std::error::Error;

use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::event::EntityType;
use pg_workflow_client::list::{
    DagRunFilter, HistoryFilter, ListOptions, OrderBy, TaskInstanceFilter, TaskInstanceSort,
};
use pg_workflow_client::session::Session;
use pg_workflow_client::{DagRuns, Dags, History, State, TaskInstance, TaskInstances};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = PostgresServer::parse(&std::env::var("DATABASE_URL")?)?.connect().await?;
    let dag = Dags::new(&client).get_by_name("orders").await?.ok_or("run the example create_and_run first")?;
    let runs = DagRuns::new(&client);
    let run = runs.latest(dag.id).await?.ok_or("the DAG has no run")?;
    println!("the latest run of {} is {} since {:?}", dag.name, run.state, run.end_date.or(run.start_date));

    let tasks = TaskInstances::new(&client);
    if let Some(task) = tasks.get_by_task_id(run.id, "extract").await? {
        look_back(&client, &task).await?;
    }

    let skipped = TaskInstanceFilter { states: vec![State::Skipped], ..Default::default() };
    // Page by page, the oldest first.
    let mut page =
        ListOptions { limit: 2, order_by: Some(OrderBy::ascending(TaskInstanceSort::Id)), ..ListOptions::default() };
    loop {
        let list = tasks.list(&skipped, &page).await?;
        list.items.iter().for_each(|task| println!("skipped: {}", task.task_id));
        match list.next_cursor {
            Some(cursor) => page.cursor = Some(cursor),
            None => break,
        }
    }
    let filter = DagRunFilter { dag_id: Some(dag.id), states: vec![State::Success], ..Default::default() };
    println!("{} of its runs succeeded", runs.list(&filter, &ListOptions::default()).await?.items.len());

    let disagreements = History::new(&client).verify().await?;
    println!("history and rows disagree in {} places", disagreements.len());
    Ok(())
}

/// Prints the transitions of a task, and its state at its creation.
async fn look_back(session: &impl Session, task: &TaskInstance) -> Result<(), Box<dyn Error>> {
    let tracker = History::new(session);
    let filter = HistoryFilter { entity_id: Some(task.id), ..Default::default() };
    let newest = tracker.list(&filter, &ListOptions { limit: 1, ..ListOptions::default() }).await?;
    println!("{}: its latest version is {:?}", task.task_id, newest.items.first().map(|event| event.version));
    let mut events = tracker.history(EntityType::TaskInstance, task.id, 100).await?;
    events.reverse();
    for event in &events {
        let from = event.old_state.map_or("nothing".to_owned(), |state| state.to_string());
        let to = event.new_state.map_or("deleted", State::as_str);
        println!("  {}: {from} → {to} by {}", event.version, event.actor);
    }
    if let Some(created) = events.first() {
        let state = tracker.state_at(EntityType::TaskInstance, task.id, created.changed_at).await?;
        println!(
            "  at {} it was {}",
            created.changed_at,
            state.map_or("nothing".to_owned(), |state| state.to_string())
        );
    }
    Ok(())
}
