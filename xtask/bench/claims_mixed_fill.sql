-- :tasks tasks wait, in four priorities, and no others.
SET pg_workflow.announce = off;
SET synchronous_commit = off;
SET session_replication_role = replica;
TRUNCATE workflow.state_history, workflow.ready, workflow.parked;
DELETE FROM workflow.task_instances WHERE id NOT IN (SELECT id FROM tasks);
RESET session_replication_role;
SELECT count(*) FROM runs AS r, generate_series(0, 3) AS p, workflow.create_task_instances(
    r.id, (SELECT array_agg('mixed_' || p || '_' || i) FROM generate_series(1, :tasks / 128) AS i),
    queue => 'default', priority => p, max_tries => 9)
WHERE :tasks > 0;
VACUUM ANALYZE workflow.task_instances, workflow.ready;
CHECKPOINT;
