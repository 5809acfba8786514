-- The event feed: named consumers that each read every event at least once.
--
-- The order of ids is not the order of commits, so "id > last" loses events. A consumer's place is therefore a
-- snapshot: it has been given what was visible in it. The next window is what is visible now and was not then
-- (the way of PgQ). Within a window events come in the order of their ids, which within an entity is the order
-- of its versions: the next version cannot be written before the last has committed.
--
-- Finding a window without reading the table. With each snapshot go two numbers: floor_id, the last id drawn before
-- the snapshot was taken, and next_transaction_id, the first transaction number not yet given out after it.
--   * A transaction from next_transaction_id on began later, so its ids are above floor_id: most of the window is a
--     range of the primary key.
--   * Any other that is not visible in the snapshot was under way: it is in the snapshot's list, or its number is
--     from the snapshot's xmax (which is the last one that ended, plus one) up to next_transaction_id. There are no
--     more of those than sessions, and what they wrote is found by their numbers (state_history_transaction_id_idx).

CREATE TABLE workflow.consumers (
    name                       text        NOT NULL,
    snapshot                   pg_snapshot,
    next_transaction_id        xid8,
    floor_id                   bigint      NOT NULL,
    window_snapshot            pg_snapshot,
    window_next_transaction_id xid8,
    window_floor_id            bigint,
    window_ceiling_id          bigint,
    acked_id                   bigint      NOT NULL DEFAULT 0,
    system_identifier          bigint      NOT NULL,
    created_at                 timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at                 timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT consumers_pkey PRIMARY KEY (name),
    CONSTRAINT consumers_snapshot_check CHECK ((snapshot IS NULL) OPERATOR(pg_catalog.=) (next_transaction_id IS NULL)),
    CONSTRAINT consumers_window_check CHECK (
        pg_catalog.num_nulls(window_snapshot, window_next_transaction_id, window_floor_id, window_ceiling_id)
            OPERATOR(pg_catalog.=) ANY ('{0,4}'::integer[])
    )
-- A row that changes with every batch: leave room to change it in place.
) WITH (fillfactor = 10);

COMMENT ON TABLE workflow.consumers IS 'Readers of the event feed and their places in it; see create_consumer().';
COMMENT ON COLUMN workflow.consumers.name IS 'unique; 1 to 250 characters, not blank';
COMMENT ON COLUMN workflow.consumers.snapshot IS 'what is visible in it has been acknowledged; null: what has an id up to floor_id has been';
COMMENT ON COLUMN workflow.consumers.next_transaction_id IS 'transactions from this number on began after the snapshot';
COMMENT ON COLUMN workflow.consumers.floor_id IS 'those transactions'' events have ids above it';
COMMENT ON COLUMN workflow.consumers.window_snapshot IS 'while a window is being read: what the window reaches to';
COMMENT ON COLUMN workflow.consumers.window_next_transaction_id IS 'next_transaction_id of the next window';
COMMENT ON COLUMN workflow.consumers.window_floor_id IS 'floor_id of the next window';
COMMENT ON COLUMN workflow.consumers.window_ceiling_id IS 'no event of the window has an id above it';
COMMENT ON COLUMN workflow.consumers.acked_id IS 'the last event of the window that was acknowledged; 0: none';
COMMENT ON COLUMN workflow.consumers.system_identifier IS 'the cluster that the snapshots belong to';
COMMENT ON COLUMN workflow.consumers.created_at IS 'when the consumer was created';
COMMENT ON COLUMN workflow.consumers.updated_at IS 'when it last opened or closed a window, or acknowledged';

CREATE FUNCTION workflow.system_identifier()
RETURNS bigint
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'system_identifier_wrapper';
COMMENT ON FUNCTION workflow.system_identifier() IS
'Internal: the cluster''s identifier. Transaction numbers mean nothing in another.';

CREATE FUNCTION workflow.last_event_id()
RETURNS bigint
-- Not SQL, here and below: that would be planned anew at every call.
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce(pg_sequence_last_value('workflow.state_history_id_seq'::regclass), 0);
END
$$;
COMMENT ON FUNCTION workflow.last_event_id() IS
'Internal: the highest id drawn so far, by any transaction.';

CREATE FUNCTION workflow.next_transaction_id()
RETURNS xid8
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'next_transaction_id_wrapper';
COMMENT ON FUNCTION workflow.next_transaction_id() IS
'Internal: the first transaction number that has not been given out.';

