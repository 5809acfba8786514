-- Every run begins alike: all tasks running, no history, nothing dead.
SET session_replication_role = replica;
TRUNCATE workflow.state_history, bare.state_history;
DELETE FROM workflow.task_instances WHERE id NOT IN (SELECT id FROM tasks);
DELETE FROM bare.task_instances WHERE id NOT IN (SELECT id FROM tasks);
UPDATE workflow.task_instances SET state = 'running', version = 2;
UPDATE bare.task_instances SET state = 'running', version = 2;
VACUUM (FULL, ANALYZE) workflow.task_instances, bare.task_instances;
CHECKPOINT;
