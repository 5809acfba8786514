-- From 0.3.0 to 0.2.0.

DO $$
BEGIN
    IF EXISTS (SELECT FROM workflow.consumers AS c WHERE c.given_up_at IS NOT NULL) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = 'cannot update pg_workflow to 0.2.0: purge() has given up a consumer',
            DETAIL = (
                SELECT pg_catalog.jsonb_build_object('consumers', pg_catalog.jsonb_agg(c.name))::pg_catalog.text
                FROM workflow.consumers AS c WHERE c.given_up_at IS NOT NULL),
            HINT = 'In 0.2.0 it would skip purged events silently. Call workflow.drop_consumer() or workflow.resume_consumer() first.';
    END IF;
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM workflow.waits) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = 'cannot update pg_workflow to 0.2.0: tasks wait for others',
            DETAIL = (
                SELECT pg_catalog.jsonb_build_object('dag_runs', pg_catalog.jsonb_agg(DISTINCT j.dag_run_id))::pg_catalog.text
                FROM (SELECT DISTINCT w.join_id FROM workflow.waits AS w LIMIT 100) AS w
                JOIN workflow.joins AS j ON j.id OPERATOR(pg_catalog.=) w.join_id),
            HINT = '0.2.0 knows no dependencies: these tasks could start at once. Let the runs end, or cancel them with workflow.request_cancel().';
    END IF;
END
$$;

-- Claims end: a task that a worker holds runs on, moved by hand.
DROP VIEW workflow.claims;
DROP VIEW workflow.waiting;
DROP FUNCTION workflow.why_waiting(uuid);
DROP FUNCTION workflow.dag_run_graph(uuid);
DROP FUNCTION workflow.add_dependencies(uuid, text[], text[], text);
DROP FUNCTION workflow.rerun_tasks(uuid, text[], boolean, boolean);
DROP FUNCTION workflow.set_fails_on(uuid, text);
DROP FUNCTION workflow.look_at_joins();
DROP VIEW workflow.queues;
DROP FUNCTION workflow.refused_claims(integer);
DROP PROCEDURE workflow.wait_for_tasks(text[], interval, boolean);
DROP FUNCTION workflow.seconds_to_task(text[]);
DROP FUNCTION workflow.request_cancel(uuid);
DROP FUNCTION workflow.note_cancel(uuid);
DROP FUNCTION workflow.reap_claims(integer);
DROP FUNCTION workflow.has_expired(uuid, bigint, timestamptz, timestamptz);
DROP FUNCTION workflow.lease_end(uuid, bigint, timestamptz, timestamptz);
DROP FUNCTION workflow.renew_claims(text[], interval);
DROP FUNCTION workflow.is_claim_of(text, uuid, bigint, timestamptz);
DROP FUNCTION workflow.refuse_lost_claim(text, uuid);
DROP FUNCTION workflow.finish_claims(jsonb, boolean);
DROP FUNCTION workflow.release_claims(text[], interval);
DROP FUNCTION workflow.fail_claim(text, text, interval, jsonb);
DROP FUNCTION workflow.complete_claim(text, jsonb);
DROP FUNCTION workflow.claim_tasks(text, text[], integer, interval);
DROP FUNCTION workflow.recover_ready();
DROP FUNCTION workflow.unclaimable_tasks();
DROP FUNCTION workflow.tasks_of_foreign_queues();
DROP FUNCTION workflow.set_queue(text, integer, timestamptz);
DROP FUNCTION workflow.wake_waiters();
DROP FUNCTION workflow.enqueue_task_instances(uuid[], text, integer, timestamptz);
DROP FUNCTION workflow.queue_of_run(uuid, text);
DROP FUNCTION workflow.check_queue_name(text);
DROP FUNCTION workflow.create_task_instances(uuid, text[], integer, text, integer, timestamptz, interval, jsonb, jsonb);
DROP FUNCTION workflow.overdue_waits();
DROP FUNCTION workflow.is_before_attempt(text, timestamptz);
ALTER EXTENSION pg_workflow DROP TABLE workflow.waits;
DROP TABLE workflow.waits;
ALTER EXTENSION pg_workflow DROP TABLE workflow.joins;
DROP TABLE workflow.joins;
ALTER EXTENSION pg_workflow DROP TABLE workflow.parked;
DROP TABLE workflow.parked;
DROP FUNCTION workflow.is_finished(text);
ALTER EXTENSION pg_workflow DROP TABLE workflow.ready;
DROP TABLE workflow.ready;
ALTER EXTENSION pg_workflow DROP SEQUENCE workflow.queue_settings_id_seq;
ALTER EXTENSION pg_workflow DROP TABLE workflow.queue_settings;
DROP TABLE workflow.queue_settings;

