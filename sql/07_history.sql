-- The history of an entity: its audit trail.

CREATE FUNCTION workflow.history(entity_type text, id uuid, max integer DEFAULT 100)
RETURNS SETOF workflow.state_history
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
ROWS 10
AS $$
BEGIN
    IF id IS NULL OR max IS NULL OR max < 0 THEN
        PERFORM workflow.refuse_argument(
            'cannot read history: ' || CASE WHEN id IS NULL THEN 'id is null' WHEN max IS NULL THEN 'max is null' ELSE 'max is negative' END,
            jsonb_build_object('argument', CASE WHEN id IS NULL THEN 'id' ELSE 'max' END, 'value', max),
            'Give the id of the entity and the maximum number of events to return.');
    END IF;
    RETURN QUERY
        SELECT h.*
        FROM workflow.state_history AS h
        WHERE h.entity_id = history.id AND h.entity_type = workflow.check_entity_type(history.entity_type)
        ORDER BY h.version DESC
        LIMIT max;
END
$$;
COMMENT ON FUNCTION workflow.history(text, uuid, integer) IS
'Returns the latest events of an entity, newest first, also if the entity has been deleted. No rows if it never existed, or if purge() has dropped its events. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.state_at(entity_type text, id uuid, at timestamptz)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    past_state text;
    run_id uuid;
BEGIN
    IF id IS NULL OR at IS NULL THEN
        PERFORM workflow.refuse_argument(
            'cannot return a past state: ' || CASE WHEN id IS NULL THEN 'id' ELSE 'at' END || ' is null',
            jsonb_build_object('argument', CASE WHEN id IS NULL THEN 'id' ELSE 'at' END, 'value', NULL),
            'Give the id of the entity and a point in time.');
    END IF;
    SELECT h.new_state, h.dag_run_id INTO past_state, run_id
    FROM workflow.state_history AS h
    WHERE h.entity_id = state_at.id
        AND h.entity_type = workflow.check_entity_type(state_at.entity_type)
        AND h.changed_at <= state_at.at
    ORDER BY h.version DESC
    LIMIT 1;
    -- A task is deleted with its run, which alone has an event. Two statements: as one, PostgreSQL 18 read the whole history in
    -- the order of the index, for a join.
    IF EXISTS (
        SELECT FROM workflow.state_history AS d
        WHERE d.entity_id = run_id AND d.new_state IS NULL AND d.changed_at <= state_at.at)
    THEN
        RETURN NULL;
    END IF;
    RETURN past_state;
END
$$;
COMMENT ON FUNCTION workflow.state_at(text, uuid, timestamptz) IS
'Returns the state of an entity at a point in time; null before its creation and after a DELETE. The deletions of purge() are no events: it then has its last state, and null once its events are dropped. Errors: 22023 bad argument.';

-- Times in the history are found as ids. Both rise together, but for statements that wait and clocks that jump. So bisecting
-- the ids finds a place, and an index on ids and times (BRIN, of the ranges of blocks) the events beyond it.

CREATE FUNCTION workflow.bisect_events(at timestamptz)
RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_indexscan = on
AS $$
DECLARE
    lowest bigint;
    highest bigint;
    middle bigint;
    found_id bigint;
    found_at timestamptz;
BEGIN
    -- The result is in lowest .. highest.
    SELECT min(h.id), max(h.id) + 1 INTO lowest, highest FROM workflow.state_history AS h;
    WHILE lowest < highest LOOP
        middle := lowest + (highest - lowest) / 2;
        SELECT h.id, h.changed_at INTO STRICT found_id, found_at
        FROM workflow.state_history AS h
        WHERE h.id >= middle
        ORDER BY h.id
        LIMIT 1;
        IF found_at >= at THEN
            highest := middle;
        ELSE
            lowest := found_id + 1;
        END IF;
    END LOOP;
    RETURN coalesce(lowest, 1);
END
$$;
COMMENT ON FUNCTION workflow.bisect_events(timestamptz) IS
'Internal: returns an id: the event before it is before a time, and the event from it on is not.';

CREATE FUNCTION workflow.event_id_at(at timestamptz)
RETURNS bigint
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
-- The planner does not know that few events are out of order.
SET enable_seqscan = off
SET jit = off
SET enable_indexscan = off
SET enable_indexonlyscan = off
SET max_parallel_workers_per_gather = 0
AS $$
DECLARE
    found bigint := workflow.bisect_events(at);
BEGIN
    -- Not min(h.id), for which PostgreSQL 18 reads the primary key although it is disabled.
    RETURN coalesce((SELECT min(h.id + 0) FROM workflow.state_history AS h WHERE h.id < found AND h.changed_at >= at), found);
END
$$;
COMMENT ON FUNCTION workflow.event_id_at(timestamptz) IS
'Returns the first event id at or after a time, one more than the last if all are earlier. Later ids can have earlier times: compare changed_at too. See event_id_before().';

CREATE FUNCTION workflow.event_id_before(at timestamptz)
RETURNS bigint
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
SET enable_indexscan = off
SET enable_indexonlyscan = off
SET max_parallel_workers_per_gather = 0
AS $$
DECLARE
    found bigint := workflow.bisect_events(at);
BEGIN
    -- As in event_id_at().
    RETURN coalesce((SELECT max(h.id + 0) FROM workflow.state_history AS h WHERE h.id >= found AND h.changed_at < at), found - 1);
END
$$;
COMMENT ON FUNCTION workflow.event_id_before(timestamptz) IS
'Returns the last event id before a time, one less than the first if all are later. Earlier ids can have later times: compare changed_at too. See event_id_at().';

CREATE FUNCTION workflow.first_id_at(at timestamptz)
RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- RFC 9562, version 7: the first 48 bits are the milliseconds since 1970.
    SELECT CASE
        WHEN at < timestamptz '1970-01-01Z' THEN uuid '00000000-0000-0000-0000-000000000000'
        WHEN at >= timestamptz '10000-01-01Z' THEN uuid 'ffffffff-ffff-ffff-ffff-ffffffffffff'
        ELSE rpad(lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0'), 32, '0')::uuid
    END
$$;
COMMENT ON FUNCTION workflow.first_id_at(timestamptz) IS
'Internal: returns the lowest id of entities created at or after a time.';
