-- What an operator asks first. (See also the views consumer_lag and notifier, state_counts and partitions.)

CREATE FUNCTION workflow.stuck(longer_than interval DEFAULT '1 hour')
RETURNS TABLE (
    entity_type   text,
    entity_id     uuid,
    dag           text,
    dag_run_id    uuid,
    task_id       text,
    state         text,
    version       bigint,
    try_number    integer,
    last_progress timestamptz,
    idle          interval
)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
ROWS 10
AS $$
#variable_conflict use_column
BEGIN
    IF longer_than IS NULL OR longer_than < '0' THEN
        PERFORM workflow.refuse_argument(
            format('cannot look for stuck entities: longer_than is %s', coalesce(longer_than::text, 'null')),
            jsonb_build_object('argument', 'longer_than', 'value', longer_than),
            'Give how long nothing has happened to them, 0 or more.');
    END IF;
    RETURN QUERY
        WITH under_way AS (
            SELECT 'dag_run' AS entity_type, r.id, r.dag_id, r.id AS dag_run_id, NULL AS task_id, r.state, r.version,
                NULL::integer AS try_number,
                greatest(r.updated_at, (
                    SELECT max(t.updated_at) FROM workflow.task_instances AS t WHERE t.dag_run_id = r.id)) AS last_progress
            FROM workflow.dag_runs AS r
            WHERE r.state IN ('running', 'retrying')
            UNION ALL
            SELECT 'task_instance', t.id, r.dag_id, r.id, t.task_id, t.state, t.version, t.try_number,
                -- By the index on the task, newest partition or not.
                greatest(t.updated_at, (
                    SELECT max(l.logged_at) FROM workflow.task_logs AS l
                    WHERE l.task_instance_id = t.id AND l.try_number = t.try_number))
            FROM workflow.task_instances AS t
            JOIN workflow.dag_runs AS r ON r.id = t.dag_run_id
            WHERE t.state IN ('running', 'retrying')
        )
        SELECT u.entity_type, u.id, d.name, u.dag_run_id, u.task_id, u.state, u.version, u.try_number,
            u.last_progress, now() - u.last_progress
        FROM under_way AS u
        JOIN workflow.dags AS d ON d.id = u.dag_id
        WHERE now() - u.last_progress > longer_than
        ORDER BY u.last_progress;
END
$$;
COMMENT ON FUNCTION workflow.stuck(interval) IS
'Runs and tasks that are running or retrying, and have made no progress for longer than this; who is idle longest first. Progress of a task is a move or a line in its log, that of a run also a move of one of its tasks. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.show_settings()
RETURNS TABLE (name text, setting text, unit text, default_setting text, source text, changed_by text, description text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
ROWS 5
AS $$
BEGIN
    -- They are known once the library is loaded.
    PERFORM workflow.version();
    RETURN QUERY
        SELECT s.name, s.setting, s.unit, s.boot_val, s.source,
            CASE s.context WHEN 'sighup' THEN 'reload' WHEN 'superuser' THEN 'superuser' ELSE s.context END, s.short_desc
        FROM pg_settings AS s
        WHERE s.name LIKE 'pg\_workflow.%'
        ORDER BY s.name;
END
$$;
COMMENT ON FUNCTION workflow.show_settings() IS
'Internal: what the view settings shows.';

CREATE VIEW workflow.settings AS
SELECT s.name, s.setting, s.unit, s.default_setting, s.source, s.changed_by, s.description
FROM workflow.show_settings() AS s;
COMMENT ON VIEW workflow.settings IS
'The settings pg_workflow.* as they hold in this session.';
COMMENT ON COLUMN workflow.settings.name IS 'the setting''s name';
COMMENT ON COLUMN workflow.settings.setting IS 'its value';
COMMENT ON COLUMN workflow.settings.unit IS 'the unit of the value, where it has one';
COMMENT ON COLUMN workflow.settings.default_setting IS 'its value where nobody has set it';
COMMENT ON COLUMN workflow.settings.source IS 'where the value comes from, as in pg_settings';
COMMENT ON COLUMN workflow.settings.changed_by IS 'reload: in postgresql.conf; superuser: also with SET, by a superuser';
COMMENT ON COLUMN workflow.settings.description IS 'what it does';
