-- Following the feed without a consumer: the place is a text that the reader keeps, and the database keeps nothing.
--
-- A position holds what a row of consumers holds. It is given out only when all that had been written before it is on
-- disk: after a crash, numbers and ids that were lost are given out again, and such an event would lie behind it.
-- A row of consumers needs no such care, because it is lost too.

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
'An event as follow_events() returns it, and in the last one of a batch the position after it.';

CREATE FUNCTION workflow.timeline()
RETURNS bigint
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'timeline_wrapper';
COMMENT ON FUNCTION workflow.timeline() IS
'Internal: the timeline of the write-ahead log. A standby that was promoted, and a cluster recovered to an earlier moment, have another than before.';

-- A snapshot's numbers after the first are told from the first.

CREATE FUNCTION workflow.spelled_snapshot(snapshot pg_snapshot)
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
COMMENT ON FUNCTION workflow.spelled_snapshot(pg_snapshot) IS
'Internal: a snapshot as a position spells it; empty for null.';

CREATE FUNCTION workflow.parsed_snapshot(spelled text)
RETURNS pg_snapshot
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    numbers bigint[] := string_to_array(spelled, ':')::bigint[];
BEGIN
    IF spelled = '' THEN
        RETURN NULL;
    END IF;
    RETURN format('%s:%s:%s', numbers[1], numbers[1] + numbers[2],
        (SELECT string_agg((numbers[1] + x.offset_)::text, ',') FROM unnest(numbers[3:]) AS x (offset_)));
END
$$;
COMMENT ON FUNCTION workflow.parsed_snapshot(text) IS
'Internal: the snapshot that spelled_snapshot() has spelled, or an error of class 22.';

CREATE FUNCTION workflow.spelled_position(place workflow.consumers)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    spelled text := concat_ws('.', '1', place.system_identifier, workflow.timeline(),
        workflow.spelled_snapshot(place.snapshot), coalesce(place.next_transaction_id::text, ''), place.floor_id);
BEGIN
    IF place.window_snapshot IS NULL THEN
        RETURN spelled;
    END IF;
    RETURN concat_ws('.', spelled, workflow.spelled_snapshot(place.window_snapshot), place.window_next_transaction_id,
        place.window_floor_id, place.window_ceiling_id, place.acked_id);
END
$$;
COMMENT ON FUNCTION workflow.spelled_position(workflow.consumers) IS
'Internal: a place as a text of digits, dots and colons.';

CREATE FUNCTION workflow.parsed_position("position" text)
RETURNS workflow.consumers
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[] := string_to_array("position", '.');
    place workflow.consumers;
    is_behind boolean;
BEGIN
    -- Digits without a sign, so that what is given out later can be spelled as well.
    IF "position" IS NULL OR "position" ~ '[^0-9.:]' OR parts[1] <> '1' OR cardinality(parts) NOT IN (6, 11) THEN
        RAISE invalid_text_representation;
    END IF;
    place.system_identifier := parts[2];
    place.snapshot := workflow.parsed_snapshot(parts[4]);
    place.next_transaction_id := nullif(parts[5], '')::bigint::text;
    place.floor_id := parts[6];
    place.acked_id := 0;
    IF cardinality(parts) = 11 THEN
        place.window_snapshot := workflow.parsed_snapshot(parts[7]);
        place.window_next_transaction_id := parts[8]::bigint::text;
        place.window_floor_id := parts[9];
        place.window_ceiling_id := parts[10];
        place.acked_id := parts[11];
    END IF;
    IF (place.snapshot IS NULL) <> (place.next_transaction_id IS NULL)
        OR (place.window_snapshot IS NULL) <> (cardinality(parts) = 6)
        -- The database has lost its latest events: an asynchronous standby was promoted, or a backup was restored.
        OR place.floor_id > workflow.last_event_id()
    THEN
        RAISE invalid_text_representation;
    END IF;
    is_behind := EXISTS (
        SELECT FROM workflow.dropped_partitions AS d
        WHERE d.last_id > place.floor_id
            AND (place.snapshot IS NULL OR pg_snapshot_xmin(place.snapshot) <= d.last_transaction_id));
    IF is_behind THEN
        RAISE invalid_text_representation;
    END IF;
    IF place.system_identifier = workflow.system_identifier() AND parts[3]::bigint = workflow.timeline() THEN
        RETURN place;
    END IF;
    -- The database may have less than the position speaks of, and give those numbers and ids out again.
    place.window_snapshot := NULL;
    place.window_ceiling_id := NULL;
    place.acked_id := 0;
    RETURN workflow.found_by_ids(place);
EXCEPTION WHEN data_exception THEN
    PERFORM workflow.refuse_argument(
        'cannot follow events: position is ' || CASE
            WHEN "position" IS NULL THEN 'null'
            WHEN place.floor_id > workflow.last_event_id() THEN 'ahead of this database'
            WHEN is_behind THEN 'behind what is kept: events after it have been purged'
            ELSE 'malformed'
        END,
        jsonb_build_object('argument', 'position', 'value', left("position", 250)),
        'Give what follow_events() returned in its last row, or begin anew with current_position().');
