//! Sessions that are idle in a transaction, as an application with a large pool leaves them.

use anyhow::Result;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Config, NoTls};

/// One of so many has a transaction ID, which every snapshot names.
const WITH_ID: usize = 10;

/// Idle sessions, which connect again after an error. Dropping them ends them.
#[derive(Debug)]
pub struct Idlers {
    _runtime: Runtime,
}

impl Idlers {
    pub fn start(url: &str, count: usize) -> Result<Idlers> {
        let mut config: Config = url.parse()?;
        config.application_name("chaos idler").connect_timeout(Duration::from_secs(3));
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("idlers").enable_all().build()?;
        for number in 0..count {
            let config = config.clone();
            runtime.spawn(async move {
                loop {
                    // Not all at once: each connection starts a process.
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..5 * count as u64 + 500))).await;
                    let _ = idle(&config, number % WITH_ID == 0).await;
                }
            });
        }
        Ok(Idlers { _runtime: runtime })
    }
}

/// Stays in a transaction until the connection ends.
async fn idle(config: &Config, has_id: bool) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    let begin = async {
        client.batch_execute(if has_id { "BEGIN; SELECT pg_current_xact_id()" } else { "BEGIN; SELECT 1" }).await
    };
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        begun = begin => begun?,
    }
    let ended = connection.await;
    // Until here: dropping it ends the session.
    drop(client);
    ended
}
