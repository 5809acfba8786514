-- 1,000 tasks in one call.
\set k :k + 1
SELECT count(*)
FROM workflow.create_task_instances((SELECT id FROM runs WHERE n = :client_id), ARRAY(SELECT 'create_' || :k || '_' || i FROM generate_series(1, 1000) AS i));
