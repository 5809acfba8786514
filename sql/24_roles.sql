-- Roles. They belong to the cluster, not to this database: DROP EXTENSION leaves them.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{workflow_reader,workflow_writer,workflow_admin}'::pg_catalog.text[] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname OPERATOR(pg_catalog.=) name) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                -- Another database of the cluster has just created it.
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;

GRANT workflow_reader TO workflow_writer;
GRANT workflow_writer TO workflow_admin;

-- First nothing, then each right by name: default privileges of the installing role change nothing.
REVOKE ALL ON SCHEMA workflow FROM PUBLIC, workflow_reader, workflow_writer, workflow_admin;
REVOKE ALL ON ALL TABLES IN SCHEMA workflow FROM PUBLIC, workflow_reader, workflow_writer, workflow_admin;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA workflow FROM PUBLIC, workflow_reader, workflow_writer, workflow_admin;
REVOKE ALL ON ALL ROUTINES IN SCHEMA workflow FROM PUBLIC, workflow_reader, workflow_writer, workflow_admin;
GRANT USAGE ON TYPE workflow.feed_position, workflow.follower_position, workflow.followed_event TO PUBLIC;

GRANT USAGE ON SCHEMA workflow TO workflow_reader;

-- Reads everything except the positions of consumers.
GRANT SELECT ON
    workflow.dags, workflow.dag_runs, workflow.task_instances, workflow.task_logs, workflow.state_history,
    workflow.state_machine, workflow.state_counts, workflow.consumer_lag, workflow.notifier, workflow.partitions,
    workflow.settings, workflow.row_security, workflow.purges, workflow.queue_settings, workflow.ready,
    workflow.parked, workflow.queues, workflow.claims, workflow.joins, workflow.waits,
    workflow.waiting
TO workflow_reader;
-- The last ids: for the view partitions.
GRANT SELECT ON SEQUENCE workflow.state_history_id_seq, workflow.task_logs_id_seq TO workflow_reader;
GRANT USAGE ON SEQUENCE workflow.lease_number_seq TO workflow_writer;
-- Functions read them with the rights of their caller.
GRANT SELECT ON workflow.dropped_partitions, workflow.copies TO PUBLIC;

-- For schedulers, workers and the server. The guard trigger checks every UPDATE of a run and a task: programs can write
-- whole rows back.
GRANT INSERT (name, description, schedule, start_date, tags, is_paused) ON workflow.dags TO workflow_writer;
GRANT UPDATE (name, description, schedule, start_date, tags, is_paused) ON workflow.dags TO workflow_writer;
-- On each column and not on the table: that would be the right to LOCK TABLE, for as long as a transaction likes.
GRANT UPDATE (
    id, dag_id, execution_date, state, version, conf, start_date, end_date, created_at, updated_at
) ON workflow.dag_runs TO workflow_writer;
GRANT UPDATE (
    id, dag_run_id, task_id, state, version, try_number, max_tries, start_date, end_date, duration, error, created_at,
    updated_at, queue_id, priority, not_before, timeout, worker, lease_expires_at, cancel_requested_at, uncounted_tries,
    join_id
) ON workflow.task_instances TO workflow_writer;
GRANT INSERT (tenant, name, slots, paused_until), UPDATE (slots, paused_until) ON workflow.queue_settings TO workflow_writer;
-- For tables of their own that belong to runs and tasks. 21_dependents.sql says which are safe.
GRANT REFERENCES ON workflow.dags, workflow.dag_runs, workflow.task_instances TO workflow_writer;
GRANT INSERT (task_instance_id, try_number, logged_at, level, message) ON workflow.task_logs TO workflow_writer;

-- Row security shows each role its own consumers.
GRANT SELECT, INSERT, UPDATE, DELETE ON workflow.consumers, workflow.consumer_checkpoints TO workflow_writer;

-- Deletes rows of other roles.
GRANT DELETE ON workflow.dags, workflow.dag_runs, workflow.task_instances, workflow.task_logs TO workflow_admin;

