-- The same by hand in the lean tables: one statement a step, and no history of the creation.
\set k :k + 1
INSERT INTO lean.tasks (run_id, name)
VALUES ((SELECT id FROM runs WHERE n = :client_id), 'life_' || :k)
RETURNING id AS id \gset
WITH moved AS (
    UPDATE lean.tasks
    SET state = 'running', version = version + 1, updated_at = clock_timestamp(), try_number = try_number + 1, start_date = clock_timestamp(),
        end_date = NULL, duration = NULL, error = NULL
    WHERE id = :id AND state = 'queued'
    RETURNING id, version
)
INSERT INTO lean.history (entity_type, entity_id, old_state, new_state, version, metadata)
SELECT 'task_instance', id, 'queued', 'running', version, '{"worker": "w1"}' FROM moved
RETURNING version;
WITH moved AS (
    UPDATE lean.tasks
    SET state = 'success', version = version + 1, updated_at = clock_timestamp(), end_date = clock_timestamp(), duration = extract(epoch FROM clock_timestamp() - start_date)
    WHERE id = :id AND state = 'running'
    RETURNING id, version
)
INSERT INTO lean.history (entity_type, entity_id, old_state, new_state, version, metadata)
SELECT 'task_instance', id, 'running', 'success', version, '{"worker": "w1"}' FROM moved
RETURNING version;
