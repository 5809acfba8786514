//! Prepared transactions. Another session ends them, perhaps after a crash.

use anyhow::Result;
use std::time::Duration;

use super::{Verdict, Writer, next_state, update, verdict};

impl Writer {
    pub(super) fn transition_prepared(&mut self) -> Result<u32> {
        let name = format!("{} {:x}", self.name, self.random.u64(..));
        let commits = self.random.u32(0..4) > 0;
        let pause = if self.random.u32(0..8) == 0 { self.random.u64(0..2500) } else { 0 };
        let moves: Vec<_> = self
            .random
            .choose_multiple(0..self.own.len(), 3)
            .into_iter()
            .map(|index| (index, next_state(&mut self.random, self.own[index].state)))
            .collect();
        let prepared = self.prepare(&name, &moves);
        match &prepared {
            Ok(()) => std::thread::sleep(Duration::from_millis(pause)),
            Err(error) if verdict(error) == Some(Verdict::Unknown) => (),
            // It sends its own notifications, because the database has no notifier.
            Err(error) if is_unsupported(error) => {
                self.written.counts.rolled_back += 1;
                return Ok(0);
            }
            Err(_) => return prepared.map(|()| 0),
        }
        let was_prepared = self.end_prepared(&name, commits)?;
        if prepared.is_err() {
            // Without a response: `resolve` finds out what is committed.
            return prepared.map(|()| 0);
        }
        self.written.counts.prepared += 1;
        if !was_prepared {
            self.complain(&format!("the prepared transaction {name} is gone"));
        }
        if !commits {
            return Ok(0);
        }
        for &(index, to) in &moves {
            self.acknowledge(index, to, self.own[index].version + 1);
        }
        Ok(moves.len() as u32)
    }

    fn prepare(&mut self, name: &str, moves: &[(usize, super::State)]) -> Result<()> {
        let client = self.session.client()?;
        client.batch_execute("BEGIN")?;
        for &(index, to) in moves {
            update(client, self.own[index], to)?;
        }
        Ok(client.batch_execute(&format!("PREPARE TRANSACTION '{name}'"))?)
    }

    /// Commits or rolls back a prepared transaction, and returns whether there was one.
    fn end_prepared(&mut self, name: &str, commits: bool) -> Result<bool> {
        // An older session can still be about to prepare. The message waits for the standby with all that came before.
        const SETTLE: &str = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                              WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid();
                              SELECT pg_logical_emit_message(true, 'chaos', '')";
        let look = "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = $1)";
        let end = format!("{} PREPARED '{name}'", if commits { "COMMIT" } else { "ROLLBACK" });
        let mut was_prepared = false;
        loop {
            self.session.reset();
            let is_prepared: bool = self.session.insist(|client| {
                client.batch_execute(SETTLE)?;
                Ok(client.query_one(look, &[&name])?.get(0))
            })?;
            if !is_prepared {
                return Ok(was_prepared);
            }
            was_prepared = true;
            // Whether it has ended, the next look tells.
            if let Err(error) = self.session.client()?.batch_execute(&end).map_err(anyhow::Error::from)
                && verdict(&error) != Some(Verdict::Unknown)
            {
                return Err(error);
            }
        }
    }
}

fn is_unsupported(error: &anyhow::Error) -> bool {
    let error: Option<&postgres::Error> = error.downcast_ref();
    error.and_then(postgres::Error::code).is_some_and(|code| code.code() == "0A000")
}
