//! Follows the events of a run, and puts each task into the queue when its parents are done.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pg_workflow_client::connect::Client;
use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::event::{EntityType, Event};
use pg_workflow_client::outage::{Backoff, Outage};
use pg_workflow_client::{self as client, Claims, DagRuns, Enqueue, State, Transition, feed, position};
use tokio::sync::watch;
use uuid::Uuid;

use super::run::Run;
use super::worker::queue;
use super::{Error, GIVE_UP, Progress};
use crate::wfformat::Trace;

/// Events that are read at once.
const BATCH: i32 = 1000;
/// How long the database waits for an event.
const WAIT: Duration = Duration::from_secs(1);

pub struct Scheduler<'a> {
    server: &'a PostgresServer,
    trace: &'a Trace,
    run: &'a Run,
    progress: &'a watch::Sender<Progress>,
    position: String,
    client: Option<Client>,
    outage: Outage,
    /// The tasks of the run, and their places in the trace.
    places: HashMap<Uuid, usize>,
    /// For each task, how many of its parents are not done.
    missing: Vec<usize>,
}

impl<'a> Scheduler<'a> {
    pub fn new(
        server: &'a PostgresServer,
        trace: &'a Trace,
        run: &'a Run,
        progress: &'a watch::Sender<Progress>,
        position: String,
    ) -> Scheduler<'a> {
        let places = run.tasks.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        let missing = trace.tasks.iter().map(|task| task.parents.len()).collect();
        let (client, outage) = (None, Outage::of("PostgreSQL"));
        Scheduler { server, trace, run, progress, position, client, outage, places, missing }
    }

    /// Returns after the run has finished.
    pub async fn run(mut self) -> Result<(), Error> {
        self.move_run(State::Queued, State::Running).await?;
        let mut ready: Vec<usize> = (0..self.missing.len()).filter(|place| self.missing[*place] == 0).collect();
        let mut done = 0;
        loop {
            self.enqueue(&ready).await?;
            ready.clear();
            if done == self.trace.tasks.len() {
                break;
            }
            for event in self.next_events().await? {
                if let Some(place) = self.note(&event)? {
                    done += 1;
                    ready.extend(self.children_of(place));
                }
            }
        }
        self.move_run(State::Running, State::Success).await
    }

    async fn enqueue(&mut self, ready: &[usize]) -> Result<(), client::Error> {
        if ready.is_empty() {
            return Ok(());
        }
        let ids = ready.iter().map(|place| self.run.tasks[*place]);
        let tasks = Enqueue { queue: queue(self.trace), ..Enqueue::of(ids) };
        self.through_outages(async |client, _| Claims::new(client).enqueue(&tasks).await.map(drop)).await
    }

    async fn next_events(&mut self) -> Result<Vec<Event>, client::Error> {
        let read = async |client: &Client, at: &str| position::read(client, at, BATCH, WAIT).await;
        let Some(batch) = self.through_outages(read).await? else { return Ok(Vec::new()) };
        self.position = batch.position;
        Ok(batch.events)
    }

    /// Counts an event of the run. Returns the place of a task that has succeeded.
    fn note(&mut self, event: &Event) -> Result<Option<usize>, Error> {
        let Some(place) = self.places.get(&event.entity_id).copied() else { return Ok(None) };
        let Some(from) = event.old_state else { return Ok(None) };
        self.progress.send_modify(|progress| {
            progress.transitions += 1;
            *slot(progress, from) -= 1;
            *slot(progress, event.new_state.unwrap_or(State::Queued)) += 1;
        });
        match event.new_state {
            Some(State::Success) => Ok(Some(place)),
            Some(State::Queued | State::Running | State::Retrying) => Ok(None),
            state => Err(Error::Task { task_id: self.trace.tasks[place].id.clone(), state }),
        }
    }

    /// Returns the children of a task that has succeeded for which it was the last parent.
    fn children_of(&mut self, place: usize) -> Vec<usize> {
        let children = self.trace.tasks[place].children.iter().copied();
        children
            .filter(|child| {
                self.missing[*child] -= 1;
                self.missing[*child] == 0
            })
            .collect()
    }

    /// Moves the run. It happens at most once: all attempts have the same idempotency key.
    async fn move_run(&mut self, from: State, to: State) -> Result<(), Error> {
        let id = self.run.id;
        let transition = Transition::new(from, to).with_request_id(Uuid::now_v7());
        let moved =
            self.through_outages(async |client, _| DagRuns::new(client).transition_with(id, &transition).await).await;
        let entity = format!("{} \"{id}\"", EntityType::DagRun);
        moved.map_err(|cause| Error::Transition { entity, from, to, cause })?;
        self.progress.send_modify(|progress| progress.transitions += 1);
        Ok(())
    }

    /// Makes a call, with a connection and the current position, and repeats it while the database is unavailable.
    async fn through_outages<T>(
        &mut self,
        call: impl AsyncFn(&Client, &str) -> Result<T, client::Error>,
    ) -> Result<T, client::Error> {
        let give_up = Instant::now() + GIVE_UP;
        let mut backoff = Backoff::new();
        loop {
            let attempt = async {
                let client = match &mut self.client {
                    Some(client) => client,
                    none => none.insert(feed::connect_to_wait(self.server).await?),
                };
                call(client, &self.position).await
            };
            match attempt.await {
                Err(error) if error.is_transient() && Instant::now() < give_up => {
                    self.client = None;
                    self.outage.began(&error);
                    backoff.wait().await;
                }
                answer => {
                    self.outage.ended();
                    return answer;
                }
            }
        }
    }
}

/// Returns the number of tasks in a state.
fn slot(progress: &mut Progress, state: State) -> &mut usize {
    match state {
        State::Running => &mut progress.running,
        State::Success => &mut progress.success,
        _ => &mut progress.queued,
    }
}
