//! A relay of another database that is pointed at the stream of this one.

use anyhow::{Context, Result};
use postgres::{Client, NoTls};
use redis::Commands;
use std::thread::sleep;
use std::time::{Duration, Instant};
use xtask::stack::postgres::{FAST, PRELOADED, Postgres};
use xtask::stack::server::Server;

use super::fault::Cluster;
use super::loss::wait;
use super::relays::refused_source;
use super::world::World;
use crate::chaos::evidence::STREAM;
use crate::{create_finished_tasks, server_binary};

const OTHER: &str = "other";

/// Starts a second database with its relay, which must be refused for this time.
pub fn intrude(world: &mut World, cluster: Cluster, stay: Duration) -> Result<()> {
    let elsewhere = match cluster {
        Cluster::Same => None,
        Cluster::Other => Some(Postgres::start("lossy-other", &[FAST, &[PRELOADED]].concat())?),
    };
    let cluster = elsewhere.as_ref().unwrap_or(&world.primary);
    let url = cluster.create_database(OTHER)?;
    cluster.psql(OTHER, "CREATE EXTENSION pg_workflow; SELECT workflow.create_consumer('relay', true)")?;
    let complaints = refused(world, &url, stay)?;
    cluster.psql("postgres", &format!("DROP DATABASE {OTHER} WITH (FORCE)"))?;
    world.complaints.extend(complaints);
    Ok(())
}

/// Both databases write. Returns the findings.
fn refused(world: &World, url: &str, stay: Duration) -> Result<Vec<String>> {
    let mut client = Client::connect(url, NoTls)?;
    let mut redis = redis::Client::open(world.redis.url())?.get_connection()?;
    let mut length = || redis.xlen::<_, u64>(STREAM);
    wait("the relay of this database has written", || Ok(length()? > 0))?;
    create_finished_tasks(&mut client, 5);
    let redis_url = world.redis.url();
    let envs = [("DATABASE_URL", url), ("REDIS_URL", &redis_url), ("WORKFLOW_NO_HTTP", "1")];
    let intruder = Server::start("lossy-intruder", &server_binary(), &["serve"], &envs)?;
    wait("the relay of the other database is refused", || Ok(refused_source(&intruder).is_some()))?;
    let (before, until) = (length()?, Instant::now() + stay);
    while Instant::now() < until {
        create_finished_tasks(&mut client, 5);
        sleep(Duration::from_millis(50));
    }
    wait("the relay of this database continues", || Ok(length()? > before))?;
    let code = intruder.terminate()?.code().context("no exit code")?;
    Ok((code != 0).then(|| format!("the refused relay ended with {code}")).into_iter().collect())
}
