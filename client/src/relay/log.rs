//! The log lines of a relay, and its status for HTTP.

use std::sync::Arc;
use std::time::Duration;

use super::unrest::Unrest;
use super::{Failure, Role, Status};
use crate::Error;
use crate::outage::{Backoff, Outage};

/// Logs outages once and keeps the status up to date.
pub struct Log {
    status: Arc<Status>,
    /// The name of the destination.
    destination: String,
    postgres: Outage,
    publisher: Outage,
    unrest: Unrest,
    /// The role that the log names. A leader that is rejected and leads again is not news.
    logged_role: Role,
    /// A feed is open.
    is_open: bool,
    /// PostgreSQL opens the feed, but rejects reading it, or waits there for a standby: to open it does not end the outage.
    postgres_rejects: bool,
    /// The destination responds, but rejects events: a response alone does not end the outage.
    publisher_rejects: bool,
    /// The event that cannot be delivered, once it is logged.
    undeliverable: Option<i64>,
    pub backoff: Backoff,
}

impl Log {
    pub fn new(publisher: &str, status: Arc<Status>) -> Log {
        Log {
            status,
            destination: publisher.to_owned(),
            postgres: Outage::of("PostgreSQL"),
            publisher: Outage::of(publisher),
            unrest: Unrest::default(),
            logged_role: Role::Starting,
            is_open: false,
            postgres_rejects: false,
            publisher_rejects: false,
            undeliverable: None,
            backoff: Backoff::new(),
        }
    }

    pub fn failed(&mut self, failure: &Failure) {
        self.status.update(|state| state.role = Role::Starting);
        let was_open = std::mem::take(&mut self.is_open);
        match failure {
            Failure::Publisher(error) => self.publisher_failed(error),
            // Not an outage: this relay was too slow to renew the lease.
            Failure::Feed(Error::Leased { .. }) => {
                tracing::info!("lost the lease: another relay leads");
                self.logged_role = Role::Starting;
            }
            Failure::Feed(error) => {
                let is_stuck = error.is_rejection() || matches!(error, Error::Timeout(_));
                self.postgres_rejects = was_open && is_stuck;
                self.postgres.began(error);
                self.status.update(|state| state.postgres_error = Some(with_hint(error)));
            }
        }
    }

    fn publisher_failed(&mut self, error: &Error) {
        self.publisher_rejects = error.is_rejection();
        self.publisher.began(error);
        self.status.update(|state| state.publisher_error = Some(with_hint(error)));
    }

    /// Notes that the destination ends elsewhere than expected; returns the pause before the comparison.
    pub fn destination_moved(&mut self) -> Duration {
        let pause = self.unrest.count();
        if self.unrest.is_on() {
            self.publisher_failed(&Error::Unstable { destination: self.destination.clone() });
        }
        pause
    }

    /// Logs an [`Error::Undeliverable`], once for each event.
    pub fn cannot_deliver(&mut self, error: &Error) {
        let Error::Undeliverable { consumer, event_id, .. } = error else { return };
        if self.undeliverable.replace(*event_id) != Some(*event_id) {
            tracing::error!(
                "{error}; retrying. Correct that event, or skip it knowingly, as an administrator: SELECT \
                 workflow.skip_event('{}', {event_id})",
                consumer.replace('\'', "''")
            );
        }
        self.status.update(|state| state.postgres_error = Some(with_hint(error)));
    }

    pub fn postgres_responds(&mut self) {
        self.is_open = true;
        if !self.postgres_rejects {
            self.postgres_delivers();
        }
    }

    pub fn postgres_delivers(&mut self) {
        self.postgres_rejects = false;
        self.postgres.ended();
        self.status.update(|state| state.postgres_error = None);
    }

    pub fn publisher_responds(&mut self) {
        if !self.publisher_rejects {
            self.publisher_accepts_events();
        }
    }

    pub fn publisher_accepts_events(&mut self) {
        if self.unrest.is_on() {
            return;
        }
        self.publisher_rejects = false;
        self.undeliverable = None;
        self.publisher.ended();
        self.backoff.reset();
        self.status.update(|state| state.publisher_error = None);
    }

    pub fn set_role(&mut self, role: Role) {
        if std::mem::replace(&mut self.logged_role, role) != role {
            match role {
                Role::Leader => tracing::info!("became leader"),
                _ => tracing::info!("became standby: another relay leads"),
            }
        }
        self.status.update(|state| state.role = role);
    }

    pub fn count_comparison(&self) {
        self.status.update(|state| state.comparisons += 1);
    }

    pub fn count_published(&self, events: usize) {
        self.status.update(|state| state.count_batch(events));
    }
}

fn with_hint(error: &Error) -> String {
    format!("{error}. {}", error.hint())
}
