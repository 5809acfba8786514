-- Positions of followers, as texts that leave the database.
--
-- The database may change while a follower keeps its position: an asynchronous standby is promoted, a backup is restored, a
-- copy runs beside the original. From the point where the two histories part, ids and transaction IDs have another meaning.
-- So the text says where it was made:
--   * in which cluster, on which timeline, and at which end of the write-ahead log. A later timeline has all that the log
--     held then, if it branched off after that.
--   * after which event, by a hash of its contents: the mark. No event with a higher id is acknowledged. So in a database that
--     has the mark each event with a higher id is new to the follower, whatever transaction wrote it. All ids drawn after the
--     snapshot are higher, too: the mark's id is the floor_id. A copy that has the mark has all that the follower has read,
--     except for transactions that drew lower ids and were in progress when the copy was taken.
--     If the next partition was in use already, the floor_id is its start: after a copy, earlier events have transaction
--     IDs of another cluster, which must not be compared with those of this one.
-- Positions of before 0.3.0 (format 1) have no mark. They are accepted only where they were made.

CREATE TYPE workflow.follower_position AS (
    pos       workflow.feed_position,
    timeline  bigint,
    lsn       bigint,
    mark_hash bigint
);
COMMENT ON TYPE workflow.follower_position IS
'Internal: a position in the event feed, with the place where it was made.';
COMMENT ON COLUMN workflow.follower_position.pos IS 'position; its floor_id is the id of the last acknowledged event before the window, if mark_hash is set';
COMMENT ON COLUMN workflow.follower_position.timeline IS 'timeline of the write-ahead log on which it was made';
COMMENT ON COLUMN workflow.follower_position.lsn IS 'end of that log when the last window was opened';
COMMENT ON COLUMN workflow.follower_position.mark_hash IS 'event_hash() of the last acknowledged event; null: unknown';

-- A snapshot's numbers after the first are written as differences from the first.

CREATE FUNCTION workflow.format_snapshot(snapshot pg_snapshot)
RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    xmin bigint := pg_snapshot_xmin(snapshot)::text::bigint;
BEGIN
    RETURN concat_ws(':', xmin, pg_snapshot_xmax(snapshot)::text::bigint - xmin, (
        SELECT string_agg((x.xid::text::bigint - xmin)::text, ':' ORDER BY x.xid)
        FROM pg_snapshot_xip(snapshot) AS x (xid)));
END
$$;
COMMENT ON FUNCTION workflow.format_snapshot(pg_snapshot) IS
'Internal: formats a snapshot as a part of a position; an empty text for null.';

CREATE FUNCTION workflow.parse_snapshot(formatted text)
RETURNS pg_snapshot
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    numbers bigint[] := string_to_array(formatted, ':')::bigint[];
BEGIN
    IF formatted = '' THEN
        RETURN NULL;
    END IF;
    RETURN format('%s:%s:%s', numbers[1], numbers[1] + numbers[2],
        (SELECT string_agg((numbers[1] + x.offset_)::text, ',') FROM unnest(numbers[3:]) AS x (offset_)));
END
$$;
COMMENT ON FUNCTION workflow.parse_snapshot(text) IS
'Internal: parses a text that format_snapshot() returned. Errors: class 22.';

CREATE FUNCTION workflow.format_position(place workflow.follower_position)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pos workflow.feed_position := place.pos;
    formatted text := concat_ws('.', CASE WHEN place.mark_hash IS NULL THEN '1' ELSE '2' END,
        pos.system_identifier, place.timeline);
BEGIN
    IF place.mark_hash IS NOT NULL THEN
        formatted := concat_ws('.', formatted, place.lsn, place.mark_hash);
    END IF;
    formatted := concat_ws('.', formatted,
        workflow.format_snapshot(pos.snapshot), coalesce(pos.next_transaction_id::text, ''), pos.floor_id);
    IF pos.window_snapshot IS NULL THEN
        RETURN formatted;
    END IF;
    RETURN concat_ws('.', formatted, workflow.format_snapshot(pos.window_snapshot), pos.window_next_transaction_id,
        pos.window_floor_id, pos.window_ceiling_id, pos.acked_id);
