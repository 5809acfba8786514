//! Drops the relay's consumer while the database is replaced.

use anyhow::Result;
use std::thread::sleep;

use super::fault::Dropped;
use super::loss::wait;
use super::world::World;
use crate::chaos::cluster::DATABASE;

pub const DROP: &str = "DELETE FROM workflow.consumers WHERE name = 'relay'";

/// Drops it in the database that is about to be lost.
pub fn drop_before(world: &World, dropped: Option<Dropped>) -> Result<()> {
    if dropped == Some(Dropped::Before) {
        world.primary.psql(DATABASE, DROP)?;
    }
    Ok(())
}

/// Waits until a relay says that it is gone, and creates it again as an operator does.
pub fn create_again(world: &World, dropped: Option<Dropped>) -> Result<()> {
    let Some(Dropped::After(down)) = dropped else { return Ok(()) };
    let is_gone = |(status, body): &(u16, String)| *status == 503 && body.contains("no longer exists");
    wait("a relay is unhealthy without its consumer", || Ok(world.relays.health()?.iter().any(is_gone)))?;
    sleep(down);
    let create = "SELECT workflow.create_consumer('relay', true)";
    world.primary.psql(DATABASE, &format!("{DROP}; {create}"))?;
    Ok(())
}
