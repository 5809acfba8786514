//! A session that runs one statement at a time, and can wait for another session meanwhile.

use postgres::error::SqlState;
use postgres::{Client, NoTls, SimpleQueryMessage};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// The rows of a statement, or its error.
pub type Answer = Result<Vec<Vec<String>>, String>;

pub struct Session {
    pub process: i32,
    statements: Sender<String>,
    answers: Receiver<Answer>,
    pub waits: bool,
}

impl Session {
    pub fn connect(url: &str) -> Session {
        let mut client = Client::connect(url, NoTls).expect("a connection");
        let process = client.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).expect("a process").get(0);
        let (statements, requests) = channel::<String>();
        let (responses, answers) = channel();
        std::thread::spawn(move || {
            for sql in requests {
                if responses.send(answer(&mut client, &sql)).is_err() {
                    break;
                }
            }
        });
        Session { process, statements, answers, waits: false }
    }

    pub fn send(&mut self, sql: String) {
        self.statements.send(sql).expect("the session lives");
        self.waits = true;
    }

    /// Returns the response, which must come.
    pub fn answer(&mut self) -> Answer {
        let answer = self.answers.recv().expect("the session lives");
        self.waits = false;
        answer
    }

    /// Returns the response; `None` if it is blocked.
    pub fn answer_unless(&mut self, mut is_blocked: impl FnMut(i32) -> bool) -> Option<Answer> {
        loop {
            match self.answers.recv_timeout(Duration::from_millis(5)) {
                Ok(answer) => {
                    self.waits = false;
                    return Some(answer);
                }
                Err(_) if is_blocked(self.process) => return None,
                Err(_) => (),
            }
        }
    }

    /// Runs a statement that no other session can block.
    pub fn run(&mut self, sql: &str) -> Answer {
        self.send(sql.to_owned());
        self.answer()
    }
}

fn answer(client: &mut Client, sql: &str) -> Answer {
    let messages = client.simple_query(sql).map_err(|error| {
        // A session sends the error, and then rolls back: until then it blocks others.
        client.simple_query("").ok();
        text_of(&error)
    })?;
    Ok(messages.iter().filter_map(values).collect())
}

fn values(message: &SimpleQueryMessage) -> Option<Vec<String>> {
    match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|n| row.get(n).unwrap_or("null").to_owned()).collect()),
        SimpleQueryMessage::CommandComplete(count) => Some(vec![format!("({count})")]),
        _ => None,
    }
}

fn text_of(error: &postgres::Error) -> String {
    let Some(error) = error.as_db_error() else { return format!("no response: {error}") };
    // It has numbers of processes, or IDs of events and transactions.
    let varies = *error.code() == SqlState::T_R_DEADLOCK_DETECTED;
    let detail = error.detail().filter(|detail| !varies && !detail.starts_with("Failing row")).unwrap_or_default();
    let (code, hint) = (error.code().code(), error.hint().unwrap_or_default());
    format!("{code}: {} | {detail} | {hint}", error.message())
}