END
$$;
COMMENT ON FUNCTION workflow.format_position(workflow.follower_position) IS
'Internal: formats a position as a text of digits, dots and colons.';

CREATE FUNCTION workflow.check_partitions(from_id bigint)
RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    dropped text;
BEGIN
    IF current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') THEN
        RETURN true;
    END IF;
    -- This query sees the partitions as of the snapshot, but to_regclass() looks names up as they are now.
    SELECT c.relname INTO dropped
    FROM pg_inherits AS i
    JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'workflow.state_history'::regclass
        AND CASE WHEN c.relname ~ '^state_history_[0-9]+$'
            THEN split_part(c.relname, '_', 3)::numeric >= from_id / workflow.partition_size() END
        AND to_regclass(format('workflow.%I', c.relname)) IS DISTINCT FROM c.oid::regclass
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'serialization_failure',
            MESSAGE = format('cannot read the history: purge() has dropped partition "%s" since the transaction''s snapshot', dropped),
            DETAIL = jsonb_build_object('partition', dropped)::text,
            HINT = 'Retry in a new transaction.';
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION workflow.check_partitions(bigint) IS
'Internal: raises 40001 if a partition with ids from from_id on was dropped after the transaction''s fixed snapshot, which would not show that its events are missing. Call it while the transaction has the history open.';

CREATE FUNCTION workflow.position_fault(place workflow.follower_position)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    pos workflow.feed_position := place.pos;
    is_own boolean := pos.system_identifier = workflow.system_identifier();
    is_here boolean := is_own AND place.timeline = workflow.timeline();
    mark_id bigint := greatest(pos.floor_id, pos.acked_id);
    found_id bigint := mark_id;
    found_hash bigint;
BEGIN
    -- First: from here on the transaction has the history open, and no partition is dropped.
    SELECT workflow.event_hash(h.id, h.entity_id, h.version, h.changed_at) INTO found_hash
    FROM workflow.state_history AS h
    WHERE h.id = mark_id;
    IF found_hash IS DISTINCT FROM place.mark_hash AND mark_id = workflow.partition_start(mark_id) THEN
        -- The mark is the last event before this partition.
        SELECT h.id, workflow.event_hash(h.id, h.entity_id, h.version, h.changed_at) INTO found_id, found_hash
        FROM workflow.state_history AS h
        WHERE h.id < mark_id
        ORDER BY h.id DESC
        LIMIT 1;
        found_id := coalesce(found_id, 0) + 1;
    END IF;
    PERFORM workflow.check_partitions(least(mark_id, found_id));
    IF mark_id > workflow.last_event_id()
        OR (is_own AND pos.window_ceiling_id > workflow.last_event_id())
        -- Not next_transaction_id: a crash forgets IDs of transactions in progress that had written nothing.
        OR (is_here AND greatest(pg_snapshot_xmax(pos.snapshot), pg_snapshot_xmax(pos.window_snapshot))
            > workflow.next_transaction_id())
        OR (is_here AND place.lsn > workflow.wal_end())
    THEN
        RETURN 'ahead of this database';
    END IF;
    IF place.mark_hash IS NULL AND NOT is_here THEN
        RETURN 'of another cluster or timeline';
    END IF;
    IF is_own AND NOT is_here AND place.lsn <= workflow.timeline_end(place.timeline) IS NOT TRUE THEN
        RETURN format('on timeline %s after this database has left it', place.timeline);
    END IF;
    IF EXISTS (
        SELECT FROM workflow.dropped_partitions AS d
        WHERE d.last_id >= workflow.partition_start(pos.floor_id)
            AND (d.last_id > pos.floor_id AND (place.mark_hash IS NOT NULL OR pos.snapshot IS NULL)
                OR pg_snapshot_xmin(pos.snapshot) <= d.last_transaction_id))
    THEN
        RETURN 'too old: events after it have been purged';
    END IF;
    -- Events that the position knows and the snapshot does not show would be taken for acknowledged.
    IF is_own AND current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') AND (
        greatest(pg_snapshot_xmax(pos.snapshot), pg_snapshot_xmax(pos.window_snapshot))
            > pg_snapshot_xmax(pg_current_snapshot())
        OR EXISTS (
            SELECT FROM pg_snapshot_xip(pg_current_snapshot()) AS x (xid)
            WHERE pg_visible_in_snapshot(x.xid, pos.snapshot) OR pg_visible_in_snapshot(x.xid, pos.window_snapshot)))
    THEN
        RAISE EXCEPTION USING
            ERRCODE = 'serialization_failure',
            MESSAGE = 'cannot follow events: position is later than the transaction''s snapshot',
            DETAIL = jsonb_build_object('event', mark_id)::text,
            HINT = 'Retry in a new transaction.';
    END IF;
    IF place.mark_hash <> coalesce(found_hash, 0) AND mark_id > 0
        AND NOT ((found_hash IS NULL OR found_id <> mark_id)
            AND EXISTS (SELECT FROM workflow.dropped_partitions AS d WHERE d.last_id >= found_id))
    THEN
        RETURN format('of another history: event %s is not the one before it', mark_id);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION workflow.position_fault(workflow.follower_position) IS
