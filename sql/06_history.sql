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
'Internal: the least id that an entity created at this moment can have.';

CREATE FUNCTION workflow.verify(created_from timestamptz DEFAULT '-infinity', created_to timestamptz DEFAULT 'infinity')
RETURNS TABLE (entity_type text, entity_id uuid, problem text, detail jsonb)
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH bound AS MATERIALIZED (
        SELECT workflow.first_id_at(created_from) AS first, workflow.first_id_at(created_to) AS last,
            -- Who was created before may have lost the beginning of its history to purge().
            (SELECT max(d.last_changed_at) FROM workflow.dropped_partitions AS d) AS complete_from
    ), entity AS MATERIALIZED (
        SELECT 'dag_run' AS entity_type, r.id, r.state, r.version, NULL::integer AS try_number, r.created_at, NULL::uuid AS run
        FROM workflow.dag_runs AS r
        WHERE r.id >= (SELECT b.first FROM bound AS b) AND r.id <= (SELECT b.last FROM bound AS b)
        UNION ALL
        SELECT 'task_instance', t.id, t.state, t.version, t.try_number, t.created_at, t.dag_run_id
        FROM workflow.task_instances AS t
        WHERE t.id >= (SELECT b.first FROM bound AS b) AND t.id <= (SELECT b.last FROM bound AS b)
    ), move AS MATERIALIZED (
        SELECT
            h.entity_type, h.entity_id, h.old_state, h.new_state, h.version, h.changed_at,
            lag(h.new_state) OVER entity AS state_before,
            lag(h.version) OVER entity AS version_before,
            lag(h.changed_at) OVER entity AS changed_before,
            lead(h.version) OVER entity IS NULL AS is_last,
            first_value(h.version) OVER entity = 1 AS is_complete,
            count(*) FILTER (WHERE h.new_state = 'running') OVER entity AS tries
        FROM workflow.state_history AS h
        WHERE h.entity_id >= (SELECT b.first FROM bound AS b) AND h.entity_id <= (SELECT b.last FROM bound AS b)
        WINDOW entity AS (PARTITION BY h.entity_id ORDER BY h.version)
    )
    SELECT e.entity_type, e.id, 'no history', jsonb_build_object('state', e.state, 'version', e.version)
    FROM entity AS e
    WHERE NOT EXISTS (SELECT FROM move AS m WHERE m.entity_id = e.id)
        AND e.created_at <= (SELECT b.complete_from FROM bound AS b) IS NOT TRUE
    UNION ALL
    -- A restore does not check foreign keys.
    SELECT e.entity_type, e.id, 'no dag_run', jsonb_build_object('dag_run_id', e.run)
    FROM entity AS e
    WHERE e.run IS NOT NULL AND NOT EXISTS (SELECT FROM workflow.dag_runs AS r WHERE r.id = e.run)
    UNION ALL
    SELECT e.entity_type, e.id, 'row and history disagree', jsonb_build_object(
        'row', jsonb_build_object('entity_type', e.entity_type, 'state', e.state, 'version', e.version, 'try_number', e.try_number),
        'history', jsonb_build_object('entity_type', m.entity_type, 'state', m.new_state, 'version', m.version,
            'try_number', CASE WHEN e.entity_type = 'task_instance' AND m.is_complete THEN m.tries END))
    FROM entity AS e
    JOIN move AS m ON m.entity_id = e.id AND m.is_last
    WHERE (e.entity_type, e.state, e.version) IS DISTINCT FROM (m.entity_type, m.new_state, m.version)
        OR (e.try_number <> m.tries AND m.is_complete)
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'version missing', jsonb_build_object('after', coalesce(m.version_before, 0), 'before', m.version)
    FROM move AS m
    WHERE m.version <> coalesce(m.version_before, 0) + 1
        AND (m.version_before IS NOT NULL
            OR coalesce((SELECT e.created_at FROM entity AS e WHERE e.id = m.entity_id), '-infinity')
                <= (SELECT b.complete_from FROM bound AS b) IS NOT TRUE)
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'move from another state', jsonb_build_object('version', m.version, 'from', m.old_state, 'was', m.state_before)
    FROM move AS m
    WHERE m.version = coalesce(m.version_before, 0) + 1 AND m.old_state IS DISTINCT FROM m.state_before
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'illegal move', jsonb_build_object('version', m.version, 'from', m.old_state, 'to', m.new_state)
    FROM move AS m
    WHERE CASE
        WHEN m.old_state IS NULL THEN m.new_state <> 'queued'
        ELSE (m.old_state, m.new_state) NOT IN (SELECT s.from_state, s.to_state FROM workflow.state_machine AS s)
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
        -- The whole is compared with the whole.
        AND created_from = '-infinity' AND created_to = 'infinity'
        AND NOT row_security_active('workflow.task_instances')
$$;
COMMENT ON FUNCTION workflow.verify(timestamptz, timestamptz) IS
'Replays the history of the runs and tasks that were created from one moment to the other against their rows, and lists every disagreement: none on a healthy database. Without arguments it reads all there are, and compares the view state_counts with them too. What purge() has dropped is not missed.';
