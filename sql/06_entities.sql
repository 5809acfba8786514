-- Creating and finding entities. Ordinary roles may not insert into runs, tasks and their history: the functions that
-- create them check the current role, then act as the owner.

CREATE FUNCTION workflow.create_dag(
    name        text,
    description text        DEFAULT NULL,
    schedule    text        DEFAULT NULL,
    start_date  timestamptz DEFAULT NULL,
    tags        jsonb       DEFAULT '[]',
    is_paused   boolean     DEFAULT false
)
RETURNS uuid
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    dag_id uuid;
BEGIN
    IF name IS NULL OR name !~ '[^[:space:]]' OR char_length(name) > 250 THEN
        PERFORM workflow.refuse_argument(
            'cannot create dag: its name is ' || CASE WHEN name IS NULL THEN 'null' WHEN name !~ '[^[:space:]]' THEN 'empty' ELSE 'too long' END,
            jsonb_build_object('argument', 'name', 'value', left(name, 250)),
            'A name has 1 to 250 characters, at least one of them visible.');
    END IF;
    IF tags IS NULL OR jsonb_typeof(tags) <> 'array' OR jsonb_path_exists(tags, 'strict $[*] ? (@.type() != "string")') THEN
        PERFORM workflow.refuse_argument(
            format('cannot create dag "%s": tags is not an array of text', name),
            jsonb_build_object('argument', 'tags', 'value', tags),
            'Give tags like ''["etl", "daily"]''.');
    END IF;
    IF is_paused IS NULL THEN
        PERFORM workflow.refuse_argument(
            format('cannot create dag "%s": is_paused is null', name),
            jsonb_build_object('argument', 'is_paused', 'value', NULL),
            'Give true or false.');
    END IF;

    PERFORM workflow.check_size('description'::text, description),
        workflow.check_size('schedule'::text, schedule),
        workflow.check_size('tags'::text, tags),
        workflow.check_finite('start_date'::text, start_date);

    INSERT INTO workflow.dags (name, description, schedule, start_date, tags, is_paused)
    VALUES (create_dag.name, create_dag.description, create_dag.schedule, create_dag.start_date, create_dag.tags, create_dag.is_paused)
    RETURNING id INTO STRICT dag_id;
    RETURN dag_id;
END
$$;
COMMENT ON FUNCTION workflow.create_dag(text, text, text, timestamptz, jsonb, boolean) IS
'Creates a DAG and returns its id. Errors: 23505 (dags_name_key) a DAG of that name exists, 22023 bad argument.';

CREATE FUNCTION workflow.set_dag_paused(id uuid, is_paused boolean)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
BEGIN
    UPDATE workflow.dags AS d
    SET is_paused = set_dag_paused.is_paused
    WHERE d.id = set_dag_paused.id AND d.is_paused <> set_dag_paused.is_paused;
    IF FOUND THEN
        RETURN true;
    END IF;
    IF NOT EXISTS (SELECT FROM workflow.dags AS d WHERE d.id = set_dag_paused.id) THEN
        PERFORM workflow.refuse_missing('dag', id::text, CASE WHEN is_paused THEN 'pause' ELSE 'unpause' END);
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION workflow.set_dag_paused(uuid, boolean) IS
'Internal: sets is_paused for pause_dag() and unpause_dag(). Errors: P0002 no such DAG.';

CREATE FUNCTION workflow.pause_dag(id uuid)
RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
AS $$ SELECT workflow.set_dag_paused(id, true) $$;
COMMENT ON FUNCTION workflow.pause_dag(uuid) IS
'Sets is_paused to true and returns whether that changed it. Errors: P0002 no such DAG.';

CREATE FUNCTION workflow.unpause_dag(id uuid)
RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
AS $$ SELECT workflow.set_dag_paused(id, false) $$;
COMMENT ON FUNCTION workflow.unpause_dag(uuid) IS
'Sets is_paused to false and returns whether that changed it. Errors: P0002 no such DAG.';

CREATE FUNCTION workflow.create_dag_run(
    dag_id         uuid,
    execution_date timestamptz DEFAULT pg_catalog.now(),
    conf           jsonb       DEFAULT '{}'
)
RETURNS uuid
LANGUAGE c VOLATILE PARALLEL UNSAFE
-- Without settings, which cost each call. The library makes them where it runs SQL as the owner.
AS 'MODULE_PATHNAME', 'create_run_wrapper';
COMMENT ON FUNCTION workflow.create_dag_run(uuid, timestamptz, jsonb) IS
'Creates a run in state queued, version 1, with its history, and returns its id. Errors: P0002 no such DAG, 23505 (dag_runs_dag_id_execution_date_key) the DAG has a run of that date, 22023 bad argument.';

