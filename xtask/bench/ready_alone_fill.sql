-- :tasks tasks that run and that no other one waits for; and 20,000 others: in pairs of which one waits for the other if :edges.
CREATE EXTENSION pg_workflow;
SET pg_workflow.announce = off;
SET synchronous_commit = off;
SELECT workflow.create_dag('alone') AS dag \gset
SELECT workflow.create_dag_run(:'dag', '2026-01-01Z') AS run \gset
SELECT workflow.create_dag_run(:'dag', '2026-01-02Z') AS other \gset
CREATE TABLE alone AS
SELECT row_number() OVER () AS n, id
FROM workflow.create_task_instances(:'run', ARRAY(SELECT 't_' || n FROM generate_series(1, :tasks) AS n));
ALTER TABLE alone ADD PRIMARY KEY (n);
SELECT count(*) FROM workflow.transition_many('task_instance', ARRAY(SELECT id FROM alone), 'queued', 'running');
SELECT count(*) FROM workflow.create_task_instances(
    :'other', ARRAY(SELECT 'p_' || n FROM generate_series(1, 10000) AS n) || ARRAY(SELECT 'c_' || n FROM generate_series(1, 10000) AS n),
    depends_on => (SELECT jsonb_object_agg('c_' || n, jsonb_build_array('p_' || n)) FROM generate_series(1, 10000) AS n WHERE :edges));
VACUUM ANALYZE;
CHECKPOINT;
