-- A task for one of the workers that wait.
\set k :k + 1
SELECT workflow.create_task_instances((SELECT id FROM runs WHERE n = :client_id), ARRAY['arrival_' || :k], queue => 'arrival');
