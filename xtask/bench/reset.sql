-- Every run begins alike: all tasks running, no history, nothing dead. The lean tasks have all states, or the planner
-- would take a state for rare, and read its index in place of the primary key.
SET session_replication_role = replica;
TRUNCATE workflow.state_history, bare.state_history, lean.history, lean.tasks;
DELETE FROM workflow.task_instances WHERE id NOT IN (SELECT id FROM tasks);
DELETE FROM bare.task_instances WHERE id NOT IN (SELECT id FROM tasks);
UPDATE workflow.task_instances SET state = 'running', version = 2;
UPDATE bare.task_instances SET state = 'running', version = 2;
INSERT INTO lean.tasks (id, run_id, name, state)
SELECT t.id, i.dag_run_id, i.task_id, ('{queued,running,success}'::lean.state[])[1 + t.n % 3]
FROM tasks AS t JOIN workflow.task_instances AS i ON i.id = t.id;
-- PostgreSQL summarizes only the first range of an emptied table, and would update that summary at each event.
SELECT brin_desummarize_range(c.oid, 0)
FROM pg_class AS c JOIN pg_am AS a ON a.oid = c.relam
WHERE c.relkind = 'i' AND a.amname = 'brin' AND c.relnamespace IN ('workflow'::regnamespace, 'bare'::regnamespace);
VACUUM (FULL, ANALYZE) workflow.task_instances, bare.task_instances, lean.tasks;
CHECKPOINT;
