//! What a statement costs.

use postgres::Client;

/// Buffers that a statement uses, with those of the functions that it calls; it is rolled back. The second time: the first
/// one fills the session's caches.
pub fn buffers(client: &mut Client, sql: &str) -> i64 {
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}");
    let mut used = 0;
    for _ in 0..2 {
        let mut transaction = client.transaction().unwrap();
        let plan = transaction.query_one(&explain, &[]).unwrap().get::<_, serde_json::Value>(0)[0]["Plan"].take();
        transaction.rollback().unwrap();
        used = ["Shared Hit Blocks", "Shared Read Blocks"].iter().map(|name| plan[*name].as_i64().unwrap()).sum();
    }
    used
}
