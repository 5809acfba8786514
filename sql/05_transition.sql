-- Transitions. The caller needs UPDATE (state) and SELECT on the table.

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
'Moves one entity (dag_run or task_instance) from old_state to new_state and returns its new version. expected_version: it must have this version. request_id: a repeated call returns the first result. Errors: 23514 transition not allowed, 40001 another state or version, P0002 no such entity, 22023 bad argument.';

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
'Calls transition() for a run. Errors: 23514 transition not allowed, 40001 another state or version, P0002 no such run, 22023 bad argument.';

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
'Calls transition() for a task. "error" in the metadata becomes the task''s error. Errors: 23514 transition not allowed, 40001 another state or version, P0002 no such task, 22023 bad argument.';

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
'Moves many entities in one statement; old_state null: from any state. Returns one row an id with its current state and version: applied, stale (not in old_state), illegal (transition not allowed) or missing. dry_run changes nothing. Errors: 22023 bad argument.';
