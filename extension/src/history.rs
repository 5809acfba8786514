//! Writing the table `state_history`.

use crate::errors;
use crate::event::Event;
use crate::ffi::insert::Inserter;
use crate::ffi::member;
use crate::ffi::partition::Table;
use crate::ffi::sequence::Sequence;
use crate::ffi::table_cache::TableCache;
use crate::ffi::transaction;
use crate::ffi::values::text_datum;
use pgrx::pg_sys::{Datum, Oid};
use std::cell::RefCell;

/// The table, open for the events of one statement. It is written with no check of permissions.
pub struct History {
    table: Table,
    leaf: RefCell<Option<Leaf>>,
    ids: Sequence,
}

/// The partition for the IDs that are drawn now.
struct Leaf {
    rows: Inserter,
    columns: Columns,
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
#[derive(Clone, Copy, Default)]
pub struct Origin<'a> {
    pub request_id: Option<&'a str>,
    /// The current role, if the login role acted as another one.
    pub acted_as: Option<&'a str>,
}

impl History {
    /// Opens the table. Draw IDs only after this: the table's lock keeps the sequence from reaching a partition that
    /// this transaction does not know yet.
    pub fn open() -> History {
        let table = Table::open(c"workflow", c"state_history");
        if !member::is_relation(table.table().0) {
            errors::not_a_member("table workflow.state_history");
        }
        let ids = Sequence::find(c"state_history_id_seq")
            .unwrap_or_else(|| errors::not_a_member("sequence workflow.state_history_id_seq"));
        History { table, leaf: RefCell::new(None), ids }
    }

    /// Draws the ID of the next event. The entity's row is locked meanwhile, so IDs follow its versions.
    pub fn next_id(&self) -> i64 {
        self.ids.next_value()
    }

    /// Returns the table and its owner.
    pub fn table(&self) -> (Oid, Oid) {
        self.table.table()
    }

    /// Inserts the row of an event.
    pub fn write(&self, event: &Event, origin: Origin) {
        let mut leaf = self.leaf.borrow_mut();
        if leaf.as_ref().is_none_or(|leaf| event.id >= leaf.end) {
            leaf.take().into_iter().for_each(Leaf::close);
        }
        let leaf = leaf.get_or_insert_with(|| Leaf::open(&self.table, event.id));
        let Columns { id, entity_type, entity_id, old_state, new_state, version, metadata, .. } = leaf.columns;
        let Columns { actor, changed_at, dag_id, dag_run_id, task_id, request_id, transaction_id: xid, .. } =
            leaf.columns;
        let mut values = vec![
            (id, Datum::from(event.id)),
            (entity_type, text_datum(event.entity_type)),
            (entity_id, event.entity_id.as_datum()),
            (version, Datum::from(event.version)),
            (metadata, event.metadata.datum()),
            (actor, text_datum(event.actor)),
            (changed_at, Datum::from(event.changed_at)),
            (dag_id, event.dag_id.as_datum()),
            (dag_run_id, event.dag_run_id.as_datum()),
            (xid, transaction::id()),
        ];
        let acted_as = leaf.columns.acted_as.map(|column| (column, origin.acted_as));
        let states = [(old_state, event.old_state), (new_state, event.new_state)];
        let texts = [(task_id, event.task_id), (request_id, origin.request_id)];
        let texts = states.into_iter().chain(texts).chain(acted_as);
        values.extend(texts.filter_map(|(column, text)| Some((column, text_datum(text?)))));
        leaf.rows.insert(&values);
    }

    /// Closes the table; its lock stays.
    pub fn close(self) {
        self.leaf.into_inner().into_iter().for_each(Leaf::close);
        self.table.close();
    }
}

impl Leaf {
    fn open(table: &Table, id: i64) -> Leaf {
        let Some(leaf) = table.leaf(id) else { errors::no_partition(id) };
        let rows = Inserter::open(leaf.table);
        Leaf { columns: Columns::of(&rows), rows, end: leaf.end }
    }

    fn close(self) {
        self.rows.close();
    }
}

impl Columns {
    fn of(table: &Inserter) -> Columns {
        thread_local! {
            static KNOWN: TableCache<Columns> = const { TableCache::new() };
        }
        KNOWN.with(|known| known.get(table.oid(), || Columns::look_up(table)))
    }

    fn look_up(table: &Inserter) -> Columns {
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
}
