//! The role that counts is the current one: its rights, its rows, and its name in the history.

use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;

/// Statements that move or create something, or read the feed, with a task and its run.
fn work(dag: Uuid, run: Uuid, task: Uuid) -> Vec<String> {
    vec![
        format!("SELECT workflow.create_dag_run('{dag}', '2001-01-01')"),
        format!("SELECT workflow.create_task_instances('{run}', '{{new}}')"),
        format!("SELECT workflow.transition('task_instance', '{task}', 'queued', 'running')"),
        format!("SELECT workflow.transition_many('task_instance', '{{{task}}}', 'queued', 'running')"),
        format!("SELECT workflow.transition_many('task_instance', '{{{task}}}', 'queued', 'running', '{{}}', true)"),
        format!("UPDATE workflow.task_instances SET state = 'running' WHERE id = '{task}'"),
        format!("UPDATE workflow.dags SET is_paused = true WHERE id = '{dag}'"),
    ]
}

/// Lets maintenance run a statement, in three ways. The statement's role owns the table.
fn maintenance(writer: &mut Client, statement: &str) -> [&'static str; 3] {
    let statement = statement.replacen("SELECT", "PERFORM", 1);
    writer
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS public.loot CASCADE; CREATE TABLE public.loot AS SELECT 1 AS x;
             CREATE OR REPLACE FUNCTION public.work() RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
             CREATE OR REPLACE FUNCTION public.trap(x int) RETURNS int IMMUTABLE LANGUAGE plpgsql
                 AS $$ BEGIN PERFORM public.work(); RETURN x; END $$;
             CREATE INDEX ON public.loot (public.trap(x));
             CREATE MATERIALIZED VIEW public.view AS SELECT public.trap(x) FROM public.loot;
             CREATE OR REPLACE FUNCTION public.work() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {statement}; END $$;"
        ))
        .unwrap();
    ["ANALYZE public.loot", "REINDEX TABLE public.loot", "REFRESH MATERIALIZED VIEW public.view"]
}

#[test]
fn maintenance_cannot_work_for_a_table_owner() {
    let db = Db::new();
    let superuser = &mut db.connect();
    let role = create_writer(superuser);
    let writer = &mut db.connect_as(&role);
    let task = create_task(writer);
    let sql = "SELECT r.dag_id, r.id FROM workflow.dag_runs AS r";
    let row = superuser.query_one(sql, &[]).unwrap();
    for statement in work(row.get(0), row.get(1), task) {
        for command in maintenance(writer, &statement) {
            let failed = failure(superuser.batch_execute(command));
            assert_eq!(failed.sqlstate, "42501", "{statement} in {command}: {failed:?}");
            assert_eq!(failed.detail["is_restricted"], true, "{statement} in {command}: {failed:?}");
        }
    }
    assert_eq!(superuser.query("SELECT FROM workflow.state_history", &[]).unwrap().len(), 2);
}

#[test]
fn creation_asks_for_the_current_role() {
    let db = Db::new();
    let owner = &mut db.connect();
    owner.batch_execute("SELECT workflow.enable_row_security()").unwrap();
    let (mine, theirs) = (create_writer(owner), create_writer(owner));
    let (dag, run) = create_run(&mut db.connect_as(&mine));
    // A function of another tenant, called by the superuser, has the rights of that tenant.
    let tenant = &mut db.connect_as(&theirs);
    let (own_dag, _) = create_run(tenant);
    tenant
        .batch_execute(
            "CREATE FUNCTION public.create_run(dag uuid) RETURNS uuid LANGUAGE sql SECURITY DEFINER
                 AS $$ SELECT workflow.create_dag_run(dag, '2001-01-01') $$;
             CREATE FUNCTION public.create_task(run uuid) RETURNS uuid LANGUAGE sql SECURITY DEFINER
                 AS $$ SELECT id FROM workflow.create_task_instances(run, ARRAY['t']) $$;",
        )
        .unwrap();
    for (call, id) in [("create_run", dag), ("create_task", run)] {
        let failed = failure(owner.query(&format!("SELECT public.{call}($1)"), &[&id]));
        assert_eq!(failed.sqlstate, "P0002", "{call}: {failed:?}");
    }
    let created: Uuid = owner.query_one("SELECT public.create_run($1)", &[&own_dag]).unwrap().get(0);
    let sql = "SELECT actor, acted_as, session_user::text FROM workflow.state_history WHERE entity_id = $1";
    let row = owner.query_one(sql, &[&created]).unwrap();
    assert_eq!(row.get::<_, String>(0), row.get::<_, String>(2));
    assert_eq!(row.get::<_, Option<String>>(1), Some(theirs));
}

#[test]
fn creation_needs_the_right_to_execute() {
    let db = Db::new();
    let owner = &mut db.connect();
    let (dag, run) = create_run(owner);
    let reader = &mut db.connect_as("workflow_reader");
    for sql in ["SELECT workflow.create_dag_run($1, '2001-01-01')", "SELECT workflow.create_task_instances($1, '{t}')"]
    {
        let id = if sql.contains("dag_run(") { dag } else { run };
        assert_eq!(failure(reader.query(sql, &[&id])).sqlstate, "42501", "{sql}");
    }
}

#[test]
fn history_names_the_role_that_acted() {
    let db = Db::new();
    let owner = &mut db.connect();
    let (login, role) = (create_writer(owner), create_writer(owner));
    owner.batch_execute(&format!("GRANT {role} TO {login}")).unwrap();
    let client = &mut db.connect_as(&login);
    let task = create_task(client);
    client.batch_execute(&format!("SET ROLE {role}")).unwrap();
    start_task(client, task);
    client.batch_execute("RESET ROLE").unwrap();
    client.execute("UPDATE workflow.task_instances SET state = 'failed' WHERE id = $1", &[&task]).unwrap();
    let sql = "SELECT actor, acted_as FROM workflow.state_history WHERE entity_id = $1 ORDER BY version";
    let rows = client.query(sql, &[&task]).unwrap();
    let rows: Vec<(String, Option<String>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(rows, [(login.clone(), None), (login.clone(), Some(role)), (login, None)]);
}
