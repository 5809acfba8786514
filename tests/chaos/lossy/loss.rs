//! Makes the database lose the events of the last seconds.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use xtask::command::run;
use xtask::stack::postgres::{Postgres, Shutdown};
use xtask::stack::process::clean_environment;
use xtask::stack::scratch::Scratch;

use super::drop::{create_again, drop_before};
use super::fault::{By, Cluster, Fault, Loss};
use super::relays::adopt;
use super::world::{World, now, start_cluster};
use crate::PATIENCE;
use crate::chaos::cluster::DATABASE;

/// Loses events, and does as an operator does until everything runs again.
pub fn lose(world: &mut World, fault: &Fault, loss: Loss) -> Result<()> {
    match loss.by {
        By::Promotion { is_paused } => promote(world, fault, loss, is_paused)?,
        By::ColdCopy => restore_copy(world, fault, loss)?,
        By::PointInTime => recover(world, fault, loss)?,
        By::Dump(cluster) => restore_dump(world, fault, loss, cluster)?,
    }
    create_again(world, loss.dropped)?;
    if matches!(loss.by, By::Dump(_)) { adopt(world) } else { Ok(()) }
}

/// Waits until the backup has the age of the fault.
fn age(world: &World, loss: Loss) -> Result<()> {
    sleep(loss.age / 2);
    drop_before(world, loss.dropped)?;
    sleep(loss.age / 2);
    Ok(())
}

fn promote(world: &mut World, fault: &Fault, loss: Loss, is_paused: bool) -> Result<()> {
    let standby = world.primary.standby("lossy")?;
    let from = now();
    let written = world.primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()")?;
    let has_all = format!("SELECT pg_last_wal_receive_lsn() >= '{written}'");
    wait("the standby has received the log", || Ok(standby.psql("postgres", &has_all)? == "t"))?;
    cut_off(&world.primary, &standby, is_paused)?;
    age(world, loss)?;
    world.lose(fault, from, |world| {
        world.primary.kill()?;
        standby.promote()?;
        world.primary = standby;
        Ok(())
    })
}

/// Ends the connection of a standby to its primary. A paused standby has then received more than it has replayed.
fn cut_off(primary: &Postgres, standby: &Postgres, is_paused: bool) -> Result<()> {
    if is_paused {
        standby.psql("postgres", "SELECT pg_wal_replay_pause()")?;
        let state = "SELECT pg_get_wal_replay_pause_state()";
        wait("replay is paused", || Ok(standby.psql("postgres", state)? == "paused"))?;
        // The process that would connect again is the one that is paused.
        primary.psql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_replication")?;
    } else {
        standby.psql("postgres", "ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()")?;
    }
    let receives = "SELECT count(*) FROM pg_stat_wal_receiver";
    wait("the standby receives nothing", || Ok(standby.psql("postgres", receives)? == "0"))
}

fn restore_copy(world: &mut World, fault: &Fault, loss: Loss) -> Result<()> {
    let folder = Scratch::new("lossy-copy")?;
    let (data, copy) = (world.primary.data(), folder.path().join("data"));
    let from = now();
    world.primary.stop(Shutdown::Fast)?;
    copy_folder(&data, &copy)?;
    world.primary.start_again()?;
    age(world, loss)?;
    world.lose(fault, from, |world| {
        world.primary.stop(Shutdown::Immediate)?;
        std::fs::remove_dir_all(&data)?;
        copy_folder(&copy, &data)?;
        world.primary.start_again()
    })
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-a").args([from, to]))?;
    Ok(())
}

fn recover(world: &mut World, fault: &Fault, loss: Loss) -> Result<()> {
    let recovered = world.primary.standby("lossy")?;
    recovered.stop(Shutdown::Fast)?;
    let from = now();
    world.primary.psql("postgres", "SELECT pg_create_restore_point('here')")?;
    age(world, loss)?;
    world.lose(fault, from, |world| {
        world.primary.psql("postgres", "SELECT pg_switch_wal()")?;
        world.primary.stop(Shutdown::Immediate)?;
        let copy = format!("cp {}/pg_wal/%f %p", world.primary.data().display());
        let goal = [("restore_command", &*copy), ("recovery_target_name", "here")];
        recovered.configure(&[&goal[..], &[("recovery_target_action", "promote")]].concat())?;
        let signal = |name: &str| recovered.data().join(name);
        std::fs::rename(signal("standby.signal"), signal("recovery.signal"))?;
        recovered.start_again()?;
        let is_open = "SELECT NOT pg_is_in_recovery()";
        wait("the recovery has ended", || Ok(recovered.psql("postgres", is_open)? == "t"))?;
        // Standbys of this one copy its settings.
        recovered.configure(&[("restore_command", ""), ("recovery_target_name", "")])?;
        world.primary = recovered;
        Ok(())
    })
}

/// As docs/operations/backup.md says.
fn restore_dump(world: &mut World, fault: &Fault, loss: Loss, cluster: Cluster) -> Result<()> {
    let folder = Scratch::new("lossy-dump")?;
    let file = folder.path().join("dump");
    let from = now();
    let mut dump = program(&world.primary, "pg_dump");
    run(dump.args(["-Fc", "--dbname", &world.primary.url(DATABASE), "--file"]).arg(&file))?;
    let elsewhere = if cluster == Cluster::Other { Some(start_cluster()?) } else { None };
    age(world, loss)?;
    world.lose(fault, from, |world| {
        let target = elsewhere.as_ref().unwrap_or(&world.primary);
        let copy = target.create_database("workflow_copy")?;
        run(program(target, "pg_restore").args(["--dbname", &copy]).arg(&file))?;
        target.psql("workflow_copy", "SELECT workflow.finish_copy()")?;
        target.psql("postgres", &format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"))?;
        target.psql("postgres", &format!("ALTER DATABASE workflow_copy RENAME TO {DATABASE}"))?;
        if let Some(other) = elsewhere {
            world.primary = other;
        }
        Ok(())
    })
}

fn program(cluster: &Postgres, name: &str) -> Command {
    let mut command = Command::new(cluster.install().program(name));
    clean_environment(&mut command);
    command
}

/// Waits until a condition holds.
pub fn wait(goal: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition().with_context(|| goal.to_owned())? {
        ensure!(Instant::now() < deadline, "waited in vain: {goal}");
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
