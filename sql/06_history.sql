-- The audit trail.

CREATE FUNCTION workflow.check_entity_type(entity_type text)
RETURNS text
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'check_entity_type_wrapper';
COMMENT ON FUNCTION workflow.check_entity_type(text) IS
'Internal: its argument, or an error (22023) where that is not dag_run or task_instance.';

CREATE FUNCTION workflow.history(entity_type text, id uuid, max integer DEFAULT 100)
RETURNS SETOF workflow.state_history
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
ROWS 10
AS $$
BEGIN
    IF id IS NULL OR max IS NULL OR max < 0 THEN
        PERFORM workflow.refuse_argument(
            'cannot read history: ' || CASE WHEN id IS NULL THEN 'id is null' WHEN max IS NULL THEN 'max is null' ELSE 'max is negative' END,
            jsonb_build_object('argument', CASE WHEN id IS NULL THEN 'id' ELSE 'max' END, 'value', max),
            'Give the entity''s id and how many moves to return at most.');
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
'The latest moves of an entity, newest first; also of one that has been deleted. No rows where it never existed. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.state_at(entity_type text, id uuid, at timestamptz)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF id IS NULL OR at IS NULL THEN
        PERFORM workflow.refuse_argument(
            'cannot tell a past state: ' || CASE WHEN id IS NULL THEN 'id' ELSE 'at' END || ' is null',
            jsonb_build_object('argument', CASE WHEN id IS NULL THEN 'id' ELSE 'at' END, 'value', NULL),
            'Give the entity''s id and a moment.');
    END IF;
    RETURN (
        SELECT h.new_state
        FROM workflow.state_history AS h
        WHERE h.entity_id = state_at.id
            AND h.entity_type = workflow.check_entity_type(state_at.entity_type)
            AND h.changed_at <= state_at.at
        ORDER BY h.version DESC
        LIMIT 1
    );
END
$$;
COMMENT ON FUNCTION workflow.state_at(text, uuid, timestamptz) IS
'The state that an entity was in at a moment; null before its creation. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.event_id_at(at timestamptz)
RETURNS bigint
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    lowest bigint;
    highest bigint;
    middle bigint;
    found_id bigint;
    found_at timestamptz;
BEGIN
    -- The answer is in lowest .. highest.
    SELECT min(h.id), max(h.id) + 1 INTO lowest, highest FROM workflow.state_history AS h;
    IF lowest IS NULL THEN
        RETURN 1;
    END IF;
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
    RETURN lowest;
END
$$;
COMMENT ON FUNCTION workflow.event_id_at(timestamptz) IS
'The id from which on events are of this moment or later; where all are earlier, one more than the last. Found in some 40 looks at the primary key, so that the history of a time can be read by ids. Ids follow the clock but for short overlaps: take a second more at both ends, and compare changed_at too.';

CREATE FUNCTION workflow.verify()
RETURNS TABLE (entity_type text, entity_id uuid, problem text, detail jsonb)
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH entity AS (
        SELECT 'dag_run' AS entity_type, r.id, r.state, r.version, NULL::integer AS try_number
        FROM workflow.dag_runs AS r
        UNION ALL
        SELECT 'task_instance', t.id, t.state, t.version, t.try_number
        FROM workflow.task_instances AS t
    ), move AS (
        SELECT
            h.*,
            lag(h.new_state) OVER entity AS state_before,
            lag(h.version) OVER entity AS version_before,
            lag(h.changed_at) OVER entity AS changed_before
        FROM workflow.state_history AS h
        WINDOW entity AS (PARTITION BY h.entity_id ORDER BY h.version)
    ), replayed AS (
        SELECT
            h.entity_id,
            max(h.entity_type) AS entity_type,
            max(h.version) AS version,
            (array_agg(h.new_state ORDER BY h.version DESC))[1] AS state,
            count(*) FILTER (WHERE h.new_state = 'running') AS tries
        FROM workflow.state_history AS h
        GROUP BY h.entity_id
    )
    SELECT e.entity_type, e.id, 'no history', jsonb_build_object('state', e.state, 'version', e.version)
    FROM entity AS e
    WHERE NOT EXISTS (SELECT FROM workflow.state_history AS h WHERE h.entity_id = e.id)
    UNION ALL
    SELECT e.entity_type, e.id, 'row and history disagree', jsonb_build_object(
        'row', jsonb_build_object('entity_type', e.entity_type, 'state', e.state, 'version', e.version, 'try_number', e.try_number),
        'history', jsonb_build_object('entity_type', r.entity_type, 'state', r.state, 'version', r.version, 'try_number', CASE e.entity_type WHEN 'task_instance' THEN r.tries END))
    FROM entity AS e
    JOIN replayed AS r ON r.entity_id = e.id
    WHERE (e.entity_type, e.state, e.version) IS DISTINCT FROM (r.entity_type, r.state, r.version)
        OR e.try_number <> r.tries
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'version missing', jsonb_build_object('after', coalesce(m.version_before, 0), 'before', m.version)
    FROM move AS m
    WHERE m.version <> coalesce(m.version_before, 0) + 1
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'move from another state', jsonb_build_object('version', m.version, 'from', m.old_state, 'was', m.state_before)
    FROM move AS m
    WHERE m.version = coalesce(m.version_before, 0) + 1 AND m.old_state IS DISTINCT FROM m.state_before
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'illegal move', jsonb_build_object('version', m.version, 'from', m.old_state, 'to', m.new_state)
    FROM move AS m
    WHERE CASE
        WHEN m.old_state IS NULL THEN m.new_state <> 'queued'
        ELSE NOT EXISTS (
            SELECT FROM workflow.state_machine AS s WHERE s.from_state = m.old_state AND s.to_state = m.new_state)
    END
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'clock went back', jsonb_build_object('version', m.version, 'changed_at', m.changed_at, 'before', m.changed_before)
    FROM move AS m
    WHERE m.changed_at < m.changed_before
    UNION ALL
    SELECT c.entity_type, NULL, 'counts disagree', jsonb_build_object('state', c.state, 'state_counts', c.count, 'rows', coalesce(t.rows, 0))
    FROM workflow.state_counts AS c
    LEFT JOIN (
        SELECT e.entity_type, e.state, count(*) AS rows FROM entity AS e GROUP BY e.entity_type, e.state
    ) AS t ON t.entity_type = c.entity_type AND t.state = c.state
    WHERE c.count <> coalesce(t.rows, 0)
$$;
COMMENT ON FUNCTION workflow.verify() IS
'Replays all of history against the rows, compares the view state_counts with them, and lists every disagreement: none on a healthy database. Reads the tables whole.';
