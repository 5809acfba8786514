-- Positions in the event feed.
--
-- Ids are not in the order of commits, so a reader of "id > last" loses events. A position is therefore a snapshot: all
-- events visible in the snapshot are acknowledged. The next window holds the events that are visible now and were not
-- visible then, as in PgQ. Within a window events are in the order of their ids. Within an entity that is the order of
-- its versions: the next version cannot be written before the last has committed.
--
-- Two numbers go with each snapshot, to find a window without reading the table. floor_id is the last id drawn before
-- the snapshot was taken; next_transaction_id is the first transaction ID assigned after it.
--   * A transaction from next_transaction_id on began later, so its ids are above floor_id. Most of the window is thus
--     a range of the primary key.
--   * Any other transaction that is not visible in the snapshot was in progress. It is in the snapshot's list, or its
--     ID is between the snapshot's xmax (one more than the last that ended) and next_transaction_id. There are no more
--     of those than sessions. The index on transaction IDs finds their events.

CREATE TYPE workflow.feed_position AS (
    snapshot                   pg_snapshot,
    next_transaction_id        xid8,
    floor_id                   bigint,
    window_snapshot            pg_snapshot,
    window_next_transaction_id xid8,
    window_floor_id            bigint,
    window_ceiling_id          bigint,
    acked_id                   bigint,
    system_identifier          bigint
);
COMMENT ON TYPE workflow.feed_position IS
'Internal: a position in the event feed.';
COMMENT ON COLUMN workflow.feed_position.snapshot IS 'events visible in it are acknowledged; null: events up to floor_id are';
COMMENT ON COLUMN workflow.feed_position.next_transaction_id IS 'transactions from this ID on began after the snapshot; null if snapshot is';
COMMENT ON COLUMN workflow.feed_position.floor_id IS 'events of those transactions have ids above it';
COMMENT ON COLUMN workflow.feed_position.window_snapshot IS 'end of the open window; null: no window is open';
COMMENT ON COLUMN workflow.feed_position.window_next_transaction_id IS 'next_transaction_id at the end of the window';
COMMENT ON COLUMN workflow.feed_position.window_floor_id IS 'floor_id at the end of the window';
COMMENT ON COLUMN workflow.feed_position.window_ceiling_id IS 'no event of the window has an id above it';
COMMENT ON COLUMN workflow.feed_position.acked_id IS 'last acknowledged event of the window; 0: none';
COMMENT ON COLUMN workflow.feed_position.system_identifier IS 'a follower''s: cluster that the snapshots belong to; a consumer''s: origin() of the database that they belong to';

CREATE FUNCTION workflow.is_acknowledged(pos workflow.feed_position, id bigint, transaction_id xid8)
RETURNS boolean
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT COALESCE(pg_catalog.pg_visible_in_snapshot($3, ($1).snapshot), $2 OPERATOR(pg_catalog.<=) ($1).floor_id)
        OR ($2 OPERATOR(pg_catalog.<=) ($1).acked_id
            AND pg_catalog.pg_visible_in_snapshot($3, ($1).window_snapshot) IS TRUE)
$$;
COMMENT ON FUNCTION workflow.is_acknowledged(workflow.feed_position, bigint, xid8) IS
'Internal: whether the event with this id, written by this transaction, is acknowledged at a position.';

CREATE FUNCTION workflow.is_foreign(pos workflow.feed_position)
RETURNS boolean
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT ($1).system_identifier OPERATOR(pg_catalog.<>) workflow.origin()
        OR ($1).system_identifier OPERATOR(pg_catalog.=) 0
        -- A copy of the cluster's files has its origin, and went on to transaction IDs of its own. No snapshot of this
        -- cluster is ahead of a later one, also after a crash: a transaction is in the log before it is in a snapshot.
        OR COALESCE(
            GREATEST(pg_catalog.pg_snapshot_xmax(($1).snapshot), pg_catalog.pg_snapshot_xmax(($1).window_snapshot))
                OPERATOR(pg_catalog.>) pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot()),
            false)
