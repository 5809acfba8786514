-- Several tenants in one database, if an administrator enables it: each role sees its own DAGs, with their runs.
--
-- Row security and its policies are always there, so that CREATE EXTENSION restores them, and a partition has them from
-- its first day. A setting tells the policies whether tenants are isolated. It is a row of a table, so that a dump has it.

CREATE TABLE workflow.row_security (
    is_enabled boolean NOT NULL,
    id         uuid    NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    CONSTRAINT row_security_pkey PRIMARY KEY (id)
);
-- Not in a restore, which turns row_security off: it loads the rows of the dump, and isolates tenants until then.
INSERT INTO workflow.row_security (is_enabled)
SELECT false WHERE pg_catalog.current_setting('row_security'::pg_catalog.text) OPERATOR(pg_catalog.=) 'on';

COMMENT ON TABLE workflow.row_security IS
'Whether tenants are isolated; see enable_row_security(). They are, unless it has a row, and none that is true.';
COMMENT ON COLUMN workflow.row_security.is_enabled IS 'false: from CREATE EXTENSION; true: tenants are isolated';
COMMENT ON COLUMN workflow.row_security.id IS 'unique id: a dump can be loaded into a new extension';

CREATE FUNCTION workflow.shows_all_tenants()
RETURNS boolean
-- The setting is no constant. But planning replaces the call by its value, so a policy costs nothing while it is true;
-- and a change of the setting has every session plan its queries again.
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'shows_all_tenants_wrapper';
COMMENT ON FUNCTION workflow.shows_all_tenants() IS
'Returns whether tenants are not isolated, so that every role sees all rows; see enable_row_security().';

CREATE FUNCTION workflow.replan()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'replan_wrapper';
COMMENT ON FUNCTION workflow.replan() IS
'AFTER changes of row_security: has every session plan its queries of the tenants'' tables again.';

CREATE TRIGGER replan
AFTER INSERT OR UPDATE OR DELETE ON workflow.row_security
FOR EACH ROW EXECUTE FUNCTION workflow.replan();
ALTER TABLE workflow.row_security ENABLE ALWAYS TRIGGER replan;

CREATE TRIGGER replan_truncated
AFTER TRUNCATE ON workflow.row_security
FOR EACH STATEMENT EXECUTE FUNCTION workflow.replan();
ALTER TABLE workflow.row_security ENABLE ALWAYS TRIGGER replan_truncated;

