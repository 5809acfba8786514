//! Sentinel: finds the master, and notices when it changes.
//!
//! The client for Sentinel in the crate `redis` requires the master's name. It checks the master only before it connects:
//! an open connection would keep writing to the old one.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ConnectionAddr, ConnectionInfo, RedisResult, cmd};
use tokio::task::JoinHandle;

use super::RedisServer;
use super::discovery::{Limits, Role, refusal};

/// How often a sentinel is asked for the current master.
const INTERVAL: Duration = Duration::from_secs(1);

impl RedisServer {
    /// Asks a sentinel for the master's address. The master is reached with TLS, user, password and database of the
    /// sentinel's URL.
    pub(super) async fn find_master(
        &self,
        mut sentinel: MultiplexedConnection,
        address: &ConnectionInfo,
        limits: Limits,
    ) -> RedisResult<ConnectionInfo> {
        let asking = async {
            let name = match &self.sentinel_master {
                Some(name) => name.clone(),
                None => only_master(&mut sentinel, address).await?,
            };
            let mut command = cmd("SENTINEL");
            command.arg("GET-MASTER-ADDR-BY-NAME").arg(&name);
            let found: Option<(String, u16)> = command.query_async(&mut sentinel).await?;
            let Some((host, port)) = found else {
                let known = masters(&mut sentinel).await?.join(", ");
                let text = format!("the sentinel at {} knows no master {name:?}, only: {known}", address.addr());
                return Err(refusal("SENTINEL", text));
            };
            Ok(address.clone().set_addr(with_tls_as(address.addr(), host, port)))
        };
        let too_late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "no response from the sentinel").into());
        tokio::time::timeout(limits.connect, asking).await.unwrap_or_else(too_late)
    }

    /// Returns the master that the first responding sentinel names.
    async fn current_master(&self, limits: Limits) -> Option<ConnectionInfo> {
        for address in &self.addresses {
            let Ok((sentinel, Role::Sentinel)) = self.ask(address, limits).await else { continue };
            if let Ok(master) = self.find_master(sentinel, address, limits).await {
                return Some(master);
            }
        }
        None
    }
}

/// Asks the sentinels repeatedly until it is dropped.
///
/// After a failover the old master accepts writes for about 10 s, which are lost when Sentinel makes it a replica.
pub struct Watch {
    /// Empty while the master is the same.
    successor: Arc<OnceLock<String>>,
    task: JoinHandle<()>,
}

impl Watch {
    pub fn start(server: RedisServer, master: &ConnectionInfo, limits: Limits) -> Watch {
        let successor = Arc::new(OnceLock::new());
        let (found, master) = (successor.clone(), master.addr().clone());
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                // Without sentinels there is no failover: the connection stays in use.
                match server.current_master(limits).await {
                    Some(current) if *current.addr() != master => break drop(found.set(current.addr().to_string())),
                    _ => {}
                }
            }
        });
        Watch { successor, task }
    }

    /// Returns an error after the master has changed.
    pub fn check(&self) -> RedisResult<()> {
        match self.successor.get() {
            Some(master) => Err(refusal("FAILOVER", format!("the master is now {master}"))),
            None => Ok(()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn with_tls_as(sentinel: &ConnectionAddr, host: String, port: u16) -> ConnectionAddr {
    match sentinel {
        ConnectionAddr::TcpTls { .. } => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        _ => ConnectionAddr::Tcp(host, port),
    }
}

async fn only_master(sentinel: &mut MultiplexedConnection, address: &ConnectionInfo) -> RedisResult<String> {
    let names = masters(sentinel).await?;
    match names.as_slice() {
        [name] => Ok(name.clone()),
        [] => Err(refusal("SENTINEL", format!("the sentinel at {} watches no master", address.addr()))),
        several => {
            let (address, names) = (address.addr(), several.join(", "));
            Err(refusal("SENTINEL", format!("the sentinel at {address} watches several masters: {names}")))
        }
    }
}

/// Returns the names of the masters that a sentinel watches.
async fn masters(sentinel: &mut MultiplexedConnection) -> RedisResult<Vec<String>> {
    let masters: Vec<HashMap<String, String>> = cmd("SENTINEL").arg("MASTERS").query_async(sentinel).await?;
    let mut names: Vec<String> = masters.into_iter().filter_map(|mut master| master.remove("name")).collect();
    names.sort();
    Ok(names)
}
