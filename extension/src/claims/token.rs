//! A claim as text: what its holder shows to end it.

use super::LONGEST;
use crate::errors;
use crate::ffi::uuid::Uuid;
use serde_json::json;
use std::fmt;

/// The transition by which a worker has got a task. The version alone is no fence: after a crash or a failover that lost its
/// commit, another worker can get the same version, but at another time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    pub task: Uuid,
    pub version: i64,
    /// In microseconds since 2000.
    pub start_date: i64,
    /// For how long it was claimed, in microseconds. It tells nothing of who holds the task.
    pub lease: i64,
}

impl Claim {
    /// Parses an element of an argument.
    pub fn parse(argument: &str, text: Option<&str>) -> Claim {
        text.and_then(Claim::from_text).unwrap_or_else(|| {
            errors::invalid_argument(
                argument,
                &json!(text.map(errors::cut)),
                if text.is_some() { "is no claim" } else { "must not be null" },
                "Pass the claim that workflow.claim_tasks() returned, as it is.",
            )
        })
    }

    /// Parses a claim; `None` if it is none.
    pub fn from_text(text: &str) -> Option<Claim> {
        let mut parts = text.split('.');
        let task = uuid::Uuid::try_parse(parts.next()?).ok()?;
        let [version, start_date, lease] = [(); 3].map(|()| parts.next().and_then(|number| number.parse().ok()));
        let claim = Claim { task: Uuid(task.into_bytes()), version: version?, start_date: start_date?, lease: lease? };
        // One spelling for each claim.
        ((1..=LONGEST).contains(&claim.lease) && claim.to_string() == text).then_some(claim)
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.task, self.version, self.start_date, self.lease)
    }
}