-- Row security stays if tenants are isolated. 0.2.0 knows no setting: its policies are there only then. Partitions stay
-- closed to tenants who name them.
-- take function workflow.enable_row_security
-- take function workflow.disable_row_security
DO $$
DECLARE
    is_isolated boolean := NOT workflow.shows_all_tenants();
    guarded record;
BEGIN
    FOR guarded IN
        SELECT c.relname AS relation
        FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_policy AS p ON p.polrelid OPERATOR(pg_catalog.=) c.oid AND p.polname OPERATOR(pg_catalog.=) 'tenant'
        WHERE c.relnamespace OPERATOR(pg_catalog.=) 'workflow'::pg_catalog.regnamespace
    LOOP
        EXECUTE pg_catalog.format('DROP POLICY tenant ON workflow.%I', guarded.relation);
        IF NOT is_isolated THEN
            EXECUTE pg_catalog.format('ALTER TABLE workflow.%I DISABLE ROW LEVEL SECURITY', guarded.relation);
        END IF;
    END LOOP;
    IF is_isolated THEN
        PERFORM workflow.enable_row_security();
    END IF;
END
$$;
DROP FUNCTION workflow.create_policy(text, text);
DROP FUNCTION workflow.lock_in_attempts(text);
DROP FUNCTION workflow.cancel_vacuum();
ALTER EXTENSION pg_workflow DROP TABLE workflow.row_security;
DROP TABLE workflow.row_security;
DROP FUNCTION workflow.replan();

ALTER TABLE workflow.dags
    DROP CONSTRAINT dags_name_check,
    ADD CONSTRAINT dags_name_check CHECK (
        name OPERATOR(pg_catalog.~) E'\\S' AND pg_catalog.char_length(name) OPERATOR(pg_catalog.<=) 250
    );
-- take function workflow.create_dag
-- take function workflow.check_consumer_name
-- take function workflow.refuse_tenant
-- take function workflow.unfinished_transactions
-- take function workflow.events_between
-- take function workflow.open_window
-- take function workflow.close_window
-- take function workflow.found_by_ids
-- take function workflow.locked_consumer
-- take function workflow.check_reading
-- take function workflow.create_consumer
-- take function workflow.wait_for_events
-- take function workflow.note_found_nothing
-- take function workflow.read_events
-- take function workflow.ack_events
-- take function workflow.drop_consumer
-- take function workflow.spelled_snapshot
-- take function workflow.parsed_snapshot
-- take function workflow.spelled_position
-- take function workflow.parsed_position
-- take function workflow.position_after
-- take function workflow.current_position
-- take function workflow.follow_events
-- take function workflow.lease_consumer
-- take function workflow.release_consumer
-- take function workflow.save_checkpoint
-- take function workflow.rewind_consumer
ALTER VIEW workflow.consumer_lag RENAME TO consumer_lag_of_0_3;
-- take view workflow.consumer_lag
DO $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END AS grantee,
            a.privilege_type, CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS option
        FROM pg_catalog.pg_class AS c
        CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
        WHERE c.oid OPERATOR(pg_catalog.=) 'workflow.consumer_lag_of_0_3'::pg_catalog.regclass
            AND a.grantee OPERATOR(pg_catalog.<>) c.relowner
    LOOP
        EXECUTE pg_catalog.format('GRANT %s ON workflow.consumer_lag TO %s%s', held.privilege_type, held.grantee, held.option);
    END LOOP;
