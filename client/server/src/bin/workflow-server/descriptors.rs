//! File descriptors: clients must leave some to the relay, or it could not reconnect.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For the runtime, the log, the relay, maintenance, checks, the reader of events, and name resolution.
const OWN: u64 = 32;

/// Raises the limit of open files as far as the system allows; returns it, if there is one.
pub fn raise_limit() -> Option<u64> {
    let given = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: given.maximum, maximum: given.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => given.maximum,
        Err(_) => given.current,
    }
}

/// Returns how many clients may connect, if that many are wanted: at least one. `others` are needed for other purposes.
pub fn clients(limit: Option<u64>, wanted: u32, others: u64) -> u32 {
    let Some(limit) = limit else { return wanted };
    let left = limit.saturating_sub(OWN + others).max(1);
    let clients = u64::from(wanted).min(left);
    if clients < u64::from(wanted) {
        tracing::warn!(
            "at most {clients} HTTP connections rather than {wanted}: this process may open {limit} files. Raise ulimit -n \
             (LimitNOFILE)."
        );
    }
    u32::try_from(clients).unwrap_or(wanted)
}
