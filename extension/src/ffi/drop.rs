//! A DROP EXTENSION statement, as its event trigger sees it.

use super::trigger::Misuse;
use pgrx::pg_sys::{self, NodeTag};
use std::ffi::CStr;

/// Returns the names of the extensions that the event trigger's statement drops without CASCADE. Fails if the
/// function is not called ON ddl_command_start of DROP EXTENSION.
///
/// # Safety
/// PostgreSQL must have passed `fcinfo` to the function.
pub unsafe fn extensions(fcinfo: pg_sys::FunctionCallInfo) -> Result<Vec<String>, Misuse> {
    // SAFETY: the caller's promise; the tags identify the structs.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != NodeTag::T_EventTriggerData {
            return Err(Misuse::NoTrigger);
        }
        let call = &*context.cast::<pg_sys::EventTriggerData>();
        let drop = call.parsetree.cast::<pg_sys::DropStmt>();
        if CStr::from_ptr(call.event) != c"ddl_command_start"
            || (*drop).type_ != NodeTag::T_DropStmt
            || (*drop).removeType != pg_sys::ObjectType::OBJECT_EXTENSION
        {
            return Err(Misuse::EventTrigger);
        }
        let drop = &*drop;
        if drop.behavior == pg_sys::DropBehavior::DROP_CASCADE || drop.objects.is_null() {
            return Ok(Vec::new());
        }
        let count = (*drop.objects).length as usize;
        Ok((0..count).map(|n| name((*(*drop.objects).elements.add(n)).ptr_value)).collect())
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

/// Exports a function, as `rights::export_drop_trigger` describes. `$checked` raises an error for a misuse.
macro_rules! export_drop_trigger_call {
    ($symbol:ident, $info:ident, $function:ident, $checked:path) => {
        $crate::ffi::export::export_function!($symbol, $info, |fcinfo| {
            // SAFETY: PostgreSQL passed it.
            let call = unsafe { $crate::ffi::drop::extensions(fcinfo) };
            $function($checked(stringify!($function), call));
            pgrx::pg_sys::Datum::null()
        });
    };
}
pub(crate) use export_drop_trigger_call;
