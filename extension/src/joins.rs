//! The table `joins`: which tasks depend on which.

pub mod waits;

use crate::ffi::heap::{Attempted, Heap, Lock, Strength};
use crate::ffi::matches::Matches;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::rows::Rows as NewRows;
use crate::ffi::table_cache::TableCache;
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{text_datum, uuid_array};
use crate::ffi::{member, snapshot, transaction};
use crate::{errors, memory, rights};
use pg_workflow_state_machine::TriggerRule;
use pgrx::pg_sys::{self, Datum};
use std::ffi::CStr;

pub const TABLE: &CStr = c"joins";

/// A row of the table.
#[derive(Clone)]
pub struct Join {
    pub id: Uuid,
    pub run: Uuid,
    pub rule: TriggerRule,
    pub parents: Vec<Uuid>,
    /// Empty: the run itself waits for the parents; or all children have joins of their own by now.
    pub children: Vec<Uuid>,
}

impl Join {
    /// The last place in the list of parents.
    pub fn last_place(&self) -> i32 {
        i32::try_from(self.parents.len()).unwrap_or(i32::MAX) - 1
    }

    /// Whether it stands for the end of its run.
    pub fn is_of_run(&self) -> bool {
        self.id == self.run
    }
}

#[derive(Clone, Copy)]
struct Columns {
    id: usize,
    run: usize,
    rule: usize,
    parents: usize,
    children: usize,
}

/// The table, open until the transaction ends.
pub struct Joins {
    heap: Heap,
    columns: Columns,
}

/// The result of an attempt to lock a join.
pub enum Tried {
    Locked(Join),
    /// Another transaction has locked it.
    Busy,
    /// It has been deleted.
    Gone,
}

impl Joins {
    pub fn open() -> Joins {
        let table = member::relation(TABLE).and_then(|(table, _)| Heap::open(table, Lock::Write));
        let heap = table.unwrap_or_else(|| errors::not_a_member("table workflow.joins"));
        thread_local! {
            static KNOWN: TableCache<Columns> = const { TableCache::new() };
        }
        let look_up = || Columns {
            id: heap.column("id"),
            run: heap.column("dag_run_id"),
            rule: heap.column("trigger_rule"),
            parents: heap.column("parents"),
            children: heap.column("children"),
        };
        let columns = KNOWN.with(|known| known.get(heap.relation().rd_id, look_up));
        Joins { heap, columns }
    }

    pub fn close(self) {
        self.heap.close();
    }

    /// Locks a join, if no other transaction has locked it.
    pub fn try_lock(&self, id: Uuid) -> Tried {
        const MOST: usize = 10;
        // Each time by a new snapshot: tasks may have been added to it.
        let attempt = || {
            snapshot::with_latest(|| {
                let Some(found) = self.heap.find(self.columns.id, id) else { return Some(Tried::Gone) };
                let tried = match self.heap.try_lock(&found, Strength::Update) {
                    Attempted::Locked => Some(self.read(&found.row()).map_or(Tried::Gone, Tried::Locked)),
                    Attempted::Busy => Some(Tried::Busy),
                    Attempted::Changed => None,
                };
                found.release();
                tried
            })
        };
        (0..MOST).find_map(|_| attempt()).unwrap_or(Tried::Busy)
    }

    fn read(&self, row: &Row) -> Option<Join> {
        let Columns { id, run, rule, parents, children } = self.columns;
        Some(Join {
            id: row.uuid(id)?,
            run: row.uuid(run)?,
            rule: row.text(rule)?.parse().ok()?,
            parents: uuids(row, parents),
            children: uuids(row, children),
        })
    }

    /// Returns a join, by the active snapshot.
    pub fn get(&self, id: Uuid) -> Option<Join> {
        let found = self.heap.find(self.columns.id, id)?;
        let join = self.read(&found.row());
        found.release();
        join
    }

    /// Returns the joins of a run, by the active snapshot.
    pub fn of_run(&self, run: Uuid) -> Vec<Join> {
        let matches = Matches::open(&self.heap, self.columns.run);
        let mut matches = matches.unwrap_or_else(|| errors::missing_index("joins_dag_run_id_idx"));
        matches.find(run, run);
        let mut joins = Vec::new();
        while let Some((row, _)) = matches.next() {
            self.read(&row).into_iter().for_each(|join| memory::push(&mut joins, join));
        }
        matches.close();
        joins
    }

    /// Whether there is a join with this ID, by the active snapshot.
    pub fn has(&self, id: Uuid) -> bool {
        let found = self.heap.find(self.columns.id, id);
        found.map(|found| found.release()).is_some()
    }

    /// Adds rows of a run that is locked.
    pub fn insert(&self, joins: &[Join]) {
        if joins.is_empty() {
            return;
        }
        let mut rows = NewRows::new(self.heap.width(), joins.len());
        for join in joins {
            rows.push(&[
                (self.columns.id, join.id.as_datum()),
                (self.columns.run, join.run.as_datum()),
                (self.columns.rule, text_datum(join.rule.as_str())),
                (self.columns.parents, uuids_datum(&join.parents)),
                (self.columns.children, uuids_datum(&join.children)),
            ]);
        }
        let is_inserted = self.heap.insert(&mut rows);
        rows.free();
        transaction::next_command();
        if !is_inserted {
            joins.iter().for_each(|join| _ = insert_new(join));
        }
    }
}

/// Adds a row if there is none with its ID. Returns whether it did.
pub fn insert_new(join: &Join) -> bool {
    thread_local! {
        static INSERT: Plan = Plan::new(
            "INSERT INTO workflow.joins (id, dag_run_id, trigger_rule, parents, children) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT ON CONSTRAINT joins_pkey DO NOTHING"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::UUIDOID, pg_sys::TEXTOID, pg_sys::UUIDARRAYOID, pg_sys::UUIDARRAYOID],
        );
    }
    let values = [
        Some(join.id.as_datum()),
        Some(join.run.as_datum()),
        Some(text_datum(join.rule.as_str())),
        Some(uuids_datum(&join.parents)),
        Some(uuids_datum(&join.children)),
    ];
    INSERT.with(|plan| plan.run(&values, |rows: Rows| rows.len() > 0))
}

/// Locks a join, so that no transaction decides it until this one has ended.
pub fn lock_shared(id: Uuid) {
    thread_local! {
        static LOCK: Plan = Plan::new(
            "SELECT FROM workflow.joins AS j WHERE j.id OPERATOR(pg_catalog.=) $1 FOR SHARE".to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    rights::as_owner_of(TABLE, || LOCK.with(|plan| plan.run(&[Some(id.as_datum())], |_| ())));
}

/// Returns a uuid[].
pub fn uuids_datum(ids: &[Uuid]) -> Datum {
    uuid_array(memory::collect(ids.iter().map(Uuid::as_datum)))
}

fn uuids(row: &Row, column: usize) -> Vec<Uuid> {
    memory::collect(row.uuids(column).iter().map(|bytes| Uuid(*bytes)))
}
