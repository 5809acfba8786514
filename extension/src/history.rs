//! Writing the table `state_history`.

use crate::errors;
use crate::event::Event;
use crate::ffi::heap::{Heap, Lock};
use crate::ffi::insert::Inserter;
use crate::ffi::partition::Table;
use crate::ffi::rows::Rows;
use crate::ffi::sequence::Sequence;
use crate::ffi::table_cache::TableCache;
use crate::ffi::transaction;
use crate::ffi::values::text_datum;
use crate::settings;
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::CStr;

const TABLE: &CStr = c"state_history";

/// Opens the table to read it.
pub fn open_to_read() -> Table {
    Table::open_to_read(TABLE).unwrap_or_else(|| missing())
}

fn missing() -> ! {
    errors::not_a_member("table workflow.state_history")
}

/// The table, open for the events of one statement. It is written with no check of permissions.
pub struct History {
    table: Table,
    leaf: Option<Leaf>,
    ids: Sequence,
}

/// The partition for the IDs that are drawn now.
struct Leaf {
    heap: Heap,
    columns: Columns,
    /// For a table that needs more than rows and index entries.
    executor: Option<Inserter>,
    /// The first ID of the next partition.
    end: i64,
}

/// Column numbers (from 1), found by name, so that the library works with a table of any version.
#[derive(Clone, Copy)]
struct Columns {
    id: usize,
    entity_type: usize,
    entity_id: usize,
    old_state: usize,
    new_state: usize,
    version: usize,
    metadata: usize,
    actor: usize,
    changed_at: usize,
    dag_id: usize,
    dag_run_id: usize,
    task_id: usize,
    request_id: usize,
    transaction_id: usize,
    /// From 0.3.0 on.
    acted_as: Option<usize>,
}

/// The part of an event that is in its row but not in its JSON.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    /// The current role, if the login role acted as another one.
    pub acted_as: Option<&'a str>,
}

impl History {
    /// Opens the table. Draw IDs only after this: the table's lock keeps the sequence from reaching a partition that
    /// this transaction does not know yet.
    pub fn open() -> History {
        let table = Table::open(TABLE).unwrap_or_else(|| missing());
        let ids = Sequence::find(c"state_history_id_seq")
            .unwrap_or_else(|| errors::not_a_member("sequence workflow.state_history_id_seq"));
        History { table, leaf: None, ids }
    }

    /// Draws the ID of the next event. The entity's row is locked meanwhile, so IDs follow its versions.
    pub fn next_id(&self) -> i64 {
        self.ids.next_value()
    }

    /// Returns the table and its owner.
    pub fn table(&self) -> (Oid, Oid) {
        self.table.table()
    }

    /// Inserts the rows of events, whose IDs ascend.
    pub fn write(&mut self, mut events: &[Event], origin: Origin) {
        while let Some(first) = events.first() {
            if self.leaf.as_ref().is_none_or(|leaf| first.id >= leaf.end) {
                self.leaf.take().into_iter().for_each(Leaf::close);
            }
            let leaf = self.leaf.get_or_insert_with(|| Leaf::open(&self.table, first.id));
            let (here, later) = events.split_at(events.partition_point(|event| event.id < leaf.end));
            leaf.write(here, origin);
            events = later;
        }
    }

    /// Closes the table; its lock stays.
    pub fn close(self) {
        self.leaf.into_iter().for_each(Leaf::close);
        self.table.close();
    }
}

impl Leaf {
    fn open(table: &Table, id: i64) -> Leaf {
        let leaf = table.leaf(id).unwrap_or_else(|| errors::no_partition(id));
        let heap = Heap::open(leaf.table, Lock::Write).unwrap_or_else(|| errors::no_partition(id));
        Leaf { columns: Columns::of(leaf.table, &heap), heap, executor: None, end: leaf.end }
    }

    fn write(&mut self, events: &[Event], origin: Origin) {
        let mut rows = Rows::new(self.heap.width(), events.len());
        events.iter().for_each(|event| rows.push(&self.columns.values(event, origin)));
        if !self.is_direct() || !self.heap.insert(&mut rows) {
            let table = self.heap.relation().rd_id;
            self.executor.get_or_insert_with(|| Inserter::open(table)).insert(&rows);
        }
        rows.free();
    }

