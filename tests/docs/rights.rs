//! The rights that SECURITY.md lists are those of the catalog.

use crate::markdown::{Page, code};
use pg_workflow_tests::Db;
use postgres::Client;
use std::collections::{BTreeMap, BTreeSet};

/// From the least to the most powerful. What none of them has, only the owner and superusers have.
const ROLES: [(&str, &str); 4] =
    [("public", "PUBLIC"), ("workflow_reader", "reader"), ("workflow_writer", "writer"), ("workflow_admin", "admin")];

/// The privileges in the order of the page's columns, then those that no role has.
const PRIVILEGES: [&str; 7] = ["SELECT", "INSERT", "UPDATE", "DELETE", "REFERENCES", "TRUNCATE", "TRIGGER"];

/// A cell for what only the owner may do.
const NONE: &str = "–";

fn rows(heading: &str) -> Vec<Vec<String>> {
    let rows = Page::read("SECURITY.md").table(heading).filter(|rows| !rows.is_empty());
    rows.unwrap_or_else(|| panic!("SECURITY.md has no table under {heading:?}"))
}

pub fn roles_have_the_rights_on_tables_of_the_page() {
    let db = Db::new();
    let client = &mut db.connect();
    let listed: BTreeMap<String, Vec<String>> = rows("Tables")
        .into_iter()
        .flat_map(|row| code(&row[0]).into_iter().map(move |name| (name, row[1..].to_vec())))
        .collect();
    let mut faults = Vec::new();
    let tables = "SELECT relname::text FROM pg_class WHERE relnamespace = 'workflow'::regnamespace
                  AND relkind IN ('r', 'p', 'v') ORDER BY 1";
    let tables: Vec<String> = client.query(tables, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    for table in &tables {
        let mut cells: Vec<String> = PRIVILEGES.map(|privilege| cell(client, table, privilege)).into();
        let beyond = cells.split_off(5);
        let none = || vec![NONE.to_owned(); 5];
        let expected = listed.get(table).cloned().unwrap_or_else(none);
        if cells != expected || beyond != [NONE, NONE] {
            faults.push(format!("{table}: the catalog has {cells:?} {beyond:?}, the page {expected:?}"));
        }
    }
    faults.extend(listed.keys().filter(|name| !tables.contains(name)).map(|name| format!("{name} does not exist")));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

const ON_TABLE: &str = "SELECT has_table_privilege($1, $2::text::regclass, $3)";

const ON_COLUMNS: &str = "SELECT CASE WHEN bool_and(is_allowed) THEN 'every column'
        ELSE string_agg(attname, ', ' ORDER BY attnum) FILTER (WHERE is_allowed) END
    FROM pg_attribute, has_column_privilege($1, attrelid, attnum, $3) AS is_allowed
    WHERE attrelid = $2::text::regclass AND attnum > 0 AND NOT attisdropped";

/// The least role that has a privilege on a table, with the columns if it has it on some only.
fn cell(client: &mut Client, table: &str, privilege: &str) -> String {
    let table = format!("workflow.{table}");
    let is_for_columns = !["DELETE", "TRUNCATE", "TRIGGER"].contains(&privilege);
    for (role, name) in ROLES {
        if client.query_one(ON_TABLE, &[&role, &table, &privilege]).unwrap().get(0) {
            return name.to_owned();
        }
        let columns: Option<String> = if is_for_columns {
            client.query_one(ON_COLUMNS, &[&role, &table, &privilege]).unwrap().get(0)
        } else {
            None
        };
        if let Some(columns) = columns {
            return format!("{name}: {columns}");
        }
    }
    NONE.to_owned()
}

pub fn roles_have_the_rights_on_functions_of_the_page() {
    let db = Db::new();
    let client = &mut db.connect();
    let sql = "SELECT proname::text, bool_or(has_function_privilege($1, oid, 'EXECUTE')) FROM pg_proc
               WHERE pronamespace = 'workflow'::regnamespace GROUP BY proname ORDER BY 1";
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (role, name) in ROLES {
        for row in client.query(sql, &[&role]).unwrap() {
            let function: String = row.get(0);
            if row.get(1) && seen.insert(function.clone()) {
                found.entry(name.to_owned()).or_default().insert(function);
            }
        }
    }
    // Those of PUBLIC are listed as "every other function".
    found.remove("PUBLIC");
    for row in client.query(sql, &[&"workflow_admin"]).unwrap() {
        if !row.get::<_, bool>(1) {
            found.entry("owner".to_owned()).or_default().insert(row.get(0));
        }
    }
    let listed: BTreeMap<String, BTreeSet<String>> =
        rows("Functions").into_iter().map(|row| (row[0].clone(), code(&row[1]).into_iter().collect())).collect();
    assert_eq!(listed, found);
}

pub fn roles_have_the_rights_on_the_schema_of_the_page() {
    let db = Db::new();
    let client = &mut db.connect();
    let sql = "SELECT has_schema_privilege($1, 'workflow', 'USAGE'), has_schema_privilege($1, 'workflow', 'CREATE')";
    for (role, _) in ROLES {
        let row = client.query_one(sql, &[&role]).unwrap();
        assert_eq!((row.get(0), row.get(1)), (role != "public", false), "{role}");
    }
}
