-- A queue after years of work: :finished tasks ended; :others tasks each are not due, wait for a paused DAG, and are in
-- another queue; and :queued wait to be claimed. The ended ones are written past the triggers, which would take hours.
SET pg_workflow.announce = off;
SET synchronous_commit = off;
SELECT workflow.create_dag('large') AS dag \gset
SELECT workflow.create_dag('paused') AS paused \gset
SELECT workflow.create_dag_run(:'dag', '2026-01-01Z') AS run \gset
SELECT workflow.create_dag_run(:'paused', '2026-01-01Z') AS paused_run \gset

SET session_replication_role = replica;
INSERT INTO workflow.task_instances (dag_run_id, task_id, state, version, try_number)
SELECT :'run', 'ended_' || i, 'success', 3, 1 FROM generate_series(1, :finished) AS i;
RESET session_replication_role;

-- In front, by their priority, until a claim has met them.
SELECT count(*) FROM generate_series(1, :others / 1000) AS n, workflow.create_task_instances(
    :'run', (SELECT array_agg('later_' || n || '_' || i) FROM generate_series(1, 1000) AS i),
    queue => 'default', priority => 0, not_before => now() + interval '1 day');
SELECT count(*) FROM generate_series(1, :others / 1000) AS n, workflow.create_task_instances(
    :'paused_run', (SELECT array_agg('paused_' || n || '_' || i) FROM generate_series(1, 1000) AS i),
    queue => 'default', priority => 0);
SELECT workflow.pause_dag(:'paused');
SELECT count(*) FROM generate_series(1, :others / 1000) AS n, workflow.create_task_instances(
    :'run', (SELECT array_agg('other_' || n || '_' || i) FROM generate_series(1, 1000) AS i),
    queue => 'other', priority => 0);
SELECT count(*) FROM generate_series(1, :queued / 1000) AS n, workflow.create_task_instances(
    :'run', (SELECT array_agg('queued_' || n || '_' || i) FROM generate_series(1, 1000) AS i),
    queue => 'default');
TRUNCATE workflow.state_history;
VACUUM ANALYZE;
CHECKPOINT;
