//! The event that an earlier call with the same request ID has written.

use crate::ffi::scan::{self, Requested};
use crate::ffi::uuid::Uuid;
use crate::ffi::{snapshot, transaction};
use crate::history;

/// Returns a range of event IDs which has that event of the entity; `None` if there is no such event.
///
/// Reads no more than the entity's own events: their IDs follow its versions, so no event is in a partition before that
/// of version 1. Neither rights nor row security are asked; the caller reads the range with the role's own.
pub fn find(entity_id: Uuid, request_id: &str) -> Option<[i64; 2]> {
    let history = history::open_to_read();
    let leaves = history.leaves(i64::MIN, i64::MAX);
    let requested = Requested { entity_id, request_id };
    let mut range = None;
    transaction::next_command();
    snapshot::with_latest(|| {
        for leaf in leaves.iter().rev() {
            if !scan::is_plain(leaf.table) {
                // An administrator has put something else in its place, which only a query can read.
                range = Some([i64::MIN, i64::MAX]);
                break;
            }
            let part = requested.find(leaf.table);
            range = part.found.map(|id| [id, id]);
            if range.is_some() || part.has_first {
                break;
            }
        }
    });
    history.close();
    range
}
