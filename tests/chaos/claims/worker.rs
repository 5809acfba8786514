//! One worker: it claims tasks, and ends, releases and renews its claims, also those that it has lost.

use anyhow::Result;
use chrono::Utc;
use fastrand::Rng;
use postgres::error::SqlState;
use postgres::{Client, Row};
use serde_json::{Value, json};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use super::evidence::{Answer, Claim, Record, Told};
use super::operator::Run;
use super::{Crew, Ground, LIMITED, OPEN};
use crate::chaos::session::{Session, Verdict, verdict};

/// See [`super::Claims`].
pub struct Worker {
    pub(super) session: Session,
    pub(super) random: Rng,
    pub(super) ground: Arc<Ground>,
    /// The latest runs that it has created.
    pub(super) runs: Vec<Run>,
    pub(super) deletes: bool,
    /// Claims that it has, that it has lost, and a few that it has ended and will end again.
    held: Vec<Held>,
    pub record: Record,
}

/// A claim, and whether it ends by a failure: a word that is said again must be the same.
#[derive(Clone)]
struct Held {
    text: String,
    fails: bool,
}

impl Worker {
    pub fn new(url: &str, number: u64, seed: u64, crew: Crew, ground: Arc<Ground>) -> Result<Worker> {
        let name = format!("chaos worker {number}");
        let is_durable = !(number + 1).is_multiple_of(crew.asynchronous);
        let session = Session::new(url, &name)?
            .with_setting("pg_workflow.direct_path", if number.is_multiple_of(2) { "on" } else { "off" })
            .with_setting("synchronous_commit", if is_durable { "on" } else { "off" });
        let random = Rng::with_seed(seed ^ (number + 1).wrapping_mul(0xD1B5_4A32_D192_ED03));
        let record = Record { worker: name, is_durable, ..Record::default() };
        Ok(Worker { session, random, ground, runs: Vec::new(), deletes: crew.deletes, held: Vec::new(), record })
    }

    /// Does one random thing, and judges its error; fails if the database stays unavailable.
    pub fn step(&mut self) -> Result<()> {
        let Err(error) = self.act() else { return Ok(()) };
        let is_missing = code(&error) == Some(SqlState::NO_DATA_FOUND);
        match verdict(&error) {
            Some(Verdict::Unknown) => {
                self.record.unanswered += 1;
                self.session.reset();
            }
            // Another worker has moved or deleted it, or two of them have waited for each other.
            Some(Verdict::Conflict) => (),
            Some(Verdict::Wrong) if is_missing => (),
            Some(Verdict::Wrong) => self.record.complaints.push(format!("{error:?}")),
            None => return Err(error),
        }
        Ok(())
    }

    fn act(&mut self) -> Result<()> {
        match self.random.u32(0..100) {
            0..30 => self.claim(),
            30..50 => self.end_one(),
            50..58 => self.finish_many(),
            58..63 => self.release(),
            63..73 => self.renew(),
            73..76 => self.wait(),
            76 => {
                // It says nothing for longer than its leases, and then continues.
                sleep(Duration::from_millis(self.random.u64(500..2500)));
                Ok(())
            }
            _ => self.operate(),
        }
    }

    fn claim(&mut self) -> Result<()> {
        let max = if self.random.bool() { 1 } else { self.random.i32(2..8) };
        let (lease, rolls_back) = (self.random.f64() * 1.7 + 0.3, self.random.u32(0..10) == 0);
        let mut queues = [OPEN, LIMITED];
        self.random.shuffle(&mut queues);
        let sql = "SELECT claim FROM workflow.claim_tasks($1, $2, $3, make_interval(secs => $4))";
        let sent = now();
        let mut transaction = self.session.client()?.transaction()?;
        let rows = transaction.query(sql, &[&self.record.worker, &&queues[..], &max, &lease])?;
        if rolls_back {
            return Ok(transaction.rollback()?);
        }
        transaction.commit()?;
        for text in rows.iter().map(|row| row.get::<_, String>(0)) {
            self.note(&text, Told::Claimed, sent)?;
            self.held.push(Held { text, fails: self.random.bool() });
        }
        if rows.is_empty() { self.create() } else { Ok(()) }
    }

    /// Draws a claim. Some are kept, and drawn again.
    fn draw(&mut self) -> Option<Held> {
        let index = (!self.held.is_empty()).then(|| self.random.usize(0..self.held.len()))?;
        Some(if self.random.u32(0..3) == 0 { self.held[index].clone() } else { self.held.swap_remove(index) })
    }

