-- Years of history: :partitions past partitions of :rows events each, of purged runs; and :tasks tasks with three
-- events each, in the last partition. Written past the triggers, which would take hours.
SET session_replication_role = replica;
SET synchronous_commit = off;

CREATE PROCEDURE fill(partitions bigint, rows bigint)
LANGUAGE plpgsql
AS $$
BEGIN
    FOR n IN 0 .. partitions - 1 LOOP
        IF to_regclass('workflow.state_history_' || n) IS NULL THEN
            PERFORM workflow.create_partition('state_history', n);
        END IF;
        INSERT INTO workflow.state_history (id, entity_type, entity_id, old_state, new_state, version, changed_at, dag_id, dag_run_id, task_id)
        SELECT n * workflow.partition_size() + 100000000 + 3 * t.number + s.version, 'task_instance', t.id, s.old_state, s.new_state, s.version,
            timestamptz '2020-01-01Z' + make_interval(months => n::integer, secs => t.number / 10.0), t.dag_id, t.dag_run_id,
            'task_' || t.number % 1000
        FROM (
            SELECT i AS number, workflow.uuid_v7() AS id, d.id AS dag_id, gen_random_uuid() AS dag_run_id
            FROM generate_series(0, rows / 3 - 1) AS i
            CROSS JOIN (SELECT d.id FROM workflow.dags AS d LIMIT 1) AS d
            OFFSET 0
        ) AS t
        CROSS JOIN (VALUES (1, NULL, 'queued'), (2, 'queued', 'running'), (3, 'running', 'success')) AS s (version, old_state, new_state);
        COMMIT;
    END LOOP;
END
$$;
CALL fill(:partitions, :rows);
DROP PROCEDURE fill;

-- Tasks that are there still, for verify().
SELECT workflow.create_dag('old') AS dag \gset
INSERT INTO workflow.dag_runs (dag_id, execution_date, state, version, created_at, updated_at)
VALUES (:'dag', '2021-01-01Z', 'success', 1, '2021-01-01Z', '2021-01-01Z')
RETURNING id AS run \gset
SELECT now() AS tasks_from \gset
INSERT INTO workflow.task_instances (dag_run_id, task_id, state, version, try_number)
SELECT :'run', 'task_' || i, 'success', 3, 1 FROM generate_series(1, :tasks) AS i;
INSERT INTO workflow.state_history (id, entity_type, entity_id, old_state, new_state, version, changed_at, dag_id, dag_run_id, task_id)
SELECT (:partitions - 1) * workflow.partition_size() + 500000000000 + row_number() OVER (), 'task_instance', t.id,
    s.old_state, s.new_state, s.version, timestamptz '2021-01-01Z' + s.version * interval '1 minute', :'dag', t.dag_run_id, t.task_id
FROM workflow.task_instances AS t
CROSS JOIN (VALUES (1, NULL, 'queued'), (2, 'queued', 'running'), (3, 'running', 'success')) AS s (version, old_state, new_state)
WHERE t.dag_run_id = :'run';

SELECT workflow.create_partition('state_history', n) FROM generate_series(:partitions, :partitions + 1) AS n
WHERE to_regclass('workflow.state_history_' || n) IS NULL;
SELECT setval('workflow.state_history_id_seq', :partitions * workflow.partition_size() - 1);
RESET session_replication_role;
VACUUM (ANALYZE) workflow.state_history, workflow.task_instances;
SELECT workflow.fold_state_counts();
