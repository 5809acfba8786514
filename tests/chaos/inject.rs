//! Injects a fault, and repairs everything afterwards.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::{Client, NoTls};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use xtask::command;
use xtask::stack::postgres::{Postgres, Shutdown};

use super::cluster::DATABASE;
use super::fault::{Contents, Fault, Then, Which, Whose};
use super::link::{Link, Peer};
use super::relay::Relay;
use super::world::World;
use crate::PATIENCE;

/// Tells whether there was a target for the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injected {
    Yes,
    NoTarget,
}

impl Fault {
    /// Injects the fault, and returns once everything runs again; some clients may not have noticed yet.
    pub fn inject(&self, world: &World) -> Result<Injected> {
        match *self {
            Fault::KillRelay { which, down } => kill_relays(&world.chosen(which), down)?,
            Fault::StopRelay { which, time } => {
                let relays = world.chosen(which);
                relays.iter().try_for_each(|relay| relay.signal(Signal::SIGSTOP))?;
                sleep(time);
                relays.iter().try_for_each(|relay| relay.signal(Signal::SIGCONT))?;
            }
            Fault::CutRelay { which, peer, how } => {
                world.chosen(which).iter().for_each(|relay| relay.link.cut(peer, how));
            }
            Fault::BlackholeRelay { which, peer, time, then } => blackhole(&world.links_of(which), peer, time, then),
            Fault::RefuseRelay { which, peer, time } => refuse(&world.links_of(which), peer, time),
            Fault::CutClients { whose, how } => world.clients(whose).cut(Peer::Postgres, how),
            Fault::BlackholeClients { whose, time, then } => {
                blackhole(&[world.clients(whose)], Peer::Postgres, time, then);
            }
            Fault::RestartRedis { with, down } => restart_redis(world, with, down)?,
            Fault::StopRedis { time } => stop_redis(world, || {
                sleep(time);
                Ok(())
            })?,
            Fault::FillRedis { time } => fill_redis(world, time)?,
            Fault::FlushRedis => {
                let mut redis = redis::Client::open(world.redis.url())?.get_connection()?;
                redis::cmd("FLUSHALL").exec(&mut redis)?;
            }
            Fault::DropConsumer { down } => drop_consumer(world, down)?,
            Fault::KillBackend { whose, nth } => {
                return world.cluster.with_primary(|primary| kill_backend(primary, whose, nth));
            }
            Fault::StopBackend { whose, nth, time } => {
                return world.cluster.with_primary(|primary| stop_backend(primary, whose, nth, time));
            }
            Fault::TerminateBackends { whose } => return terminate_backends(world, whose),
            Fault::KillPostmaster { down } => world.cluster.with_primary(|primary| {
                primary.kill()?;
                sleep(down);
                primary.start_again()
            })?,
            Fault::ShutDownAtOnce { down } => world.cluster.with_primary(|primary| {
                primary.stop(Shutdown::Immediate)?;
                sleep(down);
                primary.start_again()
            })?,
            Fault::KillStandby { down } => world.cluster.restart_standby(down)?,
            Fault::SetClock { hours, time } => return set_clock(world, hours, time),
            Fault::Promote => world.cluster.promote(&world.links())?,
        }
        Ok(Injected::Yes)
    }
}

impl World {
    fn chosen(&self, which: Which) -> Vec<&Relay> {
        match which {
            Which::One(number) => vec![&self.relays[number]],
            Which::Both => self.relays.iter().collect(),
        }
    }

    fn clients(&self, whose: Whose) -> &Link {
        match whose {
            Whose::Readers => &self.readers,
            Whose::Workers => &self.workers,
            _ => &self.writers,
        }
    }

    fn links_of(&self, which: Which) -> Vec<&Link> {
        self.chosen(which).into_iter().map(|relay| &relay.link).collect()
    }
}

fn kill_relays(relays: &[&Relay], down: Duration) -> Result<()> {
    relays.iter().try_for_each(|relay| relay.kill())?;
    sleep(down);
    relays.iter().try_for_each(|relay| relay.start_again())
}

fn blackhole(links: &[&Link], peer: Peer, time: Duration, then: Then) {
    let proxies = || links.iter().flat_map(|link| link.to(peer));
    proxies().for_each(|proxy| proxy.blackhole());
    sleep(time);
    if then == Then::IsCut {
        proxies().for_each(|proxy| proxy.refuse());
    }
    proxies().for_each(|proxy| proxy.pass());
}

fn refuse(links: &[&Link], peer: Peer, time: Duration) {
    let proxies = || links.iter().flat_map(|link| link.to(peer));
    proxies().for_each(|proxy| proxy.refuse());
    sleep(time);
    proxies().for_each(|proxy| proxy.pass());
}