END
$$;
DROP VIEW workflow.consumer_lag_of_0_3;
-- take view workflow.state_counts
-- take function workflow.needs_history
DROP FUNCTION workflow.who_needs_history(bigint, text[]);
-- take function workflow.who_needs_history
-- take function workflow.purge_logs
-- take function workflow.make_partition
-- take function workflow.go_on_to_partition

-- take function workflow.create_dag
-- take function workflow.create_dag_run
-- take function workflow.create_task_instances
-- take function workflow.note_deletion
-- take function workflow.forget_counts

-- Reworded, or planned by indexes.
-- take function workflow.set_dag_paused
DROP FUNCTION workflow.append_task_log(uuid, text, text, timestamptz, text);
-- take function workflow.append_task_log
-- take function workflow.history
-- take function workflow.state_at
-- take function workflow.event_id_at
-- take function workflow.verify
-- take function workflow.last_event_id
-- take function workflow.others_snapshot
-- take function workflow.current_place
-- take function workflow.forget_state_counts
-- take function workflow.count_states
-- take function workflow.fold_state_counts
-- take function workflow.open_partitions
-- take function workflow.drop_partition
-- take function workflow.free_partitions
DROP FUNCTION workflow.purge_runs(timestamptz, integer, boolean);
-- take function workflow.purge_runs
-- take function workflow.purge_history
-- take function workflow.purge
-- take function workflow.stuck
-- take function workflow.show_settings

DO $$
DECLARE
    key record;
BEGIN
    FOR key IN
        SELECT c.relname AS table_name, x.conname AS name
        FROM pg_catalog.pg_constraint AS x
        JOIN pg_catalog.pg_inherits AS i ON i.inhrelid OPERATOR(pg_catalog.=) x.conrelid
        JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) x.conrelid
        WHERE i.inhparent OPERATOR(pg_catalog.=) 'workflow.task_logs'::pg_catalog.regclass
            AND NOT x.convalidated
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE workflow.%I VALIDATE CONSTRAINT %I', key.table_name, key.name);
    END LOOP;
END
$$;

REVOKE UPDATE ON workflow.dag_runs, workflow.task_instances FROM workflow_writer;
ALTER TABLE workflow.task_instances
    DROP COLUMN queue_id,
    DROP COLUMN priority,
    DROP COLUMN not_before,
    DROP COLUMN timeout,
    DROP COLUMN worker,
    DROP COLUMN lease_expires_at,
    DROP COLUMN cancel_requested_at,
    DROP COLUMN uncounted_tries,
    DROP COLUMN join_id;
ALTER EXTENSION pg_workflow DROP EVENT TRIGGER pg_workflow_load_library;
DROP EVENT TRIGGER pg_workflow_load_library;
DROP FUNCTION workflow.load_library();
REVOKE REFERENCES ON workflow.dags, workflow.dag_runs, workflow.task_instances FROM workflow_writer;
GRANT UPDATE (state, execution_date, conf) ON workflow.dag_runs TO workflow_writer;
GRANT UPDATE (state, max_tries, error) ON workflow.task_instances TO workflow_writer;

ALTER TABLE workflow.state_history DROP COLUMN acted_as;
DO $$
DECLARE
    name name;
BEGIN
    FOR name IN
        SELECT c.relname
        FROM pg_catalog.pg_class AS c
        WHERE c.relnamespace OPERATOR(pg_catalog.=) 'workflow'::pg_catalog.regnamespace
            AND c.relname OPERATOR(pg_catalog.~) '^state_history_[0-9]+_id_changed_at_idx$'
    LOOP
        EXECUTE pg_catalog.format('DROP INDEX workflow.%I', name);
    END LOOP;
END
$$;
-- 0.2.0 knows no deletions: a reader would stop at their events. Without one, the stored counts stay.
DO $$
BEGIN
    IF EXISTS (SELECT FROM workflow.state_history AS h WHERE h.new_state IS NULL) THEN
        DELETE FROM workflow.state_history AS h WHERE h.new_state IS NULL;
    END IF;
END
$$;
ALTER TABLE workflow.state_history ALTER COLUMN new_state SET NOT NULL;
ALTER EXTENSION pg_workflow DROP TABLE workflow.purges;
DROP TABLE workflow.purges;
ALTER EXTENSION pg_workflow DROP TABLE workflow.copies;
DROP TABLE workflow.copies;
DROP TRIGGER prepare_load ON workflow.task_logs;