    fn draw_many(&mut self) -> Vec<Held> {
        let mut drawn: Vec<Held> = (0..self.random.usize(1..6)).filter_map(|_| self.draw()).collect();
        drawn.sort_by(|one, other| one.text.cmp(&other.text));
        drawn.dedup_by(|one, other| one.text == other.text);
        drawn
    }

    /// Ends a claim, and says so until there is an answer.
    fn end_one(&mut self) -> Result<()> {
        let Some(Held { text, fails }) = self.draw() else { return Ok(()) };
        let metadata = json!({ "claim": text });
        let retry_after = self.retry_after();
        self.insist(std::slice::from_ref(&text), |client| {
            match fails {
                false => client.query_one("SELECT $1 AS claim, workflow.complete_claim($1, $2)", &[&text, &metadata]),
                true => {
                    let sql =
                        "SELECT $1 AS claim, state FROM workflow.fail_claim($1, 'boom', make_interval(secs => $2), $3)";
                    client.query_one(sql, &[&text, &retry_after, &metadata])
                }
            }
            .map(|row| vec![row])
        })
    }

    fn finish_many(&mut self) -> Result<()> {
        let drawn = self.draw_many();
        let outcome = |Held { text, fails }: &Held| {
            let state = if *fails { "failed" } else { "success" };
            json!({ "claim": text, "state": state, "result": { "claim": text }, "retry_after": fails.then_some(0.2) })
        };
        let (outcomes, texts) = (drawn.iter().map(outcome).collect::<Value>(), texts(&drawn));
        self.insist(&texts, |client| client.query("SELECT * FROM workflow.finish_claims($1)", &[&outcomes]))
    }

    fn release(&mut self) -> Result<()> {
        let (texts, delay) = (texts(&self.draw_many()), self.random.f64() * 0.5);
        // One that it has ended before is lost.
        let sql = "SELECT * FROM workflow.release_claims($1, make_interval(secs => $2)) WHERE outcome <> 'lost'";
        self.insist(&texts, |client| client.query(sql, &[&texts, &delay]))
    }

    /// Says that claims end until there is an answer, and notes it. A row has the claim, and the outcome if there can be several.
    fn insist(
        &mut self,
        texts: &[String],
        mut say: impl FnMut(&mut Client) -> Result<Vec<Row>, postgres::Error>,
    ) -> Result<()> {
        let (mut sent, mut said) = (0, 0);
        let answer = self.session.insist(|client| {
            (sent, said) = (now(), said + 1);
            say(client)
        });
        self.record.unanswered += said - 1;
        match answer {
            Ok(rows) => rows.iter().try_for_each(|row| {
                let told = if is_lost(row) { Told::Refused } else { Told::Ended };
                self.note(row.get("claim"), told, sent)
            }),
            Err(error) if code(&error) == Some(SqlState::T_R_SERIALIZATION_FAILURE) => {
                texts.iter().try_for_each(|text| self.note(text, Told::Refused, sent))
            }
            Err(error) => Err(error),
        }
    }

    fn renew(&mut self) -> Result<()> {
        let (texts, sent) = (texts(&self.held), now());
        let rows = self.session.client()?.query("SELECT * FROM workflow.renew_claims($1)", &[&texts])?;
        rows.iter().filter(|row| !is_lost(row)).try_for_each(|row| self.note(row.get("claim"), Told::Renewed, sent))
    }

    fn wait(&mut self) -> Result<()> {
        let call = format!("CALL workflow.wait_for_tasks('{{{OPEN}, {LIMITED}}}', '300 ms')");
        self.session.client()?.query_one(&call, &[])?;
        Ok(())
    }

    fn note(&mut self, text: &str, told: Told, sent: i64) -> Result<()> {
        self.record.answers.push(Answer { claim: Claim::parse(text)?, told, sent, at: now() });
        Ok(())
    }

    /// Seconds until the next try: as many as the database chooses, none at all, or few.
    fn retry_after(&mut self) -> Option<f64> {
        match self.random.u32(0..6) {
            0 => None,
            1 => Some(-1.0),
            _ => Some(self.random.f64() * 0.5),
        }
    }
}

fn texts(held: &[Held]) -> Vec<String> {
    held.iter().map(|one| one.text.clone()).collect()
}

fn is_lost(row: &Row) -> bool {
    row.try_get::<_, &str>("outcome").is_ok_and(|outcome| outcome == "lost")
}

fn code(error: &anyhow::Error) -> Option<SqlState> {
    error.downcast_ref::<postgres::Error>()?.code().cloned()
}

pub(super) fn now() -> i64 {
    Utc::now().timestamp_micros()
}