-- A function that needs no right of its owner is for all: what it may do depends on its caller's rights.
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA workflow TO PUBLIC, workflow_reader;
REVOKE EXECUTE ON FUNCTION
    workflow.create_dag_run(uuid, timestamptz, jsonb),
    workflow.create_task_instances(uuid, text[], integer, text, integer, timestamptz, interval, jsonb, jsonb),
    workflow.queue_of_run(uuid, text),
    workflow.claim_tasks(text, text[], integer, interval),
    workflow.add_dependencies(uuid, text[], text[], text),
    workflow.rerun_tasks(uuid, text[], boolean, boolean),
    workflow.set_fails_on(uuid, text),
    workflow.look_at_joins(),
    workflow.create_consumer(text, boolean),
    workflow.read_events(text, integer, interval, bigint),
    workflow.current_position(),
    workflow.follow_events(text, integer, interval),
    workflow.ack_events(text, bigint, bigint),
    workflow.skip_event(text, bigint),
    workflow.resume_consumer(text),
    workflow.refuse_consumer(text, text),
    workflow.lease_consumer(text, text, interval),
    workflow.release_consumer(text, bigint),
    workflow.save_checkpoint(text, bigint[], bigint, interval),
    workflow.rewind_consumer(text, bigint[], bigint),
    workflow.drop_consumer(text),
    workflow.wake_readers(),
    workflow.wake_waiters(),
    workflow.fold_state_counts(),
    workflow.open_partitions(text),
    workflow.purge(timestamptz, boolean, integer),
    workflow.purge_runs(timestamptz, integer, boolean),
    workflow.purge_partitions(timestamptz, boolean),
    workflow.recover_ready(),
    workflow.cancel_vacuum(),
    workflow.lock_in_attempts(text),
    workflow.enable_row_security(),
    workflow.disable_row_security(),
    workflow.forget_state_counts(),
    workflow.create_policy(text, text),
    workflow.create_partition(text, bigint),
    workflow.switch_to_partition(text, bigint),
    workflow.advance_partitions(text),
    workflow.drop_partition(text, text),
    workflow.drop_old_partitions(timestamptz, boolean),
    workflow.forget_notifications(),
    workflow.draw_mark(),
    workflow.refuse_early_end(),
    workflow.relocate_consumers(bigint),
    workflow.enable_triggers(),
    workflow.finish_copy()
FROM PUBLIC, workflow_reader;

GRANT EXECUTE ON FUNCTION
    workflow.current_position(),
    workflow.follow_events(text, integer, interval)
TO workflow_reader;
GRANT EXECUTE ON PROCEDURE workflow.wait_for_events_after(text, interval, boolean) TO workflow_reader;

GRANT EXECUTE ON FUNCTION
    workflow.create_dag_run(uuid, timestamptz, jsonb),
    workflow.create_task_instances(uuid, text[], integer, text, integer, timestamptz, interval, jsonb, jsonb),
    workflow.queue_of_run(uuid, text),
    workflow.claim_tasks(text, text[], integer, interval),
    workflow.add_dependencies(uuid, text[], text[], text),
    workflow.rerun_tasks(uuid, text[], boolean, boolean),
    workflow.set_fails_on(uuid, text),
    workflow.look_at_joins(),
    workflow.create_consumer(text, boolean),
    workflow.read_events(text, integer, interval, bigint),
    workflow.ack_events(text, bigint, bigint),
    workflow.resume_consumer(text),
    workflow.refuse_consumer(text, text),
    workflow.lease_consumer(text, text, interval),
    workflow.release_consumer(text, bigint),
    workflow.save_checkpoint(text, bigint[], bigint, interval),
    workflow.rewind_consumer(text, bigint[], bigint),
    workflow.drop_consumer(text),
    workflow.wake_readers(),
    workflow.wake_waiters(),
    workflow.fold_state_counts()
TO workflow_writer;
GRANT EXECUTE ON PROCEDURE
    workflow.wait_for_events(text, interval, boolean),
    workflow.wait_for_tasks(text[], interval, boolean)
TO workflow_writer;

GRANT EXECUTE ON FUNCTION
    workflow.open_partitions(text),
    workflow.purge(timestamptz, boolean, integer),
    workflow.purge_runs(timestamptz, integer, boolean),
    workflow.purge_partitions(timestamptz, boolean),
    workflow.recover_ready(),
    workflow.skip_event(text, bigint)
TO workflow_admin;

-- Trigger functions are for the extension's triggers alone: CREATE TRIGGER asks for this right.
REVOKE EXECUTE ON FUNCTION
    workflow.guard(),
    workflow.record(),
    workflow.refuse_insert(),
    workflow.prepare_load(),
    workflow.note_deletion(),
    workflow.forget_counts(),
    workflow.check_fields(),
    workflow.replan(),
    workflow.forget_origin(),
    workflow.load_library(),
    workflow.refuse_drop()
FROM PUBLIC, workflow_reader;