-- The primary keys and the CHECK go with their columns.
ALTER TABLE workflow.state_count_place DROP COLUMN is_only_row;
ALTER TABLE workflow.state_count_changes DROP COLUMN id;

DROP TRIGGER zz_check_fields ON workflow.dags;
DROP TRIGGER zz_check_fields ON workflow.task_logs;
DROP FUNCTION workflow.check_fields();
DROP FUNCTION workflow.check_size(text, text);
DROP FUNCTION workflow.check_size(text, jsonb);
DROP FUNCTION workflow.check_finite(text, timestamptz);
DROP FUNCTION workflow.is_acknowledged(workflow.feed_position, bigint, xid8);
DROP FUNCTION workflow.is_in_window(workflow.feed_position, bigint, xid8);
DROP FUNCTION workflow.is_foreign(workflow.feed_position);
DROP FUNCTION workflow.refuse_foreign(workflow.consumers);
DROP TRIGGER forget_origin ON workflow.consumers;
DROP FUNCTION workflow.forget_origin();
UPDATE workflow.consumers AS c SET system_identifier = workflow.system_identifier()
WHERE c.system_identifier OPERATOR(pg_catalog.=) workflow.origin();
UPDATE workflow.consumer_checkpoints AS c SET system_identifier = workflow.system_identifier()
WHERE c.system_identifier OPERATOR(pg_catalog.=) workflow.origin();
UPDATE workflow.state_count_place AS p SET system_identifier = workflow.system_identifier()
WHERE p.system_identifier OPERATOR(pg_catalog.=) workflow.origin();
DROP FUNCTION workflow.origin();
DROP FUNCTION workflow.draw_mark();
DROP SEQUENCE workflow.database_mark;
DROP SEQUENCE workflow.lease_number_seq;
DROP FUNCTION workflow.unfinished_transactions(workflow.feed_position);
DROP FUNCTION workflow.next_writer(bigint, bigint, bigint);
DROP FUNCTION workflow.written_ids(xid8, bigint, bigint, bigint, integer);
DROP FUNCTION workflow.late_events(workflow.feed_position);
DROP FUNCTION workflow.late_ids(workflow.feed_position);
DROP FUNCTION workflow.after_unfinished(workflow.feed_position);
DROP FUNCTION workflow.late_ids_in_window(workflow.feed_position, integer);
DROP FUNCTION workflow.events_above(workflow.feed_position, integer, boolean);
DROP FUNCTION workflow.events_in_window(workflow.feed_position, integer, boolean);
DROP FUNCTION workflow.first_position();
DROP FUNCTION workflow.open_window(workflow.feed_position);
DROP FUNCTION workflow.close_window(workflow.feed_position);
DROP FUNCTION workflow.relocate_position(workflow.feed_position, boolean);
DROP FUNCTION workflow.position_of(workflow.consumers);
DROP FUNCTION workflow.position_of(workflow.consumer_checkpoints);
DROP FUNCTION workflow.position_of(workflow.state_count_place);
DROP FUNCTION workflow.store_position(text, workflow.feed_position, bigint);
DROP FUNCTION workflow.note_returned(bigint);
DROP FUNCTION workflow.last_returned();
DROP FUNCTION workflow.lock_consumer(text, bigint, boolean);
DROP FUNCTION workflow.is_leased(workflow.consumers);
DROP PROCEDURE workflow.wait_for_events(text, interval, boolean);
DROP PROCEDURE workflow.wait_for_events_after(text, interval, boolean);
DROP FUNCTION workflow.position_has_events(text);
DROP FUNCTION workflow.wait_in_function(text, interval);
DROP FUNCTION workflow.consumer_has_events(text);
DROP FUNCTION workflow.has_events(workflow.feed_position);
DROP FUNCTION workflow.wait_for_commit(bigint, double precision);
DROP FUNCTION workflow.wake_readers();
DROP FUNCTION workflow.format_snapshot(pg_snapshot);
DROP FUNCTION workflow.parse_snapshot(text);
DROP FUNCTION workflow.format_position(workflow.follower_position);
DROP FUNCTION workflow.check_partitions(bigint);
DROP FUNCTION workflow.position_fault(workflow.follower_position);
DROP FUNCTION workflow.parse_position(text);
DROP FUNCTION workflow.mark_position(workflow.follower_position);
DROP FUNCTION workflow.open_followed_window(workflow.follower_position);
DROP FUNCTION workflow.close_followed_window(workflow.follower_position);
DROP FUNCTION workflow.position_after(workflow.follower_position, bigint, bigint, boolean);
DROP FUNCTION workflow.event_hash(bigint, uuid, bigint, timestamptz);
DROP FUNCTION workflow.timeline_end(bigint);
DROP FUNCTION workflow.wal_end();
DROP TYPE workflow.follower_position;
DROP FUNCTION workflow.needs_history(workflow.feed_position, bigint);
DROP FUNCTION workflow.create_partition(text, bigint);
DROP FUNCTION workflow.give_up_consumers(bigint, timestamptz, boolean);
DROP FUNCTION workflow.skip_event(text, bigint);
DROP FUNCTION workflow.resume_consumer(text);
DROP FUNCTION workflow.refuse_consumer(text, text);
DROP FUNCTION workflow.refuse_given_up(text, text);
-- Every writer can use every consumer again.
DROP POLICY owner ON workflow.consumer_checkpoints;
DROP POLICY owner ON workflow.consumers;
ALTER TABLE workflow.consumer_checkpoints DISABLE ROW LEVEL SECURITY;
ALTER TABLE workflow.consumers DISABLE ROW LEVEL SECURITY;
DROP FUNCTION workflow.owns_consumer(text);
ALTER TABLE workflow.consumers DROP CONSTRAINT consumers_name_check, DROP COLUMN owner, DROP COLUMN given_up_at,
    DROP COLUMN returned_id,
    DROP CONSTRAINT consumers_size_check;
