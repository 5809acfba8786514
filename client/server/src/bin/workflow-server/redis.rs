//! Options of the connection to Redis.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use pg_workflow_client::redis_server::RedisServer;

#[derive(Args)]
pub struct Redis {
    /// Redis: redis://user:password@host:port, rediss://… for TLS, redis+unix:///path for a socket
    ///
    /// Several URLs, separated by commas, are nodes of a cluster, sentinels, or addresses of one Redis; the server detects
    /// which. With --no-relay, Redis is optional, and only /health uses it.
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL,…")]
    redis_url: Option<String>,

    /// CA certificates to trust instead of those of the system (PEM)
    #[arg(long, env = "WORKFLOW_REDIS_CA", value_name = "FILE")]
    redis_ca: Option<PathBuf>,

    /// Client certificate for Redis (PEM)
    #[arg(long, env = "WORKFLOW_REDIS_CERT", value_name = "FILE", requires = "redis_key")]
    redis_cert: Option<PathBuf>,

    /// Key of the client certificate (PEM)
    #[arg(long, env = "WORKFLOW_REDIS_KEY", value_name = "FILE", requires = "redis_cert")]
    redis_key: Option<PathBuf>,

    /// Name of the master, if the sentinels monitor several
    #[arg(long, env = "WORKFLOW_REDIS_SENTINEL_MASTER", value_name = "NAME")]
    redis_sentinel_master: Option<String>,
}

impl Redis {
    /// Returns the Redis of the options, if any.
    pub fn server(&self) -> Result<Option<RedisServer>> {
        // Not parsed by clap, whose errors would show the password.
        let Some(url) = &self.redis_url else { return Ok(None) };
        let mut server = RedisServer::parse(url).context("--redis-url (REDIS_URL)")?;
        if let Some(file) = &self.redis_ca {
            server = server.with_ca(read(file)?)?;
        }
        if let (Some(certificate), Some(key)) = (&self.redis_cert, &self.redis_key) {
            server = server.with_client_certificate(read(certificate)?, read(key)?)?;
        }
        if let Some(name) = &self.redis_sentinel_master {
            server = server.with_sentinel_master(name);
        }
        Ok(Some(server))
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
