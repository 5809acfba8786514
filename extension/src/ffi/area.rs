//! Shared memory of the notifier: words for each database, and a place for each backend.

use super::block::Block;
use super::session;
use super::shared::{DATABASES, Progress};
use pgrx::pg_shmem_init;
use pgrx::pg_sys;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Lists of transaction IDs that the words of a database have room for, and the numbers beside them.
const LISTS: usize = 6;
const NUMBERS: usize = 32;

/// The last transaction with events of a backend.
#[derive(Default)]
pub struct Writer {
    transaction_id: AtomicU64,
    database: AtomicU32,
    /// Whether it sends its own notifications: 0 or 1.
    notifies: AtomicU32,
}

/// Zeros are values of all its types.
static AREA: Block = Block::new(c"pg_workflow transactions", size);

/// Requests the memory. Call this only while shared_preload_libraries are loaded.
// The macro tests for PostgreSQL versions that this crate has no feature for.
#[allow(unexpected_cfgs)]
pub fn request() {
    pg_shmem_init!(AREA = ());
}

/// How many transactions can be in progress, prepared ones included.
fn transactions() -> usize {
    // SAFETY: values that do not change after the server has started.
    backends() + unsafe { pg_sys::max_prepared_xacts }.max(0) as usize
}

pub fn backends() -> usize {
    // SAFETY: as above.
    unsafe { pg_sys::MaxBackends }.max(0) as usize
}

fn words_of_database() -> usize {
    NUMBERS + LISTS * transactions()
}

fn start() -> *mut u64 {
    AREA.start().cast()
}

fn size() -> usize {
    DATABASES * words_of_database() * size_of::<u64>() + backends() * size_of::<Writer>()
}

/// Reads the words of a database. `_locked` shows that the progress is locked.
pub fn read(_locked: &[Progress], entry: usize) -> Vec<u64> {
    let count = words_of_database();
    assert!(entry < DATABASES);
    // SAFETY: the area has this many words for each database, and others write them only while the progress is locked.
    unsafe { std::slice::from_raw_parts(start().add(entry * count), count) }
        .split_first()
        .map(|(used, words)| words[..(*used as usize).min(words.len())].to_vec())
        .unwrap_or_default()
}

/// Writes the words of a database.
pub fn write(_locked: &mut [Progress], entry: usize, words: &[u64]) {
    let count = words_of_database();
    assert!(entry < DATABASES && words.len() < count, "more transactions than the server allows");
    // SAFETY: as in read(); the progress is locked for writing.
    let place = unsafe { std::slice::from_raw_parts_mut(start().add(entry * count), count) };
    place[0] = words.len() as u64;
    place[1..=words.len()].copy_from_slice(words);
}

/// Returns the places of all backends.
fn writers() -> &'static [Writer] {
    // SAFETY: they follow the words of all databases; atomics live as long as the server.
    unsafe { std::slice::from_raw_parts(start().add(DATABASES * words_of_database()).cast(), backends()) }
}

/// Returns the place of this process.
fn own() -> &'static Writer {
    &writers()[session::backend_number()]
}

/// Returns whether the transaction sends its own notifications; `None` if it is not registered.
pub fn registered(transaction_id: u64) -> Option<bool> {
    let own = own();
    (own.transaction_id.load(Ordering::Relaxed) == transaction_id).then(|| own.notifies.load(Ordering::Relaxed) == 1)
}

/// Registers a transaction of this process. `_locked`: while the progress is locked for writing, none is registered.
pub fn register(_locked: &[Progress], database: u32, transaction_id: u64, notifies: bool) {
    let own = own();
    own.database.store(database, Ordering::Relaxed);
    own.notifies.store(notifies.into(), Ordering::Relaxed);
    own.transaction_id.store(transaction_id, Ordering::Relaxed);
}

/// Returns the registered transactions of a database that send their own notifications, or those that do not. All that
/// are in progress are among them, except prepared ones.
pub fn transactions_of(_locked: &mut [Progress], database: u32, notifies: bool) -> Vec<u64> {
    let is_wanted = |writer: &&Writer| {
        writer.database.load(Ordering::Relaxed) == database
            && (writer.notifies.load(Ordering::Relaxed) == 1) == notifies
    };
    let ids = writers().iter().filter(is_wanted).map(|writer| writer.transaction_id.load(Ordering::Relaxed));
    let mut ids: Vec<u64> = ids.collect();
    ids.sort_unstable();
    ids
}
