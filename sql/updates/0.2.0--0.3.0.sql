-- From 0.2.0 to 0.3.0. The position in the feed becomes a type of its own, and the internal functions that took a row of
-- consumers take a position. Row security is always there, and a setting tells its policies whether tenants are isolated.

DO $$
BEGIN
    -- As CREATE EXTENSION does.
    IF pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.<>) 'UTF8' THEN
        RAISE feature_not_supported USING
            MESSAGE = pg_catalog.format('cannot update extension pg_workflow in a database with encoding %s', pg_catalog.getdatabaseencoding()),
            DETAIL = pg_catalog.jsonb_build_object('encoding', pg_catalog.getdatabaseencoding())::pg_catalog.text,
            HINT = 'Restore a dump of it into a database with ENCODING ''UTF8'' TEMPLATE template0.';
    END IF;
END
$$;

-- What the pattern means must not depend on standard_conforming_strings.
ALTER TABLE workflow.dags
    DROP CONSTRAINT dags_name_check,
    ADD CONSTRAINT dags_name_check CHECK (
        name OPERATOR(pg_catalog.~) '[^[:space:]]' AND pg_catalog.char_length(name) OPERATOR(pg_catalog.<=) 250
    );
-- take function workflow.create_dag
-- take function workflow.check_consumer_name

-- Every table has a primary key, so that a publication for all tables rejects no UPDATE and no DELETE.
ALTER TABLE workflow.state_count_place
    ADD COLUMN is_only_row boolean NOT NULL DEFAULT true,
    ADD CONSTRAINT state_count_place_pkey PRIMARY KEY (is_only_row),
    ADD CONSTRAINT state_count_place_check CHECK (is_only_row);
ALTER TABLE workflow.state_count_changes
    ADD COLUMN id uuid NOT NULL DEFAULT workflow.uuid_v7(),
    ADD CONSTRAINT state_count_changes_pkey PRIMARY KEY (id);

CREATE TRIGGER prepare_load
BEFORE INSERT ON workflow.task_logs
FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load();

-- pg_restore --jobs need not validate foreign keys that are NOT VALID; see create_partition().
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
            AND x.confrelid OPERATOR(pg_catalog.=) 'workflow.task_instances'::pg_catalog.regclass
    LOOP
        EXECUTE pg_catalog.format(
            'ALTER TABLE workflow.%I DROP CONSTRAINT %I, ADD CONSTRAINT %I FOREIGN KEY (task_instance_id)
                REFERENCES workflow.task_instances (id) ON DELETE CASCADE NOT VALID',
            key.table_name, key.name, key.name);
    END LOOP;
END
$$;

-- The partitions get it too; nothing is rewritten.
ALTER TABLE workflow.state_history ADD COLUMN acted_as text;
-- From now on deletions are events.
ALTER TABLE workflow.state_history ALTER COLUMN new_state DROP NOT NULL;
-- take table workflow.copies
SELECT pg_catalog.pg_extension_config_dump('workflow.copies', '');
-- Earlier partitions can have events of another database: from a dump that was restored with 0.2.0, or before a downgrade. No
-- transaction is in progress in them.
INSERT INTO workflow.copies (first_id)
SELECT s.last_value OPERATOR(pg_catalog.-) (s.last_value OPERATOR(pg_catalog.%) 1000000000000)
FROM workflow.state_history_id_seq AS s
WHERE s.last_value OPERATOR(pg_catalog.>=) 1000000000000;
-- take table workflow.purges
SELECT pg_catalog.pg_extension_config_dump('workflow.purges', '');

-- Claims. Nothing is rewritten, and no task can be claimed: their queue_id is null.
ALTER TABLE workflow.task_instances
    ADD COLUMN queue_id integer,
    ADD COLUMN priority smallint,
    ADD COLUMN not_before timestamptz,
    ADD COLUMN timeout interval,
    ADD COLUMN worker text,
    ADD COLUMN lease_expires_at timestamptz,
    ADD COLUMN cancel_requested_at timestamptz,
    ADD COLUMN uncounted_tries integer,
    ADD COLUMN join_id uuid;
