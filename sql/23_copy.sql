-- Copies by logical replication: for an upgrade of PostgreSQL without a long stop.
--
-- While a subscription writes this database, the events arrive in the order of commits on the publisher, with the
-- transaction IDs of the publisher. So nothing here can tell which events a reader has had: the feed stays closed.
-- At the switch finish_copy() starts new partitions. So every event of the publisher is in an earlier partition than
-- every event of this cluster, and its transaction ID is never compared with those of this cluster again.

CREATE FUNCTION workflow.is_subscriber()
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM pg_subscription_rel AS s
        JOIN pg_class AS c ON c.oid = s.srrelid
        WHERE c.relnamespace = 'workflow'::regnamespace)
$$;
COMMENT ON FUNCTION workflow.is_subscriber() IS
'Internal: whether a subscription writes the tables of this database.';

CREATE FUNCTION workflow.refuse_subscriber(tried text)
RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF workflow.is_subscriber() THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('cannot %s: a subscription writes this database', tried),
            DETAIL = (
                SELECT jsonb_build_object('subscriptions', jsonb_agg(DISTINCT s.subname))::text
                FROM pg_subscription_rel AS r
                JOIN pg_subscription AS s ON s.oid = r.srsubid
                JOIN pg_class AS c ON c.oid = r.srrelid
                WHERE c.relnamespace = 'workflow'::regnamespace),
            HINT = 'Use the publisher. To switch to this database, use DROP SUBSCRIPTION, and then call finish_copy().';
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.refuse_subscriber(text) IS
'Internal: raises 55000 while a subscription writes the tables of this database.';

CREATE FUNCTION workflow.restoring_process()
RETURNS integer
LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'restoring_process_wrapper';
COMMENT ON FUNCTION workflow.restoring_process() IS
'Internal: returns the process ID of another session of this database that belongs to a superuser and is named pg_restore; null: there is none.';

