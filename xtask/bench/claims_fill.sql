-- Every run begins alike: the same tasks wait on both sides.
SET pg_workflow.announce = off;
SET session_replication_role = replica;
TRUNCATE workflow.state_history, workflow.ready, lean.history, lean.work;
DELETE FROM workflow.task_instances WHERE id NOT IN (SELECT id FROM tasks);
RESET session_replication_role;
SELECT count(*) FROM runs AS r CROSS JOIN LATERAL workflow.create_task_instances(
    r.id, (SELECT array_agg('work_' || i) FROM generate_series(1, 2500) AS i), queue => 'default');
INSERT INTO lean.work (run_id, name) SELECT r.id, 'work_' || i FROM runs AS r, generate_series(1, 2500) AS i;
VACUUM ANALYZE workflow.task_instances, workflow.ready, lean.work;
CHECKPOINT;
