//! `GET /api/v1/events`: what happens, as it happens, as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! The id of an event is the position in the feed behind the batch that it ends; the others have none. So whoever comes
//! back with the last id it has seen misses nothing, and may be given a part of one batch again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::{broadcast, mpsc};
use utoipa::IntoParams;
use uuid::Uuid;

use super::Server;
use super::answer::ApiError;
use super::hub::{BATCH, Batch, Followed, Slot};
use super::openapi::ApiErrors;
use super::parameters::{Query, UuidText};
use super::schema;
use pg_workflow_client::{Error, position};

/// How often to say something where nothing happens, so that both sides see that the other is there.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long browsers wait before they come back.
const RETRY: Duration = Duration::from_secs(1);
/// How long a client waits for a database that is away before it is told so.
const JOIN_LIMIT: Duration = Duration::from_secs(5);
/// Messages kept for a client that is slow to read, before its reading holds up the rest of what it is sent.
const AHEAD: usize = 16;
/// The feed is read where it is written.
const ON_STANDBY: &str = "events cannot be followed here: this server reads from a standby, and the feed is read on the primary; \
                          ask a workflow-server there";
/// A position is some hundred characters; more with hundreds of open transactions.
const LONGEST_POSITION: usize = 20_000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventParameters {
    /// Of this DAG.
    #[param(schema_with = schema::uuid, required = false)]
    dag_id: Option<UuidText>,
    /// Of this run.
    #[param(schema_with = schema::uuid, required = false)]
    dag_run_id: Option<UuidText>,
    /// The `id` received last, where the header `Last-Event-ID` cannot be set.
    last_event_id: Option<String>,
}

/// Events from now on, or from the last that was received, as `text/event-stream`: `event: change`, and in `data` the event
/// as JSON. Within a run or a task they come in the order of versions, at least once.
#[utoipa::path(get, path = "/api/v1/events", tag = "events",
    params(EventParameters, ("Last-Event-ID" = Option<String>, Header, description = "The `id` received last.")),
    responses((status = 200, body = schema::Event, content_type = "text/event-stream"), ApiErrors))]
pub async fn events(
    State(server): State<Arc<Server>>,
    Query(given): Query<EventParameters>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if server.backends.is_standby {
        return Err(ApiError::unavailable(ON_STANDBY));
    }
    let wanted = Wanted { dag_id: given.dag_id.map(|id| id.0), dag_run_id: given.dag_run_id.map(|id| id.0) };
    let position = last_position(headers.get("last-event-id"), given.last_event_id)?;
    let full = "the server's places for followers are all taken; come back later, or raise --followers";
    let seat = server.hub.slot().ok_or_else(|| ApiError::unavailable(full))?;
    // Before anything is answered: it may be refused, and who has an answer misses nothing from then on.
    let start = match position {
        Some(position) => Start::After(missed(&server, &position).await?, position),
        None => {
            Start::Now(tokio::time::timeout(JOIN_LIMIT, server.hub.join()).await.map_err(|_| ApiError::no_database())?)
        }
    };
    let (messages, sent) = mpsc::channel(AHEAD);
    let follower = Follower { server, wanted, messages, _seat: seat };
    tokio::spawn(follower.follow(start));

    let answer = stream::unfold(sent, async |mut sent| Some((Ok::<_, Infallible>(sent.recv().await?), sent)));
    let answer = Sse::new(answer).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    // Proxies must not collect it.
    Ok(([("cache-control", "no-store"), ("x-accel-buffering", "no")], answer).into_response())
}

fn last_position(header: Option<&HeaderValue>, parameter: Option<String>) -> Result<Option<String>, ApiError> {
    let given = match header {
        Some(header) => Some(header.to_str().map_err(|_| refused_position())?.to_owned()),
        None => parameter,
    };
    match given {
        Some(position) if position.len() > LONGEST_POSITION || position.contains('\0') => Err(refused_position()),
        // Browsers send an empty one where they have received none.
        Some(position) if position.is_empty() => Ok(None),
        given => Ok(given),
    }
}

