-- Several tenants in one database, if an administrator enables it: each role sees its own DAGs, with their runs.

CREATE FUNCTION workflow.enable_row_security()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Created here and not by CREATE EXTENSION, so that pg_dump includes them: the administrator decides.
    CREATE POLICY tenant ON workflow.dags USING (tenant = CURRENT_USER);
    CREATE POLICY tenant ON workflow.dag_runs
        USING (EXISTS (SELECT FROM workflow.dags AS d WHERE d.id = dag_runs.dag_id));
    CREATE POLICY tenant ON workflow.task_instances
        USING (EXISTS (SELECT FROM workflow.dag_runs AS r WHERE r.id = task_instances.dag_run_id));
    CREATE POLICY tenant ON workflow.task_logs
        USING (EXISTS (SELECT FROM workflow.task_instances AS t WHERE t.id = task_logs.task_instance_id));
    CREATE POLICY tenant ON workflow.state_history
        USING (EXISTS (SELECT FROM workflow.dags AS d WHERE d.id = state_history.dag_id));
    ALTER TABLE workflow.dags ENABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.dag_runs ENABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.task_instances ENABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.task_logs ENABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.state_history ENABLE ROW LEVEL SECURITY;
END
$$;
COMMENT ON FUNCTION workflow.enable_row_security() IS
'Restricts each role to its own DAGs (tenant = current_user). Superusers, the owner and BYPASSRLS roles see all. The feed is closed to others (42501); totals count all. Set pg_workflow.announce to wakeup or off: any role can LISTEN. Owner only.';

CREATE FUNCTION workflow.disable_row_security()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    ALTER TABLE workflow.dags DISABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.dag_runs DISABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.task_instances DISABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.task_logs DISABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.state_history DISABLE ROW LEVEL SECURITY;
    DROP POLICY IF EXISTS tenant ON workflow.state_history;
    DROP POLICY IF EXISTS tenant ON workflow.task_logs;
    DROP POLICY IF EXISTS tenant ON workflow.task_instances;
    DROP POLICY IF EXISTS tenant ON workflow.dag_runs;
    DROP POLICY IF EXISTS tenant ON workflow.dags;
END
$$;
COMMENT ON FUNCTION workflow.disable_row_security() IS
'Undoes enable_row_security(); the tenants stay in the table. For the owner.';
