-- Copies by logical replication: for an upgrade of PostgreSQL without a long stop.
--
-- While a subscription writes this database, the events arrive in the order of commits on the publisher, with the
-- transaction IDs of the publisher. So nothing here can tell which events a reader has had: the feed stays closed.
-- At the switch finish_copy() starts new partitions. So every event of the publisher is in an earlier partition than
-- every event of this cluster, and its transaction ID is never compared with those of this cluster again.

CREATE FUNCTION workflow.is_subscriber()
RETURNS boolean
-- Not sql: that would be parsed and planned at each read.
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_subscription_rel AS s
        JOIN pg_class AS c ON c.oid = s.srrelid
        WHERE c.relnamespace = 'workflow'::regnamespace);
END
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
    IF workflow.origin() = 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('cannot %s: the restore of this database is not finished', tried),
            DETAIL = jsonb_build_object('is_restored', true)::text,
            HINT = 'When the restore is complete, the owner of the extension calls finish_copy() once.';
    END IF;
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
'Internal: raises 55000 while a subscription writes the tables of this database, and then until finish_copy(); and after a restore until then.';

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

CREATE FUNCTION workflow.refuse_early_end()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    level text := current_setting('transaction_isolation');
    pids integer[] := ARRAY(
        SELECT a.pid
        FROM pg_stat_activity AS a
        JOIN pg_roles AS r ON r.oid = a.usesysid
        WHERE a.datname = current_database() AND a.application_name = 'pg_restore' AND r.rolsuper
        ORDER BY a.pid);
BEGIN
    -- It waits for the sessions that still load rows, and its snapshot would not show these.
    IF level NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = format('cannot finish the copy in isolation level %s', level),
            DETAIL = jsonb_build_object('transaction_isolation', level)::text,
            HINT = 'Execute SET default_transaction_isolation = ''read committed'' in this session, then repeat the call.';
    END IF;
    -- Between two tables it holds no lock.
    IF pids <> '{}' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'cannot finish the copy: pg_restore is loading this database',
            DETAIL = jsonb_build_object('pids', pids)::text,
            HINT = 'Wait until pg_restore has ended, then repeat the call.';
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.refuse_early_end() IS
'Internal: raises an error where finish_copy() could miss rows of the restore. Errors: 0A000 the transaction has a fixed snapshot, 55000 a superuser''s session named pg_restore is in this database.';

