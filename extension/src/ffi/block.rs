//! Shared memory whose size depends on the server's settings.

use pgrx::PgSharedMemoryInitialization;
use pgrx::pg_sys;
use std::ffi::CStr;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A block of zeroed shared memory. It exists if the library is preloaded.
pub struct Block {
    start: AtomicPtr<u8>,
    name: &'static CStr,
    /// Returns its size in bytes, once PostgreSQL knows its settings.
    size: fn() -> usize,
}

impl Block {
    pub const fn new(name: &'static CStr, size: fn() -> usize) -> Block {
        Block { start: AtomicPtr::new(null_mut()), name, size }
    }

    /// Returns the start of the block.
    pub fn start(&self) -> *mut u8 {
        self.start.load(Ordering::Acquire)
    }
}

impl PgSharedMemoryInitialization for Block {
    type Value = ();

    unsafe fn on_shmem_request(&'static self) {
        // SAFETY: called from PostgreSQL's hook, after it has computed its maximum of backends.
        unsafe { pg_sys::RequestAddinShmemSpace((self.size)()) };
    }

    unsafe fn on_shmem_startup(&'static self, _: ()) {
        let mut found = false;
        // SAFETY: only the postmaster runs this, before it has started another process; the memory has this size.
        unsafe {
            let start = pg_sys::ShmemInitStruct(self.name.as_ptr(), (self.size)(), &mut found);
            if !found {
                start.cast::<u8>().write_bytes(0, (self.size)());
            }
            self.start.store(start.cast(), Ordering::Release);
        }
    }
}