    /// Whether rows can be written without an executor.
    fn is_direct(&self) -> bool {
        thread_local! {
            static KNOWN: TableCache<bool> = const { TableCache::new() };
        }
        let heap = &self.heap;
        let look_up = || {
            heap.is_ordinary()
                && !heap.fires_for_inserted_rows()
                && heap.checks().is_empty()
                && self.columns.are_ours(heap)
        };
        settings::direct_path() && KNOWN.with(|known| known.get(heap.relation().rd_id, look_up))
    }

    fn close(self) {
        self.executor.into_iter().for_each(Inserter::close);
        self.heap.close();
    }
}

impl Columns {
    fn of(table: Oid, heap: &Heap) -> Columns {
        thread_local! {
            static KNOWN: TableCache<Columns> = const { TableCache::new() };
        }
        KNOWN.with(|known| known.get(table, || Columns::look_up(heap)))
    }

    fn look_up(table: &Heap) -> Columns {
        Columns {
            id: table.column("id"),
            entity_type: table.column("entity_type"),
            entity_id: table.column("entity_id"),
            old_state: table.column("old_state"),
            new_state: table.column("new_state"),
            version: table.column("version"),
            metadata: table.column("metadata"),
            actor: table.column("actor"),
            changed_at: table.column("changed_at"),
            dag_id: table.column("dag_id"),
            dag_run_id: table.column("dag_run_id"),
            task_id: table.column("task_id"),
            request_id: table.column("request_id"),
            transaction_id: table.column("transaction_id"),
            acted_as: table.find_column("acted_as"),
        }
    }

    /// Whether they have the types of the extension, and no other column must have a value.
    fn are_ours(&self, heap: &Heap) -> bool {
        let always = [
            (self.id, pg_sys::INT8OID),
            (self.entity_type, pg_sys::TEXTOID),
            (self.entity_id, pg_sys::UUIDOID),
            (self.version, pg_sys::INT8OID),
            (self.metadata, pg_sys::JSONBOID),
            (self.actor, pg_sys::TEXTOID),
            (self.changed_at, pg_sys::TIMESTAMPTZOID),
            (self.dag_id, pg_sys::UUIDOID),
            (self.dag_run_id, pg_sys::UUIDOID),
            (self.transaction_id, pg_sys::XID8OID),
        ];
        let texts = [self.old_state, self.new_state, self.task_id, self.request_id];
        let is_always = |column: usize| always.iter().any(|(one, _)| *one == column);
        always.iter().all(|(column, expected)| heap.has_type(*column, *expected))
            && texts.into_iter().chain(self.acted_as).all(|column| heap.has_type(column, pg_sys::TEXTOID))
            && (1..=heap.width()).all(|column| is_always(column) || !heap.is_not_null(column))
    }

    /// Returns the row of an event, which must outlive it.
    fn values(&self, event: &Event, origin: Origin) -> Vec<(usize, Datum)> {
        let mut values = vec![
            (self.id, Datum::from(event.id)),
            (self.entity_type, text_datum(event.entity_type)),
            (self.entity_id, event.entity_id.as_datum()),
            (self.version, Datum::from(event.version)),
            (self.metadata, event.metadata.datum()),
            (self.actor, text_datum(event.actor)),
            (self.changed_at, Datum::from(event.changed_at)),
            (self.dag_id, event.dag_id.as_datum()),
            (self.dag_run_id, event.dag_run_id.as_datum()),
            (self.transaction_id, transaction::id()),
        ];
        let acted_as = self.acted_as.map(|column| (column, origin.acted_as));
        let states = [(self.old_state, event.old_state), (self.new_state, event.new_state)];
        let texts = [(self.task_id, event.task_id), (self.request_id, event.request_id)];
        let texts = states.into_iter().chain(texts).chain(acted_as);
        values.extend(texts.filter_map(|(column, text)| Some((column, text_datum(text?)))));
        values
    }
}
