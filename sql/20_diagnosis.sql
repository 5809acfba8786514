-- For operators: is the data sound, is anything stuck, does a consumer lag, which settings hold?

CREATE FUNCTION workflow.tasks_of_foreign_queues()
RETURNS TABLE (id uuid, dag_run_id uuid, tenant text, queue text)
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT t.id, t.dag_run_id, d.tenant, q.name
    FROM workflow.task_instances AS t
    JOIN workflow.dag_runs AS r ON r.id OPERATOR(pg_catalog.=) t.dag_run_id
    JOIN workflow.dags AS d ON d.id OPERATOR(pg_catalog.=) r.dag_id
    JOIN workflow.queue_settings AS q ON q.id OPERATOR(pg_catalog.=) t.queue_id
    WHERE t.queue_id IS NOT NULL AND NOT workflow.is_finished(t.state)
        AND q.tenant OPERATOR(pg_catalog.<>) d.tenant AND NOT workflow.shows_all_tenants()
$$;
COMMENT ON FUNCTION workflow.tasks_of_foreign_queues() IS
'Internal: returns the open tasks whose queue is not one of their tenant, while tenants are isolated: the DAG had another tenant, or none was isolated.';

CREATE FUNCTION workflow.unclaimable_tasks()
RETURNS TABLE (
    id uuid, dag_run_id uuid, state text, version bigint, queue_id integer, priority smallint, not_before timestamptz
)
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT t.id, t.dag_run_id, t.state, t.version, t.queue_id, t.priority, t.not_before
    FROM workflow.task_instances AS t
    WHERE t.queue_id IS NOT NULL AND t.state OPERATOR(pg_catalog.=) ANY ('{queued,retrying}'::pg_catalog.text[])
        AND NOT EXISTS (
            SELECT FROM workflow.ready AS r
            WHERE r.task_instance_id OPERATOR(pg_catalog.=) t.id AND r.version OPERATOR(pg_catalog.=) t.version
                AND r.queue_id OPERATOR(pg_catalog.=) t.queue_id
                AND r.priority::pg_catalog.int4 OPERATOR(pg_catalog.=) COALESCE(t.priority::pg_catalog.int4, 5)
                AND r.ready_at OPERATOR(pg_catalog.>=) COALESCE(t.not_before, '-infinity')
                -- A row of a later time: the clock was set back. A minute is waited for.
                AND r.ready_at OPERATOR(pg_catalog.<=) (GREATEST(t.not_before, pg_catalog.statement_timestamp())
                    OPERATOR(pg_catalog.+) '1 min'::pg_catalog.interval))
        AND NOT EXISTS (
            SELECT FROM workflow.parked AS p
            JOIN workflow.dag_runs AS u ON u.id OPERATOR(pg_catalog.=) p.dag_run_id
            JOIN workflow.dags AS d ON d.id OPERATOR(pg_catalog.=) u.dag_id
            WHERE p.dag_run_id OPERATOR(pg_catalog.=) t.dag_run_id AND p.task_instance_id OPERATOR(pg_catalog.=) t.id
                AND (d.is_paused OR workflow.is_finished(u.state)))
        -- It waits for others. One look-up for each task: a join could be planned as a loop over all.
        AND (t.join_id IS NULL OR NOT workflow.is_before_attempt(t.state, t.start_date)
            OR NOT EXISTS (SELECT FROM workflow.waits AS w WHERE w.join_id OPERATOR(pg_catalog.=) t.join_id OFFSET 0))
$$;
COMMENT ON FUNCTION workflow.unclaimable_tasks() IS
'Internal: returns the tasks that wait in a queue and that no claim finds: they have no row in ready, or a later one than they should have, are not parked, and wait for no other task.';