CREATE FUNCTION workflow.others_snapshot()
RETURNS pg_snapshot
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own xid8 := pg_current_xact_id();
    now pg_snapshot := pg_current_snapshot();
BEGIN
    -- The calling transaction is not in its own snapshot's list. It may still write more, so it must be.
    IF own >= pg_snapshot_xmax(now) THEN
        RETURN now;
    END IF;
    RETURN format('%s:%s:%s', least(own, pg_snapshot_xmin(now)), pg_snapshot_xmax(now),
        (SELECT string_agg(x.xid::text, ',' ORDER BY x.xid)
         FROM (SELECT pg_snapshot_xip(now) UNION SELECT own) AS x (xid)));
END
$$;
COMMENT ON FUNCTION workflow.others_snapshot() IS
'Internal: the current snapshot, with the calling transaction counted as in progress.';

CREATE FUNCTION workflow.unfinished_transactions(snapshot pg_snapshot, next_transaction_id xid8)
RETURNS SETOF xid8
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
ROWS 10
AS $$
DECLARE
    at_least xid8 := pg_snapshot_xmax(snapshot);
    found_id xid8;
BEGIN
    RETURN QUERY SELECT pg_snapshot_xip(snapshot);
    -- Walks the index from one number to the next, however much each has written.
    LOOP
        SELECT h.transaction_id INTO found_id
        FROM workflow.state_history AS h
        WHERE h.transaction_id >= at_least
            AND h.transaction_id < unfinished_transactions.next_transaction_id
        ORDER BY h.transaction_id
        LIMIT 1;
        EXIT WHEN NOT FOUND;
        RETURN NEXT found_id;
        at_least := (found_id::text::bigint + 1)::text::xid8;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.unfinished_transactions(pg_snapshot, xid8) IS
'Internal: the transactions that were under way at a snapshot, and may have written events below its floor_id.';

CREATE FUNCTION workflow.check_consumer_name(name text)
RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF name IS NULL OR name !~ '\S' OR char_length(name) > 250 THEN
        PERFORM workflow.refuse_argument(
            'a consumer''s name is ' || CASE WHEN name IS NULL THEN 'null' WHEN name !~ '\S' THEN 'empty' ELSE 'too long' END,
            jsonb_build_object('argument', 'consumer', 'value', left(name, 250)),
            'A name has 1 to 250 characters, at least one of them visible.');
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.check_consumer_name(text) IS 'Internal: raises 22023 for a name that makes no sense.';

CREATE FUNCTION workflow.create_consumer(name text, from_beginning boolean DEFAULT false)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    floor_id bigint := 0;
    snapshot pg_snapshot;
    next_transaction_id xid8;
BEGIN
    PERFORM workflow.check_consumer_name(name);
    IF NOT coalesce(from_beginning, false) THEN
        -- In this order, and each seeing the present: see the head of this file. A transaction whose snapshot
        -- stands still cannot tell the present value, so it begins at 0, which only costs a longer search.
        IF current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') THEN
            floor_id := workflow.last_event_id();
        END IF;
        snapshot := workflow.others_snapshot();
        next_transaction_id := workflow.next_transaction_id();
    END IF;
    INSERT INTO workflow.consumers (name, snapshot, next_transaction_id, floor_id, system_identifier)
    VALUES (create_consumer.name, snapshot, next_transaction_id, floor_id, workflow.system_identifier())
    ON CONFLICT ON CONSTRAINT consumers_pkey DO NOTHING;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION workflow.create_consumer(text, boolean) IS
'Creates a reader of the event feed that begins with what commits from now on, or with the first event still kept. Returns false, and changes nothing, where it exists already. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.locked_consumer(name text)
RETURNS workflow.consumers
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    consumer workflow.consumers;
BEGIN
    PERFORM workflow.check_consumer_name(name);
    SELECT c.* INTO consumer FROM workflow.consumers AS c WHERE c.name = locked_consumer.name FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_missing('consumer', name, 'read its events');
    END IF;
    IF consumer.system_identifier = workflow.system_identifier() THEN
        RETURN consumer;
    END IF;
    -- The table came from another cluster (a restored dump, pg_upgrade), whose transaction numbers mean nothing
    -- here. Ids still do: begin again at the lowest that may not have been acknowledged. Some events come twice.
    UPDATE workflow.consumers AS c
    SET snapshot = NULL,
        next_transaction_id = NULL,
        floor_id = least(c.floor_id, (
            SELECT min(h.id) - 1
            FROM workflow.unfinished_transactions(c.snapshot, c.next_transaction_id) AS x (transaction_id)
            JOIN workflow.state_history AS h ON h.transaction_id = x.transaction_id)),
        window_snapshot = NULL, window_next_transaction_id = NULL, window_floor_id = NULL, window_ceiling_id = NULL,
        acked_id = 0,
        system_identifier = workflow.system_identifier(),
        updated_at = clock_timestamp()
    WHERE c.name = locked_consumer.name
    RETURNING c.* INTO consumer;
    RETURN consumer;
