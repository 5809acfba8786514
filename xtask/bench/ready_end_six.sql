-- Six tasks end in a transaction, in random order.
\set n (:k * 8 + :client_id) * 6
\set k :k + 1
BEGIN;
SELECT workflow.transition_task_instance((SELECT id FROM parents WHERE n = :n), 'running', 'success');
SELECT workflow.transition_task_instance((SELECT id FROM parents WHERE n = :n + 1), 'running', 'success');
SELECT workflow.transition_task_instance((SELECT id FROM parents WHERE n = :n + 2), 'running', 'success');
SELECT workflow.transition_task_instance((SELECT id FROM parents WHERE n = :n + 3), 'running', 'success');
SELECT workflow.transition_task_instance((SELECT id FROM parents WHERE n = :n + 4), 'running', 'success');
SELECT workflow.transition_task_instance((SELECT id FROM parents WHERE n = :n + 5), 'running', 'success');
COMMIT;
