//! Shared memory of the claims: for each queue in use, where its first tasks are.

use pgrx::{PGRXSharedMemory, PgLwLock, PgLwLockExclusiveGuard, pg_shmem_init};

/// How many queues of a server have places. The claims of a further one take the room of the one that was used least lately.
pub const QUEUES: usize = 512;
/// Priorities.
pub const LANES: usize = 10;
/// Reports that a queue remembers.
pub const REPORTS: usize = 64;

/// The places of a queue. Times are in microseconds since 2000; those of the clock of this server's host say so.
#[derive(Clone, Copy)]
pub struct Places {
    /// 0: free.
    pub database: u32,
    pub queue: i32,
    /// Changes when the entry gets another queue.
    pub generation: u64,
    /// For each priority: no task that can be claimed is ready before this time.
    pub places: [i64; LANES],
    /// How many commits have reported tasks, and the last ones: priority and time.
    pub reports: u64,
    pub reported: [(u8, i64); REPORTS],
    /// When the next claim looks from the beginning, and when the last claim was: by the host's clock.
    pub next_sweep: i64,
    pub used_at: i64,
    /// Claims that found no free slot.
    pub refused: u64,
}

impl Default for Places {
    fn default() -> Places {
        Places {
            database: 0,
            queue: 0,
            generation: 0,
            places: [i64::MIN; LANES],
            reports: 0,
            reported: [(0, 0); REPORTS],
            next_sweep: 0,
            used_at: 0,
            refused: 0,
        }
    }
}

impl Places {
    /// Reports a row that a commit has made visible.
    pub fn report(&mut self, priority: i16, time: i64) {
        let lane = priority as usize % LANES;
        self.reported[(self.reports % REPORTS as u64) as usize] = (lane as u8, time);
        self.reports += 1;
        self.places[lane] = self.places[lane].min(time);
    }
}

type All = [Places; QUEUES];

// SAFETY: plain values, the same in every process.
unsafe impl PGRXSharedMemory for Places {}
// SAFETY: this name is used only here.
static PLACES: PgLwLock<All> = unsafe { PgLwLock::new(c"pg_workflow places") };

/// Requests the memory. Call this only while shared_preload_libraries are loaded.
// The macro tests for PostgreSQL versions that this crate has no feature for.
#[allow(unexpected_cfgs)]
pub fn request() {
    pg_shmem_init!(PLACES = [Places::default(); QUEUES]);
}

/// Locks the places. Only if the library is preloaded.
pub fn lock() -> PgLwLockExclusiveGuard<'static, All> {
    PLACES.exclusive()
}
