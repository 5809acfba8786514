-- The same by hand: one statement a step.
\set k :k + 1
WITH created AS (
    INSERT INTO bare.task_instances (dag_run_id, task_id)
    VALUES ((SELECT id FROM runs WHERE n = :client_id), 'life_' || :k)
    RETURNING id, state, version
)
INSERT INTO bare.state_history (entity_type, entity_id, new_state, version)
SELECT 'task_instance', id, state, version FROM created
RETURNING entity_id AS id \gset
WITH moved AS (
    UPDATE bare.task_instances
    SET state = 'running', version = version + 1, updated_at = clock_timestamp(), try_number = try_number + 1, start_date = clock_timestamp(),
        end_date = NULL, duration = NULL, error = NULL
    WHERE id = :id AND state = 'queued'
    RETURNING id, version
)
INSERT INTO bare.state_history (entity_type, entity_id, old_state, new_state, version, metadata)
SELECT 'task_instance', id, 'queued', 'running', version, '{"worker": "w1"}' FROM moved
RETURNING version;
WITH moved AS (
    UPDATE bare.task_instances
    SET state = 'success', version = version + 1, updated_at = clock_timestamp(), end_date = clock_timestamp(), duration = extract(epoch FROM clock_timestamp() - start_date)
    WHERE id = :id AND state = 'running'
    RETURNING id, version
)
INSERT INTO bare.state_history (entity_type, entity_id, old_state, new_state, version, metadata)
SELECT 'task_instance', id, 'running', 'success', version, '{"worker": "w1"}' FROM moved
RETURNING version;
