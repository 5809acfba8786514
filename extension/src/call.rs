//! The call in progress: values for the triggers that the rows of their statement do not have.

use crate::ffi::jsonb::Jsonb;
use crate::ffi::uuid::Uuid;
use std::cell::RefCell;

/// A call of one of the extension's functions that write entities.
pub enum Call {
    /// `transition` or `transition_many`.
    Transition(Request),
    /// `create_dag_run` or `create_task_instances`, which write the history after their INSERT.
    Creation,
    /// `purge`, which records all that it deletes at once.
    Purge,
}

/// The part of a transition that has no column in the entity's row.
pub struct Request {
    /// The entities to move, sorted. A user's trigger may move others during the call.
    pub ids: Vec<Uuid>,
    pub metadata: Jsonb,
    pub request_id: Option<String>,
}

thread_local! {
    static CURRENT: RefCell<Option<Call>> = const { RefCell::new(None) };
}

/// Runs `statement` as part of the call. The call ends with it, also if it raises an error.
pub fn during<R>(call: Call, statement: impl FnOnce() -> R) -> R {
    struct Restore(Option<Call>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _restore = Restore(CURRENT.replace(Some(call)));
    statement()
}

/// Reads the request of the call in progress, if it moves this entity.
pub fn request_for<R>(id: Uuid, read: impl FnOnce(&Request) -> R) -> Option<R> {
    CURRENT.with_borrow(|current| match current {
        Some(Call::Transition(request)) if request.ids.binary_search(&id).is_ok() => Some(read(request)),
        _ => None,
    })
}

/// Whether the call in progress purges.
pub fn is_purge() -> bool {
    CURRENT.with_borrow(|current| matches!(current, Some(Call::Purge)))
}

/// Whether the call in progress creates entities.
pub fn is_creation() -> bool {
    CURRENT.with_borrow(|current| matches!(current, Some(Call::Creation)))
}
