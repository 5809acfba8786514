//! A private Redis cluster: three masters, which have the slots among them.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::port;
use super::process::PATIENCE;
use super::redis::Redis;

const NODES: usize = 3;
const SLOTS: usize = 16384;
/// After how long without an answer a node counts as gone.
const NODE_TIMEOUT: &str = "2000";

/// A cluster that runs. Dropping it stops it.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts it, and waits until its nodes agree that all slots are served.
    pub fn start(name: &str) -> Result<Self> {
        let nodes = (0..NODES).map(|_| start_node(name)).collect::<Result<Vec<_>>>()?;
        let cluster = Self { nodes };
        cluster.join()?;
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// The URLs of all nodes, with commas between them.
    pub fn url(&self) -> String {
        self.nodes.iter().map(|node| node.url()).collect::<Vec<_>>().join(",")
    }

    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// The node that has a key or, for it was once a key to clients, a channel.
    pub fn owner(&self, key: &str) -> Result<&Redis> {
        let slot: usize = self.nodes[0].command(&["CLUSTER", "KEYSLOT", key])?;
        Ok(&self.nodes[slot * NODES / SLOTS])
    }

    /// Gives each node its slots and lets the first one meet the others.
    fn join(&self) -> Result<()> {
        for (index, node) in self.nodes.iter().enumerate() {
            // Rounded so that owner() rounds the same way.
            let first = |index: usize| (index * SLOTS).div_ceil(NODES);
            let (from, to) = (first(index).to_string(), (first(index + 1) - 1).to_string());
            let epoch = (index + 1).to_string();
            node.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", &from, &to])?;
            node.command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch])?;
        }
        for node in &self.nodes[1..] {
            let (port, bus) = (node.port().to_string(), bus_port(node)?);
            self.nodes[0].command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])?;
        }
        Ok(())
    }

    fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let is_ready = |node: &Redis| -> Result<bool> {
            let info: String = node.command(&["CLUSTER", "INFO"])?;
            Ok(info.contains("cluster_state:ok") && info.contains(&format!("cluster_known_nodes:{NODES}")))
        };
        for node in &self.nodes {
            while !is_ready(node)? {
                if Instant::now() >= deadline {
                    bail!("the cluster is not ready; see {}", node.log().display());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

/// With a bus port of its own choice: the usual one, 10,000 above the other, may be taken.
fn start_node(name: &str) -> Result<Redis> {
    port::retrying(|bus| {
        let bus = bus.to_string();
        let timeout = ["--cluster-node-timeout", NODE_TIMEOUT];
        let args = [&["--cluster-enabled", "yes", "--cluster-port", &bus], &timeout[..]].concat();
        Redis::start_with(name, &args)
    })
}

fn bus_port(node: &Redis) -> Result<String> {
    let (_, port): (String, String) = node.command(&["CONFIG", "GET", "cluster-port"])?;
    Ok(port)
}
