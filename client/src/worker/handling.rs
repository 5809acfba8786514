//! Calls a handler, and turns what it returns into the end of a claim.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use serde::Serialize;
use serde_json::{Value, json};

use super::cancellation::{CancelReason, Cancellation};
use crate::model::ClaimedTask;
use crate::repository::{Failure, Finish};

/// Length of an error in bytes; the rest is cut.
const LONGEST: usize = 10_000;

/// Calls the handler. Returns `None` if it failed because the worker stops: the task is then released.
pub async fn handle<H, F, T>(handler: &H, task: ClaimedTask, cancellation: Cancellation) -> Option<Finish>
where
    H: Fn(ClaimedTask, Cancellation) -> F,
    F: Future<Output = Result<T, Failure>>,
    T: Serialize,
{
    let claim = task.claim.clone();
    let (id, name, try_number) = (task.id, task.task_id.clone(), task.try_number);
    tracing::debug!("task {id} ({name}) begins, attempt {try_number}");
    // The call is in the block, and the result's way to JSON: they can panic, too.
    let handling = AssertUnwindSafe(async {
        let result = handler(task, cancellation.clone()).await?;
        as_object(&result).map_err(|error| Failure::new(format!("the result is not JSON: {error}")))
    });
    let failure = match handling.catch_unwind().await {
        Ok(Ok(result)) => {
            tracing::debug!("task {id} ({name}) succeeded");
            return Some(Finish::success(claim, result));
        }
        Ok(Err(_)) if cancellation.reason() == Some(CancelReason::Shutdown) => return None,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::new(format!("the handler panicked: {}", message(panic))),
    };
    let error = clean(&failure.error);
    tracing::warn!("task {id} ({name}) failed at attempt {try_number}: {error}");
    Some(Finish::failure(claim, Failure { error, ..failure }))
}

fn as_object(result: &impl Serialize) -> serde_json::Result<Value> {
    Ok(match serde_json::to_value(result)? {
        Value::Null => json!({}),
        object @ Value::Object(_) => object,
        other => json!({ "result": other }),
    })
}

fn message(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned();
    // What a handler panicked with can be of any type, whose end can panic again.
    if let Err(again) = std::panic::catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(again);
    }
    text
}

/// Makes an error a text that the database can store.
fn clean(error: &str) -> String {
    error[..error.floor_char_boundary(LONGEST)].replace('\0', "\u{FFFD}")
}
