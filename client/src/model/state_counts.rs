use pg_workflow_state_machine::State;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use crate::Error;
use crate::event::state;

/// Number of runs, or of tasks, in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are the states")]
pub struct StateCounts {
    pub queued: i64,
    pub running: i64,
    pub success: i64,
    pub failed: i64,
    pub retrying: i64,
    pub upstream_failed: i64,
    pub skipped: i64,
    /// All states together.
    pub total: i64,
}

impl StateCounts {
    /// Returns the number in this state.
    pub const fn of(&self, state: State) -> i64 {
        match state {
            State::Queued => self.queued,
            State::Running => self.running,
            State::Success => self.success,
            State::Failed => self.failed,
            State::Retrying => self.retrying,
            State::UpstreamFailed => self.upstream_failed,
            State::Skipped => self.skipped,
        }
    }

    /// Reads rows of a state and a count.
    pub(crate) fn from_rows(rows: &[Row]) -> Result<StateCounts, Error> {
        let mut counts = StateCounts::default();
        for row in rows {
            let count: i64 = row.try_get(1)?;
            counts.total += count;
            *match state(row.try_get(0)?)? {
                State::Queued => &mut counts.queued,
                State::Running => &mut counts.running,
                State::Success => &mut counts.success,
                State::Failed => &mut counts.failed,
                State::Retrying => &mut counts.retrying,
                State::UpstreamFailed => &mut counts.upstream_failed,
                State::Skipped => &mut counts.skipped,
            } = count;
        }
        Ok(counts)
    }
}
