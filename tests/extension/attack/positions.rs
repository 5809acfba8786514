//! Every trigger function of the schema, on every kind of table, in every position. It acts only as the trigger that it was
//! made for, and raises 39P01 (trigger_protocol_violated) otherwise.

use super::{assert_none, assert_withstood};
use pg_workflow_tests::attack::{ATTACKERS, Watch, World};
use pg_workflow_tests::failure;
use postgres::Client;
use postgres::error::SqlState;

/// A trigger, without its function.
struct Position {
    /// BEFORE, AFTER or INSTEAD OF, and CONSTRAINT for a deferred one.
    timing: &'static str,
    event: &'static str,
    /// ROW or STATEMENT.
    level: &'static str,
    referencing: &'static str,
}

/// A table, and statements that fire triggers for INSERT, UPDATE, DELETE and TRUNCATE.
struct Table {
    name: &'static str,
    insert: &'static str,
    update: &'static str,
}

const EVENTS: [&str; 4] = ["INSERT", "UPDATE", "DELETE", "TRUNCATE"];

const ARGUMENTS: [&str; 6] =
    ["", "'task_instance'", "'dag_run'", "'create_task_instances'", "'x'", "'task_instance', 'x'"];

/// Tables of the attacker: see positions.sql.
const FOREIGN: [Table; 8] = [
    Table::of("temporary", "state = 'running'"),
    Table::of("ordinary", "state = 'running'"),
    Table::of("evil.partitioned", "state = 'running', version = version + 1"),
    Table::of("evil.leaf", "state = 'running', version = version + 1"),
    Table::of("evil.task_instances", "state = 'running', version = version + 1"),
    Table::of("evil.dag_runs", "state = 'running', version = version + 1"),
    Table::of("evil.state_history", "new_state = 'running'"),
    Table::of("evil.view", "state = 'running', version = version + 1"),
];

/// Tables of the extension.
const MEMBERS: [Table; 7] = [
    Table { insert: "INSERT INTO workflow.dags (name) VALUES ('x')", ..Table::of("workflow.dags", "is_paused = true") },
    Table {
        insert: "INSERT INTO workflow.dag_runs (dag_id) SELECT id FROM workflow.dags",
        ..Table::of("workflow.dag_runs", "conf = '{\"a\": 1}'")
    },
    Table {
        insert: "INSERT INTO workflow.task_instances (dag_run_id, task_id) SELECT id, 'x' FROM workflow.dag_runs",
        ..Table::of("workflow.task_instances", "state = 'failed' WHERE state = 'running'")
    },
    Table {
        insert: "INSERT INTO workflow.task_logs (task_instance_id, try_number, message) SELECT id, 1, 'x' FROM workflow.task_instances",
        ..Table::of("workflow.task_logs", "message = 'x'")
    },
    Table {
        insert: "INSERT INTO workflow.task_logs_0 (id, task_instance_id, try_number, message) SELECT 1000, id, 1, 'x' FROM workflow.task_instances LIMIT 1",
        ..Table::of("workflow.task_logs_0", "message = 'x'")
    },
    Table {
        insert: "INSERT INTO workflow.state_history (entity_type, entity_id, new_state, version, dag_id, dag_run_id) SELECT 'dag_run', id, 'queued', 77, dag_id, id FROM workflow.dag_runs",
        ..Table::of("workflow.state_history", "metadata = '{}'")
    },
    Table {
        insert: "INSERT INTO workflow.consumers (name, floor_id, system_identifier) VALUES ('x', 0, 0)",
        ..Table::of("workflow.consumers", "acked_id = 0")
    },
];

impl Table {
    const fn of(name: &'static str, update: &'static str) -> Table {
        Table { name, insert: "", update }
    }

    fn statement(&self, event: &str) -> String {
        match event {
            "INSERT" if !self.insert.is_empty() => self.insert.to_owned(),
            "INSERT" => format!("INSERT INTO {0} SELECT * FROM {0}", self.name),
            "UPDATE" => format!("UPDATE {} SET {}", self.name, self.update),
            "DELETE" => format!("DELETE FROM {}", self.name),
            _ => format!("TRUNCATE {} CASCADE", self.name),
        }
    }
}

impl Position {
    fn all() -> Vec<Position> {
        let mut all = Vec::new();
        for timing in ["BEFORE", "AFTER", "INSTEAD OF", "CONSTRAINT"] {
            for event in EVENTS {
                for level in ["ROW", "STATEMENT"] {
                    let referencing: &[&str] = match (timing, event) {
                        ("AFTER", "INSERT") => &["", "NEW TABLE AS new_rows"],
                        ("AFTER", "UPDATE") => &["", "OLD TABLE AS old_rows NEW TABLE AS new_rows", "OLD TABLE AS x"],
                        ("AFTER", "DELETE") => &["", "OLD TABLE AS old_rows"],
                        _ => &[""],
                    };
                    all.extend(referencing.iter().map(|referencing| Position { timing, event, level, referencing }));
                }
            }
        }
        all
    }

