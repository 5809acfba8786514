//! Following what happens: every event at least once, in order within each entity, also what happened while nobody
//! followed. The database keeps the place under the name of the consumer.
//!
//! ```sh
//! DATABASE_URL=postgres://… cargo run --example subscribe -- 10
//! ```
//!
//! It ends after so many events, or never where no number is given. A server that goes away is waited for.

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::future::ready;

use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::event::Event;
use pg_workflow_client::subscriber::Subscriber;
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let wanted: u64 = std::env::args().nth(1).map_or(Ok(u64::MAX), |count| count.parse())?;
    let server = PostgresServer::parse(&std::env::var("DATABASE_URL")?)?;
    let (handled, enough) = (Cell::new(0), CancellationToken::new());

    // An event counts as handled when this has succeeded: only then the next comes, and after a crash the same again.
    let handle = |event: Event| {
        let name = event.task_id.as_deref().unwrap_or("the run");
        println!("{name} is {} at version {}", event.new_state, event.version);
        handled.set(handled.get() + 1);
        if handled.get() == wanted {
            enough.cancel();
        }
        ready(Ok::<(), Infallible>(()))
    };
    Subscriber::consumer(server, "example").run(handle, enough.clone()).await;
    Ok(())
}
