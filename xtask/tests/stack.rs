//! The stack's promises, on real servers.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::stack::{FAST, Postgres, Redis, RedisCluster, RedisSentinel, Server, Shutdown};

#[test]
fn postgres_keeps_its_data_and_port() -> Result<()> {
    let postgres = Postgres::start("test", FAST)?;
    let (url, data) = (postgres.create_database("my db")?, postgres.data());
    assert!(url.ends_with(&format!("127.0.0.1:{}/my%20db", postgres.port())));
    assert_eq!(postgres.psql("my db", "SELECT 1; SHOW fsync")?, "1\noff");

    postgres.psql("my db", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (0)")?;
    for (first, how) in [Shutdown::Smart, Shutdown::Fast, Shutdown::Immediate].into_iter().enumerate() {
        postgres.psql("my db", "UPDATE kept SET n = n + 1")?;
        postgres.stop(how)?;
        assert!(postgres.pid().is_none() && postgres.psql("my db", "SELECT 1").is_err());
        postgres.start_again()?;
        assert_eq!(postgres.psql("my db", "SELECT n FROM kept")?, (first + 1).to_string(), "after {how:?}");
    }

    // Not before its backends are gone too could it be started again on the same data.
    let mut busy = postgres.psql_command("my db");
    busy.args(["-c", "SELECT 'connected'", "-c", "SELECT pg_sleep(60)"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut busy = busy.spawn()?;
    assert_eq!(BufReader::new(busy.stdout.take().unwrap()).lines().next().unwrap()?, "connected");
    let before = postgres.pid();
    postgres.psql("my db", "UPDATE kept SET n = 42")?;
    postgres.kill()?;
    postgres.start_again()?;
    assert_ne!(postgres.pid(), before);
    assert_eq!(postgres.psql("my db", "SELECT n FROM kept")?, "42");
    busy.wait()?;

    let socket = postgres.socket_dir().to_owned();
    let mut local = Command::new(postgres.install().program("psql"));
    local.args(["-XAt", "-U", "postgres", "-p", &postgres.port().to_string(), "-c", "SELECT 1", "-h"]).arg(&socket);
    ensure!(local.output()?.stdout == b"1\n", "no connection through the Unix socket");

    drop(postgres);
    assert!(!data.exists() && !socket.exists());
    Ok(())
}

#[test]
fn a_standby_takes_over_with_all_that_was_committed() -> Result<()> {
    let first = Postgres::start("test", FAST)?;
    first.psql("postgres", "CREATE TABLE kept (n int)")?;
    let second = first.standby("test-standby")?;
    assert!(second.psql("postgres", "INSERT INTO kept VALUES (0)").is_err(), "it only follows");
    first.wait_for_standby()?;
    first.psql("postgres", "INSERT INTO kept VALUES (1)")?;
    first.kill()?;
    second.promote()?;
    assert_eq!(second.psql("postgres", "INSERT INTO kept VALUES (2); SELECT sum(n) FROM kept")?, "3");
    // And so on.
    let third = second.standby("test-standby")?;
    second.wait_for_standby()?;
    assert_eq!(third.psql("postgres", "SHOW synchronous_standby_names; SELECT pg_is_in_recovery()")?, "\nt");
    Ok(())
}

#[test]
fn an_error_in_sql_is_an_error_with_its_text() -> Result<()> {
    let postgres = Postgres::start("test", FAST)?;
    let error = postgres.psql("postgres", "SELECT 1; SELECT 1/0; SELECT 2").unwrap_err().to_string();
    assert!(error.contains("division by zero"), "{error}");
    Ok(())
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let error = Postgres::start("test", &[("max_connections", "many")]).unwrap_err();
    assert!(format!("{error:#}").contains("invalid value for parameter \"max_connections\""), "{error:#}");
}

#[test]
fn redis_comes_back_on_its_port() -> Result<()> {
    let redis = Redis::start("test")?;
    let (url, first) = (redis.url(), redis.pid());
    redis.stop()?;
    redis.start_again()?;
    redis.kill()?;
    assert!(redis.start_again().is_ok() && redis.start_again().is_err());
    assert_eq!(redis.url(), url);
    assert_ne!(redis.pid(), first);
    Ok(())
}

#[test]
fn redis_keeps_what_its_arguments_say() -> Result<()> {
    let redis = Redis::start_with("test", &["--appendonly", "yes", "--appendfsync", "always"])?;
    redis.command::<()>(&["SET", "kept", "yes"])?;
    redis.kill()?;
    redis.start_again()?;
    assert_eq!(redis.command::<String>(&["GET", "kept"])?, "yes");
    redis.kill()?;
    std::fs::remove_dir_all(redis.data_dir().join("appendonlydir"))?;
    redis.start_again()?;
    assert_eq!(redis.command::<Option<String>>(&["GET", "kept"])?, None);
    Ok(())
}

#[test]
fn a_redis_cluster_has_an_owner_for_each_key() -> Result<()> {
    let cluster = RedisCluster::start("test")?;
    assert_eq!(cluster.url().split(',').count(), 3);
    for key in (0..100).map(|number| format!("key {number}")) {
        cluster.owner(&key)?.command::<()>(&["SET", &key, "here"])?;
    }
    Ok(())
}

#[test]
fn sentinel_promotes_the_replica_when_told_and_when_the_master_dies() -> Result<()> {
    let sentinel = RedisSentinel::start("test", "secret")?;
    let [first, second] = sentinel.servers();
    assert_eq!(sentinel.master_port()?, first.port());
    sentinel.fail_over()?;
    assert_eq!(sentinel.master_port()?, second.port());
    second.kill()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while sentinel.master_port()? != first.port() {
        ensure!(Instant::now() < deadline, "no second failover");
    }
    Ok(())
}

#[test]
fn a_server_reports_its_lines_and_its_end() -> Result<()> {
    let script =
        "trap 'echo bye; exit 7' TERM; echo \"hello $NAME [$RUST_BACKTRACE]\"; while :; do read _ || sleep 1; done";
    let start = || Server::start("test", Path::new("sh"), &["-c", script], &[("NAME", "you")]);
    let server = start()?;
    assert_eq!(server.wait_line("hello", Duration::from_secs(10))?, "hello you []");
    assert!(server.wait_line("never said", Duration::from_millis(50)).is_err());
    assert_eq!(server.terminate()?.code(), Some(7));

    let server = start()?;
    assert!(!server.wait_ended(Duration::from_millis(50))?);
    server.kill()?;

    let missing = Server::start("test", Path::new("/does/not/exist"), &[], &[])?;
    let error = missing.wait_line("anything", Duration::from_secs(10)).unwrap_err().to_string();
    assert!(error.contains("/does/not/exist"), "{error}");
    Ok(())
}

/// Not a test of its own: the process that the next one kills.
#[test]
#[ignore]
fn owner_that_gets_killed() -> Result<()> {
    let (postgres, redis) = (Postgres::start("owned", FAST)?, Redis::start("owned")?);
    let server = Server::start("owned", Path::new("sleep"), &["1000"], &[])?;
    println!("\nservers {} {} {}", postgres.pid().unwrap(), redis.pid().unwrap(), server.pid());
    println!("folder {}", postgres.data().parent().unwrap().display());
    // Once is not enough: what has used this thread's parking before may have left it a wake-up.
    loop {
        std::thread::park();
    }
}

#[test]
fn servers_end_with_an_owner_that_is_killed() -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--ignored", "--exact", "--nocapture", "owner_that_gets_killed"]);
    let mut owner = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pids = lines.find_map(|line| Some(line.strip_prefix("servers ")?.to_owned())).context("no servers")?;
    let folder = lines.find_map(|line| Some(line.strip_prefix("folder ")?.to_owned())).context("no folder")?;
    let pids: Vec<i32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|&pid| exists(pid)));

    owner.kill()?;
    owner.wait()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while pids.iter().any(|&pid| exists(pid)) {
        ensure!(Instant::now() < deadline, "still running: {pids:?}");
        std::thread::sleep(Duration::from_millis(20));
    }

    // What is left on disk goes with the next start.
    while Path::new(&folder).exists() {
        ensure!(Instant::now() < deadline, "still there: {folder}");
        drop(Postgres::start("test", FAST)?);
    }
    Ok(())
}

fn exists(pid: i32) -> bool {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok()
}
