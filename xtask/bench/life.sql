-- A task's life: created, started, finished; a transaction each.
\set k :k + 1
SELECT id AS id FROM workflow.create_task_instances((SELECT id FROM runs WHERE n = :client_id), ARRAY['life_' || :k]) \gset
SELECT workflow.transition_task_instance(:id, 'queued', 'running', '{"worker": "w1"}');
SELECT workflow.transition_task_instance(:id, 'running', 'success', '{"worker": "w1"}');
