-- A database of :runs runs of 1,000 tasks, as after years of work: mostly success, some failures everywhere, and
-- unfinished tasks among the newest. Written past the triggers, which would take hours; verify() would be content.
SET session_replication_role = replica;
SET synchronous_commit = off;

-- At most 100 runs a DAG.
INSERT INTO workflow.dags (name, tags)
SELECT 'dag_' || i, CASE WHEN i % 10 = 0 THEN '["tenth"]'::jsonb ELSE '[]' END
FROM generate_series(1, (:runs + 99) / 100) AS i;

INSERT INTO workflow.dag_runs (dag_id, execution_date, state, version, start_date, end_date)
SELECT d.id, timestamptz '2020-01-01Z' + r.n * interval '10 minutes',
    CASE WHEN r.n = :runs - 1 THEN 'running' ELSE 'success' END, CASE WHEN r.n = :runs - 1 THEN 2 ELSE 3 END,
    timestamptz '2020-01-01Z' + r.n * interval '10 minutes', NULL
FROM generate_series(0, :runs - 1) AS r (n)
JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS n FROM workflow.dags) AS d ON d.n = r.n / 100
ORDER BY r.n;

CREATE TEMPORARY TABLE work AS
SELECT workflow.uuid_v7() AS id, r.id AS dag_run_id, r.dag_id, r.n AS run, 'task_' || lpad(t.n::text, 4, '0') AS task_id, t.n AS task,
    CASE
        WHEN r.n = :runs - 1 AND t.n > 900 THEN 'queued'
        WHEN r.n = :runs - 1 AND t.n > 700 THEN 'running'
        WHEN t.n % 100 = 7 THEN 'failed'
        ELSE 'success'
    END AS state
FROM (SELECT *, row_number() OVER (ORDER BY id) - 1 AS n FROM workflow.dag_runs) AS r
CROSS JOIN generate_series(1, 1000) AS t (n)
ORDER BY r.n, t.n;

INSERT INTO workflow.task_instances (id, dag_run_id, task_id, state, version, try_number)
SELECT id, dag_run_id, task_id, state, CASE state WHEN 'queued' THEN 1 WHEN 'running' THEN 2 ELSE 3 END,
    CASE state WHEN 'queued' THEN 0 ELSE 1 END
FROM work;

-- Three events a task: created, started, ended.
INSERT INTO workflow.state_history (entity_type, entity_id, old_state, new_state, version, changed_at, dag_id, dag_run_id, task_id)
SELECT 'task_instance', w.id, s.old_state, coalesce(s.new_state, w.state), s.version,
    timestamptz '2020-01-01Z' + w.run * interval '10 minutes' + s.version * interval '3 minutes' + w.task * interval '10 ms',
    w.dag_id, w.dag_run_id, w.task_id
FROM work AS w
CROSS JOIN (VALUES (1, NULL, 'queued'), (2, 'queued', 'running'), (3, 'running', NULL)) AS s (version, old_state, new_state)
WHERE s.version <= CASE w.state WHEN 'queued' THEN 1 WHEN 'running' THEN 2 ELSE 3 END
ORDER BY w.run, s.version, w.task;

INSERT INTO workflow.task_logs (task_instance_id, try_number, message)
SELECT id, 1, 'done' FROM work WHERE task <= 20;

DROP TABLE work;
RESET session_replication_role;
VACUUM (ANALYZE) workflow.dags, workflow.dag_runs, workflow.task_instances, workflow.state_history, workflow.task_logs;
SELECT workflow.fold_state_counts();
