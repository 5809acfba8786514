-- Creates :runs runs with the tasks of shape. Prints what the tasks took: seconds, bytes of WAL; and how many they are.
CREATE TEMPORARY TABLE filled AS
SELECT workflow.create_dag_run((SELECT id FROM workflow.dags WHERE name = 'bench'), now() + n * interval '1 s') AS run
FROM generate_series(1, :runs) AS n;
SELECT clock_timestamp() AS began, pg_current_wal_insert_lsn() AS lsn \gset
BEGIN;
SELECT count(*) AS tasks
FROM filled, shape, workflow.create_task_instances(run, names, queue => 'default', depends_on => shape.depends_on) \gset
SELECT count(workflow.add_dependencies(run, parents, children)) FROM filled, layers;
COMMIT;
SELECT extract(epoch FROM clock_timestamp() - :'began') AS seconds, pg_current_wal_insert_lsn() - :'lsn' AS bytes \gset
VACUUM ANALYZE workflow.task_instances, workflow.ready, workflow.waits, workflow.joins;
CHECKPOINT;
\echo :seconds :bytes :tasks
