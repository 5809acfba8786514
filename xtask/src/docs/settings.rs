//! The settings of the extension, as the library describes them.

use anyhow::Result;

use super::marked;

/// The library has defined its settings once a function of it was called.
const SETTINGS: &str = "
    LOAD 'pg_workflow';
    SELECT format('### %s', name) || E'\\n\\n' || short_desc || coalesce(' ' || nullif(extra_desc, ''), '') || E'\\n\\n'
        || format('Default: %s. ', boot_val || coalesce(' ' || unit, ''))
        || coalesce('Values: ' || array_to_string(enumvals, ', ') || '. ', 'Range: ' || min_val || ' to ' || max_val || '. ', '')
        || CASE context WHEN 'sighup' THEN 'Change it in postgresql.conf or with ALTER SYSTEM, then reload.'
            WHEN 'postmaster' THEN 'Change it in postgresql.conf or with ALTER SYSTEM, then restart the server.'
            WHEN 'superuser' THEN 'A superuser changes it, also with SET or ALTER DATABASE.' ELSE context END || E'\\n'
    FROM pg_settings WHERE name LIKE 'pg_workflow.%' ORDER BY name";

pub fn generate(query: impl Fn(&str) -> Result<String>) -> Result<String> {
    let printed = query(SETTINGS)?;
    let line = |line: &str| if line.starts_with('#') { line.to_owned() } else { marked(line) };
    Ok(printed.lines().map(|text| line(text) + "\n").collect())
}
