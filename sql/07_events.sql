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
    lease_number               bigint      NOT NULL DEFAULT 0,
    lease_holder               text,
    lease_duration             interval,
    lease_expires_at           timestamptz,
    lease_pid                  integer,
    lease_backend_start        timestamptz,
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
COMMENT ON COLUMN workflow.consumers.lease_number IS 'the lease last given out; see lease_consumer()';
COMMENT ON COLUMN workflow.consumers.lease_holder IS 'who holds it, in its own words';
COMMENT ON COLUMN workflow.consumers.lease_duration IS 'for how long each read and acknowledgement renews it';
COMMENT ON COLUMN workflow.consumers.lease_expires_at IS 'when somebody else may take it; null: it was given back';
COMMENT ON COLUMN workflow.consumers.lease_pid IS 'the session that took it; null: it was given back';
COMMENT ON COLUMN workflow.consumers.lease_backend_start IS 'when that session began';
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

CREATE FUNCTION workflow.is_preloaded()
RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'is_preloaded_wrapper';
COMMENT ON FUNCTION workflow.is_preloaded() IS
'Whether pg_workflow is in shared_preload_libraries: commits then wake whoever waits in read_events(), and a notifier announces events.';

CREATE FUNCTION workflow.commits()
RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'commits_wrapper';
COMMENT ON FUNCTION workflow.commits() IS
'Internal: how many transactions with events have committed in this database since the server started; 0 where pg_workflow is not preloaded.';

CREATE FUNCTION workflow.wait_for_events(consumer text, seconds double precision)
RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'wait_for_events_wrapper';
COMMENT ON FUNCTION workflow.wait_for_events(text, double precision) IS
'Internal: waits until a transaction with events commits, unless this session''s last read of the consumer may have left something. Without preloading it waits for a notification that the session listens to.';

CREATE FUNCTION workflow.note_found_nothing(consumer text, commits bigint)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'note_found_nothing_wrapper';
COMMENT ON FUNCTION workflow.note_found_nothing(text, bigint) IS
'Internal: the session''s last read, begun at this count of commits(), found nothing for this consumer; null: it found something.';

CREATE FUNCTION workflow.is_durable()
RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'is_durable_wrapper';
COMMENT ON FUNCTION workflow.is_durable() IS
'Internal: whether every event that is visible is known to be on disk, and no synchronous standby is to be waited for.';

CREATE FUNCTION workflow.wait_until_durable()
RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'wait_until_durable_wrapper';
COMMENT ON FUNCTION workflow.wait_until_durable() IS
'Internal: waits until all that has been written so far, by whatever transaction, is on disk and, as synchronous_commit says, with the synchronous standbys.';

CREATE FUNCTION workflow.make_durable()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    durability text := current_setting('synchronous_commit');
BEGIN
    IF durability IN ('off', 'local', 'remote_write') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    PERFORM workflow.wait_until_durable();
    PERFORM set_config('synchronous_commit', durability, true);
END
$$;
COMMENT ON FUNCTION workflow.make_durable() IS
'Internal: wait_until_durable(), also where the session itself does not wait for the disk or the standbys.';

CREATE FUNCTION workflow.refuse_leased(consumer text, lease bigint, holder text, current_lease bigint)
RETURNS void
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'refuse_leased_wrapper';
COMMENT ON FUNCTION workflow.refuse_leased(text, bigint, text, bigint) IS
'Internal: raises 55006.';

CREATE FUNCTION workflow.others_snapshot(now pg_snapshot)
RETURNS pg_snapshot
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own xid8 := pg_current_xact_id_if_assigned();
BEGIN
    -- The calling transaction is not in its own snapshot's list. It may still write more, so it must be.
    IF own IS NULL OR own >= pg_snapshot_xmax(now) THEN
        RETURN now;
    END IF;
    RETURN format('%s:%s:%s', least(own, pg_snapshot_xmin(now)), pg_snapshot_xmax(now),
        (SELECT string_agg(x.xid::text, ',' ORDER BY x.xid)
         FROM (SELECT pg_snapshot_xip(now) UNION SELECT own) AS x (xid)));
END
$$;
COMMENT ON FUNCTION workflow.others_snapshot(pg_snapshot) IS
'Internal: this current snapshot, with the calling transaction counted as in progress.';

CREATE FUNCTION workflow.current_place(
    OUT snapshot pg_snapshot,
    OUT next_transaction_id xid8,
    OUT floor_id bigint,
    OUT ceiling_id bigint
)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- In this order, and each seeing the present: see the head of this file. A transaction whose snapshot stands still
    -- cannot tell what the floor was then.
    IF current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') THEN
        floor_id := workflow.last_event_id();
    END IF;
    snapshot := workflow.others_snapshot(pg_current_snapshot());
    next_transaction_id := workflow.next_transaction_id();
    ceiling_id := workflow.last_event_id();
