-- The extension, and its counterpart by hand: the same tables with the same indexes, foreign key and fillfactor, but
-- without the extension's triggers and functions.
CREATE EXTENSION pg_workflow;
SET pg_workflow.announce = off;

SELECT workflow.create_dag('bench') AS dag \gset
-- A run for each client, so that no two meet in one.
SELECT workflow.create_dag_run(:'dag', timestamptz '2026-01-01' + i * interval '1 minute') FROM generate_series(0, 31) AS i;
CREATE TABLE runs AS SELECT row_number() OVER (ORDER BY execution_date) - 1 AS n, id FROM workflow.dag_runs;
ALTER TABLE runs ADD PRIMARY KEY (n);

SELECT count(*)
FROM workflow.dag_runs AS r
CROSS JOIN LATERAL workflow.create_task_instances(r.id, (SELECT array_agg('task_' || i) FROM generate_series(1, 500) AS i)) AS t;
CREATE TABLE tasks AS SELECT row_number() OVER (ORDER BY dag_run_id, id) - 1 AS n, id FROM workflow.task_instances;
ALTER TABLE tasks ADD PRIMARY KEY (n);
SELECT count(*) FROM workflow.transition_many('task_instance', ARRAY(SELECT id FROM tasks), 'queued', 'running');

CREATE SCHEMA bare;
CREATE TABLE bare.task_instances (LIKE workflow.task_instances INCLUDING ALL) WITH (fillfactor = 80);
ALTER TABLE bare.task_instances ADD FOREIGN KEY (dag_run_id) REFERENCES workflow.dag_runs (id) ON DELETE CASCADE;
-- A partition has the index on (entity_id, version) too.
CREATE TABLE bare.state_history (LIKE workflow.state_history_0 INCLUDING ALL);
CREATE SEQUENCE bare.history_id;
ALTER TABLE bare.state_history
    ALTER id SET DEFAULT nextval('bare.history_id'),
    ALTER dag_id DROP NOT NULL,
    ALTER dag_run_id DROP NOT NULL;
INSERT INTO bare.task_instances TABLE workflow.task_instances;
