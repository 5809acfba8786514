-- Dependencies: what waits for what, and why.

CREATE FUNCTION workflow.overdue_waits()
RETURNS SETOF workflow.waits
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT w.*
    FROM workflow.waits AS w
    LEFT JOIN workflow.task_instances AS t ON t.id OPERATOR(pg_catalog.=) w.watched
    -- Rows that watch no task are looked at anyway.
    WHERE w.watched OPERATOR(pg_catalog.>) '00000000-0000-0000-ffff-ffffffffffff'
        AND (t.id IS NULL OR workflow.is_finished(t.state))
$$;
COMMENT ON FUNCTION workflow.overdue_waits() IS
'Internal: returns the rows of waits whose watched task has ended, or does not exist. The next reap_claims() looks at them.';

CREATE FUNCTION workflow.look_at_joins()
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'look_at_joins_wrapper';
COMMENT ON FUNCTION workflow.look_at_joins() IS
'Internal: lets the commit decide joins that watch no task; and every 10 s those that watch a task which has ended, and returns how many those are.';

CREATE FUNCTION workflow.add_dependencies(
    dag_run_id   uuid,
    parents      text[],
    children     text[],
    trigger_rule text DEFAULT NULL
)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
-- Without settings, as create_task_instances().
AS 'MODULE_PATHNAME', 'add_dependencies_wrapper';
COMMENT ON FUNCTION workflow.add_dependencies(uuid, text[], text[], text) IS
'Lets each task in children wait for each task in parents, beside those that it waits for, and returns how many of these dependencies are new. Both are names of tasks of the run. trigger_rule: how all parents of the children must have ended; null: as before, for a task without parents all_success. A child must be queued: without dependencies, or still waiting. The run then ends itself. Errors: P0002 no such run, 22023 bad argument, a cycle or an unknown task, 55000 the run has ended, or a child may run already, was started or has ended, 25001 REPEATABLE READ or SERIALIZABLE.';

CREATE FUNCTION workflow.rerun_tasks(
    dag_run_id uuid,
    tasks      text[] DEFAULT NULL,
    downstream boolean DEFAULT true,
    dry_run    boolean DEFAULT false
)
RETURNS TABLE (id uuid, task_id text, old_state text, new_state text, is_ready boolean)
LANGUAGE c VOLATILE PARALLEL UNSAFE
-- Without settings, as create_task_instances().
AS 'MODULE_PATHNAME', 'rerun_tasks_wrapper';
COMMENT ON FUNCTION workflow.rerun_tasks(uuid, text[], boolean, boolean) IS
'Runs failed tasks of a run again, and returns them. tasks: their names; null: all that failed. downstream: also those that never ran because of them. The tasks wait for their parents again; is_ready: none has to. A failed run is running again, and ends itself. dry_run: changes nothing. Errors: P0002 no such run, 22023 bad argument or unknown task, 55000 the run succeeded or was skipped, a task did not fail, or would fail again at once, 25001 REPEATABLE READ or SERIALIZABLE.';

CREATE FUNCTION workflow.set_fails_on(dag_run_id uuid, fails_on text)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
-- Without settings, as create_task_instances().
AS 'MODULE_PATHNAME', 'set_fails_on_wrapper';
COMMENT ON FUNCTION workflow.set_fails_on(uuid, text) IS
'Sets which failures make a run with dependencies fail. tasks (default): those of any task. leaves: only those of tasks on which no other one depends. Errors: P0002 no such run, 22023 bad argument, 55000 the run has ended, or has no dependencies.';

CREATE FUNCTION workflow.is_before_attempt(state text, start_date timestamptz)
RETURNS boolean
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT state OPERATOR(pg_catalog.=) 'queued' OR (state OPERATOR(pg_catalog.=) 'retrying' AND start_date IS NULL)
$$;
COMMENT ON FUNCTION workflow.is_before_attempt(text, timestamptz) IS
'Internal: returns whether a task had no attempt since it was created, or since rerun_tasks() put it back. It waits while its row of joins is undecided.';

CREATE FUNCTION workflow.dag_run_graph(dag_run_id uuid)
RETURNS TABLE (join_id uuid, trigger_rule text, parents text[], children text[], is_decided boolean)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT j.id, j.trigger_rule,
            ARRAY(SELECT t.task_id FROM workflow.task_instances AS t WHERE t.id = ANY (j.parents) ORDER BY t.id),
            ARRAY(SELECT t.task_id FROM workflow.task_instances AS t WHERE t.id = ANY (j.children) ORDER BY t.id),
            NOT EXISTS (SELECT FROM workflow.waits AS w WHERE w.join_id = j.id)
        FROM workflow.joins AS j
        WHERE j.dag_run_id = dag_run_graph.dag_run_id AND j.children <> '{}'
        ORDER BY j.id;
END
$$;
COMMENT ON FUNCTION workflow.dag_run_graph(uuid) IS
'Returns the dependencies of a run: the tasks in children wait for those in parents. One row for all tasks that wait for the same ones.';

CREATE FUNCTION workflow.why_waiting(id uuid)
RETURNS TABLE (parent_id uuid, parent text, state text, since timestamptz)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    task record;
BEGIN
    SELECT t.join_id, workflow.is_before_attempt(t.state, t.start_date) AS is_before_attempt INTO task
    FROM workflow.task_instances AS t WHERE t.id = why_waiting.id;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_missing('task_instance', id::text, 'say why it waits');
    END IF;
    IF task.is_before_attempt AND EXISTS (SELECT FROM workflow.waits AS w WHERE w.join_id = task.join_id) THEN
        RETURN QUERY
            SELECT p.id, p.task_id, p.state, p.updated_at
            FROM workflow.joins AS j
            JOIN workflow.task_instances AS p ON p.id = ANY (j.parents)
            WHERE j.id = task.join_id AND NOT workflow.is_finished(p.state)
            ORDER BY p.id;
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.why_waiting(uuid) IS
'Returns the tasks that a task waits for, with their states and since when they are in them; no row if it does not wait, or if all of them have ended and the next claim or end of a task decides. Errors: P0002 no such task.';

CREATE VIEW workflow.waiting
WITH (security_invoker = true) AS
SELECT
    t.id,
    t.task_id,
    t.dag_run_id,
    j.trigger_rule,
    pg_catalog.cardinality(j.parents) AS parents,
    j.id AS join_id
FROM workflow.joins AS j
CROSS JOIN LATERAL pg_catalog.unnest(j.children) AS c (id)
JOIN workflow.task_instances AS t ON t.id OPERATOR(pg_catalog.=) c.id
WHERE workflow.is_before_attempt(t.state, t.start_date)
    AND EXISTS (SELECT FROM workflow.waits AS w WHERE w.join_id OPERATOR(pg_catalog.=) j.id);
COMMENT ON VIEW workflow.waiting IS 'Tasks that wait for others. See why_waiting() for which.';
COMMENT ON COLUMN workflow.waiting.id IS 'task instance';
COMMENT ON COLUMN workflow.waiting.task_id IS 'task name';
COMMENT ON COLUMN workflow.waiting.dag_run_id IS 'run';
COMMENT ON COLUMN workflow.waiting.trigger_rule IS 'how the others must end';
COMMENT ON COLUMN workflow.waiting.parents IS 'number of the others';
COMMENT ON COLUMN workflow.waiting.join_id IS 'row of joins';
