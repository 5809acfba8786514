-- The same by hand: a set-based INSERT, and its history.
\set k :k + 1
WITH created AS (
    INSERT INTO bare.task_instances (dag_run_id, task_id)
    SELECT r.id, 'create_' || :k || '_' || i FROM runs AS r, generate_series(1, 1000) AS i WHERE r.n = :client_id
    RETURNING id, state, version
), recorded AS (
    INSERT INTO bare.state_history (entity_type, entity_id, new_state, version)
    SELECT 'task_instance', id, state, version FROM created
    RETURNING entity_id
)
SELECT count(*) FROM recorded;