CREATE FUNCTION workflow.refuse_restore(tried text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pid integer := workflow.restoring_process();
BEGIN
    IF pid IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('cannot %s: pg_restore is loading this database', tried),
            DETAIL = jsonb_build_object('pid', pid)::text,
            HINT = 'Wait until pg_restore has ended and the owner of the extension has called finish_copy().';
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.refuse_restore(text) IS
'Internal: raises 55000 while pg_restore loads this database.';

CREATE FUNCTION workflow.refuse_copy(tried text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
BEGIN
    PERFORM workflow.refuse_subscriber(tried);
    PERFORM workflow.refuse_restore(tried);
    -- The subscription is gone, and the sequence is not set. Each id that the query shows was drawn before it began.
    IF (SELECT max(h.id) FROM workflow.state_history AS h) > workflow.last_event_id() THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('cannot %s: the history has ids that its sequence has not drawn', tried),
            DETAIL = jsonb_build_object('last_id', workflow.last_event_id())::text,
            HINT = 'After a restore is complete, or after DROP SUBSCRIPTION, call finish_copy(). Otherwise call setval() on workflow.state_history_id_seq with the highest id that was ever used.';
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.refuse_copy(text) IS
'Internal: raises 55000 while a subscription or pg_restore writes the tables of this database, and then until finish_copy().';

CREATE FUNCTION workflow.forget_notifications()
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'forget_notifications_wrapper';
COMMENT ON FUNCTION workflow.forget_notifications() IS
'Internal: has listeners hear only events that begin from now on. A rollback does not undo it.';

CREATE FUNCTION workflow.refuse_block(tried text)
RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'refuse_block_wrapper';
COMMENT ON FUNCTION workflow.refuse_block(text) IS
'Internal: raises 25001 in a transaction block.';

CREATE FUNCTION workflow.refuse_fixed_snapshot(tried text)
RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    level text := current_setting('transaction_isolation');
BEGIN
    IF level NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = format('cannot %s in isolation level %s', tried, level),
            DETAIL = jsonb_build_object('transaction_isolation', level)::text,
            HINT = 'Execute SET default_transaction_isolation = ''read committed'' in this session, then repeat the call.';
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.refuse_fixed_snapshot(text) IS
'Internal: raises 0A000 if the transaction has a fixed snapshot, which does not show what was committed while the transaction waited.';

CREATE FUNCTION workflow.finish_copy()
RETURNS TABLE ("partition" text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    number bigint;
    table_name text;
    consumer workflow.consumers;
    is_foreign boolean;
    pos workflow.feed_position;
BEGIN
    -- A rollback would leave the sequences ahead of their partitions.
    PERFORM workflow.refuse_block('finish the copy');
    PERFORM workflow.refuse_subscriber('finish the copy');
    PERFORM workflow.refuse_restore('finish the copy');
    PERFORM workflow.refuse_fixed_snapshot('finish the copy');
    INSERT INTO workflow.state_count_place DEFAULT VALUES ON CONFLICT DO NOTHING;
    PERFORM workflow.lock_in_attempts('copy');
    -- The first one after all rows; a repeated call finds it again.
    SELECT greatest(
            coalesce(max(r.last_id) / workflow.partition_size(), 0) + 1,
            workflow.current_partition('task_logs'),
            workflow.current_partition('state_history'))
    INTO number
    FROM (
        SELECT max(l.id) FROM workflow.task_logs AS l
        UNION ALL
        SELECT max(h.id) FROM workflow.state_history AS h
    ) AS r (last_id);
    FOREACH table_name IN ARRAY '{task_logs,state_history}'::text[] LOOP
        "partition" := format('%s_%s', table_name, number);
        IF to_regclass(format('workflow.%I', "partition")) IS NULL THEN
            PERFORM workflow.create_partition(table_name, number);
        END IF;
        RETURN NEXT;
    END LOOP;
    -- All of them: a subscriber made from a copy of the publisher's files has its mark, and transaction IDs of its own.
    FOR consumer IN SELECT c.* FROM workflow.consumers AS c LOOP
        is_foreign := workflow.is_foreign(workflow.position_of(consumer));
        pos := workflow.relocate_position(workflow.position_of(consumer));
        -- It can be after ids that were drawn there and are drawn again here.
        pos.floor_id := least(pos.floor_id, number * workflow.partition_size());
        pos.system_identifier := workflow.origin();
        PERFORM workflow.store_position(consumer.name, pos);
        -- The session that held the lease is one of another database.
        UPDATE workflow.consumers AS c
        SET lease_expires_at = NULL, lease_pid = NULL, lease_backend_start = NULL
        WHERE c.name = consumer.name AND is_foreign AND c.lease_pid IS NOT NULL;
    END LOOP;
    UPDATE workflow.consumer_checkpoints AS c SET system_identifier = 0 WHERE c.system_identifier <> 0;
    PERFORM workflow.forget_state_counts();
    INSERT INTO workflow.copies (first_id) VALUES (number * workflow.partition_size()) ON CONFLICT DO NOTHING;
    IF NOT EXISTS (SELECT FROM workflow.row_security) THEN
        RAISE WARNING USING
            MESSAGE = 'tenants are isolated: the copy did not say whether they were',
            HINT = 'If every role may see all rows, call disable_row_security(); otherwise enable_row_security().';
    END IF;
    -- Last: a rollback does not undo these steps. The first id counts as drawn, so that positions are in the new partition.
    -- Never back: a position can be after ids of transactions that were rolled back.
    PERFORM setval(t.sequence, greatest(number * workflow.partition_size(), pg_sequence_last_value(t.sequence)))
    FROM unnest('{workflow.task_logs_id_seq,workflow.state_history_id_seq}'::regclass[]) AS t (sequence);
    -- Without a number that a role has made up for a consumer of its own.
    PERFORM setval('workflow.lease_number_seq', greatest(max(c.lease_number), pg_sequence_last_value('workflow.lease_number_seq'), 1))
    FROM workflow.consumers AS c
    WHERE c.lease_number < 1000000000000000000;
    PERFORM workflow.forget_notifications();
END
$$;
COMMENT ON FUNCTION workflow.finish_copy() IS
'Makes this copy independent of the database that it was copied from, after a restore or DROP SUBSCRIPTION: starts new partitions, sets the sequences, finds the positions of consumers, releases their leases and discards stored counts. Waits, up to lock_timeout, until no other session uses the tables. Returns the new partitions. Owner only. Execute it as a statement of its own. Errors: 0A000 the transaction has a fixed snapshot, 25001 in a transaction block, 55000 a subscription writes this database, or pg_restore is loading it.';