CREATE FUNCTION workflow.verify(created_from timestamptz DEFAULT '-infinity', created_to timestamptz DEFAULT 'infinity')
RETURNS TABLE (entity_type text, entity_id uuid, problem text, detail jsonb)
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
-- Compiling its plan takes longer than checking a minute.
SET jit = off
AS $$
    WITH bound AS MATERIALIZED (
        SELECT workflow.first_id_at(coalesce(created_from, '-infinity')) AS first,
            workflow.first_id_at(coalesce(created_to, 'infinity')) AS last,
            -- An entity created before this may have lost the start of its history to purge().
            (SELECT max(d.last_changed_at) FROM workflow.dropped_partitions AS d) AS complete_from
        WHERE workflow.check_partitions(0::bigint)
    ), entity AS MATERIALIZED (
        SELECT 'dag_run' AS entity_type, r.id, r.state, r.version, NULL::integer AS try_number, r.created_at, NULL::uuid AS run
        FROM workflow.dag_runs AS r
        WHERE r.id >= (SELECT b.first FROM bound AS b) AND r.id <= (SELECT b.last FROM bound AS b)
        UNION ALL
        SELECT 'task_instance', t.id, t.state, t.version, t.try_number, t.created_at, t.dag_run_id
        FROM workflow.task_instances AS t
        WHERE t.id >= (SELECT b.first FROM bound AS b) AND t.id <= (SELECT b.last FROM bound AS b)
    ), transition AS MATERIALIZED (
        SELECT
            h.entity_type, h.entity_id, h.old_state, h.new_state, h.version, h.changed_at, h.id,
            lag(h.new_state) OVER entity AS state_before,
            lag(h.version) OVER entity AS version_before,
            lag(h.id) OVER entity AS id_before,
            lag(h.changed_at) OVER entity AS changed_before,
            lead(h.version) OVER entity IS NULL AS is_last,
            first_value(h.version) OVER entity = 1 AS is_complete,
            count(*) FILTER (WHERE h.new_state = 'running') OVER entity AS tries
        FROM workflow.state_history AS h
        WHERE h.entity_id >= (SELECT b.first FROM bound AS b) AND h.entity_id <= (SELECT b.last FROM bound AS b)
        WINDOW entity AS (PARTITION BY h.entity_id ORDER BY h.version)
    )
    SELECT e.entity_type, e.id, 'no history', jsonb_build_object('state', e.state, 'version', e.version)
    FROM entity AS e
    WHERE NOT EXISTS (SELECT FROM transition AS m WHERE m.entity_id = e.id)
        AND e.created_at <= (SELECT b.complete_from FROM bound AS b) IS NOT TRUE
    UNION ALL
    -- A restore does not check foreign keys.
    SELECT e.entity_type, e.id, 'no dag_run', jsonb_build_object('dag_run_id', e.run)
    FROM entity AS e
    WHERE e.run IS NOT NULL AND NOT EXISTS (SELECT FROM workflow.dag_runs AS r WHERE r.id = e.run)
    UNION ALL
    SELECT e.entity_type, e.id, 'row and history disagree', jsonb_build_object(
        'row', jsonb_build_object('entity_type', e.entity_type, 'state', e.state, 'version', e.version, 'try_number', e.try_number),
        'history', jsonb_build_object('entity_type', m.entity_type, 'state', m.new_state, 'version', m.version,
            'try_number', CASE WHEN e.entity_type = 'task_instance' AND m.is_complete THEN m.tries END))
    FROM entity AS e
    JOIN transition AS m ON m.entity_id = e.id AND m.is_last
    WHERE (e.entity_type, e.state, e.version) IS DISTINCT FROM (m.entity_type, m.new_state, m.version)
        OR (e.try_number <> m.tries AND m.is_complete)
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'version missing', jsonb_build_object('after', coalesce(m.version_before, 0), 'before', m.version)
    FROM transition AS m
    WHERE m.version <> coalesce(m.version_before, 0) + 1
        -- A row without history was reported before its deletion.
        AND (m.new_state IS NOT NULL OR m.version_before IS NOT NULL)
        AND (m.version_before IS NOT NULL
            OR coalesce((SELECT e.created_at FROM entity AS e WHERE e.id = m.entity_id), '-infinity')
                <= (SELECT b.complete_from FROM bound AS b) IS NOT TRUE)
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'transition from another state', jsonb_build_object('version', m.version, 'from', m.old_state, 'was', m.state_before)
    FROM transition AS m
    WHERE m.version = coalesce(m.version_before, 0) + 1 AND m.old_state IS DISTINCT FROM m.state_before
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'transition not allowed', jsonb_build_object('version', m.version, 'from', m.old_state, 'to', m.new_state)
    FROM transition AS m
    WHERE CASE
        WHEN m.new_state IS NULL THEN m.old_state IS NULL
        WHEN m.old_state IS NULL THEN m.new_state <> 'queued' OR m.version <> 1
        ELSE (m.old_state, m.new_state) NOT IN (SELECT s.from_state, s.to_state FROM workflow.state_machine AS s)
    END
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'events out of order', jsonb_build_object('version', m.version, 'id', m.id, 'before', m.id_before)
    FROM transition AS m
    WHERE m.id < m.id_before
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'clock went back', jsonb_build_object('version', m.version, 'changed_at', m.changed_at, 'before', m.changed_before)
    FROM transition AS m
    WHERE m.changed_at < m.changed_before
    UNION ALL
    SELECT 'task_instance', t.id, 'claim of a task that does not run',
        jsonb_build_object('state', t.state, 'worker', t.worker, 'lease_expires_at', t.lease_expires_at)
    FROM workflow.task_instances AS t
    WHERE t.id >= (SELECT b.first FROM bound AS b) AND t.id <= (SELECT b.last FROM bound AS b)
        AND CASE
            WHEN t.state = 'running' THEN (t.worker IS NULL) <> (t.lease_expires_at IS NULL)
            ELSE t.worker IS NOT NULL OR t.lease_expires_at IS NOT NULL
        END
    UNION ALL
    SELECT 'task_instance', t.id, 'no claim finds it', jsonb_build_object('queue_id', t.queue_id, 'state', t.state, 'version', t.version)
    -- All of them: the planner would take any range for a short one, and search ready for each task.
    FROM (SELECT * FROM workflow.unclaimable_tasks() OFFSET 0) AS t
    WHERE coalesce(created_from, '-infinity') = '-infinity' AND coalesce(created_to, 'infinity') = 'infinity'
    UNION ALL
    SELECT 'task_instance', t.id, 'no claim finds it', jsonb_build_object('queue_id', t.queue_id, 'state', t.state, 'version', t.version)
    FROM workflow.unclaimable_tasks() AS t
    WHERE t.id >= (SELECT b.first FROM bound AS b) AND t.id <= (SELECT b.last FROM bound AS b)
        AND (coalesce(created_from, '-infinity') > '-infinity' OR coalesce(created_to, 'infinity') < 'infinity')
    UNION ALL
    -- A look that was lost, and that reap_claims() repeats every 10 s.
    SELECT 'task_instance', w.watched, 'ended task is still watched', jsonb_build_object('join_id', w.join_id)
    FROM workflow.overdue_waits() AS w
    WHERE w.watched >= (SELECT b.first FROM bound AS b) AND w.watched <= (SELECT b.last FROM bound AS b)
    UNION ALL
    SELECT 'task_instance', t.id, 'queue of another tenant', jsonb_build_object('queue', t.queue, 'tenant', t.tenant)
    FROM workflow.tasks_of_foreign_queues() AS t
    WHERE t.id >= (SELECT b.first FROM bound AS b) AND t.id <= (SELECT b.last FROM bound AS b)
    UNION ALL
    SELECT c.entity_type, NULL, 'counts disagree', jsonb_build_object('state', c.state, 'state_counts', c.count, 'rows', coalesce(t.rows, 0))
    FROM workflow.state_counts AS c
    LEFT JOIN (
        SELECT e.entity_type, e.state, count(*) AS rows FROM entity AS e GROUP BY e.entity_type, e.state
    ) AS t ON t.entity_type = c.entity_type AND t.state = c.state
    WHERE c.count <> coalesce(t.rows, 0)
        -- Only the totals of all entities can be compared.
        AND created_from = '-infinity' AND created_to = 'infinity'
        AND (workflow.shows_all_tenants() OR NOT row_security_active('workflow.task_instances'::text))
