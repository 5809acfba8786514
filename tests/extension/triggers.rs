//! The extension's trigger functions act only as the triggers that they are made for.

use pg_workflow_tests::*;
use postgres::Client;

/// A table of an attacker, with the columns of tasks, and rows.
const TABLE: &str = "CREATE TABLE public.task_instances (LIKE workflow.task_instances INCLUDING DEFAULTS);
    INSERT INTO public.task_instances SELECT * FROM workflow.task_instances";

/// The functions that return trigger.
fn trigger_functions(client: &mut Client) -> Vec<String> {
    let sql = "SELECT proname::text FROM pg_proc
               WHERE pronamespace = 'workflow'::regnamespace AND prorettype = 'trigger'::regtype ORDER BY 1";
    let functions: Vec<String> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(functions.len() >= 6, "{functions:?}");
    functions
}

/// Every trigger that CREATE TRIGGER accepts on a table, as `BEFORE INSERT ON … FOR EACH ROW`, and a statement that fires it.
fn positions(table: &str) -> Vec<(String, String)> {
    let statements = [
        ("INSERT", format!("INSERT INTO {table} (dag_run_id, task_id) SELECT dag_run_id, 'new' FROM {table}")),
        ("UPDATE", format!("UPDATE {table} SET max_tries = 2")),
        ("DELETE", format!("DELETE FROM {table}")),
        ("TRUNCATE", format!("TRUNCATE {table} CASCADE")),
    ];
    let mut positions = Vec::new();
    for (event, statement) in statements {
        for timing in ["BEFORE", "AFTER"] {
            for level in ["ROW", "STATEMENT"] {
                let rows = match (timing, event) {
                    ("AFTER", "INSERT") => "REFERENCING NEW TABLE AS new_rows",
                    ("AFTER", "UPDATE") => "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
                    ("AFTER", "DELETE") => "REFERENCING OLD TABLE AS old_rows",
                    _ => "",
                };
                for rows in ["", rows].iter().take(if rows.is_empty() { 1 } else { 2 }) {
                    if (event, level) != ("TRUNCATE", "ROW") {
                        let position = format!("{timing} {event} ON {table} {rows} FOR EACH {level}");
                        positions.push((position, statement.clone()));
                    }
                }
            }
        }
    }
    positions
}

/// Executes the statements in a transaction that is rolled back.
fn try_out(client: &mut Client, statements: &[&str]) -> Result<(), postgres::Error> {
    let mut transaction = client.transaction().unwrap();
    let result = statements.iter().try_for_each(|statement| transaction.batch_execute(statement));
    transaction.rollback().unwrap();
    result
}

#[test]
fn trigger_functions_refuse_every_foreign_table() {
    let db = Db::new();
    let client = &mut db.connect();
    create_task(client);
    client.batch_execute(TABLE).unwrap();
    for function in trigger_functions(client) {
        for (position, statement) in positions("public.task_instances") {
            for argument in ["", "'task_instance'", "'dag_run'", "'dag'", "'create_task_instances'", "'a', 'b'"] {
                let create = format!("CREATE TRIGGER t {position} EXECUTE FUNCTION workflow.{function}({argument})");
                let failed = failure(try_out(client, &[&create, &statement]));
                assert_eq!(failed.sqlstate, "39P01", "{create}: {failed:?}");
                assert_eq!(
                    (&failed.detail["function"], &failed.detail["trigger"]),
                    (&function.clone().into(), &"t".into())
                );
                assert!(failed.hint.starts_with("Drop the trigger."), "{}", failed.hint);
            }
        }
    }
}

#[test]
fn trigger_functions_refuse_other_positions_on_own_tables() {
    let db = Db::new();
    let client = &mut db.connect();
    create_task(client);
    let own = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'workflow.task_instances'::regclass AND NOT tgisinternal";
    let own: Vec<String> = client.query(own, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let mut accepted = Vec::new();
    for function in trigger_functions(client) {
        for (position, statement) in positions("workflow.task_instances") {
            for argument in ["", "'task_instance'", "'dag_run'", "'create_task_instances'", "'task_instance', 'b'"] {
                let call = format!("{position} EXECUTE FUNCTION workflow.{function}({argument})");
                let create = format!("CREATE TRIGGER a {call}");
                let result =
                    try_out(client, &[&create, &statement]).map_err(|error| error.code().unwrap().code().to_owned());
                // A second trigger beside that of the extension records the same deletion again.
                let is_repeated =
                    function == "note_deletion" && result.as_ref().is_err_and(|sqlstate| sqlstate == "23505");
                match result {
                    Err(sqlstate) if !is_repeated => assert_eq!(sqlstate, "39P01", "{create}"),
                    _ => accepted.push(call.split_whitespace().collect::<Vec<_>>().join(" ")),
                }
            }
        }
    }
    for call in &accepted {
        assert!(own.iter().any(|own| own.ends_with(call)), "{call} is none of {own:#?}");
    }
    assert_eq!(accepted.len(), own.len(), "{accepted:#?}");
}

#[test]
fn trigger_functions_refuse_direct_calls() {
    let db = Db::new();
    let client = &mut db.connect();
    for function in trigger_functions(client) {
        let failed = failure(client.batch_execute(&format!("SELECT workflow.{function}() IS NULL")));
        assert_eq!(failed.sqlstate, "39P01", "{failed:?}");
    }
    let event = "CREATE EVENT TRIGGER t ON ddl_command_end EXECUTE FUNCTION workflow.refuse_drop()";
    let failed = failure(try_out(client, &[event, "CREATE TABLE t (id int)"]));
    assert_eq!((failed.sqlstate.as_str(), &failed.detail["function"]), ("39P01", &"refuse_drop".into()));
}

#[test]
fn ordinary_roles_cannot_execute_trigger_functions() {
    let db = Db::new();
    let client = &mut db.connect();
    let sql = "SELECT p.oid::regprocedure::text FROM pg_proc AS p
               WHERE p.pronamespace = 'workflow'::regnamespace
                   AND p.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype)
                   AND has_function_privilege('workflow_admin', p.oid, 'EXECUTE')";
    assert_eq!(client.query(sql, &[]).unwrap().len(), 0);
    let admin = &mut db.connect_as("workflow_admin");
    let failed = failure(admin.batch_execute(
        "CREATE TEMPORARY TABLE t (id uuid, state text);
         CREATE TRIGGER d AFTER DELETE ON t REFERENCING OLD TABLE AS old_rows
         FOR EACH STATEMENT EXECUTE FUNCTION workflow.note_deletion('task_instance')",
    ));
    assert_eq!(failed.sqlstate, "42501");
}

#[test]
fn trigger_functions_serve_partitions_that_were_created_later() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    next_partition(client);
    next_partition(client);
    start_task(client, task);
    client.query_one("SELECT workflow.append_task_log($1, 'a line')", &[&task]).unwrap();
    // As the owner, and as a restore does.
    client.batch_execute("BEGIN; DELETE FROM workflow.state_history_2; ROLLBACK").unwrap();
    client
        .batch_execute("BEGIN; INSERT INTO workflow.task_logs_2 OVERRIDING SYSTEM VALUE SELECT * FROM workflow.task_logs_1; ROLLBACK")
        .unwrap();
    // A table that is no longer ours.
    client.batch_execute("ALTER TABLE workflow.state_history DETACH PARTITION workflow.state_history_2").unwrap();
    let failed = failure(client.batch_execute("TRUNCATE workflow.state_history_2"));
    assert_eq!(failed.sqlstate, "39P01");
    let _ = db.without_verification();
}
