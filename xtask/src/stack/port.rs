//! Free ports on the loopback interface.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};

/// Ports are taken from below the range that systems use for outgoing connections (from 32768 on Linux). Within it, a
/// client's connection could take the port while its server restarts, and a client that keeps trying to connect to it
/// could be connected to itself.
const RANGE: std::ops::Range<u16> = 15_000..30_000;

/// How often a server is given another port if another program was faster.
pub const ATTEMPTS: u32 = 5;

/// A port that was free just now.
pub fn free() -> Result<u16> {
    let random = || {
        let number = RandomState::new().hash_one(()) % u64::from(RANGE.end - RANGE.start);
        RANGE.start + number as u16
    };
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    std::iter::repeat_with(random).take(1000).find(is_free).context("no free port on 127.0.0.1")
}

/// Whether a server that did not start says in its log that its port was taken: all of ours use these words.
pub fn was_taken(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("Address already in use")
}

/// Starts something on a free port, on another one when that was taken meanwhile.
pub fn retrying<T>(mut start: impl FnMut(u16) -> Result<T>) -> Result<T> {
    for _ in 1..ATTEMPTS {
        match start(free()?) {
            Err(error) if was_taken(&error) => {}
            outcome => return outcome,
        }
    }
    start(free()?)
}