END
$$;
COMMENT ON FUNCTION workflow.parsed_position(text) IS
'Internal: the place that a position spells; that of another cluster or timeline found again by ids. Errors: 22023.';

CREATE FUNCTION workflow.close_window(place workflow.consumers)
RETURNS workflow.consumers
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    place.snapshot := place.window_snapshot;
    place.next_transaction_id := place.window_next_transaction_id;
    place.floor_id := place.window_floor_id;
    place.window_snapshot := NULL;
    place.window_next_transaction_id := NULL;
    place.window_floor_id := NULL;
    place.window_ceiling_id := NULL;
    place.acked_id := 0;
    RETURN place;
END
$$;
COMMENT ON FUNCTION workflow.close_window(workflow.consumers) IS
'Internal: the place of whoever has read its window to the end. Writes nothing.';

CREATE FUNCTION workflow.position_after(place workflow.consumers, id bigint, is_last boolean)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF is_last OR NOT EXISTS (
        SELECT FROM workflow.events_between(place.snapshot, place.next_transaction_id, place.floor_id,
            place.window_snapshot, place.window_next_transaction_id, place.window_floor_id, place.window_ceiling_id,
            position_after.id, 1))
    THEN
        RETURN workflow.spelled_position(workflow.close_window(place));
    END IF;
    place.acked_id := position_after.id;
    RETURN workflow.spelled_position(place);
END
$$;
COMMENT ON FUNCTION workflow.position_after(workflow.consumers, bigint, boolean) IS
'Internal: the position after this event of the place''s window. is_last: it is known to be the window''s last.';

CREATE FUNCTION workflow.current_position()
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place workflow.consumers;
BEGIN
    place.system_identifier := workflow.system_identifier();
    -- Where the snapshot stands still: which only costs a longer search.
    place.floor_id := 0;
    place := workflow.close_window(workflow.open_window(place));
    PERFORM workflow.make_durable();
    RETURN workflow.spelled_position(place);
END
$$;
COMMENT ON FUNCTION workflow.current_position() IS
'The position in the event feed of whoever has seen all that has committed so far, for follow_events(). An opaque text without white space, quotes and commas. Errors: 25006 this is a standby.';

CREATE FUNCTION workflow.follow_events("position" text, max integer DEFAULT 1000, wait interval DEFAULT '0')
RETURNS SETOF workflow.followed_event
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 1000
AS $$
DECLARE
    given workflow.consumers;
    place workflow.consumers;
    was_open boolean;
    commits bigint;
    count bigint;
BEGIN
    PERFORM workflow.refuse_tenant();
    PERFORM workflow.check_reading('follow events', max, wait);
    given := workflow.parsed_position("position");
    -- Unlike a consumer, who follows may come through another session each time: look before waiting, and again after.
    FOR look IN 1 .. 2 LOOP
        commits := workflow.commits();
        place := given;
        LOOP
            was_open := place.window_snapshot IS NOT NULL;
            IF NOT was_open THEN
                place := workflow.open_window(place);
            END IF;
            RETURN QUERY
                SELECT e.id, e.entity_type, e.entity_id, e.dag_id, e.dag_run_id, e.task_id,
                    e.old_state, e.new_state, e.version, e.changed_at, e.actor, e.metadata,
                    CASE WHEN lead(e.id) OVER by_id IS NULL
                        THEN workflow.position_after(place, e.id, row_number() OVER by_id < max)
                    END
                FROM workflow.events_between(place.snapshot, place.next_transaction_id, place.floor_id,
                    place.window_snapshot, place.window_next_transaction_id, place.window_floor_id,
                    place.window_ceiling_id, place.acked_id, max) AS e
                WINDOW by_id AS (ORDER BY e.id);
            GET DIAGNOSTICS count = ROW_COUNT;
            EXIT WHEN count > 0 OR NOT was_open;
            place := workflow.close_window(place);
        END LOOP;
        PERFORM workflow.note_found_nothing(CASE WHEN count = 0 THEN "position" END, commits);
        EXIT WHEN count > 0 OR wait = '0' OR look = 2;
        PERFORM workflow.wait_for_events("position", extract(epoch FROM wait)::double precision);
    END LOOP;
    IF count > 0 AND NOT was_open THEN
        PERFORM workflow.make_durable();
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.follow_events(text, integer, interval) IS
'The next events after a position, in order within each entity, none skipped. The column "position" of the last row is what to give next time, in that of every other row null; where there is no row the position stays as it was. Where there is nothing to read it waits up to "wait" for news. What it returns is on disk, and with the synchronous standbys. Nothing is kept or locked, and the transaction may be read-only. After a restore or a promotion some events come twice. Errors: 22023 bad argument, 25006 this is a standby.';
