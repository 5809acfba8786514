//! Writing `state_history`.

use crate::announce::{Announcer, Event};
use crate::errors;
use crate::ffi::insert::{Inserter, next_value, relation, schema, transaction_id};
use crate::ffi::partition::Table;
use crate::ffi::plan::Plan;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::text_datum;
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::RefCell;
use std::collections::HashMap;

/// state_history, open for what one statement writes. It is written for everyone, whatever they may do.
pub struct History {
    table: Table,
    leaf: RefCell<Option<Leaf>>,
    ids: Oid,
}

/// The partition that takes the rows with the ids that are drawn at present.
struct Leaf {
    rows: Inserter,
    columns: Columns,
    /// The first id that another one takes.
    end: i64,
}

/// Column numbers (from 1), by name, so that the library serves a table of any version.
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
}

impl History {
    /// Opens the table. An id must be drawn after this: its lock keeps the sequence from going on to a partition that
    /// this transaction does not know of yet.
    pub fn open() -> History {
        let table = Table::open(c"workflow", c"state_history");
        History { table, leaf: RefCell::new(None), ids: relation(schema(c"workflow"), c"state_history_id_seq") }
    }

    /// The id of the next event. They are drawn while the entity's row is locked, so they follow its versions.
    pub fn next_id(&self) -> i64 {
        next_value(self.ids)
    }

    /// How the events that are written here become known.
    pub fn announcer(&self) -> Announcer {
        let (table, owner) = self.table.table();
        Announcer::of_transaction(table, owner)
    }

    pub fn write(&self, event: &Event, request_id: Option<&str>) {
        let mut leaf = self.leaf.borrow_mut();
        if leaf.as_ref().is_none_or(|leaf| event.id >= leaf.end) {
            leaf.take().into_iter().for_each(Leaf::close);
        }
        let leaf = leaf.get_or_insert_with(|| Leaf::open(&self.table, event.id));
        let Columns { id, entity_type, entity_id, old_state, new_state, version, metadata, .. } = leaf.columns;
        let Columns {
            actor, changed_at, dag_id, dag_run_id, task_id, request_id: request, transaction_id: xid, ..
        } = leaf.columns;
        let mut values = vec![
            (id, Datum::from(event.id)),
            (entity_type, text_datum(event.entity_type)),
            (entity_id, event.entity_id.as_datum()),
            (new_state, text_datum(event.new_state)),
            (version, Datum::from(event.version)),
            (metadata, event.metadata.datum()),
            (actor, text_datum(event.actor)),
            (changed_at, Datum::from(event.changed_at)),
            (dag_id, event.dag_id.as_datum()),
            (dag_run_id, event.dag_run_id.as_datum()),
            (xid, transaction_id()),
        ];
        let texts = [(old_state, event.old_state), (task_id, event.task_id), (request, request_id)];
        values.extend(texts.into_iter().filter_map(|(column, text)| Some((column, text_datum(text?)))));
        leaf.rows.insert(&values);
    }

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
            static KNOWN: RefCell<HashMap<(Oid, i32), Columns>> = RefCell::new(HashMap::new());
        }
        KNOWN.with_borrow_mut(|known| *known.entry(table.shape()).or_insert_with(|| Columns::look_up(table)))
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
        }
    }
}

/// The DAG of a run, which never changes: asked once a backend. None where there is no such run.
pub fn dag_of(run: Uuid) -> Option<Uuid> {
    /// Some 200 kB. A worker moves the tasks of a few runs at a time.
    const KEPT: usize = 4096;
    thread_local! {
        static KNOWN: RefCell<HashMap<Uuid, Uuid>> = RefCell::new(HashMap::new());
        static ASK: Plan = Plan::new(
            "SELECT r.dag_id FROM workflow.dag_runs AS r WHERE r.id OPERATOR(pg_catalog.=) $1".to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    if let Some(dag) = KNOWN.with_borrow(|known| known.get(&run).copied()) {
        return Some(dag);
    }
    let dag = ASK.with(|plan| {
        plan.run(&[Some(run.as_datum())], |rows| {
            // SAFETY: column 1 is a uuid.
            if rows.len() == 0 { None } else { rows.get(0, 1).map(|dag| unsafe { Uuid::from_datum(dag) }) }
        })
    })?;
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(run, dag);
    });
    Some(dag)
}