END
$$;
COMMENT ON FUNCTION workflow.locked_consumer(text) IS
'Internal: the consumer, locked until the transaction ends. Errors: P0002 no such consumer.';

CREATE FUNCTION workflow.read_events(consumer text, max integer DEFAULT 1000)
RETURNS TABLE (
    id          bigint,
    entity_type text,
    entity_id   uuid,
    dag_id      uuid,
    dag_run_id  uuid,
    task_id     text,
    old_state   text,
    new_state   text,
    version     bigint,
    changed_at  timestamptz,
    actor       text,
    metadata    jsonb
)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 1000
AS $$
#variable_conflict use_column
DECLARE
    place workflow.consumers;
    was_open boolean;
    count bigint;
BEGIN
    IF max IS NULL OR max < 1 THEN
        PERFORM workflow.refuse_argument(
            format('cannot read events of consumer "%s": max is %s', consumer, coalesce(max::text, 'null')),
            jsonb_build_object('argument', 'max', 'value', max),
            'Give how many events to return at most, 1 or more.');
    END IF;
    place := workflow.locked_consumer(consumer);
    LOOP
        was_open := place.window_snapshot IS NOT NULL;
        IF NOT was_open THEN
            -- In this order: see the head of this file. Where the snapshot stands still, the old floor is right too.
            place.window_floor_id := CASE
                WHEN current_setting('transaction_isolation') IN ('read committed', 'read uncommitted')
                THEN workflow.last_event_id()
                ELSE place.floor_id
            END;
            place.window_snapshot := workflow.others_snapshot();
            place.window_next_transaction_id := workflow.next_transaction_id();
            place.window_ceiling_id := workflow.last_event_id();
        END IF;

        RETURN QUERY
            SELECT w.id, w.entity_type, w.entity_id, w.dag_id, w.dag_run_id, w.task_id,
                w.old_state, w.new_state, w.version, w.changed_at, w.actor, w.metadata
            FROM (
                (
                    SELECT late.*
                    FROM workflow.unfinished_transactions(place.snapshot, place.next_transaction_id) AS x (transaction_id)
                    CROSS JOIN LATERAL (
                        SELECT h.*
                        FROM workflow.state_history AS h
                        WHERE h.transaction_id = x.transaction_id
                            AND h.id > place.acked_id
                            AND h.id <= place.floor_id
                        ORDER BY h.id
                        LIMIT max
                    ) AS late
                    WHERE pg_visible_in_snapshot(x.transaction_id, place.window_snapshot)
                )
                UNION ALL
                (
                    SELECT h.*
                    FROM workflow.state_history AS h
                    WHERE h.id > greatest(place.acked_id, place.floor_id)
                        AND h.id <= place.window_ceiling_id
                        AND (
                            place.snapshot IS NULL
                            OR (
                                pg_visible_in_snapshot(h.transaction_id, place.window_snapshot)
                                AND NOT pg_visible_in_snapshot(h.transaction_id, place.snapshot)
                            )
                        )
                    ORDER BY h.id
                    LIMIT max
                )
            ) AS w
            ORDER BY w.id
            LIMIT max;
        GET DIAGNOSTICS count = ROW_COUNT;

        IF count > 0 AND NOT was_open THEN
            UPDATE workflow.consumers AS c
            SET window_snapshot = place.window_snapshot,
                window_next_transaction_id = place.window_next_transaction_id,
                window_floor_id = place.window_floor_id,
                window_ceiling_id = place.window_ceiling_id,
                updated_at = clock_timestamp()
            WHERE c.name = consumer;
        END IF;
        EXIT WHEN count > 0 OR NOT was_open;

        -- The window has been read to its end: its snapshot is the new place.
        UPDATE workflow.consumers AS c
        SET snapshot = c.window_snapshot,
            next_transaction_id = c.window_next_transaction_id,
            floor_id = c.window_floor_id,
            window_snapshot = NULL, window_next_transaction_id = NULL, window_floor_id = NULL, window_ceiling_id = NULL,
            acked_id = 0,
            updated_at = clock_timestamp()
        WHERE c.name = consumer
        RETURNING c.* INTO place;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.read_events(text, integer) IS