CREATE FUNCTION workflow.relocate_consumers(first_id bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    consumer workflow.consumers;
    is_foreign boolean;
    pos workflow.feed_position;
BEGIN
    -- All of them: a subscriber made from a copy of the publisher's files has its mark, and transaction IDs of its own.
    FOR consumer IN SELECT c.* FROM workflow.consumers AS c LOOP
        is_foreign := workflow.is_foreign(workflow.position_of(consumer));
        pos := workflow.relocate_position(workflow.position_of(consumer));
        -- It can be after ids that were drawn there and are drawn again here.
        pos.floor_id := least(pos.floor_id, first_id);
        PERFORM workflow.store_position(consumer.name, pos);
        -- The session that held the lease is one of another database.
        UPDATE workflow.consumers AS c
        SET lease_expires_at = NULL, lease_pid = NULL, lease_backend_start = NULL
        WHERE c.name = consumer.name AND is_foreign AND c.lease_pid IS NOT NULL;
    END LOOP;
    -- rewind_consumer() finds them.
    UPDATE workflow.consumer_checkpoints AS c
    SET system_identifier = 0,
        floor_id = least(c.floor_id, first_id),
        window_floor_id = least(c.window_floor_id, first_id),
        window_ceiling_id = least(c.window_ceiling_id, first_id),
        acked_id = least(c.acked_id, first_id);
END
$$;
COMMENT ON FUNCTION workflow.relocate_consumers(bigint) IS
'Internal: finds the positions of consumers by ids, for finish_copy(), and has rewind_consumer() find those of checkpoints. first_id: events of this database have higher ids.';

CREATE FUNCTION workflow.enable_triggers()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    disabled record;
BEGIN
    -- pg_restore --disable-triggers leaves them without ALWAYS.
    FOR disabled IN
        SELECT t.tgrelid::regclass AS relation, t.tgname
        FROM pg_trigger AS t
        WHERE t.tgrelid = ANY ('{workflow.consumers,workflow.row_security}'::regclass[])
            AND NOT t.tgisinternal
            AND t.tgname IN ('forget_origin', 'replan', 'replan_truncated')
            AND t.tgenabled <> 'A'
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', disabled.relation, disabled.tgname);
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.enable_triggers() IS
'Internal: has the triggers that a restored row must not pass fire always again.';

CREATE FUNCTION workflow.finish_copy()
RETURNS TABLE ("partition" text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    number bigint;
    first_id bigint;
    table_name text;
BEGIN
    -- A rollback would leave the sequences ahead of their partitions.
    PERFORM workflow.refuse_block('finish the copy');
    PERFORM workflow.refuse_subscriber('finish the copy');
    PERFORM workflow.refuse_early_end();
    INSERT INTO workflow.state_count_place DEFAULT VALUES ON CONFLICT DO NOTHING;
    PERFORM workflow.lock_in_attempts('copy');
    -- The first one after all rows; a repeated call finds it again.
    SELECT greatest(
            coalesce(max(r.last_id) / workflow.partition_size(), 0) + 1,
            workflow.current_partition('task_logs'),
            workflow.current_partition('state_history'),
            -- Replication copies no sequence.
            (SELECT max(c.first_id) / workflow.partition_size() FROM workflow.copies AS c))
    INTO number
    FROM (
        SELECT max(l.id) FROM workflow.task_logs AS l
        UNION ALL
        SELECT max(h.id) FROM workflow.state_history AS h
    ) AS r (last_id);
    first_id := number * workflow.partition_size();
    FOREACH table_name IN ARRAY '{task_logs,state_history}'::text[] LOOP
        "partition" := format('%s_%s', table_name, number);
        IF to_regclass(format('workflow.%I', "partition")) IS NULL THEN
            PERFORM workflow.create_partition(table_name, number);
        END IF;
        RETURN NEXT;
    END LOOP;
    PERFORM workflow.relocate_consumers(first_id);
    PERFORM workflow.forget_state_counts();
    PERFORM workflow.enable_triggers();
    INSERT INTO workflow.copies (first_id) VALUES (first_id) ON CONFLICT DO NOTHING;
    IF NOT EXISTS (SELECT FROM workflow.row_security) THEN
        RAISE WARNING USING
            MESSAGE = 'tenants are isolated: the copy did not say whether they were',
            HINT = 'If every role may see all rows, call disable_row_security(); otherwise enable_row_security().';
    END IF;
    -- Last: a rollback does not undo these steps. The first id counts as drawn, so that positions are in the new partition.
    -- Never back: a position can be after ids of transactions that were rolled back.
    PERFORM setval(t.sequence, greatest(first_id, pg_sequence_last_value(t.sequence)))
    FROM unnest('{workflow.task_logs_id_seq,workflow.state_history_id_seq}'::regclass[]) AS t (sequence);
    -- Without a number that a role has made up for a consumer of its own.
    PERFORM setval('workflow.lease_number_seq', greatest(max(c.lease_number), pg_sequence_last_value('workflow.lease_number_seq'), 1))
    FROM workflow.consumers AS c
    WHERE c.lease_number < 1000000000000000000;
    IF workflow.origin() = 0 THEN
        PERFORM workflow.draw_mark();
    END IF;
    UPDATE workflow.consumers AS c SET system_identifier = workflow.origin();
    PERFORM workflow.forget_notifications();
END
$$;
COMMENT ON FUNCTION workflow.finish_copy() IS
'Makes this copy independent of the database that it was copied from, after a restore or DROP SUBSCRIPTION: starts new partitions, sets the sequences, finds the positions of consumers, releases their leases and discards stored counts. A batch that a consumer has read and not acknowledged is redelivered. Waits, up to lock_timeout, until no other session uses the tables. Returns the new partitions. Owner only. Execute it as a statement of its own. Errors: 0A000 the transaction has a fixed snapshot, 25001 in a transaction block, 55000 a subscription writes this database, or pg_restore is loading it.';