END
$$;
COMMENT ON FUNCTION workflow.current_place() IS
'Internal: the place of whoever has read all that is visible now. No event of it has an id above ceiling_id. floor_id is null where the snapshot stands still.';

CREATE FUNCTION workflow.partition_start(id bigint)
RETURNS bigint
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT $1 OPERATOR(pg_catalog.-) ($1 OPERATOR(pg_catalog.%) 1000000000000) $$;
COMMENT ON FUNCTION workflow.partition_start(bigint) IS
'Internal: the first id of the partition that takes this one; see partition_size().';

CREATE FUNCTION workflow.unfinished_transactions(snapshot pg_snapshot, next_transaction_id xid8, floor_id bigint)
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
            -- Nobody had written before this who was still under way: a partition is opened when nobody has the table open.
            AND h.id >= workflow.partition_start(unfinished_transactions.floor_id)
        ORDER BY h.transaction_id
        LIMIT 1;
        EXIT WHEN NOT FOUND;
        RETURN NEXT found_id;
        at_least := (found_id::text::bigint + 1)::text::xid8;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.unfinished_transactions(pg_snapshot, xid8, bigint) IS
'Internal: the transactions that were under way at a snapshot, and may have written events below its floor_id.';

CREATE FUNCTION workflow.events_between(
    snapshot pg_snapshot,
    next_transaction_id xid8,
    floor_id bigint,
    end_snapshot pg_snapshot,
    end_next_transaction_id xid8,
    end_floor_id bigint,
    end_ceiling_id bigint,
    after_id bigint,
    max integer
)
RETURNS SETOF workflow.state_history
-- In SQL and without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT w.*
    FROM (
        (
            SELECT late.*
            FROM workflow.unfinished_transactions($1, $2, $3) AS x (transaction_id)
            CROSS JOIN LATERAL (
                SELECT h.*
                FROM workflow.state_history AS h
                WHERE h.transaction_id OPERATOR(pg_catalog.=) x.transaction_id
                    AND h.id OPERATOR(pg_catalog.>) $8
                    AND h.id OPERATOR(pg_catalog.>=) workflow.partition_start($3)
                    AND h.id OPERATOR(pg_catalog.<=) $3
                ORDER BY h.id
                LIMIT $9
            ) AS late
            WHERE pg_catalog.pg_visible_in_snapshot(x.transaction_id, $4)
        )
        UNION ALL
        (
            SELECT h.*
            FROM workflow.state_history AS h
            WHERE h.id OPERATOR(pg_catalog.>) GREATEST($8, $3)
                AND h.id OPERATOR(pg_catalog.<=) $7
                AND (
                    pg_catalog.pg_visible_in_snapshot(h.transaction_id, $4)
                    -- Written in another cluster: here the number has not been given out yet.
                    OR ($1 IS NULL AND h.transaction_id OPERATOR(pg_catalog.>=) $5 AND h.id OPERATOR(pg_catalog.<=) $6)
                )
                AND pg_catalog.pg_visible_in_snapshot(h.transaction_id, $1) IS NOT TRUE
            ORDER BY h.id
            LIMIT $9
        )
    ) AS w
    ORDER BY w.id
    LIMIT $9
$$;
COMMENT ON FUNCTION workflow.events_between(pg_snapshot, xid8, bigint, pg_snapshot, xid8, bigint, bigint, bigint, integer) IS
'Internal: the events of the window between two places, in order, after this id.';

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

CREATE FUNCTION workflow.refuse_tenant()
RETURNS void
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'refuse_tenant_wrapper';
COMMENT ON FUNCTION workflow.refuse_tenant() IS
'Internal: raises 42501 where the session''s role sees only a part of the history, by row security: the feed has all of it.';

CREATE FUNCTION workflow.check_reading(tried text, max integer, wait interval)
RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF max IS NULL OR max < 1 THEN
        PERFORM workflow.refuse_argument(
            format('cannot %s: max is %s', tried, coalesce(max::text, 'null')),
            jsonb_build_object('argument', 'max', 'value', max),
            'Give how many events to return at most, 1 or more.');
    END IF;
    IF wait IS NULL OR wait < '0' THEN
        PERFORM workflow.refuse_argument(
            format('cannot %s: wait is %s', tried, coalesce(wait::text, 'null')),
            jsonb_build_object('argument', 'wait', 'value', wait),
            'Give how long to wait where there is nothing to read, 0 or more.');
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.check_reading(text, integer, interval) IS
'Internal: raises 22023 for what read_events() and follow_events() cannot be told.';

