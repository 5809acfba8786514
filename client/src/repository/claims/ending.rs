//! How a worker ends its claims.

use std::error::Error as StdError;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::error::postgres;
use crate::repository::seconds;

/// The reason why a task failed, and when it is tried again.
///
/// It can be made from any error, with `?`: the message then has the causes of the error.
///
/// ```
/// use std::time::Duration;
/// use pg_workflow_client::Failure;
///
/// let busy = Failure::new("the source is busy").retry_after(Duration::from_secs(60)).with_metadata("source", "crm");
/// let hopeless = Failure::new("there is no table \"orders\"").without_retry();
///
/// fn read() -> Result<String, Failure> {
///     Ok(std::fs::read_to_string("/etc/hostname")?)
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub(crate) error: String,
    pub(crate) retry: Retry,
    pub(crate) metadata: Map<String, Value>,
}

/// When a failed task that has attempts left is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retry {
    /// After 2 s, 4 s, 8 s and so on up to an hour, by a quarter more or less.
    #[default]
    Backoff,
    /// After this time.
    After(Duration),
    /// Never: the task is failed.
    Never,
}

impl Retry {
    /// Returns the seconds as the functions of the database expect them.
    pub(crate) fn seconds(self) -> Option<f64> {
        match self {
            Retry::Backoff => None,
            Retry::After(time) => Some(seconds(time)),
            Retry::Never => Some(-1.0),
        }
    }
}

impl Failure {
    /// Creates a failure with this message. If attempts are left, the database chooses when to retry.
    pub fn new(error: impl Into<String>) -> Failure {
        Failure { error: error.into(), retry: Retry::default(), metadata: Map::new() }
    }

    /// Retries after this time, if attempts are left.
    pub fn retry_after(mut self, time: Duration) -> Failure {
        self.retry = Retry::After(time);
        self
    }

    /// Does not retry, even if attempts are left.
    pub fn without_retry(mut self) -> Failure {
        self.retry = Retry::Never;
        self
    }

    /// Adds metadata, which the history stores.
    pub fn with_metadata(mut self, key: &str, value: impl Into<Value>) -> Failure {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// Returns the message.
    pub fn error(&self) -> &str {
        &self.error
    }
}

// So `Failure` is no error itself.
impl<E: StdError + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        let mut message = String::new();
        let mut next: Option<&(dyn StdError + 'static)> = Some(&error);
        while let Some(error) = next {
            let of_driver = error.downcast_ref::<tokio_postgres::Error>();
            let text = of_driver.map_or_else(|| error.to_string(), postgres::message);
            // Some errors have their causes in their own messages.
            if !message.contains(&text) {
                let colon = if message.is_empty() { "" } else { ": " };
                message = format!("{message}{colon}{text}");
            }
            next = error.source().filter(|_| of_driver.is_none());
        }
        Failure::new(message)
    }
}

/// The end of one of many claims.
///
/// ```
/// use pg_workflow_client::{Failure, Finish};
/// use serde_json::json;
///
/// # let (one, other) = ("a claim", "another claim");
/// let ends = [
///     Finish::success(one, json!({"rows": 7})),
///     Finish::failure(other, Failure::new("disk full")),
/// ];
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    claim: String,
    end: Result<Value, Failure>,
}

impl Finish {
    /// Ends a claim with a result: a JSON object, which the history stores as the metadata of the transition.
    pub fn success(claim: impl Into<String>, result: Value) -> Finish {
        Finish { claim: claim.into(), end: Ok(result) }
    }

    /// Ends a claim with an error.
    pub fn failure(claim: impl Into<String>, failure: Failure) -> Finish {
        Finish { claim: claim.into(), end: Err(failure) }
    }

    /// Returns the claim.
    pub fn claim(&self) -> &str {
        &self.claim
    }

    /// Returns whether the task succeeded.
    pub fn is_success(&self) -> bool {
        self.end.is_ok()
    }
}

/// Writes an element of the argument of `finish_claims()`.
impl Serialize for Finish {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let claim = &self.claim;
        let element = match &self.end {
            Ok(result) => json!({"claim": claim, "state": "success", "result": result}),
            Err(Failure { error, retry, metadata }) => {
                let retry_after = retry.seconds();
                json!({"claim": claim, "state": "failed", "result": metadata, "error": error, "retry_after": retry_after})
            }
        };
        element.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_has_each_cause_of_its_error_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read {0}")]
        struct Unreadable(&'static str, #[source] std::io::Error);
        let full = || std::io::Error::other("it is full");
        assert_eq!(Failure::from(Unreadable("the source", full())).error(), "cannot read the source: it is full");
        assert_eq!(Failure::from(Unreadable("it is full", full())).error(), "cannot read it is full");
    }
}
