-- Followers: readers of the event feed who store their position themselves, as a text. The database stores nothing.
--
-- The text holds a workflow.follower_position. It is returned only when all events before it are on disk: after a crash,
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

CREATE FUNCTION workflow.current_position()
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place workflow.follower_position;
BEGIN
    PERFORM workflow.refuse_tenant();
    PERFORM workflow.refuse_copy('follow events');
    place.pos := workflow.close_window(workflow.open_window(workflow.first_position()));
    place := workflow.mark_position(place);
    -- Last: the log up to there has the mark.
    place.timeline := workflow.timeline();
    place.lsn := workflow.wal_end();
    PERFORM workflow.make_durable();
    RETURN workflow.format_position(place);
END
$$;
COMMENT ON FUNCTION workflow.current_position() IS
'Returns the position after the latest committed event, for follow_events(): an opaque text without white space, quotes and commas. Errors: 25006 the server is a standby, 42501 row security applies to the role, 55000 a subscription writes this database, or finish_copy() was not called.';

CREATE FUNCTION workflow.follow_events("position" text, max integer DEFAULT 1000, wait interval DEFAULT '0')
RETURNS SETOF workflow.followed_event
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
-- Nor does a partition without statistics: its range of ids would seem short enough to sort.
SET enable_bitmapscan = off
SET jit = off
ROWS 1000
AS $$
DECLARE
    start workflow.follower_position;
    place workflow.follower_position;
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
        place := start;
        LOOP
            was_open := (place.pos).window_snapshot IS NOT NULL;
            IF NOT was_open THEN
                place := workflow.open_followed_window(place);
            END IF;
            pos := place.pos;
            RETURN QUERY
                SELECT e.id, e.entity_type, e.entity_id, e.dag_id, e.dag_run_id, e.task_id,
                    e.old_state, e.new_state, e.version, e.changed_at, e.actor, e.metadata,
                    CASE WHEN lead(e.id) OVER by_id IS NULL
                        THEN workflow.position_after(place, e.id,
                            workflow.event_hash(e.id, e.entity_id, e.version, e.changed_at), row_number() OVER by_id < max)
                    END
                FROM workflow.events_in_window(pos, max, place.mark_hash IS NOT NULL) AS e
                WINDOW by_id AS (ORDER BY e.id);
            GET DIAGNOSTICS count = ROW_COUNT;
            EXIT WHEN count > 0 OR NOT was_open;
            place := workflow.close_followed_window(place);
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
'Returns the next events after a position, in order within each entity. The last row has the position to use next. Waits up to "wait" for new events, with a snapshot that holds back VACUUM; wait_for_events_after() waits without one. Only durable events are delivered. Writes and locks nothing. Errors: 22023 bad argument, or this database has lost or purged what the position needs, 25006 the server is a standby, 40001 purged or position taken since the transaction''s snapshot, 42501 row security applies to the role, 55000 a subscription writes this database, or finish_copy() was not called.';

CREATE FUNCTION workflow.position_has_events("position" text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    place workflow.follower_position;
BEGIN
    PERFORM workflow.refuse_tenant();
    -- An error on a standby, also if the open window has events.
    PERFORM workflow.next_transaction_id();
    place := workflow.parse_position("position");
    IF (place.pos).window_snapshot IS NOT NULL THEN
        IF EXISTS (SELECT FROM workflow.events_in_window(place.pos, 1, place.mark_hash IS NOT NULL)) THEN
            RETURN true;
        END IF;
        place := workflow.close_followed_window(place);
    END IF;
    place := workflow.open_followed_window(place);
    RETURN EXISTS (SELECT FROM workflow.events_in_window(place.pos, 1, place.mark_hash IS NOT NULL));
END
$$;
COMMENT ON FUNCTION workflow.position_has_events(text) IS
'Internal: returns whether there are events after a position. Errors: 22023 bad argument, 25006 the server is a standby, 42501 row security applies to the role, 55000 a subscription writes this database.';

CREATE PROCEDURE workflow.wait_for_events_after("position" text, timeout interval, INOUT has_events boolean DEFAULT NULL)
LANGUAGE c
AS 'MODULE_PATHNAME', 'wait_for_events_of_position';
COMMENT ON PROCEDURE workflow.wait_for_events_after(text, interval, boolean) IS
'Waits until there are events after a position, at most "timeout"; has_events tells whether there are any. Meanwhile the session holds no snapshot and no lock. CALL it outside a transaction block, then call follow_events(). Errors: 22023 bad argument, 25001 in a transaction block, 25006 the server is a standby, 42501 row security applies to the role, 55000 a subscription writes this database.';
