//! UUIDs as PostgreSQL passes them: by a pointer to 16 bytes.

use pgrx::pg_sys::Datum;
use std::fmt;

/// A UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Returns a new UUID of version 7. UUIDs of a process ascend.
    pub fn new() -> Uuid {
        Uuid(uuid::Uuid::now_v7().into_bytes())
    }

    /// Returns a random number of this many bits, at most 32.
    pub fn random_bits(bits: u32) -> i64 {
        let random = uuid::Uuid::now_v7().as_u128() as u32;
        i64::from(random >> (32 - bits))
    }

    /// Copies the UUID of a datum.
    ///
    /// # Safety
    /// `datum` must be a non-null value of type uuid.
    pub unsafe fn from_datum(datum: Datum) -> Uuid {
        // SAFETY: the caller's promise; a uuid has no alignment.
        Uuid(unsafe { *datum.cast_mut_ptr::<[u8; 16]>() })
    }

    /// Returns a datum that points to `self`, which must outlive it.
    pub fn as_datum(&self) -> Datum {
        Datum::from(&raw const self.0)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}