$$;
COMMENT ON FUNCTION workflow.verify(timestamptz, timestamptz) IS
'Compares the runs and tasks created between two times with their history, and lists every disagreement: none in a sound database. Without arguments it checks all, and state_counts too. It does not expect purged events. Errors: 40001 purged since the transaction''s snapshot.';

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
LANGUAGE plpgsql STABLE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
ROWS 10
AS $$
#variable_conflict use_column
DECLARE
    -- A standby does not know which leases were renewed: no claim is stuck there.
    latest_lease timestamptz := CASE WHEN pg_is_in_recovery() THEN 'infinity' END;
BEGIN
    IF longer_than IS NULL OR longer_than < '0' THEN
        PERFORM workflow.refuse_argument(
            format('cannot list stuck entities: longer_than is %s', coalesce(longer_than::text, 'null')),
            jsonb_build_object('argument', 'longer_than', 'value', longer_than),
            'Set longer_than to 0 or more.');
    END IF;
    RETURN QUERY
        WITH in_progress AS (
            SELECT 'dag_run' AS entity_type, r.id, r.dag_id, r.id AS dag_run_id, NULL AS task_id, r.state, r.version,
                NULL::integer AS try_number,
                greatest(r.updated_at, (
                    SELECT max(CASE
                        WHEN t.worker IS NULL THEN t.updated_at
                        ELSE greatest(workflow.lease_end(t.id, t.version, t.start_date, t.lease_expires_at), latest_lease)
                    END)
                    FROM workflow.task_instances AS t WHERE t.dag_run_id = r.id)) AS last_progress
            FROM workflow.dag_runs AS r
            WHERE r.state IN ('running', 'retrying')
            UNION ALL
            -- Of each queue the task that waits for the longest time.
            SELECT 'task_instance', w.id, w.dag_id, w.dag_run_id, w.task_id, w.state, w.version, w.try_number,
                greatest(w.ready_at, q.paused_until)
            FROM workflow.queue_settings AS q
            CROSS JOIN LATERAL (
                SELECT first.*
                FROM generate_series(0, 9) AS lane
                CROSS JOIN LATERAL (
                    SELECT t.*, n.dag_id, r.ready_at
                    FROM (
                        SELECT * FROM workflow.ready AS r
                        WHERE r.queue_id = q.id AND r.priority = lane AND r.ready_at <= now()
                        ORDER BY r.ready_at OFFSET 0
                    ) AS r
                    -- One by one: most rows hold.
                    CROSS JOIN LATERAL (
                        SELECT i.id, i.dag_run_id, i.task_id, i.state, i.version, i.try_number
                        FROM workflow.task_instances AS i
                        WHERE i.id = r.task_instance_id AND i.version = r.version AND i.queue_id = q.id
                        LIMIT 1
                    ) AS t
                    CROSS JOIN LATERAL (
                        SELECT n.dag_id FROM workflow.dag_runs AS n
                        WHERE n.id = t.dag_run_id AND NOT workflow.is_finished(n.state)
                            AND NOT (SELECT d.is_paused FROM workflow.dags AS d WHERE d.id = n.dag_id)
                        LIMIT 1
                    ) AS n
                    ORDER BY r.ready_at LIMIT 1
                ) AS first
                ORDER BY first.ready_at LIMIT 1
            ) AS w
            WHERE q.slots IS DISTINCT FROM 0
            UNION ALL
            SELECT 'task_instance', t.id, r.dag_id, r.id, t.task_id, t.state, t.version, t.try_number,
                CASE
                    WHEN t.worker IS NOT NULL THEN least(
                        greatest(workflow.lease_end(t.id, t.version, t.start_date, t.lease_expires_at), latest_lease),
                        t.start_date + t.timeout)
                    -- By the index on the task, newest partition or not.
                    ELSE greatest(t.updated_at, (
                        SELECT max(l.logged_at) FROM workflow.task_logs AS l
                        WHERE l.task_instance_id = t.id AND l.try_number = t.try_number
                            -- Lines from before dates had to be finite.
                            AND l.logged_at < 'infinity'))
                END
            FROM workflow.task_instances AS t
            JOIN workflow.dag_runs AS r ON r.id = t.dag_run_id
            WHERE t.state IN ('running', 'retrying') AND (t.state = 'running' OR t.queue_id IS NULL)
        )
        SELECT u.entity_type, u.id, d.name, u.dag_run_id, u.task_id, u.state, u.version, u.try_number,
            u.last_progress, now() - u.last_progress
        FROM in_progress AS u
        JOIN workflow.dags AS d ON d.id = u.dag_id
        WHERE CASE WHEN isfinite(u.last_progress) THEN now() - u.last_progress > longer_than END
        ORDER BY u.last_progress;
