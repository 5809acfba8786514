-- The same as an ORM does it: a transaction of six statements.
\set n :client_id * 500 + mod(:k, 500)
\set back mod(:k / 500, 2)
\set k :k + 1
\if :back
BEGIN;
SELECT id AS id, state, version AS version FROM bare.task_instances WHERE id = (SELECT id FROM tasks WHERE n = :n) FOR UPDATE \gset
UPDATE bare.task_instances SET state = 'running', version = version + 1, updated_at = now(), try_number = try_number + 1, start_date = clock_timestamp(),
        end_date = NULL, duration = NULL, error = NULL WHERE id = :id AND version = :version;
INSERT INTO bare.state_history (entity_type, entity_id, old_state, new_state, version, metadata)
VALUES ('task_instance', :id, 'retrying', 'running', :version + 1, '{"worker": "w1"}');
SELECT pg_notify('workflow_events', json_build_object('entity_id', :id::text, 'new_state', 'running')::text);
COMMIT;
\else
BEGIN;
SELECT id AS id, state, version AS version FROM bare.task_instances WHERE id = (SELECT id FROM tasks WHERE n = :n) FOR UPDATE \gset
UPDATE bare.task_instances SET state = 'retrying', version = version + 1, updated_at = now() WHERE id = :id AND version = :version;
INSERT INTO bare.state_history (entity_type, entity_id, old_state, new_state, version, metadata)
VALUES ('task_instance', :id, 'running', 'retrying', :version + 1, '{"worker": "w1"}');
SELECT pg_notify('workflow_events', json_build_object('entity_id', :id::text, 'new_state', 'retrying')::text);
COMMIT;
\endif