$$;
COMMENT ON FUNCTION workflow.is_foreign(workflow.feed_position) IS
'Internal: whether the snapshots of a consumer''s position are those of another database.';

CREATE FUNCTION workflow.partition_start(id bigint)
RETURNS bigint
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT $1 OPERATOR(pg_catalog.-) ($1 OPERATOR(pg_catalog.%) 1000000000000) $$;
COMMENT ON FUNCTION workflow.partition_start(bigint) IS
'Internal: returns the first id of the partition that takes an id; see partition_size().';

CREATE FUNCTION workflow.is_in_window(pos workflow.feed_position, id bigint, transaction_id xid8)
RETURNS boolean
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT pg_catalog.pg_visible_in_snapshot($3, ($1).window_snapshot)
        -- Switching to the next partition waited for its transaction, which may be one of another cluster.
        OR $2 OPERATOR(pg_catalog.<) workflow.partition_start(($1).window_floor_id)
        -- Written in another cluster: this one has not assigned the transaction ID yet.
        OR (($1).snapshot IS NULL
            AND $3 OPERATOR(pg_catalog.>=) ($1).window_next_transaction_id
            AND $2 OPERATOR(pg_catalog.<=) ($1).window_floor_id)
$$;
COMMENT ON FUNCTION workflow.is_in_window(workflow.feed_position, bigint, xid8) IS
'Internal: whether the open window shows the event with this id, written by this transaction, unless it is acknowledged.';

CREATE FUNCTION workflow.next_writer(at_least bigint, before bigint, from_id bigint)
RETURNS bigint
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'next_writer_wrapper';
COMMENT ON FUNCTION workflow.next_writer(bigint, bigint, bigint) IS
'Internal: returns the lowest transaction ID of a range that has written events with ids from from_id on, of any tenant; null: none. For roles that can read the history or its totals.';

CREATE FUNCTION workflow.written_ids(transaction_id xid8, after_id bigint, up_to_id bigint, from_id bigint, max integer)
RETURNS SETOF bigint
LANGUAGE c STABLE STRICT PARALLEL SAFE
ROWS 10
AS 'MODULE_PATHNAME', 'written_ids_wrapper';
COMMENT ON FUNCTION workflow.written_ids(xid8, bigint, bigint, bigint, integer) IS
'Internal: returns the ids of at most "max" events that a transaction has written, of any tenant, in ascending order. By the index, also if the statistics of a partition are from before it grew. For roles that can read the history or its totals.';

CREATE FUNCTION workflow.unfinished_transactions(pos workflow.feed_position)
RETURNS SETOF xid8
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
ROWS 10
AS $$
DECLARE
    -- The owner of a consumer can store any number, but no transaction ID is beyond bigint.
    highest xid8 := '9223372036854775807';
    at_least bigint := least(pg_snapshot_xmax(pos.snapshot), highest)::text::bigint;
    before bigint := least(pos.next_transaction_id, highest)::text::bigint;
    -- A transaction in progress has written in no earlier partition: switching to the next one waits for it.
    from_id bigint := workflow.partition_start(pos.floor_id);
    found_id bigint;
BEGIN
    RETURN QUERY SELECT pg_snapshot_xip(pos.snapshot);
    -- Steps through the index from one transaction ID to the next, whatever number of events each has written.
    WHILE at_least < before LOOP
        found_id := workflow.next_writer(at_least, before, from_id);
        EXIT WHEN found_id IS NULL;
        RETURN QUERY SELECT found_id::text::xid8;
        at_least := found_id + 1;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.unfinished_transactions(workflow.feed_position) IS
'Internal: returns the transactions in progress at a position''s snapshot that may have written events below its floor_id.';