CREATE FUNCTION workflow.create_policy(table_name text, relation text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format(
        'CREATE POLICY tenant ON workflow.%1$I USING (workflow.shows_all_tenants() OR ' || CASE table_name
            WHEN 'dags' THEN 'tenant = CURRENT_USER'
            WHEN 'queue_settings' THEN 'tenant = CURRENT_USER'
            WHEN 'ready' THEN 'EXISTS (SELECT FROM workflow.queue_settings AS q WHERE q.id = %1$I.queue_id)'
            WHEN 'parked' THEN 'EXISTS (SELECT FROM workflow.dag_runs AS r WHERE r.id = %1$I.dag_run_id)'
            WHEN 'joins' THEN 'EXISTS (SELECT FROM workflow.dag_runs AS r WHERE r.id = %1$I.dag_run_id)'
            WHEN 'waits' THEN 'EXISTS (SELECT FROM workflow.joins AS j WHERE j.id = %1$I.join_id)'
            WHEN 'dag_runs' THEN 'EXISTS (SELECT FROM workflow.dags AS d WHERE d.id = %1$I.dag_id)'
            WHEN 'task_instances' THEN 'EXISTS (SELECT FROM workflow.dag_runs AS r WHERE r.id = %1$I.dag_run_id)'
            WHEN 'task_logs' THEN 'EXISTS (SELECT FROM workflow.task_instances AS t WHERE t.id = %1$I.task_instance_id)'
            WHEN 'state_history' THEN 'EXISTS (SELECT FROM workflow.dags AS d WHERE d.id = %1$I.dag_id)'
        END || ')',
        relation);
    EXECUTE format('ALTER TABLE workflow.%I ENABLE ROW LEVEL SECURITY', relation);
END
$$;
COMMENT ON FUNCTION workflow.create_policy(text, text) IS
'Internal: enables row security on a table of that name, or on a partition of it. For the owner.';

SELECT workflow.create_policy(t.name, t.name)
FROM (VALUES
    ('dags'::pg_catalog.text), ('dag_runs'), ('task_instances'), ('task_logs'), ('state_history'), ('queue_settings'), ('ready'),
    ('parked'), ('joins'), ('waits')
) AS t (name);

CREATE FUNCTION workflow.cancel_vacuum()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_cancel_backend(a.pid)
    FROM pg_stat_activity AS a
    JOIN pg_locks AS l ON l.pid = a.pid
    JOIN pg_class AS c ON c.oid = l.relation
    WHERE a.datname = current_database()
        AND c.relnamespace = 'workflow'::regnamespace
        AND a.backend_type = 'autovacuum worker'
        AND a.query NOT LIKE '%(to prevent wraparound)';
EXCEPTION WHEN insufficient_privilege THEN
    -- The owner is no superuser.
    NULL;
END
$$;
COMMENT ON FUNCTION workflow.cancel_vacuum() IS
'Internal: cancels autovacuum in the tables of the extension, as PostgreSQL does for a session that waits for a lock longer than deadlock_timeout.';

CREATE FUNCTION workflow.lock_in_attempts(change text)
RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    began timestamptz := clock_timestamp();
    timeout text := current_setting('lock_timeout');
BEGIN
    -- Others lock the same in any order. So it waits for each lock for less than deadlock_timeout, then releases all and
    -- tries again: no transaction of others becomes the victim of a deadlock, or waits behind it for long.
    LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '100ms', true);
            IF change = 'copy' THEN
                LOCK TABLE workflow.consumers, workflow.consumer_checkpoints IN EXCLUSIVE MODE;
                PERFORM FROM workflow.state_count_place FOR UPDATE;
                -- A partition of the logs has a foreign key.
                LOCK TABLE ONLY workflow.task_instances IN SHARE ROW EXCLUSIVE MODE;
                -- As in switch_to_partition(): no transaction in progress has written into an earlier partition.
                LOCK TABLE ONLY workflow.task_logs, ONLY workflow.state_history IN ACCESS EXCLUSIVE MODE;
            ELSE
                LOCK TABLE workflow.dags, workflow.dag_runs, workflow.task_instances, workflow.task_logs, workflow.state_history
                    IN ACCESS EXCLUSIVE MODE;
            END IF;
            EXIT;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            IF timeout::interval <> '0' AND clock_timestamp() >= began + timeout::interval THEN
                RAISE;
            END IF;
        END;
        PERFORM workflow.cancel_vacuum();
        PERFORM pg_sleep(random() * 0.1);
    END LOOP;
    PERFORM set_config('lock_timeout', timeout, true);
END
$$;
COMMENT ON FUNCTION workflow.lock_in_attempts(text) IS
'Internal: acquires all locks for a change, "copy" or "isolation", at once, and waits up to lock_timeout for that.';

CREATE FUNCTION workflow.enable_row_security()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A transaction that has used a table would not notice the change before it ends.
    PERFORM workflow.lock_in_attempts('isolation');
    INSERT INTO workflow.row_security (is_enabled) SELECT true WHERE NOT EXISTS (SELECT FROM workflow.row_security AS s WHERE s.is_enabled);
END
$$;
COMMENT ON FUNCTION workflow.enable_row_security() IS
'Restricts each role to its own DAGs (tenant = current_user), at once and in restored dumps too. Superusers, the owner and BYPASSRLS roles see all. The feed is closed to others (42501); totals count all. Notifications lose their payload. Owner only.';

CREATE FUNCTION workflow.disable_row_security()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM workflow.row_security AS s WHERE s.is_enabled;
    INSERT INTO workflow.row_security (is_enabled) SELECT false WHERE NOT EXISTS (SELECT FROM workflow.row_security);
END
$$;
COMMENT ON FUNCTION workflow.disable_row_security() IS
'Undoes enable_row_security(); the tenants stay in the table. Owner only.';
