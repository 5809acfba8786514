-- The users' data: it is dumped with the database, and does not go with the extension unasked.

SELECT pg_catalog.pg_extension_config_dump('workflow.dags', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.dag_runs', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_instances', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_logs_0', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_logs_1', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_logs_id_seq', '');
-- Partitions that are made later do not belong to the extension: they are dumped as any table is.
SELECT pg_catalog.pg_extension_config_dump('workflow.state_history_0', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.state_history_1', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.state_history_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.dropped_partitions', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.consumers', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.consumer_checkpoints', '');
-- Not dumped: state_count_place and what belongs to it. A restored database counts anew.

CREATE FUNCTION workflow.refuse_drop()
RETURNS event_trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'refuse_drop_wrapper';
COMMENT ON FUNCTION workflow.refuse_drop() IS
'ON ddl_command_start: refuses DROP EXTENSION pg_workflow without CASCADE (2BP01) while its tables hold data.';

CREATE EVENT TRIGGER pg_workflow_refuse_drop ON ddl_command_start
WHEN TAG IN ('DROP EXTENSION')
EXECUTE FUNCTION workflow.refuse_drop();
COMMENT ON EVENT TRIGGER pg_workflow_refuse_drop IS
'PostgreSQL counts the tables as part of the extension, and would drop them without a word.';
