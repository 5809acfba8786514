-- The same by hand: a set-based UPDATE and INSERT … SELECT.
\set back mod(:k, 2)
\set k :k + 1
\if :back
WITH moved AS (
    UPDATE bare.task_instances
    SET state = 'running', version = version + 1, updated_at = clock_timestamp(), try_number = try_number + 1, start_date = clock_timestamp(),
        end_date = NULL, duration = NULL, error = NULL
    WHERE id = ANY (ARRAY(SELECT id FROM tasks WHERE n < 10000)) AND state = 'retrying'
    RETURNING id, version
), recorded AS (
    INSERT INTO bare.state_history (entity_type, entity_id, old_state, new_state, version, metadata)
    SELECT 'task_instance', id, 'retrying', 'running', version, '{"worker": "w1"}' FROM moved
    RETURNING entity_id, version
)
SELECT count(*) FROM recorded;
\else
WITH moved AS (
    UPDATE bare.task_instances
    SET state = 'retrying', version = version + 1, updated_at = clock_timestamp()
    WHERE id = ANY (ARRAY(SELECT id FROM tasks WHERE n < 10000)) AND state = 'running'
    RETURNING id, version
), recorded AS (
    INSERT INTO bare.state_history (entity_type, entity_id, old_state, new_state, version, metadata)
    SELECT 'task_instance', id, 'running', 'retrying', version, '{"worker": "w1"}' FROM moved
    RETURNING entity_id, version
)
SELECT count(*) FROM recorded;
\endif
