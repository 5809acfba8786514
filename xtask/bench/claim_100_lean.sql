-- The same by hand: one statement a step.
WITH next AS MATERIALIZED (
    SELECT id FROM lean.work
    WHERE queue = 'default' AND state IN ('queued', 'retrying') AND ready_at <= now()
    ORDER BY priority, ready_at
    LIMIT 100
    FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE lean.work AS w
    SET state = 'running', version = version + 1, updated_at = clock_timestamp(), try_number = try_number + 1, start_date = clock_timestamp(),
        end_date = NULL, duration = NULL, error = NULL, worker = 'w1', lease_expires_at = clock_timestamp() + interval '30 s'
    FROM next WHERE w.id = next.id
    RETURNING w.id, w.version
), noted AS (
    INSERT INTO lean.history (entity_type, entity_id, old_state, new_state, version, metadata)
    SELECT 'task_instance', id, 'queued', 'running', version, '{"worker": "w1"}' FROM moved
    RETURNING entity_id
)
SELECT array_agg(entity_id) AS ids FROM noted \gset
WITH moved AS (
    UPDATE lean.work
    SET state = 'success', version = version + 1, updated_at = clock_timestamp(), end_date = clock_timestamp(),
        duration = extract(epoch FROM clock_timestamp() - start_date), worker = NULL, lease_expires_at = NULL
    WHERE id = ANY (:ids::uuid[]) AND worker = 'w1' AND state = 'running'
    RETURNING id, version
), noted AS (
    INSERT INTO lean.history (entity_type, entity_id, old_state, new_state, version, metadata)
    SELECT 'task_instance', id, 'running', 'success', version, '{"worker": "w1"}' FROM moved
    RETURNING version
)
SELECT count(*) FROM noted;