fn refused_position() -> ApiError {
    ApiError::parameter("last_event_id", "is not the id of an event of this stream; leave it out to begin anew")
}

/// The next events after a position; none where there are none.
async fn missed(server: &Server, position: &str) -> Result<Option<Batch>, ApiError> {
    let connection = server.database.write().await?;
    match position::read(&connection, position, BATCH, Duration::ZERO).await {
        Ok(batch) => Ok(batch.map(Batch::try_from).transpose()?),
        Err(Error::Invalid { .. }) => Err(refused_position()),
        Err(error) => Err(error.into()),
    }
}

/// Which events a client wants.
#[derive(Clone, Copy)]
struct Wanted {
    dag_id: Option<Uuid>,
    dag_run_id: Option<Uuid>,
}

impl Wanted {
    fn has(&self, event: &Followed) -> bool {
        self.dag_id.is_none_or(|id| id == event.dag_id) && self.dag_run_id.is_none_or(|id| id == event.dag_run_id)
    }
}

/// Where a client begins.
enum Start {
    /// With what comes next, and the position before that.
    Now((broadcast::Receiver<Arc<Batch>>, String)),
    /// After a position, with the first of what was missed.
    After(Option<Batch>, String),
}

/// A client that follows.
struct Follower {
    server: Arc<Server>,
    wanted: Wanted,
    messages: mpsc::Sender<Message>,
    _seat: Slot,
}

/// The client has left, or has to come back.
struct Left;

impl Follower {
    async fn follow(self, start: Start) {
        let shutdown = self.server.hub.shutdown.clone();
        let gone = self.messages.clone();
        let following = async {
            match start {
                Start::Now((batches, position)) => {
                    self.send(Message::default().retry(RETRY).id(position)).await?;
                    self.live(batches, &[]).await
                }
                Start::After(missed, position) => self.catch_up(position, missed).await,
            }
        };
        tokio::select! {
            _ = following => (),
            () = shutdown.cancelled() => (),
            () = gone.closed() => (),
        }
    }

    /// Reads what was missed, then joins the others. What was read after joining is not given again.
    async fn catch_up(&self, mut position: String, missed: Option<Batch>) -> Result<(), Left> {
        let mut next = missed;
        let mut batches = None;
        let mut given = Vec::new();
        self.send(Message::default().retry(RETRY)).await?;
        loop {
            match next.take() {
                Some(batch) => {
                    self.give(&batch, &given).await?;
                    if batches.is_some() {
                        given.extend(batch.events.iter().map(|event| event.id));
                    }
                    position = batch.position;
                }
                None => match batches.take() {
                    Some(batches) => return self.live(batches, &given).await,
                    None => batches = Some(self.server.hub.join().await.0),
                },
            }
            next = missed_or_left(&self.server, &position).await?;
        }
    }

    async fn live(&self, mut batches: broadcast::Receiver<Arc<Batch>>, given: &[i64]) -> Result<(), Left> {
        loop {
            // Who has fallen too far behind comes back with the last id, and reads by itself.
            let batch = batches.recv().await.map_err(|_| Left)?;
            self.give(&batch, given).await?;
        }
    }

    async fn give(&self, batch: &Batch, given: &[i64]) -> Result<(), Left> {
        let wanted = |event: &&Followed| self.wanted.has(event) && !given.contains(&event.id);
        for event in batch.events.iter().filter(wanted) {
            self.send(Message::default().event("change").data(&event.json)).await?;
        }
        self.send(Message::default().id(&batch.position)).await
    }

    async fn send(&self, message: Message) -> Result<(), Left> {
        self.messages.send(message).await.map_err(|_| Left)
    }
}

async fn missed_or_left(server: &Server, position: &str) -> Result<Option<Batch>, Left> {
    missed(server, position).await.map_err(|_| Left)
}