    /// Statements that create a trigger and fire it, in a transaction that the next one rolls back.
    fn attack(&self, table: &Table, call: &str) -> String {
        let (kind, timing, deferred) = match self.timing {
            "CONSTRAINT" => ("CONSTRAINT TRIGGER", "AFTER", "DEFERRABLE INITIALLY DEFERRED"),
            timing => ("TRIGGER", timing, ""),
        };
        let referencing = if self.referencing.is_empty() { "" } else { "REFERENCING" };
        format!(
            "ROLLBACK; BEGIN;
             CREATE {kind} \"!\" {timing} {event} ON {table} {deferred} {referencing} {rows} FOR EACH {level} EXECUTE FUNCTION {call};
             {statement};
             SET CONSTRAINTS ALL IMMEDIATE",
            event = self.event,
            table = table.name,
            rows = self.referencing,
            level = self.level,
            statement = table.statement(self.event),
        )
    }

    /// The bits of pg_trigger.tgtype.
    fn bits(&self) -> i32 {
        let timing = match self.timing {
            "BEFORE" => 2,
            "INSTEAD OF" => 64,
            _ => 0,
        };
        let event = match self.event {
            "INSERT" => 4,
            "DELETE" => 8,
            "UPDATE" => 16,
            _ => 32,
        };
        timing | event | i32::from(self.level == "ROW")
    }
}

fn trigger_functions(client: &mut Client) -> Vec<String> {
    let sql = "SELECT p.oid::regproc::text FROM pg_proc AS p
               WHERE p.pronamespace = 'workflow'::regnamespace AND p.prorettype = 'trigger'::regtype";
    let functions: Vec<String> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(functions.len() >= 4, "{functions:?}");
    functions
}

/// A trigger of the extension itself, on a table or on its partitions.
struct Own {
    definition: String,
    bits: i32,
}

impl Own {
    fn of(client: &mut Client, table: &Table) -> Vec<Own> {
        let sql = "SELECT pg_get_triggerdef(t.oid), t.tgtype::integer FROM pg_trigger AS t
                   WHERE t.tgrelid = $1::text::regclass
                       OR t.tgrelid IN (SELECT i.inhrelid FROM pg_inherits AS i WHERE i.inhparent = $1::text::regclass)";
        let rows = client.query(sql, &[&table.name]).unwrap();
        rows.iter().map(|row| Own { definition: row.get(0), bits: row.get(1) }).collect()
    }

    /// Whether it is this call in this position.
    fn is(&self, position: &Position, call: &str) -> bool {
        const EVENT: i32 = 4 | 8 | 16 | 32;
        let has_rows = self.definition.contains("REFERENCING");
        let same_rows = has_rows != position.referencing.is_empty() && self.definition.contains(position.referencing);
        self.definition.ends_with(&format!("EXECUTE FUNCTION {call}"))
            && (self.bits & !EVENT) == (position.bits() & !EVENT)
            && (self.bits & position.bits() & EVENT) != 0
            && same_rows
    }
}

/// Puts each function into each position that fires, and returns the attacks that were not refused.
fn faults(client: &mut Client, tables: &[Table]) -> Vec<String> {
    let (functions, positions) = (trigger_functions(client), Position::all());
    let (mut fired, mut faults) = (0, Vec::new());
    for table in tables {
        client.batch_execute("ROLLBACK").unwrap();
        let own = Own::of(client, table);
        for position in &positions {
            // This function raises an error of its own: if it does not, PostgreSQL has no such position.
            let proof = answer_of(client, &position.attack(table, "evil.fire()"));
            if proof.as_deref() != Some("FIRED") {
                continue;
            }
            fired += 1;
            let calls =
                functions.iter().flat_map(|function| ARGUMENTS.map(|arguments| format!("{function}({arguments})")));
            for call in calls.filter(|call| !own.iter().any(|own| own.is(position, call))) {
                let attack = position.attack(table, &call);
                let answer = answer_of(client, &attack);
                if answer.as_deref() != Some(SqlState::E_R_I_E_TRIGGER_PROTOCOL_VIOLATED.code()) {
                    faults.push(format!("{answer:?}: {attack}"));
                }
            }
        }
    }
    client.batch_execute("ROLLBACK").unwrap();
    assert!(fired > 10 * tables.len(), "only {fired} positions fire");
    faults
}

/// Returns the SQLSTATE of the error, if there is one.
fn answer_of(client: &mut Client, sql: &str) -> Option<String> {
    let error = client.batch_execute(sql).err()?;
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    Some(error.code().code().to_owned())
}

/// EXECUTE is granted by name, so a member of any of our roles is refused already at CREATE TRIGGER.
#[test]
fn trigger_functions_hang_on_no_table_of_a_role() {
    let world = World::start("attack-triggers");
    for role in ATTACKERS {
        let client = &mut world.log_in(role);
        client.batch_execute("CREATE TEMP TABLE mine (id uuid, state text)").unwrap();
        for function in trigger_functions(client) {
            let sql = format!("CREATE TRIGGER mine AFTER DELETE ON mine FOR EACH ROW EXECUTE FUNCTION {function}()");
            assert_eq!(failure(client.batch_execute(&sql)).sqlstate, "42501", "{role}: {sql}");
        }
    }
}

/// A superuser has granted EXECUTE on all functions, as many guides say.
#[test]
fn trigger_functions_refuse_every_other_position() {
    let mut world = World::start("attack-positions");
    let owner = &mut world.db.connect();
    owner.batch_execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA workflow TO writer").unwrap();
    let client = &mut world.log_in("writer");
    client.batch_execute(include_str!("positions.sql")).unwrap();
    let watch = Watch::start(&world.db);
    assert_none("writer", &faults(client, &FOREIGN));
    assert_none("owner, on the extension's own tables", &faults(owner, &MEMBERS));
    assert_withstood(&mut world, &watch, "trigger functions", &[]);
}
