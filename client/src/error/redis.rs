//! Errors of Redis: their messages and hints.

use std::error::Error;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError};

/// Returns one line: if several commands of a pipeline failed, the first error.
pub fn message(error: &RedisError) -> String {
    match server_error(error) {
        Some((code, Some(detail))) => format!("{code} {detail}"),
        Some((code, None)) => code,
        None => error.to_string(),
    }
}

/// Returns the hint for an error.
pub fn hint(error: &RedisError) -> &'static str {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return CREDENTIALS;
    }
    match server_error(error) {
        Some((code, detail)) => server_hint(&code, &detail.unwrap_or_default()),
        None => transport_hint(error),
    }
}

/// Returns the hint for an error that Redis, or the network, raised on a large event.
pub fn hint_of_large(error: &RedisError) -> &'static str {
    match server_error(error) {
        // A protocol error has no code of its own.
        Some((code, detail)) if code != "ERR" => server_hint(&code, &detail.unwrap_or_default()),
        _ => LARGE_EVENT,
    }
}

fn transport_hint(error: &RedisError) -> &'static str {
    match tls_failure(error) {
        Some(rustls::Error::AlertReceived(_)) => CLIENT_CERTIFICATE,
        Some(_) => TLS,
        None => {
            "Check that Redis runs and that REDIS_URL (--redis-url) names it, with rediss:// if and only if it expects TLS"
        }
    }
}

const CREDENTIALS: &str = "Check user and password in REDIS_URL (--redis-url); write special characters as %XX";
const PERMISSIONS: &str =
    "Grant the Redis user the commands, key and channel of the relay with ACL SETUSER: see docs/operations/security.md";
const TLS: &str = "Check that Redis's port is its TLS port, that --redis-ca (WORKFLOW_REDIS_CA) names the CA of its \
                   certificate, and that the certificate is for the host in REDIS_URL (--redis-url)";

const LARGE_EVENT: &str = "Raise proto-max-bulk-len and client-query-buffer-limit of Redis above that size. \
                           pg_workflow.max_field_size limits later events";
const CLIENT_CERTIFICATE: &str = "Redis refuses the TLS connection. If it requires a certificate (tls-auth-clients), \
                                  set --redis-cert and --redis-key to one of a CA that it trusts";

fn server_hint(code: &str, detail: &str) -> &'static str {
    match code {
        "NOAUTH" | "WRONGPASS" => CREDENTIALS,
        "NOPERM" => PERMISSIONS,
        // Commands denied to a script have no code of their own before Redis 7.2.
        _ if detail.starts_with("ACL failure in script") => PERMISSIONS,
        _ if detail.contains("can't publish to the channel") => PERMISSIONS,
        "OOM" => "Redis is full: free memory or raise its maxmemory. PostgreSQL keeps the events meanwhile",
        "READONLY" => "Name the master in REDIS_URL (--redis-url), not a replica; or the sentinels, which know it",
        "MISCONF" => "Redis cannot save to its disk: free space there, and see its log",
        "NOREPLICAS" => "Restart the replicas of Redis, or lower its min-replicas-to-write",
        "LOADING" => "Wait until Redis has loaded its data from disk",
        "CLUSTERDOWN" | "MASTERDOWN" => "Restart the missing nodes of the Redis cluster: see CLUSTER NODES",
        "FAILOVER" => "No action is needed: the relay reconnects to the new master",
        "SENTINEL" => {
            "Name one of the sentinels' masters with --redis-sentinel-master (WORKFLOW_REDIS_SENTINEL_MASTER)"
        }
        _ => "Read the log of Redis, and check that REDIS_URL (--redis-url) names the right Redis",
    }
}

/// Returns the code and the text of the server's error, if the server responded.
fn server_error(error: &RedisError) -> Option<(String, Option<String>)> {
    let errors = error.clone().into_server_errors()?;
    let (_, first) = errors.first()?;
    Some((first.code().to_owned(), first.details().map(str::to_owned)))
}

fn tls_failure(error: &RedisError) -> Option<&rustls::Error> {
    // The driver keeps the cause in an Arc.
    let cause = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    let within_io = || cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref();
    cause.downcast_ref().or_else(within_io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::make_extension_error;

    #[test]
    fn hint_differs_for_each_error_code() {
        let of = |code: &str| hint(&make_extension_error(code.to_owned(), None));
        let codes = [
            "WRONGPASS",
            "NOPERM",
            "OOM",
            "READONLY",
            "MISCONF",
            "NOREPLICAS",
            "LOADING",
            "CLUSTERDOWN",
            "FAILOVER",
            "SENTINEL",
        ];
        let all: std::collections::HashSet<_> = codes.into_iter().chain(["ERR"]).map(of).collect();
        assert_eq!(all.len(), codes.len() + 1);
        let script = make_extension_error("ERR".to_owned(), Some("ACL failure in script: …".to_owned()));
        assert_eq!(hint(&script), of("NOPERM"));
    }

    #[test]
    fn hint_recognizes_tls_failure() {
        let failure = || rustls::Error::General("no".to_owned());
        let in_io = io::Error::new(io::ErrorKind::InvalidData, failure());
        assert_eq!(hint(&RedisError::from(in_io)), TLS);
        assert_eq!(hint(&RedisError::from(failure())), TLS);
        assert_ne!(hint(&RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused))), TLS);
    }
}
