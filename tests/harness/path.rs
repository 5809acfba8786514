//! The way in which the functions write rows.

/// The setting by which all functions run SQL statements: the environment has `WORKFLOW_PATH=statement`.
pub fn path_settings() -> &'static [(&'static str, &'static str)] {
    match std::env::var("WORKFLOW_PATH").as_deref() {
        Ok("statement") => &[("pg_workflow.direct_path", "off")],
        Ok(other) => panic!("WORKFLOW_PATH: there is no path {other}"),
        Err(_) => &[],
    }
}

/// Whether all functions run SQL statements.
pub fn is_statement_path() -> bool {
    !path_settings().is_empty()
}
