//! The table `waits`: which parent each undecided join watches. Only the transaction that has locked the row of a join
//! changes or deletes its rows here; any may add one that watches no task.

use crate::errors;
use crate::ffi::heap::{Heap, Lock};
use crate::ffi::matches::Matches;
use crate::ffi::plan::Plan;
use crate::ffi::rows::Rows;
use crate::ffi::table_cache::TableCache;
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::ffi::{member, snapshot, transaction};
use crate::memory;
use pgrx::pg_sys::{self, Datum, ItemPointerData};
use std::ffi::CStr;

pub const TABLE: &CStr = c"waits";

/// A row of the table.
#[derive(Clone, Copy)]
pub struct Wait {
    pub watched: Uuid,
    pub join: Uuid,
    /// Behind this place all parents have ended.
    pub bound: i32,
}

/// A row with its place.
#[derive(Clone, Copy)]
pub struct Stored {
    pub wait: Wait,
    pub place: ItemPointerData,
}

#[derive(Clone, Copy)]
struct Columns {
    watched: usize,
    join: usize,
    bound: usize,
}

/// The bytes with which `watched` begins if it is no task: those of 1970 in a UUID of version 7. The rest is the number of
/// the transaction, so that two that leave such a row do not wait for each other.
const NO_TASK: [u8; 8] = [0; 8];

impl Wait {
    /// A row that watches no task: another look is needed.
    pub fn again(join: Uuid, bound: i32) -> Wait {
        let mut watched = Uuid([0; 16]);
        watched.0[..8].copy_from_slice(&NO_TASK);
        watched.0[8..].copy_from_slice(&transaction::number().to_be_bytes());
        Wait { watched, join, bound }
    }

    pub fn is_again(&self) -> bool {
        self.watched.0.starts_with(&NO_TASK)
    }

    /// Returns the number of the transaction that has left this row, which watches no task.
    pub fn left_by(&self) -> Option<u64> {
        self.watched.0[8..].try_into().ok().map(u64::from_be_bytes)
    }
}

/// The table, open until the transaction ends.
pub struct Waits {
    heap: Heap,
    columns: Columns,
}

impl Waits {
    pub fn open() -> Waits {
        let table = member::relation(TABLE).and_then(|(table, _)| Heap::open(table, Lock::Write));
        let heap = table.unwrap_or_else(|| errors::not_a_member("table workflow.waits"));
        thread_local! {
            static KNOWN: TableCache<Columns> = const { TableCache::new() };
        }
        let look_up =
            || Columns { watched: heap.column("watched"), join: heap.column("join_id"), bound: heap.column("bound") };
        let columns = KNOWN.with(|known| known.get(heap.relation().rd_id, look_up));
        Waits { heap, columns }
    }

    pub fn close(self) {
        self.heap.close();
    }

    /// Begins to find rows by the watched task.
    pub fn by_watched(&self) -> Matches {
        self.matches(self.columns.watched, "waits_pkey")
    }

    /// Begins to find rows by the join.
    pub fn by_join(&self) -> Matches {
        self.matches(self.columns.join, "waits_join_id_idx")
    }

    fn matches(&self, column: usize, index: &str) -> Matches {
        Matches::open(&self.heap, column).unwrap_or_else(|| errors::missing_index(index))
    }

    pub fn read(&self, row: &Row) -> Wait {
        let uuid = |column| row.uuid(column).unwrap_or(Uuid([0; 16]));
        let Columns { watched, join, bound } = self.columns;
        Wait { watched: uuid(watched), join: uuid(join), bound: row.i32(bound).unwrap_or(i32::MAX) }
    }

    /// Calls `visit` with the rows that watch no task.
    pub fn each_again(&self, matches: &mut Matches, mut visit: impl FnMut(Wait)) {
        let last = std::array::from_fn(|n| if n < NO_TASK.len() { NO_TASK[n] } else { 0xff });
        matches.find(Uuid([0; 16]), Uuid(last));
        while let Some((row, _)) = matches.next() {
            visit(self.read(&row));
        }
    }

    /// Returns all rows of a join.
    pub fn of_join(&self, matches: &mut Matches, join: Uuid) -> Vec<Stored> {
        matches.find(join, join);
        let mut rows = Vec::new();
        while let Some((row, place)) = matches.next() {
            memory::push(&mut rows, Stored { wait: self.read(&row), place });
        }
        rows
    }

    pub fn delete(&self, rows: &[Stored]) {
        for row in rows {
            // The row of the join is locked, so that no other transaction does.
            self.heap.delete(row.place);
        }
    }

    /// Adds rows, whose joins must be locked or new.
    pub fn insert(&self, waits: &[Wait]) {
        if waits.is_empty() {
            return;
        }
        let mut rows = Rows::new(self.heap.width(), waits.len());
        for wait in waits {
            rows.push(&[
                (self.columns.watched, wait.watched.as_datum()),
                (self.columns.join, wait.join.as_datum()),
                (self.columns.bound, Datum::from(wait.bound)),
            ]);
        }
        let is_inserted = self.heap.insert(&mut rows);
        rows.free();
        transaction::next_command();
        if !is_inserted {
            waits.iter().for_each(insert_unlocked);
        }
    }
}

/// Adds a row whose join another transaction may have locked, or deletes.
pub fn insert_unlocked(wait: &Wait) {
    thread_local! {
        static INSERT: Plan = Plan::new(
            "INSERT INTO workflow.waits (watched, join_id, bound) \
             SELECT $1, j.id, $3 FROM workflow.joins AS j WHERE j.id OPERATOR(pg_catalog.=) $2 \
             ON CONFLICT ON CONSTRAINT waits_pkey DO NOTHING"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::UUIDOID, pg_sys::INT4OID],
        );
    }
    let values = [Some(wait.watched.as_datum()), Some(wait.join.as_datum()), Some(Datum::from(wait.bound))];
    INSERT.with(|plan| plan.run(&values, |_| ()));
}

/// Whether the children of a join wait, by the active snapshot.
pub fn waits(join: Uuid) -> bool {
    let waits = Waits::open();
    let mut matches = waits.by_join();
    matches.find(join, join);
    let is_found = matches.next().is_some();
    matches.close();
    waits.close();
    is_found
}

/// Whether the children of a join wait. It stays so until the transaction ends: then a decision sees what it has written.
pub fn is_waiting(join: Uuid) -> bool {
    if member::relation(TABLE).is_none() {
        return false;
    }
    if !snapshot::with_newest(|| waits(join)) {
        return false;
    }
    // A transaction that decides now has locked the row, and waits for no lock.
    super::lock_shared(join);
    snapshot::with_newest(|| waits(join))
}