'The next events of a consumer, in order within each entity, none skipped. The same come again until ack_events() has been told of them. Readers of one consumer take turns. Errors: P0002 no such consumer, 22023 bad argument.';

CREATE FUNCTION workflow.ack_events(consumer text, up_to bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place workflow.consumers := workflow.locked_consumer(consumer);
    written_by xid8;
BEGIN
    SELECT h.transaction_id INTO written_by FROM workflow.state_history AS h WHERE h.id = up_to;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_argument(
            format('cannot acknowledge event %s for consumer "%s": there is no such event', coalesce(up_to::text, 'null'), consumer),
            jsonb_build_object('argument', 'up_to', 'value', up_to),
            'Give the id of the last event that read_events() returned and you have dealt with.');
    END IF;
    -- An id of an earlier window, acknowledged again, must not skip what the present window has below it.
    IF place.window_snapshot IS NULL
        OR up_to <= place.acked_id
        OR pg_visible_in_snapshot(written_by, place.snapshot)
        OR (place.snapshot IS NULL AND up_to <= place.floor_id)
    THEN
        RETURN false;
    END IF;
    IF up_to > place.window_ceiling_id
        OR (place.snapshot IS NOT NULL AND NOT pg_visible_in_snapshot(written_by, place.window_snapshot))
    THEN
        PERFORM workflow.refuse_argument(
            format('cannot acknowledge event %s for consumer "%s": it has not been read yet', up_to, consumer),
            jsonb_build_object('argument', 'up_to', 'value', up_to),
            'Give the id of the last event that read_events() returned and you have dealt with.');
    END IF;
    UPDATE workflow.consumers AS c
    SET acked_id = up_to, updated_at = clock_timestamp()
    WHERE c.name = consumer;
    RETURN true;
END
$$;
COMMENT ON FUNCTION workflow.ack_events(text, bigint) IS
'Says that this event, and all that read_events() returned before it, have been dealt with. Returns false where that was known already. Errors: P0002 no such consumer, 22023 no such event, or one that was not read yet.';

CREATE FUNCTION workflow.drop_consumer(name text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM workflow.consumers AS c WHERE c.name = drop_consumer.name;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_missing('consumer', name, 'drop it');
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.drop_consumer(text) IS
'Forgets a consumer and its place. Errors: P0002 no such consumer.';

CREATE VIEW workflow.consumer_lag AS
SELECT
    c.name AS consumer,
    pending.count AS pending,
    pending.oldest AS oldest,
    pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pending.oldest AS lag,
    c.updated_at AS last_active
FROM workflow.consumers AS c
CROSS JOIN LATERAL (
    SELECT pg_catalog.count(*) AS count, pg_catalog.min(h.changed_at) AS oldest
    FROM (
        SELECT h.id, h.transaction_id, h.changed_at
        FROM workflow.state_history AS h
        WHERE h.id OPERATOR(pg_catalog.>) c.floor_id
            AND pg_catalog.pg_visible_in_snapshot(h.transaction_id, c.snapshot) IS NOT TRUE
        UNION ALL
        SELECT h.id, h.transaction_id, h.changed_at
        FROM workflow.unfinished_transactions(c.snapshot, c.next_transaction_id) AS x (transaction_id)
        JOIN workflow.state_history AS h ON h.transaction_id OPERATOR(pg_catalog.=) x.transaction_id
        WHERE h.id OPERATOR(pg_catalog.<=) c.floor_id
    ) AS h
    WHERE h.id OPERATOR(pg_catalog.>) c.acked_id
        OR pg_catalog.pg_visible_in_snapshot(h.transaction_id, c.window_snapshot) IS NOT TRUE
) AS pending;
COMMENT ON VIEW workflow.consumer_lag IS
'What each consumer has yet to acknowledge. Counts it: the more is pending, the longer this takes.';
COMMENT ON COLUMN workflow.consumer_lag.consumer IS 'the consumer''s name';
COMMENT ON COLUMN workflow.consumer_lag.pending IS 'committed events that it has not acknowledged';
COMMENT ON COLUMN workflow.consumer_lag.oldest IS 'when the oldest of them happened; null where there is none';
COMMENT ON COLUMN workflow.consumer_lag.lag IS 'how long ago that is';
COMMENT ON COLUMN workflow.consumer_lag.last_active IS 'when it last read or acknowledged something new';
