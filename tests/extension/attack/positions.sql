-- Tables of an attacker, each with a row.

CREATE FUNCTION evil.fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired' USING ERRCODE = 'FIRED'; END $$;
GRANT EXECUTE ON FUNCTION evil.fire() TO PUBLIC;

-- Columns of other types: where a number is taken for an address, the attacker reads memory.
CREATE TEMP TABLE temporary (
    id bigint, dag_id bigint, dag_run_id bigint, task_id bigint, state evil.state, version text, try_number text,
    start_date text, end_date text, duration text, error bigint, created_at text, updated_at text
);
INSERT INTO temporary (id, dag_id, dag_run_id, task_id, state, version) VALUES (4096, 4096, 4096, 4096, 'queued', '1');
CREATE TEMP TABLE ordinary (id uuid, state text);
INSERT INTO ordinary VALUES (gen_random_uuid(), 'queued');

CREATE TABLE evil.task_instances (LIKE workflow.task_instances);
INSERT INTO evil.task_instances SELECT * FROM workflow.task_instances WHERE task_id = 'queued';
CREATE TABLE evil.dag_runs (LIKE workflow.dag_runs);
INSERT INTO evil.dag_runs SELECT * FROM workflow.dag_runs;
CREATE TABLE evil.state_history (LIKE workflow.state_history);
INSERT INTO evil.state_history SELECT * FROM workflow.state_history;

CREATE TABLE evil.partitioned (LIKE workflow.task_instances) PARTITION BY LIST (task_id);
CREATE TABLE evil.leaf PARTITION OF evil.partitioned DEFAULT;
INSERT INTO evil.partitioned SELECT * FROM workflow.task_instances;
CREATE VIEW evil.view AS SELECT * FROM evil.task_instances;
