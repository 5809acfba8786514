-- The same by hand, with the event: pg_notify in the same statement.
\set n :client_id * 500 + mod(:k, 500)
\set back mod(:k / 500, 2)
\set k :k + 1
\if :back
WITH moved AS (
    UPDATE bare.task_instances
    SET state = 'running', version = version + 1, updated_at = clock_timestamp(), try_number = try_number + 1, start_date = clock_timestamp(),
        end_date = NULL, duration = NULL, error = NULL
    WHERE id = (SELECT id FROM tasks WHERE n = :n) AND state = 'retrying'
    RETURNING id, version
)
INSERT INTO bare.state_history (entity_type, entity_id, old_state, new_state, version, metadata)
SELECT 'task_instance', id, 'retrying', 'running', version, '{"worker": "w1"}' FROM moved
RETURNING version, pg_notify('workflow_events', json_build_object('entity_id', entity_id, 'old_state', old_state, 'new_state', new_state, 'version', version)::text);
\else
WITH moved AS (
    UPDATE bare.task_instances
    SET state = 'retrying', version = version + 1, updated_at = clock_timestamp()
    WHERE id = (SELECT id FROM tasks WHERE n = :n) AND state = 'running'
    RETURNING id, version
)
INSERT INTO bare.state_history (entity_type, entity_id, old_state, new_state, version, metadata)
SELECT 'task_instance', id, 'running', 'retrying', version, '{"worker": "w1"}' FROM moved
RETURNING version, pg_notify('workflow_events', json_build_object('entity_id', entity_id, 'old_state', old_state, 'new_state', new_state, 'version', version)::text);
\endif