END
$$;
COMMENT ON FUNCTION workflow.stuck(interval) IS
'Returns runs and tasks in progress without progress for longer than an interval, longest first. Progress is a transition or a log line; for a run also a transition of one of its tasks. A claimed task is stuck when its lease or its timeout has run out that long ago and reap_claims() has not ended it; on a standby, which knows no renewals, never because of its lease. Of each queue that is not paused it returns the task that could be claimed for the longest time. Errors: 22023 bad argument.';

CREATE VIEW workflow.consumer_lag AS
SELECT
    c.name AS consumer,
    pending.count AS pending,
    pending.oldest AS oldest,
    pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pending.oldest AS lag,
    c.updated_at AS last_active,
    c.owner,
    c.given_up_at
FROM (
    -- Not position_of(c): the planner resolves the fields of this row to columns.
    SELECT c.name, c.updated_at, c.owner, c.given_up_at, c.floor_id, c.acked_id,
        -- Until finish_copy(), a consumer from another database knows no transaction of this one: see relocate_position().
        CASE WHEN workflow.is_foreign(workflow.position_of(c)) THEN GREATEST(c.floor_id, c.window_ceiling_id) END AS foreign_id,
        ROW(
        c.snapshot, c.next_transaction_id, c.floor_id,
        c.window_snapshot, c.window_next_transaction_id, c.window_floor_id, c.window_ceiling_id,
        c.acked_id, c.system_identifier
    )::workflow.feed_position AS pos
    FROM workflow.consumers AS c
) AS c
CROSS JOIN LATERAL (
    SELECT pg_catalog.count(*) AS count, pg_catalog.min(h.changed_at) AS oldest
    FROM (
        SELECT h.id, h.transaction_id, h.changed_at
        FROM workflow.state_history AS h
        WHERE h.id OPERATOR(pg_catalog.>) GREATEST(c.floor_id, c.acked_id)
        UNION ALL
        -- As late_events() finds them. A view reads tables with its owner's rights, a function with the caller's.
        SELECT h.id, h.transaction_id, h.changed_at
        FROM workflow.late_ids(c.pos) AS w (id)
        -- One by one: a plan from when the table was small would read all of it for a join.
        CROSS JOIN LATERAL (
            SELECT * FROM workflow.state_history AS e WHERE e.id OPERATOR(pg_catalog.=) w.id LIMIT 1
        ) AS h
    ) AS h
    WHERE h.id OPERATOR(pg_catalog.>) c.foreign_id OR NOT workflow.is_acknowledged(c.pos, h.id, h.transaction_id)
) AS pending;
COMMENT ON VIEW workflow.consumer_lag IS
'Lag and backlog of each consumer. It counts the events: the longer the backlog, the longer this takes.';
COMMENT ON COLUMN workflow.consumer_lag.consumer IS 'name of the consumer';
COMMENT ON COLUMN workflow.consumer_lag.pending IS 'backlog: number of committed events that it has not acknowledged';
COMMENT ON COLUMN workflow.consumer_lag.oldest IS 'time of the oldest of them; null: none';
COMMENT ON COLUMN workflow.consumer_lag.lag IS 'time since then; null: none';
COMMENT ON COLUMN workflow.consumer_lag.last_active IS 'time at which its position or its lease last changed';
COMMENT ON COLUMN workflow.consumer_lag.owner IS 'role that owns it';
COMMENT ON COLUMN workflow.consumer_lag.given_up_at IS 'time at which purge() stopped keeping events for it; null: it keeps them';