ALTER TABLE workflow.consumer_checkpoints DROP CONSTRAINT consumer_checkpoints_size_check;
DROP FUNCTION workflow.switch_to_partition(text, bigint);
DROP FUNCTION workflow.is_subscriber();
DROP FUNCTION workflow.bisect_events(timestamptz);
DROP FUNCTION workflow.event_id_before(timestamptz);
DROP FUNCTION workflow.refuse_copy(text);
DROP FUNCTION workflow.refuse_subscriber(text);
DROP FUNCTION workflow.finish_copy();
DROP FUNCTION workflow.refuse_block(text);
DROP FUNCTION workflow.refuse_early_end();
DROP FUNCTION workflow.relocate_consumers(bigint);
DROP FUNCTION workflow.enable_triggers();
DROP FUNCTION workflow.forget_notifications();
DROP FUNCTION workflow.shows_all_tenants();
DROP TYPE workflow.feed_position;

DROP FUNCTION workflow.advance_partitions(text);
DROP FUNCTION workflow.delete_runs(uuid[]);
DROP FUNCTION workflow.next_finished_runs(timestamptz, integer, timestamptz, uuid[]);
DROP FUNCTION workflow.past_history(timestamptz, boolean);
DROP FUNCTION workflow.finished_runs(timestamptz);
-- take function workflow.finished_runs
DROP FUNCTION workflow.lock_finished_runs(timestamptz, uuid[]);
DROP FUNCTION workflow.delete_finished_runs(timestamptz, integer, boolean);
DROP FUNCTION workflow.drop_old_partitions(timestamptz, boolean);
DROP FUNCTION workflow.purge_partitions(timestamptz, boolean);

-- The rights of 0.2.0: every function is for all roles, unless it runs as the owner.
REVOKE ALL ON SCHEMA workflow FROM PUBLIC, workflow_reader, workflow_writer, workflow_admin;
REVOKE ALL ON ALL TABLES IN SCHEMA workflow FROM PUBLIC, workflow_reader, workflow_writer, workflow_admin;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA workflow FROM PUBLIC, workflow_reader, workflow_writer, workflow_admin;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA workflow FROM PUBLIC, workflow_reader, workflow_writer, workflow_admin;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA workflow TO PUBLIC;
-- take grants
-- take comments
