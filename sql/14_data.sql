-- What belongs to the users: their data is dumped with the database, and what runs with the owner's rights is for
-- those only whom an administrator grants it to.

SELECT pg_catalog.pg_extension_config_dump('workflow.dags', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.dag_runs', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_instances', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_logs', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_logs_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.state_history', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.state_history_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.consumers', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.consumer_checkpoints', '');
-- Not dumped: state_count_place and what belongs to it. A restored database counts anew.

REVOKE EXECUTE ON FUNCTION
    workflow.create_dag_run(uuid, timestamptz, jsonb),
    workflow.create_task_instances(uuid, text[], integer),
    workflow.create_consumer(text, boolean),
    workflow.read_events(text, integer, interval, bigint),
    workflow.current_position(),
    workflow.follow_events(text, integer, interval),
    workflow.ack_events(text, bigint, bigint),
    workflow.lease_consumer(text, text, interval),
    workflow.release_consumer(text, bigint),
    workflow.save_checkpoint(text, bigint[], bigint, interval),
    workflow.rewind_consumer(text, bigint[], bigint),
    workflow.drop_consumer(text),
    workflow.fold_state_counts()
FROM PUBLIC;
