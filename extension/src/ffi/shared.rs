//! Shared memory: for each database with events, the latches to set and the notifier's progress.
//!
//! It exists if the library is in shared_preload_libraries.

use pgrx::pg_sys::{self, Latch};
use pgrx::{PGRXSharedMemory, PgAtomic, PgLwLock, PgLwLockExclusiveGuard, PgLwLockShareGuard, pg_shmem_init};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64};

/// How many databases of a server can have a notifier.
pub const DATABASES: usize = 32;
/// How many sessions of a database can wait for events and be woken; further sessions poll.
pub const READERS: usize = 32;

/// The part that transactions change when they commit: only atomics.
///
/// A latch is in PostgreSQL's shared memory, which stays while the server runs. If a latch now belongs to another
/// backend, that backend wakes for nothing.
pub struct Signals {
    /// The database; 0 if the entry is free.
    pub database: AtomicU32,
    /// Transactions with events that have committed.
    pub commits: AtomicU64,
    /// Those of them whose notifications are the notifier's.
    pub owed: AtomicU64,
    /// The highest ID of an event whose notification is the notifier's.
    pub last_id: AtomicI64,
    /// Transactions that did not wait for the disk: how many were about to commit, how many have ended, how many had
    /// ended before the last wait for the disk.
    pub unflushed_begun: AtomicU64,
    pub unflushed_ended: AtomicU64,
    pub unflushed_durable: AtomicU64,
    /// The table of the notifier's position; 0 if it has none.
    pub history: AtomicU32,
    /// Asks the notifier to leave the database, and not to come back before this time.
    pub leave_until: AtomicI64,
    /// The notifier's latch; null if none runs.
    pub notifier: AtomicPtr<Latch>,
    /// Whether the notifier needs the next commit to wake it. The commit that clears this sets the latch, and no other one.
    pub is_asleep: AtomicBool,
    /// When a session that waits for tasks may next look for claims that have run out, by the host's clock.
    pub next_reap: AtomicI64,
    /// Commits that left joins which watch no task; one more than those that a later look has seen to the end; and until when
    /// no look is worth it, by the host's clock.
    pub again_left: AtomicU64,
    pub again_seen: AtomicU64,
    pub again_pause: AtomicI64,
    /// When a session that waits for tasks may next look at them, and how long the one after it then waits.
    pub next_look: AtomicI64,
    pub look_pause: AtomicI64,
    /// When a session next searches the joins that watch a task which has ended, by the host's clock.
    pub next_sweep_of_waits: AtomicI64,
    /// The latches of sessions that wait for events.
    pub readers: [AtomicPtr<Latch>; READERS],
}

impl Default for Signals {
    fn default() -> Signals {
        Signals {
            database: AtomicU32::new(0),
            commits: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            last_id: AtomicI64::new(0),
            unflushed_begun: AtomicU64::new(0),
            unflushed_ended: AtomicU64::new(0),
            unflushed_durable: AtomicU64::new(0),
            history: AtomicU32::new(0),
            leave_until: AtomicI64::new(0),
            notifier: AtomicPtr::new(null_mut()),
            is_asleep: AtomicBool::new(false),
            next_reap: AtomicI64::new(0),
            again_left: AtomicU64::new(0),
            again_seen: AtomicU64::new(0),
            again_pause: AtomicI64::new(0),
            next_look: AtomicI64::new(0),
            look_pause: AtomicI64::new(0),
            next_sweep_of_waits: AtomicI64::new(0),
            readers: [const { AtomicPtr::new(null_mut()) }; READERS],
        }
    }
}

/// How many sessions listen, also in databases without an entry: a counter for each hash of a database. Two databases with
/// the same counter cost notifications that no session hears.
pub struct Listeners([AtomicU32; COUNTERS]);

const COUNTERS: usize = 1024;

impl Listeners {
    /// Returns the counter of a database.
    pub fn of(&self, database: u32) -> &AtomicU32 {
        // Neighboring OIDs get different ones.
        &self.0[database as usize % COUNTERS]
    }
}

impl Default for Listeners {
    fn default() -> Listeners {
        Listeners([const { AtomicU32::new(0) }; COUNTERS])
    }
}

