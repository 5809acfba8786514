//! The log lines of a relay, and its status for HTTP.

use std::sync::Arc;

use chrono::Utc;

use super::{Failure, Role, Status};
use crate::Error;
use crate::outage::{Backoff, Outage};

/// Logs outages once and keeps the status up to date.
pub struct Log {
    status: Arc<Status>,
    postgres: Outage,
    publisher: Outage,
    /// A feed is open.
    is_open: bool,
    /// PostgreSQL opens the feed, but rejects reading it: to open it does not end the outage.
    postgres_rejects: bool,
    /// The destination responds, but rejects events: a response alone does not end the outage.
    publisher_rejects: bool,
    /// The event that cannot be delivered, once it is logged.
    undeliverable: Option<i64>,
    pub backoff: Backoff,
}

impl Log {
    pub fn new(publisher: &str, status: Arc<Status>) -> Log {
        let (postgres, publisher) = (Outage::of("PostgreSQL"), Outage::of(publisher));
        let (is_open, postgres_rejects, publisher_rejects) = (false, false, false);
        let (undeliverable, backoff) = (None, Backoff::new());
        Log { status, postgres, publisher, is_open, postgres_rejects, publisher_rejects, undeliverable, backoff }
    }

    pub fn failed(&mut self, failure: &Failure) {
        self.status.update(|state| state.role = Role::Starting);
        let was_open = std::mem::take(&mut self.is_open);
        match failure {
            Failure::Publisher(error) => {
                self.publisher_rejects = error.is_rejection();
                self.publisher.began(error);
                self.status.update(|state| state.publisher_error = Some(with_hint(error)));
            }
            // Not an outage: this relay was too slow to renew the lease.
            Failure::Feed(Error::Leased { .. }) => tracing::info!("lost the lease: another relay leads"),
            Failure::Feed(error) => {
                self.postgres_rejects = was_open && error.is_rejection();
                self.postgres.began(error);
                self.status.update(|state| state.postgres_error = Some(with_hint(error)));
            }
        }
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
        self.publisher_rejects = false;
        self.undeliverable = None;
        self.publisher.ended();
        self.backoff.reset();
        self.status.update(|state| state.publisher_error = None);
    }

    pub fn set_role(&self, role: Role) {
        if self.status.get().role != role {
            match role {
                Role::Leader => tracing::info!("became leader"),
                _ => tracing::info!("became standby: another relay leads"),
            }
            self.status.update(|state| state.role = role);
        }
    }

    pub fn count_comparison(&self) {
        self.status.update(|state| state.comparisons += 1);
    }

    pub fn count_published(&self, events: usize) {
        self.status.update(|state| {
            state.published += events as u64;
            state.last_publish = Some(Utc::now());
        });
    }
}

fn with_hint(error: &Error) -> String {
    format!("{error}. {}", error.hint())
}