CREATE FUNCTION workflow.create_consumer(name text, from_beginning boolean DEFAULT false)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place record;
BEGIN
    PERFORM workflow.check_consumer_name(name);
    IF coalesce(from_beginning, false) THEN
        INSERT INTO workflow.consumers (name, floor_id, system_identifier)
        VALUES (create_consumer.name, 0, workflow.system_identifier())
        ON CONFLICT ON CONSTRAINT consumers_pkey DO NOTHING;
        RETURN FOUND;
    END IF;
    place := workflow.current_place();
    -- Where the floor is not known it begins at 0, which only costs a longer search.
    INSERT INTO workflow.consumers (name, snapshot, next_transaction_id, floor_id, system_identifier)
    VALUES (create_consumer.name, place.snapshot, place.next_transaction_id, coalesce(place.floor_id, 0),
        workflow.system_identifier())
    ON CONFLICT ON CONSTRAINT consumers_pkey DO NOTHING;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION workflow.create_consumer(text, boolean) IS
'Creates a reader of the event feed that begins with what commits from now on, or with the first event still kept. Returns false, and changes nothing, where it exists already. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.open_window(place workflow.consumers)
RETURNS workflow.consumers
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    window_end record := workflow.current_place();
BEGIN
    place.window_snapshot := window_end.snapshot;
    place.window_next_transaction_id := window_end.next_transaction_id;
    -- Where the snapshot stands still, the old floor is right too.
    place.window_floor_id := coalesce(window_end.floor_id, place.floor_id);
    place.window_ceiling_id := window_end.ceiling_id;
    RETURN place;
END
$$;
COMMENT ON FUNCTION workflow.open_window(workflow.consumers) IS
'Internal: this place with a window that reaches to the present. Writes nothing.';

CREATE FUNCTION workflow.found_by_ids(place workflow.consumers)
RETURNS workflow.consumers
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- No event with an id up to this was written in this cluster.
    foreign_id bigint := greatest(place.floor_id, place.window_ceiling_id);
BEGIN
    -- Transaction numbers of another cluster mean nothing to what is written here. Ids do: begin again after the last
    -- below which all has been acknowledged. Events come twice only where one was acknowledged beyond one that was not.
    place.floor_id := coalesce(
        (
            SELECT min(h.id) - 1
            FROM (
                (
                    SELECT h.id
                    FROM workflow.state_history AS h
                    WHERE h.id > place.floor_id
                        AND (h.id > foreign_id
                            OR (pg_visible_in_snapshot(h.transaction_id, place.snapshot) IS NOT TRUE
                                AND (h.id > place.acked_id
                                    OR pg_visible_in_snapshot(h.transaction_id, place.window_snapshot) IS NOT TRUE)))
                    ORDER BY h.id
                    LIMIT 1
                )
                UNION ALL
                SELECT h.id
                FROM workflow.unfinished_transactions(place.snapshot, place.next_transaction_id, place.floor_id) AS x (transaction_id)
                JOIN workflow.state_history AS h ON h.transaction_id = x.transaction_id
                WHERE h.id <= place.floor_id
                    AND (h.id > place.acked_id
                        OR pg_visible_in_snapshot(h.transaction_id, place.window_snapshot) IS NOT TRUE)
            ) AS h
        ),
        foreign_id);
    place.snapshot := NULL;
    place.next_transaction_id := NULL;
    place.window_snapshot := NULL;
    place.window_next_transaction_id := NULL;
    place.window_floor_id := NULL;
    place.window_ceiling_id := NULL;
    place.acked_id := 0;
    place.system_identifier := workflow.system_identifier();
    RETURN place;
END
$$;
COMMENT ON FUNCTION workflow.found_by_ids(workflow.consumers) IS
'Internal: a place of another cluster as a place of this one. Writes nothing.';

CREATE FUNCTION workflow.locked_consumer(name text, lease bigint)
RETURNS workflow.consumers
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    consumer workflow.consumers;
    now timestamptz := clock_timestamp();
