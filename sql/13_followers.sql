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
    PERFORM workflow.refuse_subscriber('follow events');
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
'Returns the position after the latest committed event, for follow_events(): an opaque text without white space, quotes and commas. Errors: 25006 the server is a standby.';

CREATE FUNCTION workflow.follow_events("position" text, max integer DEFAULT 1000, wait interval DEFAULT '0')
RETURNS SETOF workflow.followed_event
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
ROWS 1000
AS $$
DECLARE
    start workflow.follower_position;
    place workflow.follower_position;
    pos workflow.feed_position;
    was_open boolean;
    commits bigint;
    count bigint;
BEGIN
    PERFORM workflow.refuse_tenant();
    PERFORM workflow.check_reading('follow events', max, wait);
    start := workflow.parse_position("position");
    -- Unlike a consumer, a follower may use another session each time: look before waiting, and again after.
    FOR look IN 1 .. 2 LOOP
        commits := workflow.commits();
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
'Returns the next events after a position, in order within each entity. The last row has the position to use next. Waits up to "wait" for new events. Only durable events are delivered. Writes and locks nothing. Errors: 22023 bad argument, or this database has lost or purged what the position needs, 25006 the server is a standby, 40001 purged since the transaction''s snapshot, 42501 row security applies to the role.';
