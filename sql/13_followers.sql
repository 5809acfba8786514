-- Followers: readers of the event feed who store their position themselves, as a text. The database stores nothing.
--
-- The text holds a workflow.feed_position. It is returned only when all events before it are on disk: after a crash,
-- transaction IDs and ids that were lost are assigned again, and such an event would be before the position. A row of
-- consumers needs no such care, because the crash undoes it too.

CREATE TYPE workflow.followed_event AS (
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
    metadata    jsonb,
    "position"  text
);
COMMENT ON TYPE workflow.followed_event IS
'Event that follow_events() returns; the last row of a batch has the position after it.';

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

CREATE FUNCTION workflow.format_position(pos workflow.feed_position)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    formatted text := concat_ws('.', '1', pos.system_identifier, workflow.timeline(),
        workflow.format_snapshot(pos.snapshot), coalesce(pos.next_transaction_id::text, ''), pos.floor_id);
BEGIN
    IF pos.window_snapshot IS NULL THEN
        RETURN formatted;
    END IF;
    RETURN concat_ws('.', formatted, workflow.format_snapshot(pos.window_snapshot), pos.window_next_transaction_id,
        pos.window_floor_id, pos.window_ceiling_id, pos.acked_id);
END
$$;
COMMENT ON FUNCTION workflow.format_position(workflow.feed_position) IS
'Internal: formats a position as a text of digits, dots and colons.';

CREATE FUNCTION workflow.parse_position("position" text)
RETURNS workflow.feed_position
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[] := string_to_array("position", '.');
    pos workflow.feed_position;
    is_purged boolean;
BEGIN
    -- Only digits, without a sign: later positions have no other characters either.
    IF "position" IS NULL OR "position" ~ '[^0-9.:]' OR parts[1] <> '1' OR cardinality(parts) NOT IN (6, 11) THEN
        RAISE invalid_text_representation;
    END IF;
    pos.system_identifier := parts[2];
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
    IF (pos.snapshot IS NULL) <> (pos.next_transaction_id IS NULL)
        OR (pos.window_snapshot IS NULL) <> (cardinality(parts) = 6)
        -- The database has lost its latest events: an asynchronous standby was promoted, or a backup was restored.
        OR pos.floor_id > workflow.last_event_id()
    THEN
        RAISE invalid_text_representation;
    END IF;
    is_purged := EXISTS (
        SELECT FROM workflow.dropped_partitions AS d
        WHERE d.last_id > pos.floor_id
            AND (pos.snapshot IS NULL OR pg_snapshot_xmin(pos.snapshot) <= d.last_transaction_id));
    IF is_purged THEN
        RAISE invalid_text_representation;
    END IF;
    IF pos.system_identifier = workflow.system_identifier() AND parts[3]::bigint = workflow.timeline() THEN
        RETURN pos;
    END IF;
    -- The database may lack events of the window, and assign their transaction IDs and ids again.
    pos.window_snapshot := NULL;
    pos.window_ceiling_id := NULL;
    pos.acked_id := 0;
    RETURN workflow.relocate_position(pos);
EXCEPTION WHEN data_exception THEN
    PERFORM workflow.refuse_argument(
        'cannot follow events: position is ' || CASE
            WHEN "position" IS NULL THEN 'null'
            WHEN pos.floor_id > workflow.last_event_id() THEN 'ahead of this database'
            WHEN is_purged THEN 'too old: events after it have been purged'
            ELSE 'malformed'
        END,
        jsonb_build_object('argument', 'position', 'value', left("position", 250)),
        'Use the position of the last row that follow_events() returned, or start with current_position().');
END
$$;
COMMENT ON FUNCTION workflow.parse_position(text) IS
'Internal: parses a position, and relocates one of another cluster or timeline. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.position_after(pos workflow.feed_position, id bigint, is_last boolean)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    pos.acked_id := position_after.id;
    IF is_last OR NOT EXISTS (SELECT FROM workflow.events_in_window(pos, 1)) THEN
        pos := workflow.close_window(pos);
    END IF;
    RETURN workflow.format_position(pos);
