//! `GET /api/v1/events`: live events as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! After each batch, a message has the position in the feed as its id. A client that reconnects with its last id misses
//! nothing; part of one batch might be delivered again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::{broadcast, mpsc};
use utoipa::IntoParams;
use uuid::Uuid;

use super::Server;
use super::addresses::{Address, Permits, Slot};
use super::connections::Connection;
use super::error::ApiError;
use super::hub::{self, Batch, FIRST_BATCH, Followed};
use super::openapi::ApiErrors;
use super::parameters::{Query, UuidText};
use super::schema;
use pg_workflow_client::Error;

/// Interval of heartbeats, by which both sides notice that the other is gone.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The comment that is a heartbeat.
const COMMENT: &str = ":\n\n";
/// Time that browsers wait before they reconnect.
const RETRY: &str = "retry: 1000\n";
const RETRY_LATER: &str = "retry: 3000\n";
const STREAM: &str = "text/event-stream";
/// Time that a client waits for an unavailable database, or for other followers, before it gets an error.
const JOIN_LIMIT: Duration = Duration::from_secs(5);
/// Time that a client has to read a part of the missed events: others wait for it.
const REPLAY_LIMIT: Duration = Duration::from_secs(10);
/// Size of the parts in which messages are sent. They are copies: a slow client keeps no batch in memory.
const PART: usize = 16 << 10;
/// Parts buffered for a slow client.
const AHEAD: usize = 2;
/// The feed can be read on the primary only.
const ON_STANDBY: &str =
    "events unavailable: this server reads from a standby; use a workflow-server that reads from the primary";
const NO_SLOT: &str = "too many followers, in total or from this address";
const TOO_MANY_REPLAYS: &str = "too many followers read missed events, in total or from this address";
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
    Extension(connection): Extension<Arc<Connection>>,
    Query(given): Query<EventParameters>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if server.backends.is_standby {
        return Err(ApiError::unavailable(ON_STANDBY));
    }
    let is_event_source = headers.get(ACCEPT).is_some_and(|kinds| kinds.as_bytes().starts_with(STREAM.as_bytes()));
    match open(server, connection.address, given, headers).await {
        Err(error) if error.is_unavailable() && is_event_source => Ok(postpone(&error)),
        opened => opened,
    }
}

/// The EventSource of browsers ends for good at an error, but comes back after a stream that ends.
fn postpone(error: &ApiError) -> Response {
    let body = format!("{RETRY_LATER}: {}\n\n", error.message);
    ([(CONTENT_TYPE.as_str(), STREAM), ("cache-control", "no-store")], body).into_response()
}

