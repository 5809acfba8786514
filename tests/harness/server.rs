//! `workflow-server`, started by a test.

use std::path::PathBuf;
use xtask::stack::server::Server;

/// Returns the `workflow-server` that `cargo xtask test` built, or the one beside the test.
pub fn server_binary() -> PathBuf {
    match std::env::var_os("WORKFLOW_SERVER_BIN") {
        Some(path) => path.into(),
        None => xtask::build::server_binary().expect("workflow-server, built by `cargo xtask test`"),
    }
}

/// Starts `workflow-server serve` on a free port, waits until it listens, and returns it with its URL.
pub fn serve(database_url: &str, redis_url: &str) -> (Server, String) {
    Server::serve("serve", &server_binary(), database_url, redis_url).expect("the server starts and listens")
}

/// Returns everything that a server has logged.
pub fn log_of(server: &Server) -> String {
    std::fs::read_to_string(server.log()).expect("a log")
}
