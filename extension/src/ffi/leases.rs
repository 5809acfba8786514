//! Shared memory of leases: of the claims that were renewed, and of the signs of life of the workers of each database.

use super::block::Block;
use super::shared::DATABASES;
use super::signs::Signs;
use super::uuid::Uuid;
use super::values::{clock, monotonic};
use pgrx::{PGRXSharedMemory, PgLwLock, PgLwLockExclusiveGuard, pg_shmem_init};
use std::sync::OnceLock;

/// Entries in which a claim is looked for.
const WAYS: usize = 32;
/// Databases without an entry in shared memory have the last signs.
const SIGNS_OF_OTHERS: usize = DATABASES;

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
    /// The signs of its database.
    signs: usize,
    expires_at: i64,
    duration: i64,
}

type All = [Signs; DATABASES + 1];

// SAFETY: plain values, the same in every process.
unsafe impl PGRXSharedMemory for Signs {}
// SAFETY: this name is used only here.
static SIGNS: PgLwLock<All> = unsafe { PgLwLock::new(c"pg_workflow leases") };
static LEASES: Block = Block::new(c"pg_workflow leases table", size);

static COUNT: OnceLock<fn() -> usize> = OnceLock::new();

/// Returns how many entries there are.
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
    pg_shmem_init!(SIGNS = [Signs::default(); DATABASES + 1]);
    pg_shmem_init!(LEASES = ());
}

/// Whether the library is preloaded.
pub fn exist() -> bool {
    !LEASES.start().is_null()
}

/// The leases, while no other process uses them.
pub struct Leases {
    all: PgLwLockExclusiveGuard<'static, All>,
    /// The signs of this database.
    own: usize,
    /// In microseconds of the host's clock.
    pub now: i64,
}

/// Locks the leases. Only if they exist. `database`: its entry in shared memory.
pub fn lock(database: Option<usize>) -> Leases {
    let (all, own) = (SIGNS.exclusive(), database.unwrap_or(SIGNS_OF_OTHERS));
    let mut leases = Leases { all, own, now: monotonic() };
    let now = leases.now;
    leases.signs().note_offset(clock(), now);
    leases
}

impl Leases {
    /// Returns the signs of this database.
    pub fn signs(&mut self) -> &mut Signs {
        &mut self.all[self.own]
    }

    /// Notes that a worker of this database gave a sign.
    pub fn note_sign(&mut self) {
        let now = self.now;
        self.signs().note(now);
    }

    /// Sets the lease of a claim from now on: a sign of its worker. Returns false if there is no room.
    pub fn set(&mut self, key: Key, duration: i64) -> bool {
        self.note_sign();
        let Leases { own, now, .. } = *self;
        let Some(lease) = self.room(key) else { return false };
        *lease = Lease { key, signs: own, expires_at: now.saturating_add(duration), duration };
        true
    }

    /// Whether there is room for the lease of a claim.
    pub fn has_room(&mut self, key: Key) -> bool {
        self.room(key).is_some()
    }

    /// Returns the room for the lease of a claim.
    fn room(&mut self, key: Key) -> Option<&'static mut Lease> {
        let now = self.now;
        let all = &self.all;
        // An empty one first, then the one that ended first.
        let rank = |lease: &Lease| {
            let is_free = lease.expires_at == 0 || is_over(&all[lease.signs], lease, now);
            (lease.key == key || is_free).then_some((lease.key != key, lease.expires_at))
        };
        let ranked = ways(&key).filter_map(|lease| Some((rank(lease)?, lease)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, lease)| lease)
    }

    /// Returns the end of a claim's lease, and its duration.
    pub fn get(&mut self, key: Key) -> Option<(i64, i64)> {
        find(&key).map(|lease| (lease.expires_at, lease.duration))
    }

    /// Frees the room of a claim that has ended.
    pub fn free(&mut self, key: Key) {
        if let Some(lease) = find(&key) {
            // SAFETY: zeros are a value of it.
            *lease = unsafe { std::mem::zeroed() };
        }
    }
}

/// Whether no holder can need a lease: when its database was last seen, it had been over for as long again, silences included.
fn is_over(signs: &Signs, lease: &Lease, now: i64) -> bool {
    const DAY: i64 = 86_400_000_000;
    let ends_at = |end: i64| end.saturating_add(lease.duration);
    let is_over =
        ends_at(lease.expires_at) < signs.seen && ends_at(signs.end(lease.expires_at, lease.duration)) < signs.seen;
    // The database can be gone.
    is_over || ends_at(lease.expires_at).saturating_add(DAY) < now
}

/// Returns the entries in which a claim can be. Only while the leases are locked, and once at a time.
fn ways(key: &Key) -> impl Iterator<Item = &'static mut Lease> {
    let (low, high) = (u64::from_ne_bytes(half(key, 0)), u64::from_ne_bytes(half(key, 8)));
    let mixed = (low ^ high ^ u64::from(key.database)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    let (start, count) = (LEASES.start().cast::<Lease>(), count());
    // SAFETY: the block has this many entries; zeros are values of them; each is returned once, while the lock is held.
    (0..WAYS.min(count)).map(move |n| unsafe { &mut *start.add((mixed as usize + n) % count) })
}

fn find(key: &Key) -> Option<&'static mut Lease> {
    ways(key).find(|lease| lease.expires_at != 0 && lease.key == *key)
}

fn half(key: &Key, begin: usize) -> [u8; 8] {
    std::array::from_fn(|n| key.task.0[begin + n])
}