CREATE FUNCTION workflow.late_ids(pos workflow.feed_position)
RETURNS SETOF bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
ROWS 10
AS $$
BEGIN
    -- Events of an earlier partition can have transaction IDs of another cluster: see is_in_window().
    RETURN QUERY
        SELECT w.id
        FROM workflow.unfinished_transactions(pos) AS x (transaction_id)
        CROSS JOIN LATERAL workflow.written_ids(
            x.transaction_id, pos.acked_id, pos.floor_id, workflow.partition_start(pos.floor_id), 2147483647
        ) AS w (id);
    -- Up to acked_id, what the open window did not show.
    RETURN QUERY
        SELECT w.id
        FROM workflow.unfinished_transactions(
            ROW(
                pos.window_snapshot, pos.window_next_transaction_id, pos.window_floor_id, NULL, NULL, NULL, NULL, NULL, NULL
            )::workflow.feed_position
        ) AS x (transaction_id)
        CROSS JOIN LATERAL workflow.written_ids(
            x.transaction_id, 0, pos.acked_id, workflow.partition_start(pos.window_floor_id), 2147483647
        ) AS w (id);
END
$$;
COMMENT ON FUNCTION workflow.late_ids(workflow.feed_position) IS
'Internal: returns the ids up to the higher one of a position''s floor_id and acked_id that transactions in progress at its snapshots have written.';

CREATE FUNCTION workflow.late_events(pos workflow.feed_position)
RETURNS SETOF workflow.state_history
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT h.*
    FROM workflow.late_ids($1) AS w (id)
    -- One by one: a plan from when the table was small would read all of it for a join.
    CROSS JOIN LATERAL (
        SELECT * FROM workflow.state_history AS e WHERE e.id OPERATOR(pg_catalog.=) w.id LIMIT 1
    ) AS h
    WHERE NOT workflow.is_acknowledged($1, h.id, h.transaction_id)
$$;
COMMENT ON FUNCTION workflow.late_events(workflow.feed_position) IS
'Internal: returns the events up to the higher one of a position''s floor_id and acked_id that are not acknowledged. Those above it are a range of ids.';

CREATE FUNCTION workflow.events_above(pos workflow.feed_position, max integer, is_marked boolean DEFAULT false)
RETURNS SETOF workflow.state_history
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT h.*
    FROM workflow.state_history AS h
    WHERE h.id OPERATOR(pg_catalog.>) GREATEST(($1).acked_id, ($1).floor_id)
        AND h.id OPERATOR(pg_catalog.<=) ($1).window_ceiling_id
        AND workflow.is_in_window($1, h.id, h.transaction_id)
        AND ($3 OR NOT workflow.is_acknowledged($1, h.id, h.transaction_id))
    ORDER BY h.id
    LIMIT $2
$$;
COMMENT ON FUNCTION workflow.events_above(workflow.feed_position, integer, boolean) IS
'Internal: returns the next events of a position''s open window above its floor_id, in the order of ids. is_marked: no event above floor_id was acknowledged before the window.';

CREATE FUNCTION workflow.late_ids_in_window(pos workflow.feed_position, max integer)
RETURNS SETOF bigint
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT w.id
    FROM workflow.unfinished_transactions(
        -- The window shows no transaction from its snapshot's end on. After an old snapshot those are many.
        ROW(
            ($1).snapshot,
            LEAST(($1).next_transaction_id, pg_catalog.pg_snapshot_xmax(($1).window_snapshot)),
            ($1).floor_id, NULL, NULL, NULL, NULL, NULL, NULL
        )::workflow.feed_position
    ) AS x (transaction_id)
    CROSS JOIN LATERAL workflow.written_ids(
        x.transaction_id, ($1).acked_id, ($1).floor_id, workflow.partition_start(($1).floor_id), $2
    ) AS w (id)
    WHERE pg_catalog.pg_visible_in_snapshot(x.transaction_id, ($1).window_snapshot)
