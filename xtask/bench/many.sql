-- 10,000 transitions in one call.
\set back mod(:k, 2)
\set k :k + 1
\if :back
SELECT count(*) FROM workflow.transition_many('task_instance', ARRAY(SELECT id FROM tasks WHERE n < 10000), 'retrying', 'running', '{"worker": "w1"}');
\else
SELECT count(*) FROM workflow.transition_many('task_instance', ARRAY(SELECT id FROM tasks WHERE n < 10000), 'running', 'retrying', '{"worker": "w1"}');
\endif
