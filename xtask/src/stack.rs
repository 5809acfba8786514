//! Real, private servers for tests, demo, benchmarks and development.
//!
//! A server belongs to the value that started it: dropping the value stops the server and removes its data. When the
//! owner ends without dropping it (a static in a test, a panic that aborts, SIGKILL), the server ends all the same (see
//! [`process`]), and the next start removes its files.
//!
//! ```no_run
//! use xtask::stack::{FAST, Postgres, Redis, Server};
//!
//! # fn main() -> anyhow::Result<()> {
//! let postgres = Postgres::start("example", FAST)?;
//! let redis = Redis::start("example")?;
//! let url = postgres.create_database("workflow")?;
//! postgres.psql("workflow", "CREATE EXTENSION pg_workflow")?;
//! let server = Server::start(
//!     "example",
//!     &xtask::build::server_binary()?,
//!     &["serve"],
//!     &[("DATABASE_URL", &url), ("REDIS_URL", &redis.url()), ("WORKFLOW_LISTEN", "127.0.0.1:0")],
//! )?;
//! assert!(server.terminate()?.success());
//! # Ok(())
//! # }
//! ```

pub mod clock;
pub mod detached;
pub mod pooler;
pub mod port;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod redis_cluster;
pub mod redis_sentinel;
pub mod roles;
pub mod scratch;
pub mod server;
pub mod user;

pub use postgres::{FAST, PRELOADED, Postgres, PostgresConfig, Shutdown};
pub use redis::{Redis, RedisConfig};
pub use redis_cluster::RedisCluster;
pub use redis_sentinel::RedisSentinel;
pub use server::Server;
