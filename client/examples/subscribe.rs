//! Follows the event feed as a consumer: every event at least once, in order within each entity, including events from
//! before this start. The database stores the consumer's position.
//!
//! ```sh
//! DATABASE_URL=postgres://… cargo run --example subscribe -- 10
//! ```
//!
//! It ends after this number of events; without a number it never ends. It waits for an unavailable server.

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::future::ready;

use pg_workflow_client::State;
use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::event::Event;
use pg_workflow_client::subscriber::Subscriber;
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let wanted: u64 = std::env::args().nth(1).map_or(Ok(u64::MAX), |count| count.parse())?;
    let server = PostgresServer::parse(&std::env::var("DATABASE_URL")?)?;
    let (handled, enough) = (Cell::new(0), CancellationToken::new());

    // An event is acknowledged after this succeeds. After a crash, unacknowledged events are redelivered.
    let handle = |event: Event| {
        let name = event.task_id.as_deref().unwrap_or("the run");
        let state = event.new_state.map_or("deleted", State::as_str);
        println!("{name} is {state} at version {}", event.version);
        handled.set(handled.get() + 1);
        if handled.get() == wanted {
            enough.cancel();
        }
        ready(Ok::<(), Infallible>(()))
    };
    Subscriber::consumer(server, "example").run(handle, enough.clone()).await;
    Ok(())
}
