//! What a sequence leaves: rows, history, counts, problems, and indexes without an entry.

use super::names::Names;
use postgres::{Client, SimpleQueryMessage};
use std::collections::HashMap;

/// Rows of all columns; times as comparisons with those of the history.
const ROWS: &[&str] = &[
    "SELECT 'run', to_jsonb(r) - '{created_at,updated_at,start_date,end_date}'::text[],
            r.created_at = h.created, r.updated_at = h.changed, r.updated_at >= h.changed, r.start_date = h.started, r.end_date = h.changed
     FROM workflow.dag_runs AS r CROSS JOIN LATERAL (
         SELECT min(h.changed_at) AS created, max(h.changed_at) AS changed, max(h.changed_at) FILTER (WHERE h.new_state = 'running') AS started
         FROM workflow.state_history AS h WHERE h.entity_id = r.id) AS h
     WHERE r.dag_id = '{d0}'",
    "SELECT 'task', to_jsonb(t) - '{created_at,updated_at,start_date,end_date,duration}'::text[],
            t.created_at = h.created, t.updated_at = h.changed, t.updated_at >= h.changed, t.start_date = h.started, t.end_date = h.changed,
            t.duration = extract(epoch FROM t.end_date - t.start_date)
     FROM workflow.task_instances AS t JOIN workflow.dag_runs AS r ON r.id = t.dag_run_id CROSS JOIN LATERAL (
         SELECT min(h.changed_at) AS created, max(h.changed_at) AS changed, max(h.changed_at) FILTER (WHERE h.new_state = 'running') AS started
         FROM workflow.state_history AS h WHERE h.entity_id = t.id) AS h
     WHERE r.dag_id = '{d0}'",
    "SELECT state, count FROM workflow.state_counts",
    "SELECT 'note', n FROM public.notes AS n",
    "SELECT 'problem', problem, detail FROM workflow.verify()",
];

/// Events of an entity in their order, with their transaction.
const HISTORY: &str = "
    SELECT h.transaction_id, 'event', h.tableoid::regclass, to_jsonb(h) - '{id,transaction_id,changed_at}'::text[]
    FROM workflow.state_history AS h WHERE h.dag_id = '{d0}' ORDER BY h.id";

/// Fails if a row version has no entry in a B-tree.
const INDEXES: &str = "
    SELECT public.bt_index_check(i.indexrelid, true)
    FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS t ON t.oid = i.indrelid
    JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid JOIN pg_catalog.pg_am AS a ON a.oid = c.relam
    WHERE t.relnamespace = 'workflow'::regnamespace AND a.amname = 'btree' AND i.indisvalid
        AND t.relname ~ '^(dag_runs|task_instances|state_history)'";

/// Returns lines that must be the same in both databases.
pub fn look(observer: &mut Client, names: &Names) -> Vec<String> {
    let mut lines = Vec::new();
    for sql in ROWS {
        let mut rows: Vec<String> =
            rows(observer, &names.fill(sql)).iter().map(|row| names.normalize(&row.join(" | "))).collect();
        rows.sort();
        lines.extend(rows);
    }
    lines.extend(history(observer, names));
    if let Err(error) = observer.simple_query(INDEXES) {
        lines.push(format!("an index is corrupt: {error:?}"));
    }
    observer.batch_execute("TRUNCATE public.notes").expect("a table of the tests");
    lines
}

/// The events of each entity in the order of their IDs; those of different entities in any order. Transactions have
/// numbers from 1.
fn history(observer: &mut Client, names: &Names) -> Vec<String> {
    let mut events: Vec<(String, String)> = Vec::new();
    for row in rows(observer, &names.fill(HISTORY)) {
        events.push((names.normalize(&row[1..].join(" | ")), row[0].clone()));
    }
    events.sort();
    let mut transactions: HashMap<String, usize> = HashMap::new();
    let number = |(event, transaction): (String, String)| {
        let next = transactions.len() + 1;
        format!("{event} in transaction {}", transactions.entry(transaction).or_insert(next))
    };
    events.into_iter().map(number).collect()
}

fn rows(observer: &mut Client, sql: &str) -> Vec<Vec<String>> {
    let messages = observer.simple_query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|n| row.get(n).unwrap_or("null").to_owned()).collect()),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}
