//! What a statement costs.

use postgres::{Client, Transaction};

/// Buffers that a statement uses, with those of the functions that it calls; it is rolled back. The second time: the first
/// one fills the session's caches.
pub fn buffers(client: &mut Client, sql: &str) -> i64 {
    let mut used = 0;
    for _ in 0..2 {
        let mut transaction = client.transaction().unwrap();
        used = buffers_in(&mut transaction, sql);
        transaction.rollback().unwrap();
    }
    used
}

/// Buffers that a statement of a transaction uses.
pub fn buffers_in(transaction: &mut Transaction<'_>, sql: &str) -> i64 {
    let explained = transaction.query_one(&format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"), &[]).unwrap();
    let plan = &explained.get::<_, serde_json::Value>(0)[0]["Plan"];
    ["Shared Hit Blocks", "Shared Read Blocks"].iter().map(|name| plan[*name].as_i64().unwrap()).sum()
}