'Internal: says why this database cannot continue at a position; null if it can. Errors: 40001 partition dropped or position taken since the transaction''s snapshot.';

CREATE FUNCTION workflow.parse_position("position" text)
RETURNS workflow.follower_position
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[] := string_to_array("position", '.');
    place workflow.follower_position;
    pos workflow.feed_position;
    fault text := 'malformed';
BEGIN
    BEGIN
        -- Only digits, without a sign: later positions have no other characters either.
        IF "position" IS NULL OR "position" ~ '[^0-9.:]'
            OR (parts[1], cardinality(parts)) NOT IN (('1', 6), ('1', 11), ('2', 8), ('2', 13))
        THEN
            RAISE invalid_text_representation;
        END IF;
        pos.system_identifier := parts[2];
        place.timeline := parts[3];
        IF parts[1] = '2' THEN
            place.lsn := parts[4];
            place.mark_hash := parts[5];
            parts := parts[:3] || parts[6:];
        END IF;
        pos.snapshot := workflow.parse_snapshot(parts[4]);
        pos.next_transaction_id := nullif(parts[5], '')::bigint::text;
        pos.floor_id := parts[6];
        pos.acked_id := 0;
        IF cardinality(parts) = 11 THEN
            pos.window_snapshot := workflow.parse_snapshot(parts[7]);
            pos.window_next_transaction_id := parts[8]::bigint::text;
            pos.window_floor_id := parts[9];
            pos.window_ceiling_id := parts[10];
            pos.acked_id := parts[11];
        END IF;
        place.pos := pos;
        IF (pos.snapshot IS NULL) <> (pos.next_transaction_id IS NULL)
            OR (pos.window_snapshot IS NULL) <> (cardinality(parts) = 6)
            OR pg_snapshot_xmax(pos.snapshot) > pos.next_transaction_id
            OR pg_snapshot_xmax(pos.window_snapshot) > pos.window_next_transaction_id
            OR greatest(pos.acked_id, pos.window_floor_id) > pos.window_ceiling_id
        THEN
            RAISE invalid_text_representation;
        END IF;
        fault := NULL;
    EXCEPTION WHEN data_exception THEN
        NULL;
    END;
    IF fault IS NULL THEN
        fault := workflow.position_fault(place);
    END IF;
    IF fault IS NOT NULL OR pos.system_identifier <> workflow.system_identifier() OR workflow.origin() = 0 THEN
        -- Events before the position may still arrive.
        PERFORM workflow.refuse_copy('follow events');
    END IF;
    IF fault IS NOT NULL THEN
        PERFORM workflow.refuse_argument(
            'cannot follow events: position is ' || CASE WHEN "position" IS NULL THEN 'null' ELSE fault END,
            jsonb_build_object('argument', 'position', 'value', left("position", 250)),
            'Use the position of the last row that follow_events() returned, or start with current_position() and read the states from the tables.');
    END IF;
    IF pos.system_identifier <> workflow.system_identifier() THEN
        place.pos := workflow.relocate_position(pos, place.mark_hash IS NOT NULL);
        place.mark_hash := NULL;
        RETURN place;
    END IF;
    -- IDs that a crash has forgotten are those of later transactions now.
    IF pos.snapshot IS NOT NULL THEN
        pos.next_transaction_id := least(pos.next_transaction_id, workflow.next_transaction_id());
    END IF;
    IF pos.window_snapshot IS NOT NULL THEN
        pos.window_next_transaction_id := least(pos.window_next_transaction_id, workflow.next_transaction_id());
    END IF;
    place.pos := pos;
    RETURN place;
