//! Shared memory of the prepared transactions that have no news for sessions that wait for tasks. Of all others it is not known,
//! also not of those that were prepared before the server started.

use pgrx::{PGRXSharedMemory, PgAtomic, pg_shmem_init};
use std::ffi::CStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many are remembered, and in how many entries each is looked for.
const ENTRIES: usize = 1024;
const WAYS: usize = 16;

/// The hash of a name; 0: free.
#[derive(Default)]
struct Entry(AtomicU64);

// SAFETY: an atomic, the same in every process.
unsafe impl PGRXSharedMemory for Entry {}

type All = [Entry; ENTRIES];
// SAFETY: this name is used only here.
static WITHOUT_NEWS: PgAtomic<All> = unsafe { PgAtomic::new(c"pg_workflow prepared transactions") };

/// Of this process: the transaction that is being prepared; 0: none.
static OWN: AtomicU64 = AtomicU64::new(0);

/// Requests the memory. Call this only while shared_preload_libraries are loaded.
// The macro tests for PostgreSQL versions that this crate has no feature for.
#[allow(unexpected_cfgs)]
pub fn request() {
    pg_shmem_init!(WITHOUT_NEWS = std::array::from_fn(|_| Entry::default()));
}

/// Notes that this session begins to prepare its transaction.
pub fn begin(name: &CStr) {
    OWN.store(hash(name), Ordering::Relaxed);
}

/// Notes that the transaction of this session is prepared, or has failed to be.
pub fn end(has_no_news: bool) {
    let own = OWN.swap(0, Ordering::Relaxed);
    if own == 0 {
        return;
    }
    // An earlier one of this name has ended.
    forget(own);
    if has_no_news {
        let is_stored = |entry: &Entry| entry.0.compare_exchange(0, own, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        // If there is no room, it is not known.
        let _ = entries(own).any(is_stored);
    }
}

/// Forgets a transaction that is about to end. Returns whether it has no news.
pub fn take(name: &CStr) -> bool {
    forget(hash(name))
}

fn forget(hash: u64) -> bool {
    let is_own = |entry: &Entry| entry.0.compare_exchange(hash, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    entries(hash).any(is_own)
}

fn entries(hash: u64) -> impl Iterator<Item = &'static Entry> {
    let all = WITHOUT_NEWS.get();
    (0..WAYS).map(move |n| &all[(hash as usize + n) % ENTRIES])
}

fn hash(name: &CStr) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish().max(1)
}
