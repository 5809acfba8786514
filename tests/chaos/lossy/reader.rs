//! The record of a reader that stores its own position: it either continues, or is told to begin again.

use anyhow::{Result, bail};
use postgres::{Client, Config, NoTls};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use uuid::Uuid;

use crate::PATIENCE;
use crate::chaos::event::Event;

/// From one beginning to the error that rejected the position, or to the end of the run.
#[derive(Debug, Clone, Default)]
pub struct Segment {
    /// The version of each entity, read from the tables after the position was taken.
    pub base: HashMap<Uuid, i64>,
    pub events: Vec<Event>,
    /// The error that rejected the position.
    pub told: Option<String>,
}

/// The record of one reader.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    pub name: String,
    pub segments: Vec<Segment>,
    /// Errors that a reader must never get.
    pub complaints: Vec<String>,
}

impl Reading {
    pub fn new(name: &str) -> Reading {
        Reading { name: name.to_owned(), ..Reading::default() }
    }

    /// Begins a segment with the states of the tables. The position must have been taken before.
    pub fn begin(&mut self, client: &mut Client) -> Result<(), postgres::Error> {
        let sql = "SELECT id, version FROM workflow.dag_runs UNION ALL SELECT id, version FROM workflow.task_instances";
        let base = client.query(sql, &[])?.iter().map(|row| (row.get(0), row.get(1))).collect();
        self.segments.push(Segment { base, ..Segment::default() });
        Ok(())
    }

    pub fn receive(&mut self, events: impl IntoIterator<Item = Event>) {
        if let Some(segment) = self.segments.last_mut() {
            segment.events.extend(events);
        }
    }

    /// Notes that the position was rejected.
    pub fn is_told(&mut self, told: String) {
        if let Some(segment) = self.segments.last_mut() {
            segment.told = Some(told);
        }
    }

    /// Whether the current segment has the last event of the run, or began after it.
    pub fn has(&self, entity: Uuid) -> bool {
        let has = |segment: &Segment| {
            segment.told.is_none()
                && (segment.base.contains_key(&entity)
                    || segment.events.iter().rev().any(|event| event.entity == entity))
        };
        self.segments.last().is_some_and(has)
    }

    pub fn complain(&mut self, complaint: &str) {
        self.complaints.push(format!("{}: {complaint}", self.name));
    }
}

/// The entity whose creation is the last event of a run; unknown until then.
#[derive(Debug, Clone, Default)]
pub struct End {
    entity: Arc<OnceLock<(Uuid, Instant)>>,
}

impl End {
    pub fn set(&self, entity: Uuid) {
        self.entity.get_or_init(|| (entity, Instant::now()));
    }

    /// Whether a reader has read to the end; an error if it takes too long.
    pub fn is_reached(&self, has: impl FnOnce(Uuid) -> bool) -> Result<bool> {
        let Some((entity, since)) = self.entity.get() else { return Ok(false) };
        if has(*entity) {
            return Ok(true);
        }
        if since.elapsed() > PATIENCE {
            bail!("it did not reach the end of the feed within {PATIENCE:?}");
        }
        Ok(false)
    }
}

/// Connects once.
pub fn connect(url: &str, application_name: &str) -> Result<Client> {
    let mut config: Config = url.parse()?;
    config.application_name(application_name).connect_timeout(Duration::from_secs(3));
    Ok(config.connect(NoTls)?)
}

/// The message of an error that rejects a position, if it says how to begin again.
pub fn rejection(error: &anyhow::Error) -> Option<String> {
    let error = error.downcast_ref::<postgres::Error>()?.as_db_error()?;
    let detail: Value = serde_json::from_str(error.detail()?).ok()?;
    let is_rejected = error.code().code() == "22023" && detail["argument"] == "position";
    (is_rejected && error.hint()?.contains("start with current_position()")).then(|| error.message().to_owned())
}
