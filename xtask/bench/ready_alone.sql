-- A task ends that no other one waits for.
\set k :k + 1
SELECT workflow.transition_task_instance((SELECT id FROM alone WHERE n = :k), 'running', 'success');