END
$$;
COMMENT ON FUNCTION workflow.parse_position(text) IS
'Internal: parses a position, and relocates one of another cluster. Errors: 22023 bad argument, 55000 a subscription writes this database, 40001 partition dropped or position taken since the transaction''s snapshot.';

CREATE FUNCTION workflow.mark_position(place workflow.follower_position)
RETURNS workflow.follower_position
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    pos workflow.feed_position := place.pos;
    mark record;
BEGIN
    -- Every acknowledged event is visible in the snapshot, or up to floor_id. Those of the calling transaction are not
    -- acknowledged, and may be undone.
    SELECT h.id, workflow.event_hash(h.id, h.entity_id, h.version, h.changed_at) AS hash INTO mark
    FROM workflow.state_history AS h
    WHERE (h.id <= pos.floor_id OR pg_visible_in_snapshot(h.transaction_id, pos.snapshot))
        AND h.transaction_id IS DISTINCT FROM pg_current_xact_id_if_assigned()
    ORDER BY h.id DESC
    LIMIT 1;
    pos.floor_id := greatest(coalesce(mark.id, 0), workflow.partition_start(pos.floor_id));
    place.pos := pos;
    place.mark_hash := coalesce(mark.hash, 0);
    RETURN place;
END
$$;
COMMENT ON FUNCTION workflow.mark_position(workflow.follower_position) IS
'Internal: finds the mark of a position without an open window.';

CREATE FUNCTION workflow.open_followed_window(place workflow.follower_position)
RETURNS workflow.follower_position
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF place.mark_hash IS NULL THEN
        place := workflow.mark_position(place);
    END IF;
    place.pos := workflow.open_window(place.pos);
    -- Last: the log up to there has all that the window shows.
    place.timeline := workflow.timeline();
    place.lsn := workflow.wal_end();
    RETURN place;
END
$$;
COMMENT ON FUNCTION workflow.open_followed_window(workflow.follower_position) IS
'Internal: open_window() for a follower. Writes nothing.';

CREATE FUNCTION workflow.close_followed_window(place workflow.follower_position)
RETURNS workflow.follower_position
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    mark_id bigint := greatest((place.pos).floor_id, (place.pos).acked_id);
    pos workflow.feed_position := workflow.close_window(place.pos);
BEGIN
    IF place.mark_hash IS NOT NULL THEN
        pos.floor_id := greatest(mark_id, workflow.partition_start(pos.floor_id));
    END IF;
    place.pos := pos;
    RETURN place;
END
$$;
COMMENT ON FUNCTION workflow.close_followed_window(workflow.follower_position) IS
'Internal: close_window() for a follower. Writes nothing.';

CREATE FUNCTION workflow.position_after(place workflow.follower_position, id bigint, hash bigint, is_last boolean)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pos workflow.feed_position := place.pos;
    is_marked boolean := place.mark_hash IS NOT NULL;
BEGIN
    IF is_marked AND position_after.id > greatest(pos.floor_id, pos.acked_id) THEN
        place.mark_hash := hash;
    END IF;
    pos.acked_id := position_after.id;
    place.pos := pos;
    IF is_last OR NOT EXISTS (SELECT FROM workflow.events_in_window(pos, 1, is_marked)) THEN
        place := workflow.close_followed_window(place);
    END IF;
    RETURN workflow.format_position(place);
END
$$;
COMMENT ON FUNCTION workflow.position_after(workflow.follower_position, bigint, bigint, boolean) IS
'Internal: formats the position after the event with this id and event_hash() of the open window. is_last: the window is known to end there.';
