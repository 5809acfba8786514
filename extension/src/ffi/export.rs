//! Exporting C functions under the names that CREATE FUNCTION … LANGUAGE c gives.

/// Exports `$function`, a closure from the call's `FunctionCallInfo` to a `Datum`, as `$symbol`.
macro_rules! export_function {
    ($symbol:ident, $info:ident, $function:expr) => {
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $info() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const V1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }

        #[doc(hidden)]
        #[pgrx::pg_guard]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $symbol(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            let function: fn(pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum = $function;
            function(fcinfo)
        }
    };
}
pub(crate) use export_function;
