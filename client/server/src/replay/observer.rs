//! Follows a run until the database has ended it.

use std::time::{Duration, Instant};

use pg_workflow_client::connect::{Client, PostgresServer};
use pg_workflow_client::outage::{Backoff, Outage};
use pg_workflow_client::tokio_postgres::types::Type;
use pg_workflow_client::{self as client, State, feed, position, session};
use tokio::sync::watch;
use uuid::Uuid;

use super::run::Run;
use super::{Error, GIVE_UP, Progress};
use crate::wfformat::Trace;

/// Events that are read at once.
const BATCH: i32 = 1000;
/// How long the database waits for an event.
const WAIT: Duration = Duration::from_secs(1);
/// A look counts all tasks of the run, so events gather until the next one.
const GATHER: Duration = Duration::from_millis(50);
/// Time limit of a look.
const LIMIT: Duration = Duration::from_secs(30);

pub struct Observer<'a> {
    server: &'a PostgresServer,
    trace: &'a Trace,
    run: &'a Run,
    progress: &'a watch::Sender<Progress>,
    link: Option<Link>,
}

/// A connection, and its position in the feed.
struct Link {
    client: Client,
    position: String,
}

impl<'a> Observer<'a> {
    pub fn new(
        server: &'a PostgresServer,
        trace: &'a Trace,
        run: &'a Run,
        progress: &'a watch::Sender<Progress>,
    ) -> Observer<'a> {
        Observer { server, trace, run, progress, link: None }
    }

    /// Returns after the run has ended, with an error unless all its tasks have succeeded.
    pub async fn run(mut self) -> Result<(), Error> {
        loop {
            let look = self.through_outages(async |link, run| link.next_look(run).await).await?;
            let Some((state, progress)) = look else { return Err(Error::NoRun(self.run.id)) };
            self.progress.send_replace(progress);
            if state.is_finished() {
                break;
            }
        }
        let trace = self.trace;
        match self.through_outages(async |link, run| run.find_unsuccessful(&link.client, trace).await).await? {
            Some((task_id, state)) => Err(Error::Task { task_id, state }),
            None => Ok(()),
        }
    }

    /// Makes a call, and repeats it while the database is unavailable.
    async fn through_outages<T>(
        &mut self,
        call: impl AsyncFn(&mut Link, &Run) -> Result<T, client::Error>,
    ) -> Result<T, client::Error> {
        let give_up = Instant::now() + GIVE_UP;
        let (mut backoff, mut outage) = (Backoff::new(), Outage::of("PostgreSQL"));
        loop {
            let attempt = async {
                let link = match &mut self.link {
                    Some(link) => link,
                    none => none.insert(Link::open(self.server).await?),
                };
                call(link, self.run).await
            };
            match attempt.await {
                Err(error) if error.is_transient() && Instant::now() < give_up => {
                    self.link = None;
                    outage.began(&error);
                    backoff.wait().await;
                }
                answer => {
                    outage.ended();
                    return answer;
                }
            }
        }
    }
}

impl Link {
    async fn open(server: &PostgresServer) -> Result<Link, client::Error> {
        Ok(Link { client: feed::connect_to_wait(server).await?, position: String::new() })
    }

    /// Waits for an event of the run since the last look, and looks again.
    async fn next_look(&mut self, run: &Run) -> Result<Option<(State, Progress)>, client::Error> {
        if self.position.is_empty() {
            // Before the first look, which so misses nothing that the events do not show.
            self.position = position::current(&self.client).await?;
        } else {
            tokio::time::sleep(GATHER).await;
            self.wait_for_event(run.id).await?;
        }
        look(&self.client, run.id).await
    }

    async fn wait_for_event(&mut self, run: Uuid) -> Result<(), client::Error> {
        while let Some(batch) = position::read(&self.client, &self.position, BATCH, WAIT).await? {
            self.position = batch.position;
            if batch.events.iter().any(|event| event.dag_run_id == run) {
                break;
            }
        }
        Ok(())
    }
}

/// Returns the state of a run, and counts its tasks; `None` if it does not exist.
async fn look(client: &Client, run: Uuid) -> Result<Option<(State, Progress)>, client::Error> {
    let sql = "SELECT r.state, r.version - 1 + coalesce(sum(t.version - 1), 0)::bigint,
                 count(*) FILTER (WHERE t.state IN ('queued', 'retrying')), count(*) FILTER (WHERE t.state = 'running'),
                 count(*) FILTER (WHERE t.state = 'success'),
                 count(*) FILTER (WHERE t.state IN ('failed', 'upstream_failed', 'skipped'))
               FROM workflow.dag_runs AS r LEFT JOIN workflow.task_instances AS t ON t.dag_run_id = r.id
               WHERE r.id = $1 GROUP BY r.id";
    let rows = session::once_in(client, LIMIT, sql, &[(&run, Type::UUID)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let state: &str = row.try_get(0)?;
    let state = state.parse().map_err(|_| client::Error::Unknown(format!("the state \"{state}\"")))?;
    let count = |column| Ok::<_, client::Error>(usize::try_from(row.try_get::<_, i64>(column)?).unwrap_or_default());
    let progress = Progress {
        dag_run_id: Some(run),
        transitions: count(1)?,
        queued: count(2)?,
        running: count(3)?,
        success: count(4)?,
        failed: count(5)?,
    };
    Ok(Some((state, progress)))
}
