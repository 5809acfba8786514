//! The evidence: the answers that the workers got, and the history of their tasks.

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use pg_workflow_state_machine::State;
use postgres::{Client, Row};
use uuid::Uuid;

/// A claim, as its text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    pub task: Uuid,
    pub version: i64,
    /// Microseconds since 1970, like the times of the history.
    pub start: i64,
}

impl Claim {
    pub fn parse(text: &str) -> Result<Claim> {
        const SINCE_2000: i64 = 946_684_800_000_000;
        let mut parts = text.split('.');
        let mut next = || parts.next().with_context(|| format!("not a claim: {text}"));
        let (task, version, start) = (next()?.parse()?, next()?.parse()?, next()?.parse::<i64>()?);
        Ok(Claim { task, version, start: start + SINCE_2000 })
    }
}

/// The record of one worker.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub worker: String,
    /// Whether its commits wait until a crash cannot lose them.
    pub is_durable: bool,
    pub answers: Vec<Answer>,
    /// The runs and tasks that it has deleted, perhaps, and when it said so: microseconds since 1970. A crash can undo that.
    pub deletions: Vec<(Uuid, i64)>,
    /// Errors that a worker must never get.
    pub complaints: Vec<String>,
    /// Statements and commits without an answer.
    pub unanswered: usize,
}

/// An answer about a claim. Times are microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub claim: Claim,
    pub told: Told,
    pub sent: i64,
    pub at: i64,
}

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Claimed,
    Renewed,
    /// The task has left running by this claim.
    Ended,
    /// The word does not count: the claim is lost.
    Refused,
}

/// A row of the history.
#[derive(Debug, Clone, Default)]
pub struct Event {
    pub id: i64,
    pub run: Uuid,
    pub entity: Uuid,
    /// Empty for a run.
    pub name: String,
    pub version: i64,
    pub changed_at: i64,
    pub old: Option<State>,
    pub new: Option<State>,
    pub request_id: Option<String>,
    pub worker: Option<String>,
    pub reason: Option<String>,
    /// The claim in the metadata of the word that made the transition.
    pub claim: Option<Claim>,
}

impl Event {
    fn of(row: &Row) -> Result<Event> {
        let text = |column: usize| row.get::<_, Option<String>>(column);
        let state = |column| text(column).map(|state| state.parse()).transpose();
        Ok(Event {
            id: row.get(0),
            run: row.get(1),
            entity: row.get(2),
            name: text(3).unwrap_or_default(),
            version: row.get(4),
            changed_at: row.get::<_, DateTime<Utc>>(5).timestamp_micros(),
            old: state(6)?,
            new: state(7)?,
            request_id: text(8),
            worker: text(9),
            reason: text(10),
            claim: text(11).map(|claim| Claim::parse(&claim)).transpose()?,
        })
    }
}

/// All data that the checker compares.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    pub records: Vec<Record>,
    /// In the order of ids.
    pub history: Vec<Event>,
    /// Times at which the database lost commits: what was confirmed or in progress meanwhile may be missing.
    pub losses: Vec<(i64, i64)>,
}

impl Evidence {
    pub(super) fn gather(client: &mut Client, dags: &[Uuid], records: Vec<Record>) -> Result<Evidence> {
        let sql = "SELECT id, dag_run_id, entity_id, task_id, version, changed_at, old_state, new_state, request_id,
                       metadata ->> 'worker', metadata ->> 'reason', metadata ->> 'claim'
                   FROM workflow.state_history WHERE dag_id = ANY ($1) ORDER BY id";
        let history = client.query(sql, &[&dags])?.iter().map(Event::of).collect::<Result<_>>()?;
        Ok(Evidence { records, history, losses: Vec::new() })
    }

    /// The complaints of all workers, with their names.
    pub fn complaints(&self) -> impl Iterator<Item = String> {
        let of = |one: &Record| one.complaints.iter().map(|text| format!("{}: {text}", one.worker)).collect::<Vec<_>>();
        self.records.iter().flat_map(of)
    }
}