/// A text of bounded length.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    length: usize,
    bytes: [u8; N],
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Text { length: 0, bytes: [0; N] }
    }
}

impl<const N: usize> Text<N> {
    /// Returns false if the text is too long; it is empty then.
    pub fn set(&mut self, text: &str) -> bool {
        let fits = text.len() <= N;
        self.length = if fits { text.len() } else { 0 };
        self.bytes[..self.length].copy_from_slice(&text.as_bytes()[..self.length]);
        fits
    }

    /// Returns the text.
    pub fn get(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

/// The part that changes under a lock: who sends notifications, and the numbers of the view `workflow.notifier`.
#[derive(Clone, Copy, Default)]
pub struct Progress {
    /// Whether new transactions send their own notifications.
    pub is_handed_back: bool,
    /// Whether the postmaster has a worker for the database, which it restarts until the worker ends of its own accord.
    pub is_registered: bool,
    /// The notifier's process; 0 if none runs.
    pub pid: i32,
    /// When the notifier was last requested or ended, and when it started: microseconds since 2000, as all times here.
    pub requested_at: i64,
    pub started_at: i64,
    /// The history of the events, and the first transaction that wrote one there: it may have created the extension.
    pub history: u32,
    pub first_writer: u64,
    /// How many of the owed commits have been sent.
    pub commits: u64,
    /// When the notifier last had no backlog.
    pub caught_up_at: i64,
    pub last_event_id: i64,
    pub events: i64,
    pub batches: i64,
    pub notified_at: i64,
    pub errors: i64,
    pub last_error: Text<512>,
    pub last_error_at: i64,
}

impl Progress {
    /// Counts an error.
    pub fn fail(&mut self, error: &str, time: i64) {
        self.errors += 1;
        self.last_error_at = time;
        self.last_error.set(&error[..error.floor_char_boundary(512)]);
    }
}

// SAFETY: atomics and plain values, the same in every process; no pointer into a process's own memory.
unsafe impl PGRXSharedMemory for Signals {}
// SAFETY: as above.
unsafe impl PGRXSharedMemory for Progress {}
// SAFETY: as above.
unsafe impl PGRXSharedMemory for Listeners {}

type AllSignals = [Signals; DATABASES];
type AllProgress = [Progress; DATABASES];

// SAFETY: these names are used only here.
static SIGNALS: PgAtomic<AllSignals> = unsafe { PgAtomic::new(c"pg_workflow signals") };
// SAFETY: as above.
static LISTENERS: PgAtomic<Listeners> = unsafe { PgAtomic::new(c"pg_workflow listeners") };
// SAFETY: as above.
static PROGRESS: PgLwLock<AllProgress> = unsafe { PgLwLock::new(c"pg_workflow progress") };

/// Requests the memory. Call this only while shared_preload_libraries are loaded.
// The macro tests for PostgreSQL versions that this crate has no feature for.
#[allow(unexpected_cfgs)]
pub fn request() {
    pg_shmem_init!(SIGNALS = std::array::from_fn(|_| Signals::default()));
    pg_shmem_init!(LISTENERS = Listeners::default());
    pg_shmem_init!(PROGRESS = [Progress::default(); DATABASES]);
}

/// Whether the postmaster is loading shared_preload_libraries now.
pub fn is_preloading() -> bool {
    // SAFETY: a flag of this process.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Returns the signals of all databases; `None` if the library is not preloaded.
pub fn signals() -> Option<&'static AllSignals> {
    super::transaction::is_registered().then(|| SIGNALS.get())
}

/// Returns the counts of listeners; `None` if the library is not preloaded.
pub fn listeners() -> Option<&'static Listeners> {
    super::transaction::is_registered().then(|| LISTENERS.get())
}

/// Locks the progress of all notifiers for reading. Only if there are signals.
pub fn progress() -> PgLwLockShareGuard<'static, AllProgress> {
    PROGRESS.share()
}

/// Locks the progress of all notifiers for writing. Only if there are signals.
pub fn progress_mut() -> PgLwLockExclusiveGuard<'static, AllProgress> {
    PROGRESS.exclusive()
}
