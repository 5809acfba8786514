-- Queues: where tasks wait until a worker claims them.

CREATE FUNCTION workflow.queue_of_run(dag_run_id uuid, name text)
RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'queue_of_run_wrapper';
COMMENT ON FUNCTION workflow.queue_of_run(uuid, text) IS
'Internal: returns the queue of this name for the tasks of a run, and creates it if it is new; null: no such run. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.check_queue_name(name text)
RETURNS void
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'check_queue_name_wrapper';
COMMENT ON FUNCTION workflow.check_queue_name(text) IS 'Internal: checks the name of a queue. Errors: 22023 invalid name.';

CREATE FUNCTION workflow.enqueue_task_instances(
    ids        uuid[],
    queue      text        DEFAULT 'default',
    priority   integer     DEFAULT 5,
    not_before timestamptz DEFAULT NULL
)
RETURNS TABLE (id uuid, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
ROWS 100
AS $$
#variable_conflict use_column
DECLARE
    run_ids uuid[];
    queue_ids integer[];
BEGIN
    IF array_ndims(ids) > 1 THEN
        PERFORM workflow.refuse_argument(
            'cannot enqueue tasks: ids is a nested array',
            jsonb_build_object('argument', 'ids', 'value', NULL),
            'Give the ids of the tasks as one list.');
    END IF;
    IF ids IS NULL OR array_position(ids, NULL) IS NOT NULL OR priority IS NULL THEN
        PERFORM workflow.refuse_argument(
            'cannot enqueue tasks: ' || CASE WHEN priority IS NULL THEN 'priority' ELSE 'ids' END || ' is null',
            jsonb_build_object('argument', CASE WHEN priority IS NULL THEN 'priority' ELSE 'ids' END, 'value', NULL),
            'Give the ids of the tasks, and a priority from 0 to 9.');
    END IF;
    IF priority NOT BETWEEN 0 AND 9 THEN
        PERFORM workflow.refuse_argument(
            format('cannot enqueue tasks: priority is %s', priority),
            jsonb_build_object('argument', 'priority', 'value', priority),
            'Set priority to 0 (first) to 9 (last).');
    END IF;
    PERFORM workflow.check_queue_name(queue);
    -- In the order of ids, as others do: so that two calls do not deadlock. An array of states: so that no index on the
    -- state is searched.
    PERFORM FROM workflow.task_instances AS t
    WHERE t.id = ANY (enqueue_task_instances.ids) AND '{queued,retrying}'::text[] @> ARRAY[t.state]
    ORDER BY t.id
    FOR NO KEY UPDATE;
    SELECT array_agg(r.id), array_agg(workflow.queue_of_run(r.id, enqueue_task_instances.queue))
    INTO run_ids, queue_ids
    FROM (SELECT DISTINCT t.dag_run_id AS id FROM workflow.task_instances AS t
          WHERE t.id = ANY (enqueue_task_instances.ids)) AS r;
    RETURN QUERY
        WITH enqueued AS (
            UPDATE workflow.task_instances AS t
            SET queue_id = queue_ids[array_position(run_ids, t.dag_run_id)],
                priority = enqueue_task_instances.priority,
                not_before = enqueue_task_instances.not_before
            WHERE t.id = ANY (enqueue_task_instances.ids) AND '{queued,retrying}'::text[] @> ARRAY[t.state]
                -- This statement can see tasks that were created since the last one.
                AND t.dag_run_id = ANY (run_ids)
            RETURNING t.id
        )
        SELECT i.id, CASE WHEN e.id IS NOT NULL THEN 'enqueued' WHEN t.id IS NOT NULL THEN 'stale' ELSE 'missing' END
        FROM unnest(enqueue_task_instances.ids) WITH ORDINALITY AS i (id, number)
        LEFT JOIN enqueued AS e ON e.id = i.id
        LEFT JOIN LATERAL (
            SELECT x.id FROM workflow.task_instances AS x
            WHERE x.id = i.id AND x.dag_run_id = ANY (run_ids) LIMIT 1) AS t ON true
        ORDER BY i.number;
END
$$;
COMMENT ON FUNCTION workflow.enqueue_task_instances(uuid[], text, integer, timestamptz) IS
'Makes tasks in state queued or retrying claimable from a queue, at once or from not_before on. A new name creates the queue. Returns an outcome for each id: enqueued, stale (in another state) or missing. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.recover_ready()
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'recover_ready_wrapper';
COMMENT ON FUNCTION workflow.recover_ready() IS
'Lets claims find tasks again that verify() names, and returns how many: those that wait in a queue and have no row in ready (after a restore without this table, or changes in a session in replica mode) or one of a time to come (the clock was set back), and those whose queue is of another tenant (after a change of dags.tenant, or enable_row_security()), which it moves to a queue of the same name. It reads all open tasks.';

CREATE FUNCTION workflow.wake_waiters()
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'wake_waiters_wrapper';
COMMENT ON FUNCTION workflow.wake_waiters() IS
'Internal: has the commit of this transaction wake the sessions in wait_for_tasks(), which then ask again.';

CREATE FUNCTION workflow.set_queue(name text, slots integer DEFAULT NULL, paused_until timestamptz DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM workflow.check_queue_name(name);
    IF slots < 0 THEN
        PERFORM workflow.refuse_argument(
            format('cannot set queue "%s": slots is %s', name, slots),
            jsonb_build_object('argument', 'slots', 'value', slots),
            'Set slots to 0 or more, or omit it to leave it as it is.');
    END IF;
    UPDATE workflow.queue_settings AS q
    SET slots = coalesce(set_queue.slots, q.slots), paused_until = coalesce(set_queue.paused_until, q.paused_until)
    WHERE q.name = set_queue.name;
    IF NOT FOUND THEN
        INSERT INTO workflow.queue_settings AS q (tenant, name, slots, paused_until)
        VALUES (CASE WHEN workflow.shows_all_tenants() THEN '' ELSE current_user END,
            set_queue.name, set_queue.slots, set_queue.paused_until)
        ON CONFLICT ON CONSTRAINT queue_settings_tenant_name_key DO UPDATE
        SET slots = coalesce(EXCLUDED.slots, q.slots), paused_until = coalesce(EXCLUDED.paused_until, q.paused_until);
    END IF;
    PERFORM workflow.wake_waiters();
END
$$;
COMMENT ON FUNCTION workflow.set_queue(text, integer, timestamptz) IS
'Sets how many tasks of a queue can be claimed at a time (slots), and until when none is (paused_until: infinity pauses it, -infinity resumes it). Null leaves a setting as it is. A new name creates the queue. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.refused_claims(queue_id integer)
RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'refused_claims_wrapper';
COMMENT ON FUNCTION workflow.refused_claims(integer) IS
'Internal: returns how many claims found no free slot of a queue since the server started; null: not preloaded, or a queue that the caller does not see.';

CREATE VIEW workflow.queues
WITH (security_invoker = true) AS
SELECT
    q.id,
    q.name,
    q.tenant,
    q.slots,
    q.paused_until,
    waiting.count OPERATOR(pg_catalog.-) waiting.later AS ready,
    waiting.later,
    COALESCE(parked.tasks, 0) AS parked,
    waiting.oldest AS oldest_ready_at,
    COALESCE(running.tasks, 0) AS running,
    workflow.refused_claims(q.id) AS refused
FROM workflow.queue_settings AS q
CROSS JOIN LATERAL (
    -- All rows are counted once. Usually few are for later, and the oldest is the first one of its lane.
    SELECT
        (SELECT pg_catalog.count(*) FROM workflow.ready AS r WHERE r.queue_id OPERATOR(pg_catalog.=) q.id) AS count,
        pg_catalog.sum(lane.later)::pg_catalog.int8 AS later,
        pg_catalog.min(lane.oldest) AS oldest
    FROM pg_catalog.generate_series(0, 9) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT
            (
                SELECT pg_catalog.count(*) FROM workflow.ready AS r
                WHERE r.queue_id OPERATOR(pg_catalog.=) q.id AND r.priority OPERATOR(pg_catalog.=) p.priority
                    AND r.ready_at OPERATOR(pg_catalog.>) pg_catalog.now()
            ) AS later,
            (
                SELECT pg_catalog.min(r.ready_at) FROM workflow.ready AS r
                WHERE r.queue_id OPERATOR(pg_catalog.=) q.id AND r.priority OPERATOR(pg_catalog.=) p.priority
                    AND r.ready_at OPERATOR(pg_catalog.<=) pg_catalog.now()
            ) AS oldest
    ) AS lane
) AS waiting
-- These are counted once for all queues.
LEFT JOIN (
    SELECT t.queue_id, pg_catalog.count(*) AS tasks
    FROM workflow.parked AS p
    JOIN workflow.task_instances AS t ON t.id OPERATOR(pg_catalog.=) p.task_instance_id
    WHERE '{queued,retrying}'::pg_catalog.text[] OPERATOR(pg_catalog.@>) ARRAY[t.state]
    GROUP BY t.queue_id
) AS parked ON parked.queue_id OPERATOR(pg_catalog.=) q.id
LEFT JOIN (
    SELECT t.queue_id, pg_catalog.count(*) AS tasks
    FROM workflow.task_instances AS t
    WHERE t.state OPERATOR(pg_catalog.=) 'running' AND t.worker IS NOT NULL
    GROUP BY t.queue_id
) AS running ON running.queue_id OPERATOR(pg_catalog.=) q.id;
COMMENT ON VIEW workflow.queues IS
'Queues, with how many tasks wait and run in each. It counts them: the more wait, the longer this takes.';
COMMENT ON COLUMN workflow.queues.id IS 'number of the queue';
COMMENT ON COLUMN workflow.queues.name IS 'name';
COMMENT ON COLUMN workflow.queues.tenant IS 'tenant; empty: shared';
COMMENT ON COLUMN workflow.queues.slots IS 'how many of its tasks can be claimed at a time; null: any number';
COMMENT ON COLUMN workflow.queues.paused_until IS 'no task is claimed before this time; null: not paused';
COMMENT ON COLUMN workflow.queues.ready IS 'tasks that can be claimed now; a few of them can have been moved by hand since';
COMMENT ON COLUMN workflow.queues.later IS 'tasks that can be claimed at a later time';
COMMENT ON COLUMN workflow.queues.parked IS 'tasks that a claim has met while their DAG was paused or their run had ended';
COMMENT ON COLUMN workflow.queues.oldest_ready_at IS 'since when the oldest of the ready tasks waits; null: none';
COMMENT ON COLUMN workflow.queues.running IS 'tasks that workers have claimed';
COMMENT ON COLUMN workflow.queues.refused IS 'claims that found no free slot since the server started (of about 500 queues used last); null: not preloaded';
