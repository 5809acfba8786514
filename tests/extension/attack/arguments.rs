//! Hostile arguments: of each function of the schema, every argument takes every hostile value of its type.

use pg_workflow_tests::attack::World;
use postgres::Client;

/// A function, and its input arguments: names and types.
pub struct Function {
    name: String,
    is_procedure: bool,
    arguments: Vec<(String, String)>,
}

/// Returns every function of the schema but those of triggers, which only run in a trigger.
pub fn functions(client: &mut Client) -> Vec<Function> {
    let sql = "SELECT p.oid::regproc::text,
                   ARRAY(SELECT coalesce(p.proargnames[n], '') FROM generate_series(1, p.pronargs) AS n),
                   ARRAY(SELECT format_type(t.type, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS t (type, n) ORDER BY n),
                   p.prokind = 'p'
               FROM pg_proc AS p
               WHERE p.pronamespace = 'workflow'::regnamespace
                   AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
               ORDER BY p.oid::regprocedure::text";
    let rows = client.query(sql, &[]).unwrap();
    let function = |row: &postgres::Row| {
        let (names, types): (Vec<String>, Vec<String>) = (row.get(1), row.get(2));
        Function { name: row.get(0), is_procedure: row.get(3), arguments: names.into_iter().zip(types).collect() }
    };
    rows.iter().map(function).collect()
}

impl Function {
    pub fn is_procedure(&self) -> bool {
        self.is_procedure
    }

    /// Returns a call that makes sense, and that takes aim at the victim.
    pub fn likely_call(&self, hostile: &Hostile) -> String {
        self.call(&self.likely(hostile))
    }

    /// Returns calls with one hostile argument each.
    pub fn hostile_calls(&self, hostile: &Hostile) -> Vec<String> {
        let likely = self.likely(hostile);
        let mut calls = Vec::new();
        for (n, (_, kind)) in self.arguments.iter().enumerate() {
            for value in hostile.values(kind) {
                let mut arguments = likely.clone();
                arguments[n] = format!("{value}::{kind}");
                calls.push(self.call(&arguments));
            }
        }
        calls
    }

    fn likely(&self, hostile: &Hostile) -> Vec<String> {
        self.arguments.iter().map(|(name, kind)| format!("{}::{kind}", hostile.likely(name, kind))).collect()
    }

    fn call(&self, arguments: &[String]) -> String {
        let verb = if self.is_procedure { "CALL" } else { "SELECT" };
        format!("{verb} {}({})", self.name, arguments.join(", "))
    }
}

/// Values of each type, for one victim.
pub struct Hostile {
    dag: String,
    run: String,
    task: String,
    /// Composite types of the schema, with the types of their columns.
    composites: Vec<(String, Vec<String>)>,
}

impl Hostile {
    pub fn new(world: &World) -> Hostile {
        let id = |id: uuid::Uuid| format!("'{id}'");
        let sql = "SELECT format_type(t.oid, NULL),
                       ARRAY(SELECT format_type(a.atttypid, NULL) FROM pg_attribute AS a
                             WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
                   FROM pg_type AS t WHERE t.typnamespace = 'workflow'::regnamespace AND t.typtype = 'c'";
        let composites = world.db.connect().query(sql, &[]).unwrap();
        Hostile {
            dag: id(world.victim.dag),
            run: id(world.victim.run),
            task: id(world.victim.task),
            composites: composites.iter().map(|row| (row.get(0), row.get(1))).collect(),
        }
    }

    /// Returns a value that a function may take seriously, by the argument's name.
    fn likely(&self, name: &str, kind: &str) -> String {
        let value = match (name, kind) {
            ("dag_id", _) => &self.dag,
            ("dag_run_id", _) => &self.run,
            ("ids", _) => return format!("ARRAY[{}]", self.task),
            (_, "uuid") => &self.task,
            ("entity_type", _) => "'task_instance'",
            ("old_state" | "state" | "from", _) => "'running'",
            ("new_state" | "to", _) => "'success'",
            ("consumer" | "name", "text") => "'relay'",
            ("holder", _) => "'victim'",
            ("level", _) => "'INFO'",
            // The longest, because an administrator may drop the partition of a period that ends during the test.
            ("period", _) => "'year'",
            ("table_name", _) => "'state_history'",
            ("partition", "text") => "'state_history_0'",
            ("position", "text") => "workflow.current_position()",
            ("tags", _) => "'[]'",
            ("expected_version" | "lease" | "request_id", _) => "NULL",
            (_, "bigint") => "1",
            (_, "integer") => "10",
            (_, "jsonb") => "'{}'",
            (_, "interval") => "'0'",
            (_, "text") => "'x'",
            (_, "text[]" | "bigint[]") => "'{1,1}'",
            (_, "timestamp with time zone") => "pg_catalog.now()",
            (_, "double precision") => "0",
            (_, "boolean") => "false",
            _ => return self.values(kind)[1].clone(),
        };
        value.to_owned()
    }

    /// Returns the hostile values of a type; the first is null.
    fn values(&self, kind: &str) -> Vec<String> {
        if let Some((_, columns)) = self.composites.iter().find(|(name, _)| name == kind) {
            return self.rows(columns);
        }
        let owned = |values: &[&str]| -> Vec<String> { values.iter().map(|value| (*value).to_owned()).collect() };
        match kind {
            "boolean" => owned(&["NULL", "true", "false"]),
            "integer" => owned(&["NULL", "1", "0", "-1", "2147483647", "(-2147483648)"]),
            "bigint" => owned(&[
                "NULL",
                "1",
                "0",
                "-1",
                "999999999999",
                "1000000000000",
                "9223372036854775807",
                "(-9223372036854775808)",
            ]),
            "double precision" => owned(&["NULL", "0", "-1", "1e308", "'NaN'", "'Infinity'", "'-Infinity'"]),
            "interval" => owned(&["NULL", "'1 ms'", "'-1 s'", "'178000000 years'", "'-178000000 years'"]),
            "timestamp with time zone" => {
                owned(&["NULL", "pg_catalog.now()", "'infinity'", "'-infinity'", "'294276-12-31'", "'4713-01-01 BC'"])
            }
            "xid8" => owned(&["NULL", "'3'", "'0'", "'9223372036854775808'", "'18446744073709551615'"]),
            "pg_snapshot" => owned(&["NULL", "'100:100:'", "'1:1:'", "'1:5:2,3'", "'1:9223372036854775807:'"]),
            "uuid" => [
                owned(&["NULL", "'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"]),
                vec![self.dag.clone(), self.run.clone(), self.task.clone()],
            ]
            .concat(),
            "text" => owned(TEXTS),
            "jsonb" => owned(JSON),
            "text[]" => owned(&[
                "NULL",
                "'{}'",
                "'{NULL}'",
                "'{a,a}'",
                "'{{a,b},{c,d}}'",
                "'[5:6]={a,b}'",
                "array_fill(repeat('x', 501), '{1}')",
                "array_fill('x'::text, '{1000001}')",
            ]),
            "bigint[]" => owned(&[
                "NULL",
                "'{}'",
                "'{NULL}'",
                "'{{1,2},{3,4}}'",
                "'{9223372036854775807,-1}'",
                "array_fill(1::bigint, '{100000}')",
            ]),
            "uuid[]" => [
                owned(&["NULL", "'{}'", "'{NULL}'"]),
                vec![
                    format!("ARRAY[{0}, {0}]", self.task),
                    format!("ARRAY[[{}], [{}]]", self.task, self.run),
                    format!("array_fill({}::uuid, '{{1000001}}')", self.task),
                ],
            ]
            .concat(),
            "regclass" | "oid" => owned(&["NULL", "'workflow.state_history'::regclass", "0", "4294967295"]),
            "name" => owned(&["NULL", "'x'", "''"]),
            _ => panic!("no hostile values of type {kind}: add some here"),
        }
    }

    /// Returns null, and rows that combine the values of their columns.
    fn rows(&self, columns: &[String]) -> Vec<String> {
        let columns: Vec<Vec<String>> = columns.iter().map(|kind| self.values(kind)).collect();
        let row = |n: usize| {
            let values = columns.iter().map(|values| values[n % values.len()].clone());
            format!("ROW({})", values.collect::<Vec<_>>().join(", "))
        };
        ["NULL".to_owned()].into_iter().chain([1, 0, 2, 3, 4, 6, 7].map(row)).collect()
    }
}

const TEXTS: &[&str] = &[
    "NULL",
    "'x'",
    "''",
    "' '",
    "E'\\u0001'",
    "repeat('x', 251)",
    "repeat('ü', 600000)",
    "'%s%n$1'",
    "'x''; DROP TABLE workflow.dags; --'",
    "'state_history\"; DROP TABLE workflow.dags; --'",
    "'infinity'",
    "'relay'",
    "'leased'",
    "'victim'",
    "'dag_run'",
    "'dags'",
    "'task_logs'",
    "'1.2.3.4.5.6'",
    "'1.1.1..1.9223372036854775807'",
    "'1.1.1.1:9223372036854775807:1.1.1'",
    "'1.1.1.' || repeat('1:', 100000) || '.1.1'",
];

const JSON: &[&str] = &[
    "NULL",
    "'{}'",
    "'null'",
    "'[]'",
    "'1'",
    "'{\"error\": null}'",
    "'{\"error\": {\"a\": [1]}}'",
    "jsonb_build_object('error', repeat('x', 1100000))",
    "jsonb_build_object(repeat('x', 1100000), 1)",
    // 2.6 MB of text in 1 kB.
    "('{\"a\":[' || repeat('1e131071,', 20) || '1]}')",
    "(repeat('{\"a\":', 200) || '1' || repeat('}', 200))",
    "(repeat('[', 5000) || repeat(']', 5000))",
    "'[\"a\", null]'",
];
