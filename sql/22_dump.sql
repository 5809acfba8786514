-- The user's data: pg_dump includes it, and DROP EXTENSION does not drop it unasked.

SELECT pg_catalog.pg_extension_config_dump('workflow.dags', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.dag_runs', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_instances', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.queue_settings', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.queue_settings_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.ready', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.parked', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.joins', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.waits', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_logs_0', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_logs_1', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_logs_id_seq', '');
-- Partitions that are created later do not belong to the extension: they are dumped like any table.
SELECT pg_catalog.pg_extension_config_dump('workflow.state_history_0', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.state_history_1', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.state_history_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.dropped_partitions', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.copies', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.purges', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.consumers', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.consumer_checkpoints', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.row_security', '');
-- Not dumped: state_count_place, state_counts_at and state_count_changes. A restored database counts its tables.

CREATE FUNCTION workflow.refuse_drop()
RETURNS event_trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'refuse_drop_wrapper';
COMMENT ON FUNCTION workflow.refuse_drop() IS
'ON ddl_command_start: rejects DROP EXTENSION pg_workflow without CASCADE (2BP01) while its tables hold data.';
REVOKE EXECUTE ON FUNCTION workflow.refuse_drop() FROM PUBLIC;

CREATE EVENT TRIGGER pg_workflow_refuse_drop ON ddl_command_start
WHEN TAG IN ('DROP EXTENSION')
EXECUTE FUNCTION workflow.refuse_drop();
COMMENT ON EVENT TRIGGER pg_workflow_refuse_drop IS
'Guard against data loss: PostgreSQL counts the tables as part of the extension, and would drop them without a question.';
