-- One transition by the function, with a request_id, which is looked up in the entity's history.
\set n :client_id * 500 + mod(:k, 500)
\set back mod(:k / 500, 2)
\set k :k + 1
\if :back
SELECT workflow.transition_task_instance((SELECT id FROM tasks WHERE n = :n), 'retrying', 'running', '{}', NULL, 'request ' || :k);
\else
SELECT workflow.transition_task_instance((SELECT id FROM tasks WHERE n = :n), 'running', 'retrying', '{}', NULL, 'request ' || :k);
\endif
