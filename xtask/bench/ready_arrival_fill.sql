-- :children tasks that wait for three others each, of which two have ended.
CREATE UNLOGGED TABLE IF NOT EXISTS arrivals (milliseconds float8, at timestamptz DEFAULT clock_timestamp());
TRUNCATE arrivals;
SELECT workflow.create_dag_run((SELECT id FROM workflow.dags WHERE name = 'bench')) AS run \gset
SELECT count(*) FROM workflow.create_task_instances(
    :'run', ARRAY(SELECT 'p_' || n || '_' || i FROM generate_series(1, :children) AS n, generate_series(1, 3) AS i));
SELECT count(*) FROM workflow.transition_many(
    'task_instance', ARRAY(SELECT id FROM workflow.task_instances WHERE dag_run_id = :'run'), 'queued', 'running');
SELECT count(*) FROM workflow.create_task_instances(
    :'run', ARRAY(SELECT 'c_' || n FROM generate_series(1, :children) AS n), queue => 'arrival',
    depends_on => (SELECT jsonb_object_agg('c_' || n, jsonb_build_array('p_' || n || '_1', 'p_' || n || '_2', 'p_' || n || '_3'))
                   FROM generate_series(1, :children) AS n));
SELECT count(*) FROM workflow.transition_many('task_instance', ARRAY(
    SELECT id FROM workflow.task_instances WHERE dag_run_id = :'run' AND task_id ~ '^p_.*_[12]$'), 'running', 'success');
DROP TABLE IF EXISTS last_parents;
CREATE TABLE last_parents AS
SELECT row_number() OVER () AS n, p.id AS parent, c.id AS child
FROM workflow.task_instances AS p
JOIN workflow.task_instances AS c ON c.dag_run_id = p.dag_run_id AND 'p' || substr(c.task_id, 2) || '_3' = p.task_id
WHERE p.dag_run_id = :'run' AND c.task_id LIKE 'c\_%';
ALTER TABLE last_parents ADD PRIMARY KEY (n), ADD UNIQUE (child);
VACUUM ANALYZE;
CHECKPOINT;