CREATE FUNCTION workflow.create_task_instances(
    dag_run_id uuid,
    task_ids   text[],
    max_tries  integer     DEFAULT 1,
    queue      text        DEFAULT NULL,
    priority   integer     DEFAULT 5,
    not_before timestamptz DEFAULT NULL,
    timeout    interval    DEFAULT NULL,
    depends_on    jsonb    DEFAULT NULL,
    trigger_rules jsonb    DEFAULT NULL
)
RETURNS TABLE (id uuid, task_id text, is_ready boolean)
LANGUAGE c VOLATILE PARALLEL UNSAFE
-- Without settings, which cost each call. The library makes them where it runs SQL as the owner.
ROWS 100
AS 'MODULE_PATHNAME', 'create_tasks_wrapper';
COMMENT ON FUNCTION workflow.create_task_instances(uuid, text[], integer, text, integer, timestamptz, interval, jsonb, jsonb) IS
'Creates tasks of a run in state queued, version 1, with their history, all or none. Returns their ids in the order of task_ids. queue: workers can claim them from it, at once or from not_before on; a new name creates the queue. priority: 0 (first) to 9. timeout: the longest time of an attempt. depends_on: the tasks, of this call or of the run, that each waits for, such as {"load": ["extract"]}; is_ready is false for these. trigger_rules: how they must have ended, such as {"load": "all_done"}; all_success for others. The run of such tasks ends itself. Errors: P0002 no such run, 23505 (task_instances_dag_run_id_task_id_key) the run has a task of that name, 22023 bad argument, a cycle or an unknown task, 55000 the run has dependencies and has ended, 54000 more tasks than pg_workflow.max_tasks_per_run.';

CREATE FUNCTION workflow.latest_dag_run(dag_id uuid)
RETURNS SETOF workflow.dag_runs
LANGUAGE sql STABLE PARALLEL SAFE
ROWS 1
AS $$
SELECT r.*
FROM workflow.dag_runs AS r
WHERE r.dag_id OPERATOR(pg_catalog.=) latest_dag_run.dag_id
ORDER BY r.execution_date DESC
LIMIT 1
$$;
COMMENT ON FUNCTION workflow.latest_dag_run(uuid) IS
'Returns the run of a DAG with the latest execution_date; no row if the DAG has no runs.';

CREATE FUNCTION workflow.append_task_log(
    task_instance_id uuid,
    message          text,
    level            text        DEFAULT 'INFO',
    logged_at        timestamptz DEFAULT pg_catalog.clock_timestamp(),
    claim            text        DEFAULT NULL
)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    log_id bigint;
    is_valid boolean;
BEGIN
    IF task_instance_id IS NULL OR message IS NULL OR logged_at IS NULL THEN
        PERFORM workflow.refuse_argument(
            'cannot append to a task log: ' || CASE WHEN task_instance_id IS NULL THEN 'task_instance_id' WHEN message IS NULL THEN 'message' ELSE 'logged_at' END || ' is null',
            jsonb_build_object('argument', CASE WHEN task_instance_id IS NULL THEN 'task_instance_id' WHEN message IS NULL THEN 'message' ELSE 'logged_at' END, 'value', NULL),
            'Give the id of the task instance and the text; omit logged_at for the current time.');
    END IF;
    IF level IS NULL OR level NOT IN ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL') THEN
        PERFORM workflow.refuse_argument(
            format('cannot append to the log of task_instance %s: unknown level %s', task_instance_id, coalesce(quote_ident(left(level, 250)), 'null')),
            jsonb_build_object('argument', 'level', 'value', left(level, 250)),
            'Levels are DEBUG, INFO, WARNING, ERROR and CRITICAL.');
    END IF;
    -- An assignment, which is faster than PERFORM.
    is_valid := workflow.check_size('message'::text, message) AND workflow.check_finite('logged_at'::text, logged_at);

    IF claim IS NOT NULL AND current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        -- The snapshot does not show whether the claim is lost since. The lock fails (40001) if the task has changed.
        PERFORM FROM workflow.task_instances AS i WHERE i.id = append_task_log.task_instance_id FOR NO KEY UPDATE;
    END IF;

    INSERT INTO workflow.task_logs AS l (task_instance_id, try_number, logged_at, level, message)
    SELECT i.id, i.try_number, append_task_log.logged_at, append_task_log.level, append_task_log.message
    FROM workflow.task_instances AS i
    WHERE i.id = append_task_log.task_instance_id
        AND (append_task_log.claim IS NULL OR workflow.is_claim_of(append_task_log.claim, i.id, i.version, i.start_date))
    RETURNING l.id INTO log_id;
    IF NOT FOUND THEN
        IF claim IS NOT NULL THEN
            PERFORM workflow.refuse_lost_claim(claim, task_instance_id);
        END IF;
        PERFORM workflow.refuse_missing('task_instance', task_instance_id::text, 'append to its log');
    END IF;
    RETURN log_id;
END
$$;
COMMENT ON FUNCTION workflow.append_task_log(uuid, text, text, timestamptz, text) IS
'Adds a line to the log of the task''s current attempt and returns its id. With a claim, only if its holder still has the task. Errors: P0002 no such task, 40001 the claim is lost, 22023 bad argument.';
