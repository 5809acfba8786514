//! `GET /api/v1/events`: live events as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! After each batch, a message has the position in the feed as its id. A client that reconnects with its last id misses
//! nothing; part of one batch might be delivered again.

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
use super::error::ApiError;
use super::hub::{BATCH, Batch, Followed, Slot};
use super::openapi::ApiErrors;
use super::parameters::{Query, UuidText};
use super::schema;
use pg_workflow_client::{Error, position};

/// Interval of heartbeats, by which both sides notice that the other is gone.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Time that browsers wait before they reconnect.
const RETRY: Duration = Duration::from_secs(1);
/// Time that a client waits for an unavailable database before it gets an error.
const JOIN_LIMIT: Duration = Duration::from_secs(5);
/// Messages buffered for a slow client.
const AHEAD: usize = 16;
/// The feed can be read on the primary only.
const ON_STANDBY: &str =
    "events unavailable: this server reads from a standby; use a workflow-server that reads from the primary";
const NO_SLOT: &str = "too many followers; retry later or raise --followers";
/// A position has some hundred characters, and more while hundreds of transactions are open.
const MAX_POSITION: usize = 20_000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventParameters {
    /// Events of this DAG.
    #[param(schema_with = schema::uuid, required = false)]
    dag_id: Option<UuidText>,
    /// Events of this run.
    #[param(schema_with = schema::uuid, required = false)]
    dag_run_id: Option<UuidText>,
    /// Last `id` received, if the client cannot set the header `Last-Event-ID`.
    last_event_id: Option<String>,
}

/// Streams events from now on, or after the last one received, as `text/event-stream`: `event: change` with the event as
/// JSON in `data`. Events of a run or a task are delivered at least once, in the order of their versions.
#[utoipa::path(get, path = "/api/v1/events", tag = "events",
    params(EventParameters, ("Last-Event-ID" = Option<String>, Header, description = "Last `id` received.")),
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
    let slot = server.hub.slot().ok_or_else(|| ApiError::unavailable(NO_SLOT))?;
    // Before the response begins: this can fail, and a client that has a response misses nothing from then on.
    let start = match position {
        Some(position) => Start::After(read_missed(&server, &position).await?, position),
        None => {
            Start::Now(tokio::time::timeout(JOIN_LIMIT, server.hub.join()).await.map_err(|_| ApiError::no_database())?)
        }
    };
    let (messages, sent) = mpsc::channel(AHEAD);
    let follower = Follower { server, wanted, messages, _slot: slot };
    tokio::spawn(follower.follow(start));

    let stream = stream::unfold(sent, async |mut sent| Some((Ok::<_, Infallible>(sent.recv().await?), sent)));
    let stream = Sse::new(stream).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    // Proxies must not buffer the stream.
    Ok(([("cache-control", "no-store"), ("x-accel-buffering", "no")], stream).into_response())
}

fn last_position(header: Option<&HeaderValue>, parameter: Option<String>) -> Result<Option<String>, ApiError> {
    let given = match header {
        Some(header) => Some(header.to_str().map_err(|_| invalid_position())?.to_owned()),
        None => parameter,
    };
    match given {
        Some(position) if position.len() > MAX_POSITION || position.contains('\0') => Err(invalid_position()),
        // Browsers send an empty one if they have received none.
        Some(position) if position.is_empty() => Ok(None),
        given => Ok(given),
    }
}

fn invalid_position() -> ApiError {
    ApiError::parameter("last_event_id", "is not the id of an event of this stream; omit it to start with new events")
}

/// Reads the next events after a position; `None` if there are none.
async fn read_missed(server: &Server, position: &str) -> Result<Option<Batch>, ApiError> {
    let connection = server.database.write().await?;
    match position::read(&connection, position, BATCH, Duration::ZERO).await {
        Ok(batch) => Ok(batch.map(Batch::try_from).transpose()?),
        Err(Error::Invalid { .. }) => Err(invalid_position()),
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

/// The start of a stream.
enum Start {
    /// New events, and the position before them.
    Now((broadcast::Receiver<Arc<Batch>>, String)),
    /// A position, and the first missed events after it.
    After(Option<Batch>, String),
}

/// A client that follows events.
struct Follower {
    server: Arc<Server>,
    wanted: Wanted,
    messages: mpsc::Sender<Message>,
    _slot: Slot,
}

/// The client has disconnected, or has to reconnect.
struct Disconnected;

impl Follower {
    async fn follow(self, start: Start) {
        let shutdown = self.server.hub.shutdown.clone();
        let gone = self.messages.clone();
        let following = async {
            match start {
                Start::Now((batches, position)) => {
                    self.send(Message::default().retry(RETRY).id(position)).await?;
                    self.send_live(batches, &[]).await
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

    /// Reads missed events, then joins the hub. Events read after joining are not sent twice.
    async fn catch_up(&self, mut position: String, missed: Option<Batch>) -> Result<(), Disconnected> {
        let mut next = missed;
        let mut batches = None;
        let mut sent = Vec::new();
        self.send(Message::default().retry(RETRY)).await?;
        loop {
            match next.take() {
                Some(batch) => {
                    self.send_batch(&batch, &sent).await?;
                    if batches.is_some() {
                        sent.extend(batch.events.iter().map(|event| event.id));
                    }
                    position = batch.position;
                }
                None => match batches.take() {
                    Some(batches) => return self.send_live(batches, &sent).await,
                    None => batches = Some(self.server.hub.join().await.0),
                },
            }
            next = read_missed(&self.server, &position).await.map_err(|_| Disconnected)?;
        }
    }

    async fn send_live(&self, mut batches: broadcast::Receiver<Arc<Batch>>, sent: &[i64]) -> Result<(), Disconnected> {
        loop {
            // A client that lags too far reconnects with its last id and catches up.
            let batch = batches.recv().await.map_err(|_| Disconnected)?;
            self.send_batch(&batch, sent).await?;
        }
    }

    async fn send_batch(&self, batch: &Batch, sent: &[i64]) -> Result<(), Disconnected> {
        let wanted = |event: &&Followed| self.wanted.has(event) && !sent.contains(&event.id);
        for event in batch.events.iter().filter(wanted) {
            self.send(Message::default().event("change").data(&event.json)).await?;
        }
        self.send(Message::default().id(&batch.position)).await
    }

    async fn send(&self, message: Message) -> Result<(), Disconnected> {
        self.messages.send(message).await.map_err(|_| Disconnected)
    }
}
