-- Every run begins alike: no other tasks, no history, nothing dead.
SET pg_workflow.announce = off;
SET synchronous_commit = off;
SET session_replication_role = replica;
TRUNCATE workflow.state_history, workflow.ready, workflow.parked, workflow.waits, workflow.joins;
DELETE FROM workflow.task_instances WHERE id NOT IN (SELECT id FROM tasks);
DELETE FROM workflow.dag_runs WHERE id NOT IN (SELECT id FROM runs);
RESET session_replication_role;
VACUUM workflow.task_instances, workflow.dag_runs;
CREATE TEMPORARY TABLE layers (parents text[], children text[]);