CREATE FUNCTION workflow.notifiers()
RETURNS TABLE (
    database      text,
    pid           integer,
    started_at    timestamptz,
    is_listened   boolean,
    pending       bigint,
    lag_seconds   double precision,
    last_event_id bigint,
    events        bigint,
    batches       bigint,
    announced_at  timestamptz,
    errors        bigint,
    last_error    text,
    last_error_at timestamptz
)
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
ROWS 1
AS 'MODULE_PATHNAME', 'notifiers_wrapper';
COMMENT ON FUNCTION workflow.notifiers() IS
'Internal: returns the notifier of this database; see the view notifier.';

CREATE VIEW workflow.notifier AS
SELECT
    n.pid,
    n.started_at,
    n.is_listened,
    n.pending,
    pg_catalog.make_interval(secs => n.lag_seconds) AS lag,
    n.last_event_id,
    n.events,
    n.batches,
    n.announced_at,
    n.errors,
    n.last_error,
    n.last_error_at
FROM workflow.notifiers() AS n
WHERE n.database OPERATOR(pg_catalog.=) pg_catalog.current_database();
COMMENT ON VIEW workflow.notifier IS
'Background worker that sends this database''s notifications on the channel workflow_events. No row: no event and no LISTEN since the server started, no preloading, or 32 other databases have one: then each transaction sends its own.';
COMMENT ON COLUMN workflow.notifier.pid IS 'process ID; null: not running';
COMMENT ON COLUMN workflow.notifier.started_at IS 'time at which it started';
COMMENT ON COLUMN workflow.notifier.is_listened IS 'whether a session listens (LISTEN workflow_events); without one it sends nothing';
COMMENT ON COLUMN workflow.notifier.pending IS 'number of committed transactions whose events it has not sent yet; others send their own';
COMMENT ON COLUMN workflow.notifier.lag IS 'time since it last had nothing pending; 0: nothing is pending';
COMMENT ON COLUMN workflow.notifier.last_event_id IS 'id of the last event sent; null: none';
COMMENT ON COLUMN workflow.notifier.events IS 'number of events sent';
COMMENT ON COLUMN workflow.notifier.batches IS 'number of transactions that sent them';
COMMENT ON COLUMN workflow.notifier.announced_at IS 'time of the last notification; null: none';
COMMENT ON COLUMN workflow.notifier.errors IS 'number of failures, such as an event that was skipped, or a notifier that cannot start';
COMMENT ON COLUMN workflow.notifier.last_error IS 'message of the last failure; null: none';
COMMENT ON COLUMN workflow.notifier.last_error_at IS 'time of the last failure; null: none';

