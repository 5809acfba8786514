//! What `transition` and `transition_many` tell the triggers that their UPDATE fires: the metadata and the request
//! id, which have no column in the row.

use crate::ffi::jsonb::Jsonb;
use crate::ffi::uuid::Uuid;
use std::cell::RefCell;

/// A call under way.
#[derive(Clone)]
pub struct Request {
    /// The entities that it is about, sorted. A trigger of the user's may move others meanwhile.
    pub ids: Vec<Uuid>,
    pub metadata: Jsonb,
    pub request_id: Option<String>,
}

thread_local! {
    static CURRENT: RefCell<Option<Request>> = const { RefCell::new(None) };
}

/// Runs `update` with the request known to the triggers. An error that leaves `update` ends it too.
pub fn during<R>(request: Request, update: impl FnOnce() -> R) -> R {
    struct Restore(Option<Request>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _restore = Restore(CURRENT.replace(Some(request)));
    update()
}

/// The request under way, where it is about this entity.
pub fn about<R>(id: Uuid, read: impl FnOnce(&Request) -> R) -> Option<R> {
    CURRENT.with_borrow(|current| current.as_ref().filter(|request| request.ids.binary_search(&id).is_ok()).map(read))
}
