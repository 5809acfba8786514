-- Moving entities. The caller needs UPDATE (state) and SELECT on the table, no more.

CREATE FUNCTION workflow.transition(
    entity_type      text,
    id               uuid,
    old_state        text,
    new_state        text,
    metadata         jsonb  DEFAULT '{}',
    expected_version bigint DEFAULT NULL,
    request_id       text   DEFAULT NULL
)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'transition_wrapper';
COMMENT ON FUNCTION workflow.transition(text, uuid, text, text, jsonb, bigint, text) IS
'Moves one entity (dag_run or task_instance) from old_state to new_state and returns its new version. With expected_version it must have just that version; the same request_id again returns the first answer. Errors: 23514 illegal move, 40001 the state or version is another, P0002 no such entity, 22023 bad argument.';

CREATE FUNCTION workflow.transition_dag_run(
    id               uuid,
    old_state        text,
    new_state        text,
    metadata         jsonb  DEFAULT '{}',
    expected_version bigint DEFAULT NULL,
    request_id       text   DEFAULT NULL
)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'transition_dag_run_wrapper';
COMMENT ON FUNCTION workflow.transition_dag_run(uuid, text, text, jsonb, bigint, text) IS
'transition() for a dag_run.';

CREATE FUNCTION workflow.transition_task_instance(
    id               uuid,
    old_state        text,
    new_state        text,
    metadata         jsonb  DEFAULT '{}',
    expected_version bigint DEFAULT NULL,
    request_id       text   DEFAULT NULL
)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'transition_task_instance_wrapper';
COMMENT ON FUNCTION workflow.transition_task_instance(uuid, text, text, jsonb, bigint, text) IS
'transition() for a task_instance. "error" in the metadata becomes the task''s error.';

CREATE FUNCTION workflow.transition_many(
    entity_type text,
    ids         uuid[],
    old_state   text,
    new_state   text,
    metadata    jsonb   DEFAULT '{}',
    dry_run     boolean DEFAULT false
)
RETURNS TABLE (entity_id uuid, outcome text, state text, version bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE
ROWS 1000
AS 'MODULE_PATHNAME', 'transition_many_wrapper';
COMMENT ON FUNCTION workflow.transition_many(text, uuid[], text, text, jsonb, boolean) IS
'Moves many entities in one statement; old_state null means whatever it is. A row for each id, with its state and version as they are now: applied, stale (in another state than old_state), illegal (no such move from its state), missing. dry_run moves nothing and says what would happen.';
