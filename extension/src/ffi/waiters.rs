//! Shared memory of the sessions that wait for tasks: a place for each backend.

use super::block::Block;
use super::{area, latch, session};
use pgrx::pg_shmem_init;
use pgrx::pg_sys::Latch;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};

/// Queues of which a session is woken. If it waits for more, it is woken for any.
const QUEUES: usize = 8;

/// The place of a backend. Zeros: it does not wait.
pub struct Waiter {
    latch: AtomicPtr<Latch>,
    database: AtomicU32,
    state: AtomicU32,
    /// The number of queues; more than there is room for: all.
    count: AtomicU32,
    queues: [AtomicI32; QUEUES],
}

const IDLE: u32 = 0;
const WAITS: u32 = 1;
const WOKEN: u32 = 2;

static WAITERS: Block = Block::new(c"pg_workflow waiters", size);

fn size() -> usize {
    area::backends() * size_of::<Waiter>()
}

/// Requests the memory. Call this only while shared_preload_libraries are loaded.
// The macro tests for PostgreSQL versions that this crate has no feature for.
#[allow(unexpected_cfgs)]
pub fn request() {
    pg_shmem_init!(WAITERS = ());
}

fn all() -> &'static [Waiter] {
    let start = WAITERS.start();
    if start.is_null() {
        return &[];
    }
    // SAFETY: the block has this size; atomics live as long as the server, and zeros are values of them.
    unsafe { std::slice::from_raw_parts(start.cast(), area::backends()) }
}

fn own() -> Option<&'static Waiter> {
    all().get(session::backend_number())
}

/// Says that this session begins to wait for tasks of these queues; `None`: of any. Then look whether there are any.
pub fn begin(queues: Option<&[i32]>) {
    let Some(own) = own() else { return };
    own.database.store(session::database().to_u32(), Ordering::Relaxed);
    own.latch.store(latch::mine(), Ordering::Relaxed);
    let count = queues.map_or(u32::MAX, |queues| queues.len() as u32);
    own.count.store(count, Ordering::Relaxed);
    own.queues.iter().zip(queues.unwrap_or_default()).for_each(|(place, queue)| place.store(*queue, Ordering::Relaxed));
    own.state.store(WAITS, Ordering::SeqCst);
}

/// Says that this session waits no more.
pub fn end() {
    own().into_iter().for_each(|own| own.state.store(IDLE, Ordering::SeqCst));
}

/// Whether a commit has woken this session since it began to wait.
pub fn is_woken() -> bool {
    own().is_some_and(|own| own.state.load(Ordering::SeqCst) == WOKEN)
}

/// Whether sessions can be woken: the library is preloaded.
pub fn can_be_woken() -> bool {
    !all().is_empty()
}

/// Wakes at most so many sessions that wait for tasks of a queue of this database, and as many that wait for more queues
/// than their places show: those may find none.
pub fn wake(queue: i32, most: usize) {
    wake_some(|waiter| waiter.is_for(queue), most);
    wake_some(Waiter::is_for_any, most);
}

/// Wakes all sessions that wait for tasks of this database.
pub fn wake_all() {
    wake_some(|_| true, usize::MAX);
}

fn wake_some(is_for: impl Fn(&Waiter) -> bool, most: usize) {
    let database = session::database().to_u32();
    let waits = |waiter: &&Waiter| {
        waiter.state.load(Ordering::SeqCst) == WAITS
            && waiter.database.load(Ordering::Relaxed) == database
            && is_for(waiter)
            && waiter.state.compare_exchange(WAITS, WOKEN, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    };
    for waiter in all().iter().filter(waits).take(most) {
        latch::set(waiter.latch.load(Ordering::Relaxed));
    }
}

impl Waiter {
    fn is_for(&self, queue: i32) -> bool {
        let count = self.count.load(Ordering::Relaxed) as usize;
        count <= QUEUES && self.queues[..count].iter().any(|one| one.load(Ordering::Relaxed) == queue)
    }

    fn is_for_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) as usize > QUEUES
    }
}