-- take table workflow.queue_settings
SELECT pg_catalog.pg_extension_config_dump('workflow.queue_settings', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.queue_settings_id_seq', '');
-- take table workflow.ready
-- take index ready_lane_idx
ALTER TABLE workflow.ready REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('workflow.ready', '');
-- take table workflow.parked
CREATE TRIGGER prepare_load
BEFORE INSERT ON workflow.parked
FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load();
SELECT pg_catalog.pg_extension_config_dump('workflow.parked', '');
-- take table workflow.joins
-- take index joins_dag_run_id_idx
CREATE TRIGGER prepare_load
BEFORE INSERT ON workflow.joins
FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load();
SELECT pg_catalog.pg_extension_config_dump('workflow.joins', '');
-- take table workflow.waits
-- take index waits_join_id_idx
CREATE TRIGGER prepare_load
BEFORE INSERT ON workflow.waits
FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load();
SELECT pg_catalog.pg_extension_config_dump('workflow.waits', '');
-- take function workflow.is_finished
-- take function workflow.queue_of_run
-- take function workflow.check_queue_name
-- take function workflow.enqueue_task_instances
-- take function workflow.recover_ready
-- take function workflow.wake_waiters
-- take function workflow.set_queue
-- take function workflow.refused_claims
-- take view workflow.queues
-- take function workflow.claim_tasks
-- take function workflow.complete_claim
-- take function workflow.fail_claim
-- take function workflow.finish_claims
-- take function workflow.release_claims
-- take function workflow.renew_claims
-- take function workflow.is_claim_of
-- take function workflow.refuse_lost_claim
-- take function workflow.lease_end
-- take function workflow.has_expired
-- take function workflow.reap_claims
-- take function workflow.note_cancel
-- take function workflow.request_cancel
-- take function workflow.overdue_waits
-- take function workflow.look_at_joins
-- take function workflow.add_dependencies
-- take function workflow.rerun_tasks
-- take function workflow.set_fails_on
-- take function workflow.is_before_attempt
-- take function workflow.dag_run_graph
-- take function workflow.why_waiting
-- take view workflow.waiting
-- take function workflow.seconds_to_task
-- take procedure workflow.wait_for_tasks
-- take view workflow.claims

-- Times of the history; see create_partition(). This reads the history once.
DO $$
DECLARE
    name name;
BEGIN
    FOR name IN
        SELECT c.relname
        FROM pg_catalog.pg_inherits AS i
        JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid
        WHERE i.inhparent OPERATOR(pg_catalog.=) 'workflow.state_history'::pg_catalog.regclass
    LOOP
        EXECUTE pg_catalog.format('CREATE INDEX %I ON workflow.%I USING brin (id, changed_at) WITH (autosummarize = true)',
            name::pg_catalog.text OPERATOR(pg_catalog.||) '_id_changed_at_idx', name);
    END LOOP;
END
$$;
-- take function workflow.bisect_events
-- take function workflow.event_id_at
-- take function workflow.event_id_before

-- Consumers belong to a role. The old ones have no known creator: they belong to all writers, as before.
ALTER TABLE workflow.consumers
    ADD COLUMN owner text NOT NULL DEFAULT 'workflow_writer',
    ADD COLUMN given_up_at timestamptz,
    ADD CONSTRAINT consumers_name_check CHECK (
        name OPERATOR(pg_catalog.~) '[^[:space:]]' AND pg_catalog.char_length(name) OPERATOR(pg_catalog.<=) 250
    );
ALTER TABLE workflow.consumers ALTER COLUMN owner SET DEFAULT CURRENT_USER;
-- What an open window has returned is not known: all of it may be acknowledged, as before.
ALTER TABLE workflow.consumers ADD COLUMN returned_id bigint NOT NULL DEFAULT 0;
UPDATE workflow.consumers SET returned_id = window_ceiling_id WHERE window_ceiling_id IS NOT NULL;
-- What a role can store costs every reader of positions.
ALTER TABLE workflow.consumers ADD CONSTRAINT consumers_size_check CHECK (
    pg_catalog.pg_column_size(snapshot) OPERATOR(pg_catalog.<=) 1048576
    AND pg_catalog.pg_column_size(window_snapshot) OPERATOR(pg_catalog.<=) 1048576
);
ALTER TABLE workflow.consumer_checkpoints ADD CONSTRAINT consumer_checkpoints_size_check CHECK (
    pg_catalog.pg_column_size(snapshot) OPERATOR(pg_catalog.<=) 1048576
    AND pg_catalog.pg_column_size(window_snapshot) OPERATOR(pg_catalog.<=) 1048576
);
-- take function workflow.owns_consumer
CREATE POLICY owner ON workflow.consumers USING (workflow.owns_consumer(owner));
ALTER TABLE workflow.consumers ENABLE ROW LEVEL SECURITY;
CREATE POLICY owner ON workflow.consumer_checkpoints
USING (EXISTS (SELECT FROM workflow.consumers AS c WHERE c.name OPERATOR(pg_catalog.=) consumer));
ALTER TABLE workflow.consumer_checkpoints ENABLE ROW LEVEL SECURITY;

-- take function workflow.refuse_consumer
-- take function workflow.refuse_given_up
-- take function workflow.refuse_tenant
-- take type workflow.feed_position
-- take function workflow.is_acknowledged
-- take function workflow.is_in_window
-- The mark of this database: a dump leaves it out. A copy of the cluster's files keeps it, as it keeps transaction IDs.
CREATE SEQUENCE workflow.database_mark MAXVALUE 9223372036854775807;
COMMENT ON SEQUENCE workflow.database_mark IS
'Internal: a random number, drawn by CREATE EXTENSION, or by finish_copy() after a restore; see origin().';
-- take function workflow.draw_mark
SELECT workflow.draw_mark();

-- take function workflow.origin
UPDATE workflow.consumers AS c SET system_identifier = workflow.origin()
WHERE c.system_identifier OPERATOR(pg_catalog.=) workflow.system_identifier();
-- take function workflow.forget_origin
CREATE TRIGGER forget_origin
BEFORE INSERT ON workflow.consumers
FOR EACH ROW EXECUTE FUNCTION workflow.forget_origin();
ALTER TABLE workflow.consumers ENABLE ALWAYS TRIGGER forget_origin;
UPDATE workflow.consumer_checkpoints AS c SET system_identifier = workflow.origin()
WHERE c.system_identifier OPERATOR(pg_catalog.=) workflow.system_identifier();
UPDATE workflow.state_count_place AS p SET system_identifier = workflow.origin()
WHERE p.system_identifier OPERATOR(pg_catalog.=) workflow.system_identifier();

-- take function workflow.is_foreign
-- take function workflow.refuse_foreign
-- take function workflow.next_writer
-- take function workflow.written_ids
-- take function workflow.unfinished_transactions
-- take function workflow.late_ids
-- take function workflow.late_events
-- take function workflow.events_above
-- take function workflow.late_ids_in_window
-- take function workflow.events_in_window
-- take function workflow.events_between
-- take function workflow.first_position
-- take function workflow.after_unfinished
-- take function workflow.open_window
-- take function workflow.close_window
-- take function workflow.relocate_position
-- take function workflow.position_of
-- take function workflow.store_position
-- take function workflow.note_returned
-- take function workflow.last_returned
-- take function workflow.is_leased
-- take function workflow.lock_consumer
-- take function workflow.check_reading
-- take function workflow.create_consumer
-- take function workflow.wake_readers
-- take function workflow.wait_for_commit
-- take function workflow.has_events
-- take function workflow.consumer_has_events
-- take function workflow.wait_in_function
-- take procedure workflow.wait_for_events
-- take function workflow.read_events
-- take function workflow.ack_events
-- take function workflow.skip_event
-- take function workflow.resume_consumer
-- take function workflow.drop_consumer
-- take function workflow.wal_end
-- take function workflow.timeline_end
-- take function workflow.event_hash
-- take type workflow.follower_position
-- take function workflow.format_snapshot
-- take function workflow.parse_snapshot
-- take function workflow.format_position
-- take function workflow.check_partitions
-- take function workflow.position_fault
-- take function workflow.parse_position
-- take function workflow.mark_position
-- take function workflow.open_followed_window
-- take function workflow.close_followed_window
-- take function workflow.position_after
-- take function workflow.current_position
-- take function workflow.follow_events
-- take function workflow.position_has_events
-- take procedure workflow.wait_for_events_after
-- One sequence for all consumers: one that is dropped and created again gets no number that a session still holds.
CREATE SEQUENCE workflow.lease_number_seq;
COMMENT ON SEQUENCE workflow.lease_number_seq IS
'Internal: draws the numbers of leases.';

REVOKE ALL ON SEQUENCE workflow.database_mark, workflow.lease_number_seq
FROM PUBLIC, workflow_reader, workflow_writer, workflow_admin;
GRANT USAGE ON SEQUENCE workflow.lease_number_seq TO workflow_writer;
SELECT pg_catalog.setval('workflow.lease_number_seq', GREATEST(1, pg_catalog.max(c.lease_number)))
FROM workflow.consumers AS c
WHERE c.lease_number OPERATOR(pg_catalog.<) 1000000000000000000;
-- take function workflow.lease_consumer
-- take function workflow.release_consumer
-- take function workflow.save_checkpoint
-- take function workflow.rewind_consumer
-- take view workflow.consumer_lag
-- take view workflow.state_counts
-- take function workflow.needs_history
DROP FUNCTION workflow.who_needs_history(bigint);
-- take function workflow.who_needs_history
-- take function workflow.purge_logs
-- take function workflow.give_up_consumers
-- take function workflow.create_partition
-- take function workflow.switch_to_partition

-- take function workflow.check_size
-- take function workflow.check_finite
-- take function workflow.check_fields
CREATE TRIGGER zz_check_fields
BEFORE INSERT ON workflow.dags
FOR EACH ROW EXECUTE FUNCTION workflow.check_fields();
CREATE TRIGGER zz_check_fields
BEFORE INSERT ON workflow.task_logs
FOR EACH ROW EXECUTE FUNCTION workflow.check_fields();
-- take function workflow.create_dag
-- take function workflow.create_dag_run
DROP FUNCTION workflow.create_task_instances(uuid, text[], integer);
-- take function workflow.create_task_instances
-- take function workflow.is_subscriber
-- take function workflow.refuse_subscriber
-- take function workflow.refuse_copy
-- take function workflow.forget_notifications
-- take function workflow.refuse_block
-- take function workflow.refuse_early_end
-- take function workflow.relocate_consumers
-- take function workflow.enable_triggers
-- take function workflow.finish_copy

REVOKE UPDATE (state, execution_date, conf) ON workflow.dag_runs FROM workflow_writer;
REVOKE UPDATE (state, max_tries, error) ON workflow.task_instances FROM workflow_writer;
-- take function workflow.load_library
CREATE EVENT TRIGGER pg_workflow_load_library ON ddl_command_start
WHEN TAG IN ('ALTER TABLE', 'CREATE INDEX', 'CREATE RULE', 'CREATE SCHEMA', 'CREATE STATISTICS', 'CREATE TABLE', 'CREATE TRIGGER')
EXECUTE FUNCTION workflow.load_library();
GRANT REFERENCES ON workflow.dags, workflow.dag_runs, workflow.task_instances TO workflow_writer;

-- Trigger functions check which trigger calls them.
-- take function workflow.note_deletion
-- take function workflow.forget_counts

-- Reworded, or planned by indexes.
-- take function workflow.set_dag_paused
DROP FUNCTION workflow.append_task_log(uuid, text, text, timestamptz);
-- take function workflow.append_task_log
-- take function workflow.history
-- take function workflow.state_at
-- take function workflow.last_event_id
-- take function workflow.others_snapshot
-- take function workflow.current_place
-- take function workflow.forget_state_counts
-- take function workflow.fold_state_counts
-- take function workflow.advance_partitions
-- take function workflow.open_partitions
-- take function workflow.drop_partition
-- take function workflow.free_partitions
-- take function workflow.delete_runs
DROP FUNCTION workflow.finished_runs(timestamptz);
-- take function workflow.finished_runs
-- take function workflow.next_finished_runs
-- take function workflow.lock_finished_runs
DROP FUNCTION workflow.purge_runs(timestamptz, integer, boolean);
-- take function workflow.delete_finished_runs
-- take function workflow.purge_runs
-- take function workflow.drop_old_partitions
-- take function workflow.purge_partitions
-- take function workflow.past_history
-- take function workflow.purge_history
-- take function workflow.purge
-- take function workflow.tasks_of_foreign_queues
-- take function workflow.unclaimable_tasks
-- take function workflow.verify
-- take function workflow.stuck
-- take function workflow.show_settings

DROP FUNCTION workflow.unfinished_transactions(pg_snapshot, xid8, bigint);
DROP FUNCTION workflow.open_window(workflow.consumers);
DROP FUNCTION workflow.close_window(workflow.consumers);
DROP FUNCTION workflow.found_by_ids(workflow.consumers);
DROP FUNCTION workflow.locked_consumer(text, bigint);
DROP FUNCTION workflow.wait_for_events(text, double precision);
DROP FUNCTION workflow.note_found_nothing(text, bigint);
DROP FUNCTION workflow.spelled_snapshot(pg_snapshot);
DROP FUNCTION workflow.parsed_snapshot(text);
DROP FUNCTION workflow.spelled_position(workflow.consumers);
DROP FUNCTION workflow.parsed_position(text);
DROP FUNCTION workflow.position_after(workflow.consumers, bigint, boolean);
DROP FUNCTION workflow.needs_history(workflow.consumers, bigint);
DROP FUNCTION workflow.make_partition(text, bigint);
DROP FUNCTION workflow.go_on_to_partition(text, bigint);

-- Row security. It was enabled if tenants were isolated, by our policies or by an administrator's.
-- take table workflow.row_security
INSERT INTO workflow.row_security (is_enabled)
VALUES (false)
UNION
SELECT c.relrowsecurity
FROM pg_catalog.pg_class AS c
WHERE c.oid OPERATOR(pg_catalog.=) ANY (
    '{workflow.dags,workflow.dag_runs,workflow.task_instances,workflow.task_logs,workflow.state_history}'::pg_catalog.regclass[]);
SELECT pg_catalog.pg_extension_config_dump('workflow.row_security', '');

-- take function workflow.shows_all_tenants
-- take function workflow.replan
CREATE TRIGGER replan
AFTER INSERT OR UPDATE OR DELETE ON workflow.row_security
FOR EACH ROW EXECUTE FUNCTION workflow.replan();
CREATE TRIGGER replan_truncated
AFTER TRUNCATE ON workflow.row_security
FOR EACH STATEMENT EXECUTE FUNCTION workflow.replan();
ALTER TABLE workflow.row_security ENABLE ALWAYS TRIGGER replan;
ALTER TABLE workflow.row_security ENABLE ALWAYS TRIGGER replan_truncated;
-- take function workflow.create_policy
-- take function workflow.cancel_vacuum
-- take function workflow.lock_in_attempts
-- take function workflow.enable_row_security
-- take function workflow.disable_row_security
-- take function workflow.count_states

DO $$
DECLARE
    guarded record;
BEGIN
    FOR guarded IN
        SELECT t.name AS table_name, c.relname AS relation
        FROM pg_catalog.unnest('{dags,dag_runs,task_instances,task_logs,state_history,queue_settings,ready,parked,joins,waits}'::pg_catalog.text[]) AS t (name)
        JOIN pg_catalog.pg_class AS c ON c.relname OPERATOR(pg_catalog.=) t.name
            -- Partitions, and those that purge() has dropped and not yet freed.
            OR (t.name OPERATOR(pg_catalog.=) ANY ('{task_logs,state_history}'::pg_catalog.text[])
                AND c.relname OPERATOR(pg_catalog.~) ('^(dropped_)?' OPERATOR(pg_catalog.||) t.name OPERATOR(pg_catalog.||) '_[0-9]+$'))
        WHERE c.relnamespace OPERATOR(pg_catalog.=) 'workflow'::pg_catalog.regnamespace
            AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::pg_catalog."char"[])
    LOOP
        EXECUTE pg_catalog.format('DROP POLICY IF EXISTS tenant ON workflow.%I', guarded.relation);
        PERFORM workflow.create_policy(guarded.table_name, guarded.relation::pg_catalog.text);
    END LOOP;
END
$$;


-- take grants
-- take comments
