//! The options that say where Redis is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use pg_workflow_client::redis_server::RedisServer;

#[derive(Args)]
pub struct Redis {
    /// Redis: redis://user:password@host:port, rediss://… for TLS, redis+unix:///path for a socket. Not needed with
    /// --no-relay; given all the same, /health reports on it.
    ///
    /// Several with commas between them are nodes of a cluster, sentinels, or addresses of one Redis to try in turn;
    /// which of these is found out.
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL[,URL…]")]
    redis_url: Option<String>,

    /// Trust the certificates in this PEM file, and not those of the system.
    #[arg(long, env = "WORKFLOW_REDIS_CA", value_name = "FILE")]
    redis_ca: Option<PathBuf>,

    /// The certificate to show to Redis, where it asks for one. PEM.
    #[arg(long, env = "WORKFLOW_REDIS_CERT", value_name = "FILE", requires = "redis_key")]
    redis_cert: Option<PathBuf>,

    /// The key of that certificate. PEM.
    #[arg(long, env = "WORKFLOW_REDIS_KEY", value_name = "FILE", requires = "redis_cert")]
    redis_key: Option<PathBuf>,

    /// The master to ask the sentinels for, where they watch several.
    #[arg(long, env = "WORKFLOW_REDIS_SENTINEL_MASTER", value_name = "NAME")]
    redis_sentinel_master: Option<String>,
}

impl Redis {
    /// None where none is named.
    pub fn server(&self) -> Result<Option<RedisServer>> {
        // Not by clap, which would show the password with the error.
        let Some(url) = &self.redis_url else { return Ok(None) };
        let mut server = RedisServer::parse(url)?;
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
