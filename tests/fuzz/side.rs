//! One of the two databases, with its sessions.

use super::changes::CHANGES;
use super::names::Names;
use super::session::{Answer, Session};
use super::state;
use super::step::{Action, OWNER, SESSIONS, Step};
use postgres::{Client, NoTls};
use std::collections::BTreeSet;

/// How many times the triggers of UPDATE and of INSERT have been called.
pub type Calls = [i64; 2];

pub struct Side {
    database: String,
    sessions: Vec<Session>,
    /// Looks at the sessions and the rows, as a superuser.
    observer: Client,
    applied: BTreeSet<usize>,
    /// The results of the steps that measure.
    pub measured: Vec<Calls>,
    /// Sequences so far.
    count: usize,
}

impl Side {
    pub fn connect(url: &str, database: &str) -> Side {
        let sessions = (0..SESSIONS).map(|_| Session::connect(url)).collect();
        let observer = Client::connect(url, NoTls).expect("a connection");
        Side {
            database: database.to_owned(),
            sessions,
            observer,
            applied: BTreeSet::new(),
            measured: Vec::new(),
            count: 0,
        }
    }

    /// Plays a sequence, and returns what its sessions and an observer at its end see.
    pub fn play(&mut self, steps: &[Step]) -> Vec<String> {
        let mut names = Names::new(&self.database);
        self.count += 1;
        let dag = format!("SELECT workflow.create_dag('dag {}')", self.count);
        let dag = self.sessions[OWNER].run(&dag).expect("a DAG");
        names.add("d0", &dag[0][0]);
        let mut seen = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            self.take(number, step, &mut names, &mut seen);
            self.settle(&names, &mut seen);
        }
        self.end(&names, &mut seen);
        seen.extend(state::look(&mut self.observer, &names));
        self.undo_all();
        seen
    }

    /// Returns the calls so far. No session may wait.
    pub fn calls(&mut self) -> Calls {
        for session in &mut self.sessions {
            session.run("SELECT pg_catalog.pg_stat_force_next_flush()").expect("statistics");
        }
        let sql = "SELECT coalesce(sum(calls) FILTER (WHERE funcname IN ('guard', 'record')), 0)::bigint,
                          coalesce(sum(calls) FILTER (WHERE funcname = 'refuse_insert'), 0)::bigint
                   FROM pg_catalog.pg_stat_user_functions WHERE schemaname = 'workflow'";
        let row = self.observer.query_one(sql, &[]).expect("statistics");
        [row.get(0), row.get(1)]
    }

    /// Whether a change was applied that cannot be undone in full.
    pub fn is_spoiled(&self) -> bool {
        self.applied.iter().any(|change| CHANGES[*change].undo.is_none())
    }

    fn take(&mut self, number: usize, step: &Step, names: &mut Names, seen: &mut Vec<String>) {
        let session = &mut self.sessions[step.session];
        let title = format!("{number}, session {}", step.session);
        match &step.action {
            Action::Cancel if session.waits => {
                self.cancel(step.session, names, seen);
            }
            Action::Cancel => (),
            Action::Measure => {
                let calls = self.calls();
                self.measured.push(calls);
            }
            _ if session.waits => seen.push(format!("{title}: waits")),
            Action::Await(sql) => {
                let answer = session.run(&names.fill(sql));
                seen.extend(lines(&title, &answer, names));
            }
            Action::Run { sql, names: new } => {
                session.send(names.fill(sql));
                match self.answer_unless_blocked(step.session) {
                    Some(answer) => {
                        bind(names, new, &answer);
                        seen.extend(lines(&title, &answer, names));
                    }
                    None => seen.push(format!("{title}: is blocked")),
                }
            }
            Action::Toggle(change) => self.toggle(&title, *change, names, seen),
        }
    }

    /// Changes a definition, unless other sessions use the table.
    fn toggle(&mut self, title: &str, change: usize, names: &Names, seen: &mut Vec<String>) {
        let is_applied = self.applied.contains(&change);
        let sql = if is_applied { CHANGES[change].undo } else { Some(CHANGES[change].apply) };
        let Some(sql) = sql else { return };
        self.sessions[OWNER].send(sql.to_owned());
        let Some(answer) = self.answer_unless_blocked(OWNER) else { return self.cancel(OWNER, names, seen) };
        match (&answer, is_applied) {
            (Ok(_), true) => self.applied.remove(&change),
            (Ok(_), false) => self.applied.insert(change),
            (Err(_), _) => false,
        };
        seen.extend(lines(title, &answer, names));
    }

    /// Waits until each session has its response or is blocked. At most one stays blocked: of two that are no longer
    /// blocked at once, either could be the first.
    fn settle(&mut self, names: &Names, seen: &mut Vec<String>) {
        let mut blocked = Vec::new();
        for number in 0..SESSIONS {
            if !self.sessions[number].waits {
                continue;
            }
            match self.answer_unless_blocked(number) {
                Some(answer) => seen.extend(lines(&format!("session {number}, then"), &answer, names)),
                None => blocked.push(number),
            }
        }
        for number in blocked.into_iter().skip(1) {
            self.cancel(number, names, seen);
        }
    }

    fn answer_unless_blocked(&mut self, number: usize) -> Option<Answer> {
        // 0: a prepared transaction.
        let processes: Vec<i32> = self.sessions.iter().map(|session| session.process).chain([0]).collect();
        let observer = &mut self.observer;
        self.sessions[number].answer_unless(|process| is_blocked(observer, process, &processes))
    }

    fn cancel(&mut self, number: usize, names: &Names, seen: &mut Vec<String>) {
        let process = self.sessions[number].process;
        self.observer.execute("SELECT pg_catalog.pg_cancel_backend($1)", &[&process]).expect("it is ours");
        let answer = self.sessions[number].answer();
        seen.extend(lines(&format!("session {number}, canceled"), &answer, names));
    }

    /// Commits everything, and resets the sessions.
    fn end(&mut self, names: &Names, seen: &mut Vec<String>) {
        while self.sessions.iter().any(|session| session.waits) {
            self.commit(names, seen);
        }
        self.commit(names, seen);
        for session in &mut self.sessions {
            session.run("RESET SESSION AUTHORIZATION").expect("a superuser");
            session.run("DISCARD ALL").expect("no transaction");
        }
    }

    fn commit(&mut self, names: &Names, seen: &mut Vec<String>) {
        for number in 0..SESSIONS {
            // A deferred trigger can be blocked, too.
            if !self.sessions[number].waits {
                self.sessions[number].send("COMMIT".to_owned());
                let answer = self.answer_unless_blocked(number);
                seen.extend(
                    answer.iter().flat_map(|answer| lines(&format!("session {number}, at the end"), answer, names)),
                );
            }
        }
        let sql = "SELECT 'COMMIT PREPARED ' || quote_literal(gid) FROM pg_catalog.pg_prepared_xacts
                   WHERE database = pg_catalog.current_database() ORDER BY gid";
        for row in self.observer.query(sql, &[]).expect("prepared transactions") {
            self.observer.batch_execute(row.get(0)).expect("a prepared transaction");
        }
        self.settle(names, seen);
    }

    fn undo_all(&mut self) {
        for change in self.applied.clone().into_iter().rev() {
            if let Some(undo) = CHANGES[change].undo {
                self.observer.batch_execute(undo).unwrap_or_else(|error| panic!("{undo}: {error:?}"));
                self.applied.remove(&change);
            }
        }
    }
}

/// Whether one of these processes blocks a process.
fn is_blocked(observer: &mut Client, process: i32, by: &[i32]) -> bool {
    let sql = "SELECT pg_catalog.pg_blocking_pids($1) && $2";
    observer.query_one(sql, &[&process, &by]).expect("blocking processes").get(0)
}

fn bind(names: &mut Names, new: &[String], answer: &Answer) {
    for (name, row) in new.iter().zip(answer.iter().flatten()) {
        names.add(name, &row[0]);
    }
}

fn lines(title: &str, answer: &Answer, names: &Names) -> Vec<String> {
    let line = |text: &str| format!("{title}: {}", names.normalize(text));
    match answer {
        Ok(rows) => rows.iter().map(|row| line(&row.join(" | "))).collect(),
        Err(error) => vec![line(error)],
    }
}