async fn open(
    server: Arc<Server>,
    address: Address,
    given: EventParameters,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let wanted = Wanted { dag_id: given.dag_id.map(|id| id.0), dag_run_id: given.dag_run_id.map(|id| id.0) };
    let position = last_position(headers.get("last-event-id"), given.last_event_id)?;
    let slot = server.hub.slot(address).ok_or_else(|| ApiError::unavailable(NO_SLOT))?;
    // Before the response begins: this can fail, and a client that has a response misses nothing from then on.
    let start = match position {
        Some(position) => Start::After(Replay::begin(&server, address, position).await?),
        None => {
            Start::Now(tokio::time::timeout(JOIN_LIMIT, server.hub.join()).await.map_err(|_| ApiError::no_database())?)
        }
    };
    let (parts, sent) = mpsc::channel(AHEAD);
    let follower = Follower { server, wanted, parts, _slot: slot };
    tokio::spawn(follower.follow(start));

    let stream = stream::unfold(sent, async |mut sent| Some((Ok::<_, Infallible>(sent.recv().await?), sent)));
    // Proxies must not buffer the stream.
    let headers = [(CONTENT_TYPE.as_str(), STREAM), ("cache-control", "no-store"), ("x-accel-buffering", "no")];
    Ok((headers, Body::from_stream(stream)).into_response())
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

/// The missed events of a client.
struct Replay {
    position: String,
    /// The next of them; `None` if there are no more.
    next: Option<Batch>,
    _permits: Permits,
}

impl Replay {
    /// Reads the first events after this position, if there are any.
    async fn begin(server: &Server, address: Address, position: String) -> Result<Replay, ApiError> {
        let permits = server.hub.replays.acquire(address, JOIN_LIMIT).await;
        let permits = permits.ok_or_else(|| ApiError::unavailable(TOO_MANY_REPLAYS))?;
        let next = read_missed(server, &position, FIRST_BATCH).await?;
        Ok(Replay { position, next, _permits: permits })
    }
}

/// Reads the next events after a position; `None` if there are none.
async fn read_missed(server: &Server, position: &str, max: i32) -> Result<Option<Batch>, ApiError> {
    let connection = server.read_feed().await?;
    let batch = match hub::read(&connection, position, max, Duration::ZERO).await {
        Err(Error::Invalid { .. }) => return Err(invalid_position()),
        batch => batch?,
    };
    drop(connection);
    match batch {
        Some(batch) => Ok(Some(server.hub.keep_visible(batch).await?)),
        None => Ok(None),
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
    /// Missed events.
    After(Replay),
}

/// A client that follows events.
struct Follower {
    server: Arc<Server>,
    wanted: Wanted,
    parts: mpsc::Sender<Bytes>,
    _slot: Slot,
}

/// The client has disconnected, or has to reconnect.
struct Disconnected;

impl Follower {
    async fn follow(self, start: Start) {
        let shutdown = self.server.hub.shutdown.clone();
        let gone = self.parts.clone();
        let following = async {
            match start {
                Start::Now((batches, position)) => {
                    self.send(format!("{RETRY}id: {position}\n\n").into()).await?;
                    self.send_live(batches, &[]).await
                }
                Start::After(replay) => self.catch_up(replay).await,
            }
        };
        tokio::select! {
            _ = following => (),
            () = shutdown.cancelled() => (),
            () = gone.closed() => (),
        }
    }

    /// Sends missed events, then joins the hub. Events read after joining are not sent twice.
    async fn catch_up(&self, mut replay: Replay) -> Result<(), Disconnected> {
        let (mut max, mut batches, mut sent) = (FIRST_BATCH, None, Vec::new());
        self.send(format!("{RETRY}\n").into()).await?;
        loop {
            match replay.next.take() {
                Some(batch) => {
                    let sending = self.send_batch(&batch, &sent);
                    tokio::time::timeout(REPLAY_LIMIT, sending).await.map_err(|_| Disconnected)??;
                    if batches.is_some() {
                        sent.extend(batch.events.iter().map(|event| event.id));
                    }
                    max = batch.next_size();
                    replay.position = batch.position;
                }
                None => match batches.take() {
                    Some(batches) => {
                        drop(replay);
                        return self.send_live(batches, &sent).await;
                    }
                    None => batches = Some(self.server.hub.join().await.0),
                },
            }
            replay.next = read_missed(&self.server, &replay.position, max).await.map_err(|_| Disconnected)?;
        }
    }

    async fn send_live(&self, mut batches: broadcast::Receiver<Arc<Batch>>, sent: &[i64]) -> Result<(), Disconnected> {
        loop {
            let Ok(next) = tokio::time::timeout(HEARTBEAT, batches.recv()).await else {
                self.send(COMMENT.into()).await?;
                continue;
            };
            // A client that lags too far reconnects with its last id and catches up.
            let batch = next.map_err(|_| Disconnected)?;
            batch.evicted.run_until_cancelled(self.send_batch(&batch, sent)).await.unwrap_or(Err(Disconnected))?;
        }
    }

    async fn send_batch(&self, batch: &Batch, sent: &[i64]) -> Result<(), Disconnected> {
        let wanted = |event: &&Followed| self.wanted.has(event) && !sent.contains(&event.id);
        let end = format!("id: {}\n\n", batch.position);
        let messages = batch.events.iter().filter(wanted).map(|event| event.message.as_str());
        let mut part = Vec::new();
        for piece in messages.chain([end.as_str()]).flat_map(|message| message.as_bytes().chunks(PART)) {
            if part.len() + piece.len() > PART {
                self.send(std::mem::take(&mut part)).await?;
            }
            part.extend_from_slice(piece);
        }
        self.send(part).await
    }

    async fn send(&self, part: Vec<u8>) -> Result<(), Disconnected> {
        self.parts.send(part.into()).await.map_err(|_| Disconnected)
    }
}