$$;
COMMENT ON FUNCTION workflow.late_ids_in_window(workflow.feed_position, integer) IS
'Internal: returns the ids up to floor_id that a position''s open window has, at most "max" of each transaction.';

CREATE FUNCTION workflow.events_in_window(pos workflow.feed_position, max integer, is_marked boolean DEFAULT false)
RETURNS SETOF workflow.state_history
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT w.*
    FROM (
        (
            SELECT late.*
            FROM workflow.late_ids_in_window($1, $2) AS w (id)
            -- One by one: a plan from when the table was small would read all of it for a join.
            CROSS JOIN LATERAL (
                SELECT * FROM workflow.state_history AS e WHERE e.id OPERATOR(pg_catalog.=) w.id LIMIT 1
            ) AS late
        )
        UNION ALL
        (
            SELECT above.* FROM workflow.events_above($1, $2, $3) AS above
        )
    ) AS w
    ORDER BY w.id
    LIMIT $2
$$;
COMMENT ON FUNCTION workflow.events_in_window(workflow.feed_position, integer, boolean) IS
'Internal: returns the next events of a position''s open window, in the order of ids. is_marked: no event above floor_id was acknowledged before the window.';

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
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT e.*
    FROM workflow.events_in_window(ROW($1, $2, $3, $4, $5, $6, $7, $8, NULL)::workflow.feed_position, $9, false) AS e
$$;
COMMENT ON FUNCTION workflow.events_between(pg_snapshot, xid8, bigint, pg_snapshot, xid8, bigint, bigint, bigint, integer) IS
'Internal: events_in_window() with the fields of a position, which is faster for many events. The library calls it in every version of the schema.';

CREATE FUNCTION workflow.first_position()
RETURNS workflow.feed_position
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pos workflow.feed_position;
BEGIN
    pos.floor_id := 0;
    pos.acked_id := 0;
    pos.system_identifier := workflow.system_identifier();
    RETURN pos;
END
$$;
COMMENT ON FUNCTION workflow.first_position() IS
'Internal: returns the position before the first event.';

CREATE FUNCTION workflow.after_unfinished(pos workflow.feed_position)
RETURNS xid8
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    last xid8;
BEGIN
    SELECT h.transaction_id INTO last
    FROM workflow.state_history AS h
    WHERE h.transaction_id >= pg_snapshot_xmax(pos.snapshot)
        AND h.transaction_id < pos.next_transaction_id
        AND h.id BETWEEN workflow.partition_start(pos.floor_id) AND pos.floor_id
    ORDER BY h.transaction_id DESC
    LIMIT 1;
    RETURN coalesce((last::text::bigint + 1)::text::xid8, pg_snapshot_xmax(pos.snapshot));
END
$$;
COMMENT ON FUNCTION workflow.after_unfinished(workflow.feed_position) IS
'Internal: returns a lower next_transaction_id for a position: the first one after those that have committed events up to its floor_id. Right for a window that ends now: it has no other events of these transactions.';

