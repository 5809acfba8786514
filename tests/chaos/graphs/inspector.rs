//! A session that looks for joins whose watched task has ended, and at which only a sweep will look again. There are none at any time:
//! the transaction that ends the task looks before its commit, or leaves a row that watches none, because another one has
//! locked the join. The sweep of reap_claims() would mend them, so that no other check notices.

use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use super::evidence::Record;
use crate::chaos::session::{Session, Verdict, verdict};

pub fn inspect(url: &str, done: &AtomicBool) -> Result<Record> {
    let mut session = Session::new(url, "chaos inspector")?;
    let mut record = Record { worker: "inspector".to_owned(), ..Record::default() };
    let sql = "SELECT w::text FROM workflow.overdue_waits() AS w
        WHERE NOT EXISTS (SELECT FROM workflow.waits AS again WHERE again.join_id = w.join_id
            AND again.watched < '00000000-0000-0001-0000-000000000000')";
    while !done.load(Ordering::Acquire) {
        let rows = session.client().and_then(|client| Ok(client.query(sql, &[])?));
        match rows {
            Ok(rows) => rows.iter().for_each(|row| record.unseen.push(row.get(0))),
            Err(error) if verdict(&error) == Some(Verdict::Unknown) => session.reset(),
            Err(error) => return Err(error),
        }
        sleep(Duration::from_millis(100));
    }
    Ok(record)
}
