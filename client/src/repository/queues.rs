use tokio_postgres::types::Type;

use crate::Error;
use crate::list::query::{Plan, Query, Way};
use crate::list::{ListOptions, OrderBy, Page, QueueFilter, QueueSort};
use crate::model::Queue;
use crate::session::Session;

/// The queues of a database, from which workers claim tasks.
///
/// ```no_run
/// use pg_workflow_client::{Error, Queues, list::ListOptions, session::Session};
///
/// # async fn example(session: &impl Session) -> Result<(), Error> {
/// for queue in Queues::new(session).list(&Default::default(), &ListOptions::default()).await?.items {
///     println!("{}: {} ready, {} running", queue.name, queue.ready, queue.running);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Queues<'a, S>(&'a S);

impl<'a, S: Session> Queues<'a, S> {
    /// Uses this session.
    pub fn new(session: &'a S) -> Queues<'a, S> {
        Queues(session)
    }

    /// Lists queues by name. It counts their tasks: the more wait, the longer this takes.
    ///
    /// # Errors
    /// Returns [`Error::Cursor`] if the cursor is not one of this list; [`Error::Denied`], [`Error::Postgres`] or
    /// [`Error::Timeout`] as every method.
    pub async fn list(&self, filter: &QueueFilter, page: &ListOptions<QueueSort>) -> Result<Page<Queue>, Error> {
        let order = page.order_by.unwrap_or(OrderBy::ascending(QueueSort::Name));
        let mut query = Query::default();
        query.and("t.name = $", &filter.name, Type::TEXT);
        query.list(self.0, &[], page, Plan { order, keys: &[1, 0], way: Way::Order }).await
    }
}