CREATE VIEW workflow.partitions AS
SELECT
    p.relname::pg_catalog.text AS table_name,
    c.relname::pg_catalog.text AS "partition",
    n.number AS number,
    CASE
        WHEN n.number OPERATOR(pg_catalog.<) current.number THEN 'past'
        WHEN n.number OPERATOR(pg_catalog.=) current.number THEN 'current'
        ELSE 'next'
    END AS role,
    GREATEST(c.reltuples, 0)::pg_catalog.int8 AS estimated_rows,
    pg_catalog.pg_total_relation_size(c.oid) AS bytes
FROM pg_catalog.pg_class AS p
JOIN pg_catalog.pg_inherits AS i ON i.inhparent OPERATOR(pg_catalog.=) p.oid
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid
CROSS JOIN LATERAL (
    SELECT pg_catalog.substr(c.relname::pg_catalog.text, pg_catalog.length(p.relname::pg_catalog.text) OPERATOR(pg_catalog.+) 2)::pg_catalog.int8
) AS n (number)
CROSS JOIN LATERAL workflow.current_partition(p.relname::pg_catalog.text) AS current (number)
WHERE p.relnamespace OPERATOR(pg_catalog.=) 'workflow'::pg_catalog.regnamespace
    AND p.relname OPERATOR(pg_catalog.=) ANY ('{state_history,task_logs}'::pg_catalog.name[]);
COMMENT ON VIEW workflow.partitions IS
'Partitions of state_history and task_logs. Partition n takes the ids from n * 10^12 on. See open_partitions() and purge().';
COMMENT ON COLUMN workflow.partitions.table_name IS 'state_history or task_logs';
COMMENT ON COLUMN workflow.partitions."partition" IS 'name, in the schema workflow';
COMMENT ON COLUMN workflow.partitions.number IS 'number, in the order of time';
COMMENT ON COLUMN workflow.partitions.role IS 'current: takes new rows; past: took them before; next: will take them';
COMMENT ON COLUMN workflow.partitions.estimated_rows IS 'number of rows when it was last vacuumed or analyzed';
COMMENT ON COLUMN workflow.partitions.bytes IS 'size on disk in bytes, with indexes';

CREATE FUNCTION workflow.show_settings()
RETURNS TABLE (name text, setting text, unit text, default_setting text, source text, changed_by text, description text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
ROWS 5
AS $$
BEGIN
    -- The server knows the settings when the library is loaded.
    PERFORM workflow.version();
    RETURN QUERY
        SELECT s.name, s.setting, s.unit, s.boot_val, s.source,
            CASE s.context WHEN 'sighup' THEN 'reload' WHEN 'superuser' THEN 'superuser' ELSE s.context END, s.short_desc
        FROM pg_settings AS s
        WHERE starts_with(s.name, 'pg_workflow.')
        ORDER BY s.name;
END
$$;
COMMENT ON FUNCTION workflow.show_settings() IS
'Internal: returns the rows of the view settings.';

CREATE VIEW workflow.settings AS
SELECT s.name, s.setting, s.unit, s.default_setting, s.source, s.changed_by, s.description
FROM workflow.show_settings() AS s;
COMMENT ON VIEW workflow.settings IS
'Settings pg_workflow.* with their values in this session.';
COMMENT ON COLUMN workflow.settings.name IS 'name';
COMMENT ON COLUMN workflow.settings.setting IS 'value';
COMMENT ON COLUMN workflow.settings.unit IS 'unit of the value; null: none';
COMMENT ON COLUMN workflow.settings.default_setting IS 'default value';
COMMENT ON COLUMN workflow.settings.source IS 'origin of the value, as in pg_settings';
COMMENT ON COLUMN workflow.settings.changed_by IS 'reload: in postgresql.conf; superuser: also with SET, by a superuser';
COMMENT ON COLUMN workflow.settings.description IS 'meaning';
