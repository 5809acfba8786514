-- The last parent of a task ends.
\set k :k + 1
SELECT workflow.transition_task_instance((SELECT parent FROM last_parents WHERE n = :k), 'running', 'success');
