//! Shared memory of leases: of the claims that were renewed, and of the signs of life of all workers.

use super::block::Block;
use super::uuid::Uuid;
use pgrx::{PGRXSharedMemory, PgLwLock, PgLwLockExclusiveGuard, pg_shmem_init};
use std::sync::OnceLock;

/// Entries in which a claim is looked for.
const WAYS: usize = 32;
/// Lengths of silences that are told apart: 1 s, 2 s, 4 s and so on.
const SILENCES: usize = 30;
const SHORTEST: i64 = 1_000_000;

/// A claim of a database.
#[derive(Clone, Copy, PartialEq)]
pub struct Key {
    pub database: u32,
    pub task: Uuid,
    pub version: i64,
    pub start_date: i64,
}

/// The lease of a claim, in microseconds of the host's clock. Zeros: none.
#[derive(Clone, Copy)]
struct Lease {
    key: Key,
    expires_at: i64,
    duration: i64,
}

/// The workers' signs of life, in microseconds of the host's clock.
#[derive(Clone, Copy)]
pub struct Signs {
    last: i64,
    /// For each length, the last time for which no worker gave a sign: when it began, and when a sign or a question ended it.
    silences: [(i64, i64); SILENCES],
    /// The time of the system less the host's clock; and when that last changed: it was set, or the server has started.
    offset: i64,
    pub stepped_at: i64,
}

impl Default for Signs {
    fn default() -> Signs {
        Signs { last: 0, silences: [(0, 0); SILENCES], offset: 0, stepped_at: 0 }
    }
}

// SAFETY: plain values, the same in every process.
unsafe impl PGRXSharedMemory for Signs {}
// SAFETY: this name is used only here.
static SIGNS: PgLwLock<Signs> = unsafe { PgLwLock::new(c"pg_workflow leases") };
static LEASES: Block = Block::new(c"pg_workflow leases table", size);

/// Returns how many entries there are.
static COUNT: OnceLock<fn() -> usize> = OnceLock::new();

fn count() -> usize {
    COUNT.get().map_or(0, |count| count())
}

fn size() -> usize {
    count() * size_of::<Lease>()
}

/// Requests the memory. Call this only while shared_preload_libraries are loaded.
// The macro tests for PostgreSQL versions that this crate has no feature for.
#[allow(unexpected_cfgs)]
pub fn request(count: fn() -> usize) {
    COUNT.get_or_init(|| count);
    pg_shmem_init!(SIGNS = Signs::default());
    pg_shmem_init!(LEASES = ());
}

/// Whether the library is preloaded.
pub fn exist() -> bool {
    !LEASES.start().is_null()
}

/// Locks the leases. Only if they exist.
pub fn lock() -> PgLwLockExclusiveGuard<'static, Signs> {
    SIGNS.exclusive()
}

impl Signs {
    /// Notes that a worker gave a sign.
    pub fn note(&mut self, now: i64) {
        self.note_silences(now, true);
        self.last = now;
    }

    /// Notes silences that have lasted until now. Each length once: the next question is not the end of the same silence.
    pub fn look(&mut self, now: i64) {
        self.note_silences(now, false);
    }

    fn note_silences(&mut self, now: i64, has_ended: bool) {
        let last = self.last;
        for (silence, shortest) in self.silences.iter_mut().zip((0..).map(|power| SHORTEST << power)) {
            if now - last >= shortest && (has_ended || silence.0 != last) {
                *silence = (last, now);
            }
        }
    }

    /// Notes the time of the system.
    pub fn note_offset(&mut self, system: i64, now: i64) {
        const MOST: i64 = 1_000_000;
        if (system - now - self.offset).abs() > MOST {
            self.stepped_at = now;
        }
        self.offset = system - now;
    }

    /// Returns when the last silence of at least this length ended which had begun by a time; `None`: there was none.
    pub fn silence(&self, length: i64, began_by: i64) -> Option<i64> {
        let power = (length / SHORTEST).max(0).checked_ilog2().unwrap_or(0) as usize;
        let (began, ended) = self.silences[power.min(SILENCES - 1)];
        (ended != 0 && began <= began_by).then_some(ended)
    }
}

/// Returns the entries in which a claim can be. `_locked`: no other process uses them meanwhile.
fn ways(_locked: &mut Signs, key: &Key) -> impl Iterator<Item = &'static mut Lease> {
    let (low, high) = (u64::from_ne_bytes(half(key, 0)), u64::from_ne_bytes(half(key, 8)));
    let mixed = (low ^ high ^ u64::from(key.database)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    let (start, count) = (LEASES.start().cast::<Lease>(), count());
    // SAFETY: the block has this many entries; zeros are values of them; each is returned once, while the lock is held.
    (0..WAYS.min(count)).map(move |n| unsafe { &mut *start.add((mixed as usize + n) % count) })
}

fn half(key: &Key, begin: usize) -> [u8; 8] {
    std::array::from_fn(|n| key.task.0[begin + n])
}

/// Sets the lease of a claim. Returns false if there is no room.
pub fn set(locked: &mut Signs, key: Key, expires_at: i64, duration: i64, now: i64) -> bool {
    let mut free = None;
    for entry in ways(locked, &key) {
        if entry.key == key {
            free = Some(entry);
            break;
        }
        // Of an ended claim, or one of a database that is gone.
        let is_over = entry.expires_at.saturating_add(entry.duration) < now;
        if free.is_none() && (entry.expires_at == 0 || is_over) {
            free = Some(entry);
        }
    }
    let Some(entry) = free else { return false };
    *entry = Lease { key, expires_at, duration };
    true
}

/// Returns the end of a claim's lease, and its duration.
pub fn get(locked: &mut Signs, key: Key) -> Option<(i64, i64)> {
    ways(locked, &key)
        .find(|entry| entry.expires_at != 0 && entry.key == key)
        .map(|entry| (entry.expires_at, entry.duration))
}
