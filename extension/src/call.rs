//! The calls in progress: values for the triggers that the rows of their statement do not have.

use crate::entity::EntityType;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::trigger;
use crate::ffi::uuid::Uuid;
use crate::hold::{Given, Kept};
use crate::memory;
use pgrx::pg_sys::Oid;
use std::cell::RefCell;

/// A call of one of the extension's functions that write entities.
pub enum Call {
    /// `transition` or `transition_many`.
    Transition(Request),
    /// `create_dag_run` or `create_task_instances`, which write the history after their INSERT.
    Creation(Creation),
    /// `purge`, which records all that it deletes at once.
    Purge,
    /// `renew_claims` or `request_cancel`, which set columns of a claim without a transition.
    Hold,
    /// `add_dependencies`, which sets the join of tasks.
    Join,
}

/// The part of a transition that has no column in the entity's row.
pub struct Request {
    /// The entities to move, sorted. A user's trigger may move others during the call.
    ids: Vec<Uuid>,
    /// Whether the call's statement has reached each of them. A user's trigger may move it again.
    reached: Vec<bool>,
    pub metadata: Jsonb,
    pub request_id: Option<String>,
    given: Kept,
    /// The role that acts, if it is not the one that runs the statement.
    pub role: Option<Oid>,
}

impl Request {
    pub fn new(ids: Vec<Uuid>, metadata: Jsonb, request_id: Option<&str>) -> Request {
        let reached = memory::collect(ids.iter().map(|_| false));
        Request { ids, reached, metadata, request_id: request_id.map(memory::copy), given: Kept::default(), role: None }
    }

    pub fn giving(self, given: Given) -> Request {
        Request { given: given.keep(), ..self }
    }

    pub fn by(self, role: Oid) -> Request {
        Request { role: Some(role), ..self }
    }

    /// The values that the call gives each task beside its state.
    pub fn given(&self) -> Given<'_> {
        self.given.given()
    }
}

/// The part of a creation that its rows do not tell.
#[derive(Clone, Copy)]
pub struct Creation {
    pub kind: EntityType,
    /// `created_at` of the new rows.
    pub at: i64,
    pub caller: Oid,
}

struct InProgress {
    number: u64,
    /// How many triggers the call is made in.
    depth: i32,
    call: Call,
}

thread_local! {
    /// The innermost call is the last.
    static CALLS: RefCell<Vec<InProgress>> = const { RefCell::new(Vec::new()) };
}

/// Runs `statement` as part of the call. The call ends with it, also if it raises an error.
pub fn during<R>(call: Call, statement: impl FnOnce() -> R) -> R {
    thread_local! {
        static NEXT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    }
    struct End(usize);
    impl Drop for End {
        fn drop(&mut self) {
            CALLS.with_borrow_mut(|calls| calls.truncate(self.0));
        }
    }
    let number = NEXT.replace(NEXT.get() + 1);
    let depth = trigger::depth();
    let _end = CALLS.with_borrow_mut(|calls| {
        let end = End(calls.len());
        memory::push(calls, InProgress { number, depth, call });
        end
    });
    statement()
}

/// Returns the call whose statement moves this entity now; `None` if another statement moves it. A trigger calls it, once
/// for each row.
pub fn moving(id: Uuid) -> Option<u64> {
    CALLS.with_borrow_mut(|calls| {
        let InProgress { number, depth, call: Call::Transition(request) } = calls.last_mut()? else { return None };
        let index = request.ids.binary_search(&id).ok()?;
        // A statement within a trigger of the call's statement is deeper.
        let is_own = trigger::depth() == *depth + 1 && !request.reached[index];
        request.reached[index] |= is_own;
        is_own.then_some(*number)
    })
}

/// Reads the request of a call; `None` if the call has ended.
pub fn request<R>(call: u64, read: impl FnOnce(&Request) -> R) -> Option<R> {
    CALLS.with_borrow(|calls| match &calls.iter().rfind(|one| one.number == call)?.call {
        Call::Transition(request) => Some(read(request)),
        Call::Creation(_) | Call::Purge | Call::Hold | Call::Join => None,
    })
}

/// Whether no call is in progress.
pub fn is_none() -> bool {
    CALLS.with_borrow(Vec::is_empty)
}

/// Whether the innermost call purges.
pub fn is_purge() -> bool {
    CALLS.with_borrow(|calls| matches!(calls.last(), Some(InProgress { call: Call::Purge, .. })))
}

/// Whether the statement in progress is that of a call which sets columns of claims. Triggers and their statements ask.
pub fn sets_holds() -> bool {
    let is_own = |depth: i32| trigger::depth() == depth + 1;
    CALLS
        .with_borrow(|calls| matches!(calls.last(), Some(InProgress { call: Call::Hold, depth, .. }) if is_own(*depth)))
}

/// Whether the statement in progress is that of a call which sets the joins of tasks. As above.
pub fn sets_joins() -> bool {
    let is_own = |depth: i32| trigger::depth() == depth + 1;
    CALLS
        .with_borrow(|calls| matches!(calls.last(), Some(InProgress { call: Call::Join, depth, .. }) if is_own(*depth)))
}

/// Whether the innermost call creates entities.
pub fn is_creation() -> bool {
    CALLS.with_borrow(|calls| matches!(calls.last(), Some(InProgress { call: Call::Creation(_), .. })))
}

/// Returns the call in progress that creates the entities of this kind and `created_at`.
pub fn creation(kind: EntityType, created_at: i64) -> Option<Creation> {
    CALLS.with_borrow(|calls| {
        calls.iter().rev().find_map(|one| match one.call {
            Call::Creation(creation) if creation.kind == kind && creation.at == created_at => Some(creation),
            _ => None,
        })
    })
}
