//! The ways by which a task ends.

use fastrand::Rng;
use pg_workflow_state_machine::State;
use postgres::Client;
use serde_json::json;
use uuid::Uuid;

/// A task that a worker ends: by its claim, or from the state queued.
pub struct End {
    pub id: Uuid,
    pub claim: Option<String>,
    pub end: State,
}

#[derive(Clone, Copy)]
pub enum Way {
    ByClaim,
    ByClaims,
    /// It runs again: no end.
    Retry,
    Cancel,
    Many,
    Update,
    ByHand,
}

impl End {
    pub fn draw_way(&self, random: &mut Rng) -> Way {
        match (&self.claim, random.u8(..7)) {
            (Some(_), 0..2) => Way::ByClaim,
            (Some(_), 2) => Way::ByClaims,
            (Some(_), 3) => Way::Retry,
            (None, 0..4) => Way::Cancel,
            (_, 4) => Way::Many,
            (_, 5) => Way::Update,
            _ => Way::ByHand,
        }
    }

    /// Ends the task.
    pub fn say(&self, client: &mut Client, way: Way) -> Result<(), postgres::Error> {
        let (id, end, from) = (self.id, self.end.as_str(), if self.claim.is_some() { "running" } else { "queued" });
        match (way, &self.claim) {
            (Way::ByClaim, Some(claim)) if self.end == State::Success => {
                client.execute("SELECT workflow.complete_claim($1)", &[claim])
            }
            (Way::ByClaim, Some(claim)) => client.execute("SELECT workflow.fail_claim($1, 'broken', '-1 s')", &[claim]),
            (Way::Retry, Some(claim)) => client.execute("SELECT workflow.fail_claim($1, 'again', '100 ms')", &[claim]),
            (Way::ByClaims, Some(claim)) => {
                let fails = self.end != State::Success;
                let (error, retry_after) = (fails.then_some("broken"), fails.then_some(-1));
                let outcome = json!([{"claim": claim, "state": end, "error": error, "retry_after": retry_after}]);
                client.execute("SELECT workflow.finish_claims($1, true)", &[&outcome])
            }
            (Way::Cancel, _) => client.execute("SELECT workflow.request_cancel($1)", &[&id]),
            (Way::Many, _) => {
                let sql = "SELECT workflow.transition_many('task_instance', ARRAY[$1::uuid], $2, $3)";
                client.execute(sql, &[&id, &from, &end])
            }
            (Way::Update, _) => {
                let sql = "UPDATE workflow.task_instances SET state = $2 WHERE id = $1 AND state = $3";
                client.execute(sql, &[&id, &end, &from])
            }
            _ => client.execute("SELECT workflow.transition_task_instance($1, $2, $3)", &[&id, &from, &end]),
        }?;
        Ok(())
    }
}
