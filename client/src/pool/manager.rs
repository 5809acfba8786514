//! Opens and tests the connections of a pool.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::lock;
use super::statements::Statements;
use crate::Error;
use crate::connect::{Client, PostgresServer};

/// A connection that was tested within this time is not tested again before use, unless something speaks against it.
const FRESH: Duration = Duration::from_secs(1);
/// Time limit of a test: some must fit into the time that a caller waits.
const LONGEST_TEST: Duration = Duration::from_secs(2);
const TESTS: u32 = 3;

/// A connection in the pool.
pub struct Member {
    pub client: Client,
    pub statements: Arc<Statements>,
    tested_at: Instant,
}

/// Opens and tests connections.
pub struct Manager {
    server: PostgresServer,
    statement_limit: Duration,
    test_limit: Duration,
    keeps_statements: bool,
    failure: Failure,
    /// The last time at which a connection did not respond. A server that hangs makes all older ones suspicious.
    hung_at: Mutex<Option<Instant>>,
}

impl Manager {
    pub fn new(server: PostgresServer, options: &super::Options, failure: Failure) -> Manager {
        Manager {
            server,
            statement_limit: options.statement_timeout + Duration::from_secs(2),
            test_limit: (options.acquire_timeout / TESTS).min(LONGEST_TEST),
            keeps_statements: options.keeps_statements,
            failure,
            hung_at: Mutex::default(),
        }
    }

    async fn test(&self, member: &mut Member) -> Result<(), Error> {
        let test = member.statements.run(member.client.driver().batch_execute(""));
        tokio::time::timeout(self.test_limit, test).await.unwrap_or_else(|_| {
            *lock(&self.hung_at) = Some(Instant::now());
            Err(Error::Timeout(self.test_limit))
        })
    }
}

impl bb8::ManageConnection for Manager {
    type Connection = Member;
    type Error = Error;

    async fn connect(&self) -> Result<Member, Error> {
        let client = self.server.connect().await?;
        self.failure.forget();
        let keeps_statements = self.keeps_statements && !client.is_pooled();
        let statements = Arc::new(Statements::new(self.statement_limit, keeps_statements));
        Ok(Member { client, statements, tested_at: Instant::now() })
    }

    async fn is_valid(&self, member: &mut Member) -> Result<(), Error> {
        if lock(&self.hung_at).is_some_and(|hung_at| hung_at >= member.tested_at) {
            return Err(Error::Timeout(self.test_limit));
        }
        let is_unsure = member.statements.was_used_directly() || member.client.driver().is_closed();
        if is_unsure || member.tested_at.elapsed() > FRESH {
            self.test(member).await?;
            member.tested_at = Instant::now();
        }
        Ok(())
    }

    fn has_broken(&self, member: &mut Member) -> bool {
        member.client.driver().is_closed() || member.statements.is_busy()
    }
}

/// The last error of opening a connection since one succeeded, for callers that wait in vain.
#[derive(Clone, Debug, Default)]
pub struct Failure(Arc<Mutex<Option<Error>>>);

impl Failure {
    /// Returns the error, and forgets it.
    pub fn take(&self) -> Option<Error> {
        lock(&self.0).take()
    }

    fn forget(&self) {
        self.take();
    }
}

impl bb8::ErrorSink<Error> for Failure {
    fn sink(&self, error: Error) {
        *lock(&self.0) = Some(error);
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<Error>> {
        Box::new(self.clone())
    }
}
