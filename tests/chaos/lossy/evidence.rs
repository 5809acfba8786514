//! The evidence after a run with losses: the history of each timeline, and the records of writers and readers.

use anyhow::Result;
use postgres::Client;
use uuid::Uuid;

use super::consumer::seen;
use super::reader::Reading;
use super::world::World;
use super::writer::Written;
use crate::chaos::claims;
use crate::chaos::event::Event;
use crate::chaos::evidence::{Entry, history, problems, stream};
use crate::chaos::receivers::Received;

/// A transition, known by more than its version: a later timeline uses that again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark {
    pub entity: Uuid,
    pub version: i64,
    /// In the metadata; 0 for a creation.
    pub token: i64,
}

/// A transition that the database confirmed. Times are microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Confirmed {
    pub mark: Mark,
    /// Before its transaction began.
    pub sent: i64,
    /// After its commit was confirmed.
    pub at: i64,
}

/// One loss: transitions that were in progress or confirmed between these times may be lost.
#[derive(Debug, Clone)]
pub struct Loss {
    pub fault: String,
    /// The backup is not older.
    pub from: i64,
    /// Clients reach the database that took the place of the lost one.
    pub to: i64,
    /// In another cluster, consumers find their positions by ids: events above an unacknowledged one are redelivered.
    pub redelivers: bool,
}

/// The record of the injector.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    pub losses: Vec<Loss>,
    /// The history before each loss.
    pub histories: Vec<Vec<Event>>,
}

/// All data that the checker compares.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    pub written: Written,
    pub losses: Vec<Loss>,
    /// The history of each timeline, the last of which is the final one.
    pub histories: Vec<Vec<Event>>,
    /// The transitions of the final history.
    pub marks: Vec<Mark>,
    /// The entries of the stream, in order.
    pub stream: Vec<Entry>,
    pub receivers: Vec<Received>,
    /// The events that the consumer in the database has processed, in order.
    pub consumed: Vec<Event>,
    pub readings: Vec<Reading>,
    pub claims: claims::evidence::Evidence,
    /// The problems that `verify()` reports.
    pub problems: Vec<String>,
    /// Errors of writers, consumer and injector that they must never get.
    pub complaints: Vec<String>,
}

/// The records of the clients.
pub struct Records {
    pub written: Written,
    pub receivers: Vec<Received>,
    pub readings: Vec<Reading>,
    pub claims: claims::evidence::Evidence,
    pub complaints: Vec<String>,
}

impl Evidence {
    /// Collects the evidence from the servers. All clients must have ended.
    pub fn gather(world: &World, records: Records) -> Result<Evidence> {
        let mut database = world.connect()?;
        let mut redis = redis::Client::open(world.redis.url())?.get_connection()?;
        let Records { written, receivers, readings, mut claims, mut complaints } = records;
        claims.losses = world.truth.losses.iter().map(|loss| (loss.from, loss.to)).collect();
        complaints.extend(claims.complaints());
        complaints.extend(world.complaints.iter().cloned());
        complaints.extend(written.complaints.iter().cloned());
        let mut histories = world.truth.histories.clone();
        histories.push(history(&mut database)?);
        Ok(Evidence {
            written,
            losses: world.truth.losses.clone(),
            histories,
            marks: marks(&mut database)?,
            stream: stream(&mut redis)?,
            receivers,
            consumed: seen(&mut database)?,
            readings,
            claims,
            problems: problems(&mut database)?,
            complaints,
        })
    }

    /// The final history.
    pub fn history(&self) -> &[Event] {
        self.histories.last().map_or(&[], Vec::as_slice)
    }
}

fn marks(database: &mut Client) -> Result<Vec<Mark>> {
    let sql = "SELECT entity_id, version, coalesce((metadata->>'token')::bigint, 0) FROM workflow.state_history";
    let rows = database.query(sql, &[])?;
    Ok(rows.iter().map(|row| Mark { entity: row.get(0), version: row.get(1), token: row.get(2) }).collect())
}
