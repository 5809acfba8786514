//! Facts about tables, remembered until PostgreSQL invalidates its own knowledge of the table.

use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::{Cell, RefCell};

/// A fact about each table that was asked for. Keep it in a thread_local: a backend has one thread.
pub struct TableCache<T> {
    known: RefCell<Vec<(Oid, T)>>,
    /// The count of changes that the facts take into account.
    changes: Cell<u64>,
}

thread_local! {
    /// The tables in any cache; `None` before the first one.
    static WATCHED: RefCell<Option<Vec<Oid>>> = const { RefCell::new(None) };
    /// How often one of them has changed.
    static CHANGES: Cell<u64> = const { Cell::new(0) };
}

impl<T: Copy> TableCache<T> {
    pub const fn new() -> TableCache<T> {
        TableCache { known: RefCell::new(Vec::new()), changes: Cell::new(0) }
    }

    /// Returns the fact about a table. Looks it up once, and again after a change of any table in a cache.
    pub fn get(&self, table: Oid, look_up: impl FnOnce() -> T) -> T {
        self.known(table).unwrap_or_else(|| {
            // Before the look-up: a change meanwhile makes the next call forget its result.
            watch(table);
            let fact = look_up();
            self.known.borrow_mut().push((table, fact));
            fact
        })
    }

    /// As above. Looks up again what was not found.
    pub fn find(&self, table: Oid, look_up: impl FnOnce() -> Option<T>) -> Option<T> {
        self.known(table).or_else(|| {
            watch(table);
            let fact = look_up()?;
            self.known.borrow_mut().push((table, fact));
            Some(fact)
        })
    }

    /// Returns a table whose fact is known, and is as wanted.
    pub fn search(&self, is_wanted: impl Fn(&T) -> bool) -> Option<(Oid, T)> {
        self.find_known(|(_, fact)| is_wanted(fact))
    }

    fn known(&self, table: Oid) -> Option<T> {
        self.find_known(|(oid, _)| *oid == table).map(|(_, fact)| fact)
    }

    fn find_known(&self, is_wanted: impl Fn(&(Oid, T)) -> bool) -> Option<(Oid, T)> {
        let changes = CHANGES.get();
        if self.changes.replace(changes) != changes {
            self.known.borrow_mut().clear();
        }
        self.known.borrow().iter().find(|known| is_wanted(known)).copied()
    }
}

fn watch(table: Oid) {
    let is_first = WATCHED.with_borrow_mut(|watched| {
        let is_first = watched.is_none();
        let watched = watched.get_or_insert_default();
        if !watched.contains(&table) {
            watched.push(table);
        }
        is_first
    });
    if is_first {
        // SAFETY: the functions are never unloaded. Registered once in each backend.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(on_change), Datum::null());
            pg_sys::CacheRegisterSyscacheCallback(
                pg_sys::SysCacheIdentifier::NAMESPACEOID as i32,
                Some(on_schema_change),
                Datum::null(),
            );
        }
    }
}

/// PostgreSQL calls this when a table has changed; an invalid OID stands for all tables. It must not fail.
unsafe extern "C-unwind" fn on_change(_argument: Datum, table: Oid) {
    let is_watched = WATCHED.with(|watched| {
        let Ok(mut watched) = watched.try_borrow_mut() else { return true };
        let Some(watched) = watched.as_mut() else { return false };
        let before = watched.len();
        watched.retain(|known| *known != table && table != Oid::INVALID);
        watched.len() < before
    });
    if is_watched {
        CHANGES.set(CHANGES.get() + 1);
    }
}

/// PostgreSQL calls this when a schema has changed, perhaps its name: no table is told of that. It must not fail.
unsafe extern "C-unwind" fn on_schema_change(_argument: Datum, _cache: i32, _hash: u32) {
    CHANGES.set(CHANGES.get() + 1);
}