BEGIN
    PERFORM workflow.check_consumer_name(name);
    SELECT c.* INTO consumer FROM workflow.consumers AS c WHERE c.name = locked_consumer.name FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_missing('consumer', name, 'read its events');
    END IF;
    IF (lease IS NULL AND consumer.lease_expires_at > now)
        OR (lease IS NOT NULL AND (lease <> consumer.lease_number OR consumer.lease_expires_at IS NULL))
    THEN
        PERFORM workflow.refuse_leased(name, lease, consumer.lease_holder, consumer.lease_number);
    END IF;
    -- Not each time: that would write the row again at every look.
    IF lease IS NOT NULL AND consumer.lease_expires_at < now + consumer.lease_duration * 0.7 THEN
        UPDATE workflow.consumers AS c
        SET lease_expires_at = now + c.lease_duration
        WHERE c.name = locked_consumer.name;
    END IF;
    IF consumer.system_identifier = workflow.system_identifier() THEN
        RETURN consumer;
    END IF;
    -- The table came from another cluster: a restored dump, pg_upgrade.
    consumer := workflow.found_by_ids(consumer);
    UPDATE workflow.consumers AS c
    SET snapshot = NULL,
        next_transaction_id = NULL,
        floor_id = consumer.floor_id,
        window_snapshot = NULL, window_next_transaction_id = NULL, window_floor_id = NULL, window_ceiling_id = NULL,
        acked_id = 0,
        system_identifier = consumer.system_identifier,
        updated_at = clock_timestamp()
    WHERE c.name = locked_consumer.name
    RETURNING c.* INTO consumer;
    RETURN consumer;
END
$$;
COMMENT ON FUNCTION workflow.locked_consumer(text, bigint) IS
'Internal: the consumer, locked until the transaction ends; its lease is renewed. Errors: P0002 no such consumer, 55006 it is leased to somebody else.';

CREATE FUNCTION workflow.read_events(
    consumer text,
    max integer DEFAULT 1000,
    wait interval DEFAULT '0',
    lease bigint DEFAULT NULL
)
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
    commits bigint;
    count bigint;
BEGIN
    PERFORM workflow.refuse_tenant();
    PERFORM workflow.check_reading(format('read events of consumer "%s"', consumer), max, wait);
    -- Before the consumer is locked: whoever waits holds up nobody.
    IF wait > '0' THEN
        PERFORM workflow.wait_for_events(consumer, extract(epoch FROM wait)::double precision);
    END IF;
    commits := workflow.commits();
    place := workflow.locked_consumer(consumer, lease);
    LOOP
        was_open := place.window_snapshot IS NOT NULL;
        IF NOT was_open THEN
            place := workflow.open_window(place);
        END IF;

        RETURN QUERY
            SELECT e.id, e.entity_type, e.entity_id, e.dag_id, e.dag_run_id, e.task_id,
                e.old_state, e.new_state, e.version, e.changed_at, e.actor, e.metadata
            FROM workflow.events_between(place.snapshot, place.next_transaction_id, place.floor_id,
                place.window_snapshot, place.window_next_transaction_id, place.window_floor_id, place.window_ceiling_id,
                place.acked_id, max) AS e;
        GET DIAGNOSTICS count = ROW_COUNT;

        IF count > 0 AND NOT was_open THEN
            UPDATE workflow.consumers AS c
            SET window_snapshot = place.window_snapshot,
                window_next_transaction_id = place.window_next_transaction_id,
                window_floor_id = place.window_floor_id,
                window_ceiling_id = place.window_ceiling_id,
                updated_at = clock_timestamp()
            WHERE c.name = consumer;
            -- What is visible need not be on disk (synchronous_commit = off), nor with the synchronous standby (a
            -- session that was ended while it waited for that). Nobody is told of what a crash may undo.
            IF NOT workflow.is_durable() THEN
                PERFORM workflow.make_durable();
            END IF;
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
    PERFORM workflow.note_found_nothing(CASE WHEN count = 0 THEN consumer END, commits);
END
$$;
COMMENT ON FUNCTION workflow.read_events(text, integer, interval, bigint) IS
'The next events of a consumer, in order within each entity, none skipped. The same come again until ack_events() has been told of them. Where the session''s last read found nothing, it waits up to "wait" for news first. What it returns is on disk, and with the synchronous standbys. Readers of one consumer take turns; with a lease from lease_consumer() only its holder reads. Errors: P0002 no such consumer, 22023 bad argument, 55006 leased to somebody else.';

CREATE FUNCTION workflow.ack_events(consumer text, up_to bigint, lease bigint DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place workflow.consumers := workflow.locked_consumer(consumer, lease);
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
COMMENT ON FUNCTION workflow.ack_events(text, bigint, bigint) IS
'Says that this event, and all that read_events() returned before it, have been dealt with. Returns false where that was known already. Errors: P0002 no such consumer, 22023 no such event, or one that was not read yet, 55006 leased to somebody else.';

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
