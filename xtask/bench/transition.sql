-- One transition by the function. Each client moves its own tasks between two states.
\set n :client_id * 500 + mod(:k, 500)
\set back mod(:k / 500, 2)
\set k :k + 1
\if :back
SELECT workflow.transition_task_instance((SELECT id FROM tasks WHERE n = :n), 'retrying', 'running', '{"worker": "w1"}');
\else
SELECT workflow.transition_task_instance((SELECT id FROM tasks WHERE n = :n), 'running', 'retrying', '{"worker": "w1"}');
\endif
