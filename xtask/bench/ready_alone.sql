-- A task ends that nobody waits for.
\set k :k + 1
SELECT workflow.transition_task_instance((SELECT id FROM alone WHERE n = :k), 'running', 'success');
