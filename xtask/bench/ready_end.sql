-- A task ends; 8 clients take them in turn.
\set n :k * 8 + :client_id
\set k :k + 1
SELECT workflow.transition_task_instance((SELECT id FROM parents WHERE n = :n), 'running', 'success');
