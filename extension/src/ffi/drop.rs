//! What a DROP EXTENSION is about to drop.

use pgrx::pg_sys::{self, NodeTag};
use std::ffi::CStr;

/// The names of the extensions that the statement drops, of which this is the event trigger, unless it says CASCADE.
///
/// # Safety
/// `fcinfo` must be what PostgreSQL passed to the function. Panics where that is not a call as an event trigger.
pub unsafe fn extensions(fcinfo: pg_sys::FunctionCallInfo) -> Vec<String> {
    // SAFETY: the caller's promise; the tags say which structs they are.
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

/// # Safety
/// `node` must be a string node.
unsafe fn name(node: *mut std::ffi::c_void) -> String {
    // SAFETY: the caller's promise: it holds a NUL-terminated text.
    unsafe {
        #[cfg(feature = "pg14")]
        let text = (*node.cast::<pg_sys::Value>()).val.str_;
        #[cfg(not(feature = "pg14"))]
        let text = (*node.cast::<pg_sys::String>()).sval;
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}
