//! Statements in which a task is moved, and which path the function then takes.

use super::changes::Path::{self, Direct, Statement};

pub struct Form {
    sql: &'static str,
    pub path: Path,
}

macro_rules! form {
    ($sql:expr, $path:ident) => {
        Form { sql: $sql, path: $path }
    };
}

/// The task and its states are in `TASK`, `OLD` and `NEW`; `OTHER` is another task.
pub const FORMS: &[Form] = &[
    form!("SELECT workflow.transition('task_instance', 'TASK', 'OLD', 'NEW')", Direct),
    form!(
        "SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW', '{\"error\": \"boom\", \"n\": 1.50}')",
        Direct
    ),
    form!(
        "SELECT * FROM workflow.transition_many('task_instance', ARRAY['TASK', 'OTHER', 'TASK']::uuid[], 'OLD', 'NEW')",
        Direct
    ),
    form!("SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW', request_id => 'a request')", Direct),
    // Two in a statement.
    form!(
        "SELECT workflow.transition_task_instance(id, 'OLD', 'NEW') FROM unnest(ARRAY['TASK', 'OTHER']::uuid[]) AS id",
        Direct
    ),
    form!(
        "SELECT public.try('SELECT workflow.transition_task_instance(''TASK'', ''OLD'', ''NEW'')') FROM generate_series(1, 2)",
        Direct
    ),
    form!(
        "SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW'), (SELECT version FROM workflow.task_instances WHERE id = 'TASK')",
        Direct
    ),
    // In functions.
    form!("SELECT public.move('TASK', 'OLD', 'NEW')", Direct),
    form!("SELECT public.move_stably('TASK', 'OLD', 'NEW')", Direct),
    form!("SELECT public.move_as_owner('TASK', 'OLD', 'NEW')", Direct),
    form!(
        "DO $$ BEGIN PERFORM workflow.transition_task_instance('TASK', 'OLD', 'NEW'); RAISE EXCEPTION 'undone'; EXCEPTION WHEN raise_exception THEN NULL; END $$",
        Direct
    ),
    form!(
        "DO $$ BEGIN BEGIN PERFORM workflow.transition_task_instance('TASK', 'OLD', 'NEW'); RAISE EXCEPTION 'undone'; EXCEPTION WHEN raise_exception THEN NULL; END; PERFORM workflow.transition_task_instance('TASK', 'OLD', 'NEW'); END $$",
        Direct
    ),
    form!("INSERT INTO public.starts VALUES ('TASK')", Direct),
    // In other commands.
    form!(
        "CREATE TEMP TABLE moved AS SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW') AS version; DROP TABLE moved",
        Direct
    ),
    form!(
        "PREPARE move AS SELECT workflow.transition_task_instance($1, $2, $3); EXECUTE move('TASK', 'OLD', 'NEW'); DEALLOCATE move",
        Direct
    ),
    form!(
        "BEGIN; DECLARE moved CURSOR FOR SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW'); FETCH ALL FROM moved; COMMIT",
        Direct
    ),
    form!(
        "BEGIN; DECLARE moved CURSOR WITH HOLD FOR SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW'); COMMIT; FETCH ALL FROM moved; CLOSE moved",
        Direct
    ),
    form!(
        "BEGIN; SAVEPOINT a; SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW'); ROLLBACK TO a; SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW'); COMMIT",
        Direct
    ),
    form!("BEGIN; SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW'); ROLLBACK", Direct),
    form!(
        "BEGIN; SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW'); PREPARE TRANSACTION '{database}'; COMMIT PREPARED '{database}'",
        Direct
    ),
    form!("BEGIN READ ONLY; SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW'); COMMIT", Direct),
    form!(
        "SELECT * FROM workflow.task_instances WHERE id = 'TASK' AND workflow.transition_task_instance('TASK', 'OLD', 'NEW') > 1 FOR UPDATE",
        Direct
    ),
    // Before a change in the same statement.
    form!(
        "UPDATE workflow.task_instances SET max_tries = 5 WHERE id = 'TASK' AND workflow.transition_task_instance('TASK', 'OLD', 'NEW') > 1",
        Direct
    ),
    form!(
        "UPDATE workflow.task_instances SET state = 'NEW' WHERE id = 'OTHER' AND workflow.transition_task_instance('TASK', 'OLD', 'NEW') > 1",
        Direct
    ),
    form!(
        "DELETE FROM workflow.task_instances WHERE id = 'OTHER' AND workflow.transition_task_instance('TASK', 'OLD', 'NEW') > 1",
        Direct
    ),
    form!(
        "SELECT t.task_id, workflow.transition_task_instance(t.id, 'queued', 'NEW') FROM workflow.create_task_instances('{r0}', ARRAY['of TASK', 'of OTHER']) AS t",
        Statement
    ),
    // After a change of the row in the same transaction.
    // A row of this transaction, whose foreign key may not have been checked yet.
    form!(
        "WITH i AS (INSERT INTO workflow.dag_runs (dag_id) VALUES ('00000000-0000-0000-0000-000000000001') RETURNING id) SELECT workflow.transition_dag_run(id, 'queued', 'running') FROM i",
        Statement
    ),
    form!(
        "WITH u AS (UPDATE workflow.task_instances SET max_tries = 3 WHERE id = 'TASK' RETURNING id) SELECT workflow.transition_task_instance(id, 'OLD', 'NEW') FROM u",
        Statement
    ),
    form!(
        "UPDATE workflow.task_instances SET max_tries = 4 WHERE id = 'TASK' RETURNING workflow.transition_task_instance(id, 'OLD', 'NEW')",
        Statement
    ),
    form!(
        "UPDATE workflow.task_instances SET state = 'NEW' WHERE id = 'TASK' RETURNING (SELECT workflow.transition_task_instance('OTHER', 'OLD', 'NEW'))",
        Statement
    ),
    form!(
        "WITH u AS (UPDATE workflow.task_instances SET state = 'NEW' WHERE id = 'TASK' AND state = 'OLD' RETURNING id) SELECT workflow.transition_task_instance(id, 'OLD', 'NEW') FROM u",
        Statement
    ),
    // With a fixed snapshot, or with other triggers.
    form!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW'); COMMIT",
        Statement
    ),
    form!(
        "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW'); COMMIT",
        Statement
    ),
    form!(
        "BEGIN; SET LOCAL session_replication_role = local; SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW'); COMMIT",
        Statement
    ),
    form!(
        "BEGIN; SET LOCAL row_security = off; SELECT workflow.transition_task_instance('TASK', 'OLD', 'NEW'); COMMIT",
        Statement
    ),
];

impl Form {
    pub fn fill(&self, task: &str, other: &str, [old, new]: [&str; 2]) -> String {
        self.sql.replace("TASK", task).replace("OTHER", other).replace("OLD", old).replace("NEW", new)
    }
}
