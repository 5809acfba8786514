//! A DROP EXTENSION statement, as its event trigger sees it.

use pgrx::pg_sys::{self, NodeTag};
use std::ffi::CStr;

/// Returns the names of the extensions that the event trigger's statement drops without CASCADE.
///
/// # Safety
/// PostgreSQL must have passed `fcinfo` to the function. Panics if the function is not called as an event trigger.
pub unsafe fn extensions(fcinfo: pg_sys::FunctionCallInfo) -> Vec<String> {
    // SAFETY: the caller's promise; the tags identify the structs.
    unsafe {
        let context = (*fcinfo).context;
        assert!(
            !context.is_null() && (*context).type_ == NodeTag::T_EventTriggerData,
            "must be called as an event trigger"
        );
        let statement = (*context.cast::<pg_sys::EventTriggerData>()).parsetree;
        if (*statement).type_ != NodeTag::T_DropStmt {
            return Vec::new();
        }
        let drop = &*statement.cast::<pg_sys::DropStmt>();
        let is_plain = drop.behavior != pg_sys::DropBehavior::DROP_CASCADE;
        if drop.removeType != pg_sys::ObjectType::OBJECT_EXTENSION || !is_plain || drop.objects.is_null() {
            return Vec::new();
        }
        let count = (*drop.objects).length as usize;
        (0..count).map(|n| name((*(*drop.objects).elements.add(n)).ptr_value)).collect()
    }
}

/// Returns the text of a string node.
///
/// # Safety
/// `node` must be a string node.
unsafe fn name(node: *mut std::ffi::c_void) -> String {
    // SAFETY: the caller's promise: it holds a NUL-terminated text.
    unsafe {
        let text = (*node.cast::<pg_sys::String>()).sval;
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}

/// Exports a function `fn(Vec<String>)` as an event trigger. It gets the extensions that are dropped without CASCADE.
macro_rules! export_drop_trigger {
    ($symbol:ident, $info:ident, $function:path) => {
        $crate::ffi::export::export_function!($symbol, $info, |fcinfo| {
            // SAFETY: PostgreSQL passed it.
            $function(unsafe { $crate::ffi::drop::extensions(fcinfo) });
            pgrx::pg_sys::Datum::null()
        });
    };
}
pub(crate) use export_drop_trigger;