END
$$;
COMMENT ON FUNCTION workflow.position_after(workflow.feed_position, bigint, boolean) IS
'Internal: formats the position after this event of the open window. is_last: the window is known to end there.';

CREATE FUNCTION workflow.current_position()
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pos workflow.feed_position := workflow.close_window(workflow.open_window(workflow.first_position()));
BEGIN
    PERFORM workflow.refuse_subscriber('follow events');
    PERFORM workflow.make_durable();
    RETURN workflow.format_position(pos);
END
$$;
COMMENT ON FUNCTION workflow.current_position() IS
'Returns the position after the latest committed event, for follow_events(): an opaque text without white space, quotes and commas. Errors: 25006 the server is a standby.';

CREATE FUNCTION workflow.follow_events("position" text, max integer DEFAULT 1000, wait interval DEFAULT '0')
RETURNS SETOF workflow.followed_event
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
ROWS 1000
AS $$
DECLARE
    start workflow.feed_position;
    pos workflow.feed_position;
    was_open boolean;
    seconds double precision := extract(epoch FROM wait);
    seen bigint;
    count bigint;
BEGIN
    PERFORM workflow.refuse_tenant();
    PERFORM workflow.check_reading('follow events', max, wait);
    start := workflow.parse_position("position");
    LOOP
        seen := workflow.commits();
        pos := start;
        LOOP
            was_open := pos.window_snapshot IS NOT NULL;
            IF NOT was_open THEN
                pos := workflow.open_window(pos);
            END IF;
            RETURN QUERY
                SELECT e.id, e.entity_type, e.entity_id, e.dag_id, e.dag_run_id, e.task_id,
                    e.old_state, e.new_state, e.version, e.changed_at, e.actor, e.metadata,
                    CASE WHEN lead(e.id) OVER by_id IS NULL
                        THEN workflow.position_after(pos, e.id, row_number() OVER by_id < max)
                    END
                FROM workflow.events_in_window(pos, max) AS e
                WINDOW by_id AS (ORDER BY e.id);
            GET DIAGNOSTICS count = ROW_COUNT;
            EXIT WHEN count > 0 OR NOT was_open;
            pos := workflow.close_window(pos);
        END LOOP;
        EXIT WHEN count > 0 OR seconds <= 0;
        seconds := workflow.wait_for_commit(seen, seconds);
    END LOOP;
    IF count > 0 AND NOT was_open THEN
        PERFORM workflow.make_durable();
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.follow_events(text, integer, interval) IS
'Returns the next events after a position, in order within each entity. The last row has the position to use next. Waits up to "wait" for new events, with a snapshot that holds back VACUUM; wait_for_events_after() waits without one. Only durable events are delivered. Writes and locks nothing. Errors: 22023 bad argument, 25006 the server is a standby, 42501 row security applies to the role.';

CREATE FUNCTION workflow.position_has_events("position" text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM workflow.refuse_tenant();
    RETURN workflow.has_events(workflow.parse_position("position"));
END
$$;
COMMENT ON FUNCTION workflow.position_has_events(text) IS
'Internal: returns whether there are events after a position. Errors: 22023 bad argument, 42501 row security applies to the role.';

CREATE PROCEDURE workflow.wait_for_events_after("position" text, timeout interval, INOUT has_events boolean DEFAULT NULL)
LANGUAGE c
AS 'MODULE_PATHNAME', 'wait_for_events_of_position';
COMMENT ON PROCEDURE workflow.wait_for_events_after(text, interval, boolean) IS
'Waits until there are events after a position, at most "timeout"; has_events tells whether there are any. Meanwhile the session holds no snapshot and no lock. CALL it outside a transaction block, then call follow_events(). Errors: 22023 bad argument, 25001 in a transaction block, 25006 the server is a standby, 42501 row security applies to the role.';
