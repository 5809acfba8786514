//! Everything that an attack must not change: rights, definitions, settings and rows.

use crate::Db;
use std::collections::BTreeSet;

/// A copy of the catalog and of the extension's rows, as texts.
pub struct Watch(BTreeSet<(String, String)>);

/// A line that came (`+`) or went (`-`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// A subject of `CATALOG`, or a table.
    pub subject: String,
    pub sign: char,
    pub line: String,
}

/// Subjects, and the query of each.
const CATALOG: &[(&str, &str)] = &[
    ("server", "SELECT pg_postmaster_start_time()::text"),
    ("role", "SELECT to_jsonb(r)::text FROM pg_authid AS r"),
    (
        "membership",
        "SELECT (to_jsonb(m) || jsonb_build_object('roleid', m.roleid::regrole, 'member', m.member::regrole))::text FROM pg_auth_members AS m",
    ),
    ("database", "SELECT (to_jsonb(d) - 'datfrozenxid' - 'datminmxid')::text FROM pg_database AS d"),
    ("setting of a role", "SELECT to_jsonb(s)::text FROM pg_db_role_setting AS s"),
    ("setting", "SELECT s.name || ' = ' || s.setting FROM pg_settings AS s WHERE s.source <> 'client'"),
    ("right to a setting", "SELECT to_jsonb(p)::text FROM pg_parameter_acl AS p"),
    (
        "schema",
        "SELECT format('%s %s %s', n.nspname, n.nspowner::regrole, n.nspacl) FROM pg_namespace AS n WHERE n.nspname IN ('workflow', 'pg_catalog', 'public')",
    ),
    ("default right", "SELECT to_jsonb(a)::text FROM pg_default_acl AS a"),
    (
        "relation",
        "SELECT format('%s %s %s %s %s', c.relname, c.relowner::regrole, c.relacl, c.relrowsecurity, c.relhastriggers)
                  FROM pg_class AS c WHERE c.relnamespace = 'workflow'::regnamespace AND c.relkind <> 'i'",
    ),
    (
        "column",
        "SELECT format('%s.%s %s %s', c.relname, a.attname, a.atttypid::regtype, a.attacl)
                FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
                WHERE c.relnamespace = 'workflow'::regnamespace AND c.relkind <> 'i' AND a.attnum > 0",
    ),
    (
        "function",
        "SELECT format('%s %s %s %s %s', p.oid::regprocedure, p.proowner::regrole, p.proacl, p.prosecdef, md5(p::text))
                  FROM pg_proc AS p WHERE p.pronamespace = 'workflow'::regnamespace",
    ),
    (
        "trigger",
        "SELECT format('%s: %s %s', t.tgrelid::regclass, pg_get_triggerdef(t.oid), t.tgenabled)
                 FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
                 WHERE c.relnamespace = 'workflow'::regnamespace AND NOT t.tgisinternal",
    ),
    ("policy", "SELECT to_jsonb(p)::text FROM pg_policies AS p WHERE p.schemaname = 'workflow'"),
    (
        "event trigger",
        "SELECT format('%s %s %s', e.evtname, e.evtfoid::regprocedure, e.evtenabled) FROM pg_event_trigger AS e",
    ),
    ("member", "SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend AS d WHERE d.deptype = 'e'"),
];

/// The extension's tables with rows.
const TABLES: &str = "SELECT c.relname::text FROM pg_class AS c
    WHERE c.relnamespace = 'workflow'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1";

impl Watch {
    /// Copies the current state.
    pub fn start(db: &Db) -> Watch {
        let mut client = db.connect();
        let mut lines = BTreeSet::new();
        for (subject, sql) in CATALOG {
            let rows = client.query(*sql, &[]).unwrap_or_else(|error| panic!("{subject}: {error:?}"));
            lines.extend(rows.iter().map(|row| ((*subject).to_owned(), row.get(0))));
        }
        for table in client.query(TABLES, &[]).expect("tables") {
            let table: String = table.get(0);
            let rows =
                client.query(&format!("SELECT to_jsonb(t)::text FROM workflow.{table} AS t"), &[]).expect("rows");
            lines.extend(rows.iter().map(|row| (table.clone(), row.get(0))));
        }
        Watch(lines)
    }

    /// Returns everything that has changed since.
    pub fn changes(&self, db: &Db) -> Vec<Change> {
        let now = Watch::start(db);
        let change = |sign| {
            move |(subject, line): &(String, String)| Change { subject: subject.clone(), sign, line: line.clone() }
        };
        let gone = self.0.difference(&now.0).map(change('-'));
        gone.chain(now.0.difference(&self.0).map(change('+'))).collect()
    }
}
