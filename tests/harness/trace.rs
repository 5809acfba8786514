//! Real workflow traces, which are not part of the repository.

use std::path::PathBuf;

/// Returns the path of a real trace, or `None` with a message if the folder is missing.
pub fn real_trace(name: &str) -> Option<PathBuf> {
    let path = xtask::workspace::root().join("../shared/traces").join(name);
    if !path.exists() {
        eprintln!("skipped: {} is missing", path.display());
        return None;
    }
    Some(path)
}