CREATE FUNCTION workflow.open_window(pos workflow.feed_position)
RETURNS workflow.feed_position
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    window_end record;
BEGIN
    -- Its mark can be that of this database: see finish_copy(). The first question spares the call at most reads.
    IF EXISTS (SELECT FROM pg_subscription_rel) THEN
        PERFORM workflow.refuse_subscriber('read events');
    END IF;
    window_end := workflow.current_place();
    -- TRUNCATE moves the consumers; setval() does not. New events below the floor would not be found.
    IF pos.floor_id > window_end.ceiling_id THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'cannot read events: the sequence of their ids has been set back',
            DETAIL = jsonb_build_object('floor_id', pos.floor_id, 'last_id', window_end.ceiling_id)::text,
            HINT = 'Call setval() on workflow.state_history_id_seq with the highest id that was ever used. Read the events written meanwhile from workflow.state_history.';
    END IF;
    -- With a fixed snapshot the old floor is right too; it only costs a longer search. But events of another cluster are
    -- in the first window by their ids alone: all that the snapshot shows. Later transactions draw higher ids. The calling
    -- one may have written in a partition that its snapshot does not know.
    IF window_end.floor_id IS NULL AND pos.snapshot IS NULL THEN
        window_end.floor_id := greatest(
            (SELECT max(h.id) FROM workflow.state_history AS h
             WHERE h.transaction_id IS DISTINCT FROM pg_current_xact_id_if_assigned()),
            -- Above the ids of another cluster, also if this one has written none yet.
            (SELECT max(c.first_id) FROM workflow.copies AS c));
    END IF;
    -- A window that ended with an old snapshot knows no better than the ID of that time. Each read would step through
    -- all transactions since the snapshot; seldom are as many in progress.
    IF pos.next_transaction_id::text::bigint - pg_snapshot_xmax(pos.snapshot)::text::bigint > 32 THEN
        pos.next_transaction_id := workflow.after_unfinished(pos);
    END IF;
    pos.window_snapshot := window_end.snapshot;
    pos.window_next_transaction_id := window_end.next_transaction_id;
    pos.window_floor_id := greatest(window_end.floor_id, pos.floor_id);
    pos.window_ceiling_id := window_end.ceiling_id;
    RETURN pos;
END
$$;
COMMENT ON FUNCTION workflow.open_window(workflow.feed_position) IS
'Internal: returns the position with a window up to the latest committed event. Writes nothing. Errors: 55000 a subscription writes this database, or the sequence of ids has been set back.';

CREATE FUNCTION workflow.close_window(pos workflow.feed_position)
RETURNS workflow.feed_position
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    pos.snapshot := pos.window_snapshot;
    pos.next_transaction_id := pos.window_next_transaction_id;
    -- Each id that was drawn after the window's snapshot is above those of its events. So the floor rises with them,
    -- also if every reading transaction has a fixed snapshot.
    pos.floor_id := greatest(pos.window_floor_id, pos.acked_id);
    pos.window_snapshot := NULL;
    pos.window_next_transaction_id := NULL;
    pos.window_floor_id := NULL;
    pos.window_ceiling_id := NULL;
    pos.acked_id := 0;
    RETURN pos;
END
$$;
COMMENT ON FUNCTION workflow.close_window(workflow.feed_position) IS
'Internal: returns the position after the last event of the open window. Writes nothing.';

CREATE FUNCTION workflow.relocate_position(pos workflow.feed_position, is_marked boolean DEFAULT false)
RETURNS workflow.feed_position
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    relocated workflow.feed_position := workflow.first_position();
    -- No event with an id up to this was written in this cluster.
    foreign_id bigint := greatest(pos.floor_id, CASE WHEN is_marked THEN pos.acked_id ELSE pos.window_ceiling_id END);
BEGIN
    -- Transaction IDs of another cluster mean nothing here. Ids do: start again after the last id below which every
    -- event is acknowledged. Events are redelivered only if one was acknowledged beyond one that was not. No further:
    -- a transaction in progress here can have drawn any id after those.
    relocated.floor_id := coalesce(
        (
            SELECT min(e.id) - 1
            FROM (
                (
                    SELECT h.id
                    FROM workflow.state_history AS h
                    WHERE h.id > greatest(pos.floor_id, pos.acked_id)
                        AND h.id <= foreign_id
                        AND NOT workflow.is_acknowledged(pos, h.id, h.transaction_id)
                    ORDER BY h.id
                    LIMIT 1
                )
                UNION ALL
                SELECT l.id FROM workflow.late_events(pos) AS l
            ) AS e
        ),
        foreign_id);
    RETURN relocated;
END
$$;
COMMENT ON FUNCTION workflow.relocate_position(workflow.feed_position, boolean) IS
'Internal: finds the position of another cluster in this one, by ids. is_marked: its last acknowledged event is here. Writes nothing.';
