use super::{Published, Publisher};
use crate::Error;
use crate::event::Event;
use crate::publisher::Position;

/// Publishes to two destinations, each at least once: first to one, then to the other.
///
/// If one fails, both get the events again. For three destinations, nest pairs: `(a, (b, c))`.
///
/// ```no_run
/// use pg_workflow_client::publisher::Publisher;
///
/// fn to_both(archive: impl Publisher, bus: impl Publisher) -> impl Publisher {
///     (archive, bus)
/// }
/// ```
impl<A: Publisher, B: Publisher> Publisher for (A, B) {
    fn name(&self) -> String {
        format!("{} or {}", self.0.name(), self.1.name())
    }

    fn describe(&self) -> String {
        format!("{} and {}", self.0.describe(), self.1.describe())
    }

    async fn connect(&mut self) -> Result<(), Error> {
        self.0.connect().await?;
        self.1.connect().await
    }

    async fn begin(&mut self, source: &str) -> Result<(), Error> {
        self.0.begin(source).await?;
        self.1.begin(source).await
    }

    async fn publish(&mut self, events: &[Event], _: Option<Position>) -> Result<Published, Error> {
        self.0.publish(events, None).await?;
        self.1.publish(events, None).await?;
        Ok(Published::Done)
    }

    async fn check(&mut self) -> Result<(), Error> {
        self.0.check().await?;
        self.1.check().await
    }

    /// Nothing is read back from either, so both may remove all old events.
    async fn trim(&mut self, keep_after: Position) -> Result<(), Error> {
        self.0.trim(keep_after).await?;
        self.1.trim(keep_after).await
    }
}