fn restart_redis(world: &World, with: Contents, down: Duration) -> Result<()> {
    let files = world.redis.data_dir().join("appendonlydir");
    let copy = world.redis.data_dir().join("copy");
    if let Contents::Older(age) = with {
        // Redis must not write during the copy.
        stop_redis(world, || {
            command::run(Command::new("cp").arg("-a").arg(&files).arg(&copy))?;
            Ok(())
        })?;
        sleep(age);
    }
    world.redis.kill()?;
    if with != Contents::All {
        std::fs::remove_dir_all(&files)?;
    }
    if let Contents::Older(_) = with {
        std::fs::rename(&copy, &files)?;
    }
    sleep(down);
    world.redis.start_again()
}

fn stop_redis(world: &World, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let pid = Pid::from_raw(world.redis.pid().context("Redis does not run")?.cast_signed());
    kill(pid, Signal::SIGSTOP)?;
    let outcome = meanwhile();
    kill(pid, Signal::SIGCONT)?;
    outcome
}

fn fill_redis(world: &World, time: Duration) -> Result<()> {
    let mut redis = redis::Client::open(world.redis.url())?.get_connection()?;
    let mut set = |limit: &str| redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(limit).exec(&mut redis);
    set("1mb")?;
    sleep(time);
    set("0")?;
    Ok(())
}

fn set_clock(world: &World, hours: i64, time: Duration) -> Result<Injected> {
    let Some(clock) = &world.cluster.clock else { return Ok(Injected::NoTarget) };
    clock.set_ahead(hours * 3600)?;
    sleep(time);
    clock.set_ahead(0)?;
    Ok(Injected::Yes)
}

fn drop_consumer(world: &World, down: Duration) -> Result<()> {
    let mut client = Client::connect(&world.database_url()?, NoTls)?;
    let drop = "DELETE FROM workflow.consumers WHERE name = 'relay'";
    client.batch_execute(drop)?;
    sleep(down);
    // A relay that was restarted meanwhile has created one that skips events.
    client.batch_execute(&format!("{drop}; SELECT workflow.create_consumer('relay', true)"))?;
    Ok(())
}

/// Returns the condition in `pg_stat_activity` that selects these sessions.
fn sessions(whose: Whose) -> &'static str {
    match whose {
        Whose::Writers => "application_name LIKE 'chaos writer%'",
        Whose::Workers => "application_name LIKE 'chaos worker%'",
        Whose::Relays => {
            "backend_type = 'client backend' AND application_name NOT LIKE 'chaos%' AND pid <> pg_backend_pid()"
        }
        Whose::Readers => "application_name LIKE 'chaos reader%'",
        Whose::Notifier => "backend_type = 'pg_workflow notifier'",
    }
}

/// Returns the process of one of these sessions.
fn backend(client: &mut Client, whose: Whose, nth: u32) -> Result<Option<Pid>> {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE datname = $1 AND {} ORDER BY pid", sessions(whose));
    let pids: Vec<i32> = client.query(&sql, &[&DATABASE])?.iter().map(|row| row.get(0)).collect();
    let index = (nth as usize).checked_rem(pids.len());
    Ok(index.map(|index| Pid::from_raw(pids[index])))
}

/// Kills one backend, so that the postmaster restarts all of them.
fn kill_backend(primary: &Postgres, whose: Whose, nth: u32) -> Result<Injected> {
    let mut client = Client::connect(&primary.url(DATABASE), NoTls)?;
    let Some(pid) = backend(&mut client, whose, nth)? else { return Ok(Injected::NoTarget) };
    kill(pid, Signal::SIGKILL)?;
    // Our own connection breaks when the restart begins.
    let deadline = Instant::now() + PATIENCE;
    while client.simple_query("SELECT pg_sleep(0.01)").is_ok() {
        ensure!(Instant::now() < deadline, "the postmaster did not notice that a backend was killed");
    }
    primary.wait_recovered()?;
    Ok(Injected::Yes)
}

fn stop_backend(primary: &Postgres, whose: Whose, nth: u32, time: Duration) -> Result<Injected> {
    let mut client = Client::connect(&primary.url(DATABASE), NoTls)?;
    let Some(pid) = backend(&mut client, whose, nth)? else { return Ok(Injected::NoTarget) };
    kill(pid, Signal::SIGSTOP)?;
    sleep(time);
    kill(pid, Signal::SIGCONT)?;
    Ok(Injected::Yes)
}

fn terminate_backends(world: &World, whose: Whose) -> Result<Injected> {
    let mut client = Client::connect(&world.database_url()?, NoTls)?;
    let sql = format!(
        "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1 AND {}",
        sessions(whose)
    );
    let count: i64 = client.query_one(&sql, &[&DATABASE])?.get(0);
    Ok(if count > 0 { Injected::Yes } else { Injected::NoTarget })
}
