//! The feed without a consumer: the reader keeps the position.

use tokio_postgres::Client;

use crate::Error;
use crate::connect::{STATEMENT_TIMEOUT, within};
use crate::event::Event;

/// Reads the events after a position. Parameters: the position, how many, how many seconds to wait. The column `position` of
/// the last row is the next position.
pub fn read_sql() -> String {
    format!(
        "SELECT {}, \"position\" FROM workflow.follow_events($1, $2, pg_catalog.make_interval(secs => $3))",
        Event::COLUMNS
    )
}

/// The position after all that has committed so far.
pub async fn current(client: &Client) -> Result<String, Error> {
    let row = async { client.query_one("SELECT workflow.current_position()", &[]).await };
    Ok(within(STATEMENT_TIMEOUT, row).await?.try_get(0)?)
}
