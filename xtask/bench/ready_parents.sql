-- Starts the tasks that others depend on, and numbers them at random.
SET pg_workflow.announce = off;
SET synchronous_commit = off;
SELECT setseed(0.5);
DROP TABLE IF EXISTS parents;
CREATE TABLE parents AS
SELECT row_number() OVER (ORDER BY random()) - 1 AS n, id FROM (
    SELECT id FROM workflow.task_instances WHERE task_id LIKE 'p\_%' ORDER BY id
) AS t;
ALTER TABLE parents ADD PRIMARY KEY (n);
SELECT count(*) FROM workflow.transition_many('task_instance', ARRAY(SELECT id FROM parents), 'queued', 'running');
VACUUM ANALYZE parents, workflow.task_instances, workflow.ready;
CHECKPOINT;
