-- Several tenants in one database, where an administrator wants it: each role sees its own DAGs, and what belongs to them.

CREATE FUNCTION workflow.enable_row_security()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Made here rather than by CREATE EXTENSION: whether it is on is the administrator's, and dumped with his database.
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
'Has each role see only DAGs whose tenant it is (current_user), with their runs, tasks, logs and history. Superusers, the owner and roles with BYPASSRLS see everything. The event feed is closed to everybody else (42501), because it has everything; the views of totals (state_counts, consumer_lag, partitions) count everything. Set pg_workflow.announce to wakeup or off: any role can LISTEN. For the owner.';

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
'Undoes enable_row_security(). Who the tenants are is kept. For the owner.';
