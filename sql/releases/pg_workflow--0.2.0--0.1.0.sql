\echo Use "ALTER EXTENSION pg_workflow UPDATE TO '0.1.0'" to load this file. \quit
-- From 0.2.0 back to 0.1.0. What later partitions hold is moved into the first, which is the one table again. The roles
-- stay: they belong to the cluster.

DO $$
BEGIN
    IF EXISTS (SELECT FROM workflow.dropped_partitions) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = 'cannot take pg_workflow back to 0.1.0: parts of its history have been purged',
            DETAIL = (
                SELECT pg_catalog.jsonb_build_object('dropped_partitions', pg_catalog.jsonb_agg(d."partition"))::pg_catalog.text
                FROM workflow.dropped_partitions AS d),
            HINT = 'In 0.1.0 verify() would report every entity whose history they held, and follow_events() would skip them for old positions. To go back all the same, empty workflow.dropped_partitions first.';
    END IF;
END
$$;

DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_catalog.pg_class AS c
        WHERE c.oid OPERATOR(pg_catalog.=) 'workflow.dags'::pg_catalog.regclass AND c.relrowsecurity)
    THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = 'cannot take pg_workflow back to 0.1.0: row security is enabled',
            DETAIL = pg_catalog.jsonb_build_object('table', 'dags')::pg_catalog.text,
            HINT = 'In 0.1.0 every role would see what belongs to every tenant. To go back all the same, call workflow.disable_row_security() first.';
    END IF;
END
$$;

-- The oldest partition is what becomes the one table.
DO $$
DECLARE
    name text;
    oldest text;
    other text;
    zero text;
    index text;
BEGIN
    FOREACH name IN ARRAY '{state_history,task_logs}'::pg_catalog.text[] LOOP
        SELECT p."partition" INTO STRICT oldest
        FROM workflow.partitions AS p
        WHERE p.table_name OPERATOR(pg_catalog.=) name
        ORDER BY p.number
        LIMIT 1;
        zero := name OPERATOR(pg_catalog.||) '_0';
        IF NOT EXISTS (
            SELECT FROM pg_catalog.pg_depend AS d
            WHERE d.classid OPERATOR(pg_catalog.=) 'pg_class'::pg_catalog.regclass
                AND d.objid OPERATOR(pg_catalog.=) pg_catalog.format('workflow.%I', oldest)::pg_catalog.regclass
                AND d.deptype OPERATOR(pg_catalog.=) 'e')
        THEN
            EXECUTE pg_catalog.format('ALTER EXTENSION pg_workflow ADD TABLE workflow.%I', oldest);
        END IF;
        FOR other IN
            SELECT p."partition"
            FROM workflow.partitions AS p
            JOIN pg_catalog.pg_depend AS d
                ON d.objid OPERATOR(pg_catalog.=) pg_catalog.format('workflow.%I', p."partition")::pg_catalog.regclass
            WHERE p.table_name OPERATOR(pg_catalog.=) name
                AND p."partition" OPERATOR(pg_catalog.<>) oldest
                AND d.classid OPERATOR(pg_catalog.=) 'pg_class'::pg_catalog.regclass
                AND d.deptype OPERATOR(pg_catalog.=) 'e'
        LOOP
            EXECUTE pg_catalog.format('ALTER EXTENSION pg_workflow DROP TABLE workflow.%I', other);
        END LOOP;
        IF oldest OPERATOR(pg_catalog.<>) zero THEN
            EXECUTE pg_catalog.format('ALTER TABLE workflow.%I RENAME TO %I', oldest, zero);
            EXECUTE pg_catalog.format('COMMENT ON TABLE workflow.%I IS %L', zero, pg_catalog.format('Partition %s of %s.', 0, name));
            FOR index IN
                SELECT c.relname
                FROM pg_catalog.pg_index AS i
                JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
                WHERE i.indrelid OPERATOR(pg_catalog.=) pg_catalog.format('workflow.%I', zero)::pg_catalog.regclass
            LOOP
                EXECUTE pg_catalog.format('ALTER INDEX workflow.%I RENAME TO %I', index,
                    zero OPERATOR(pg_catalog.||) pg_catalog.substr(index, pg_catalog.length(oldest) OPERATOR(pg_catalog.+) 1));
            END LOOP;
            IF name OPERATOR(pg_catalog.=) 'task_logs' THEN
                EXECUTE pg_catalog.format('ALTER TABLE workflow.%I RENAME CONSTRAINT %I TO %I', zero,
                    oldest OPERATOR(pg_catalog.||) '_task_instance_id_fkey', zero OPERATOR(pg_catalog.||) '_task_instance_id_fkey');
            END IF;
        END IF;
    END LOOP;
END
$$;

DROP EVENT TRIGGER pg_workflow_refuse_drop;
REVOKE USAGE ON SCHEMA workflow FROM workflow_reader;
REVOKE SELECT ON
    workflow.dags, workflow.dag_runs, workflow.task_instances, workflow.task_logs, workflow.state_history,
    workflow.state_machine, workflow.state_counts, workflow.consumer_lag, workflow.notifier, workflow.partitions,
    workflow.settings
FROM workflow_reader;
REVOKE SELECT ON SEQUENCE workflow.state_history_id_seq, workflow.task_logs_id_seq FROM workflow_reader;
REVOKE INSERT (name, description, schedule, start_date, tags, is_paused) ON workflow.dags FROM workflow_writer;
REVOKE UPDATE (name, description, schedule, start_date, tags, is_paused) ON workflow.dags FROM workflow_writer;
REVOKE UPDATE (state, execution_date, conf) ON workflow.dag_runs FROM workflow_writer;
REVOKE UPDATE (state, max_tries, error) ON workflow.task_instances FROM workflow_writer;
REVOKE INSERT (task_instance_id, try_number, logged_at, level, message) ON workflow.task_logs FROM workflow_writer;
REVOKE DELETE ON workflow.dags, workflow.dag_runs, workflow.task_instances, workflow.task_logs FROM workflow_admin;
REVOKE EXECUTE ON FUNCTION
    workflow.current_position(),
    workflow.follow_events(text, integer, interval)
FROM workflow_reader;
REVOKE EXECUTE ON FUNCTION
    workflow.create_dag_run(uuid, timestamptz, jsonb),
    workflow.create_task_instances(uuid, text[], integer),
    workflow.create_consumer(text, boolean),
    workflow.read_events(text, integer, interval, bigint),
    workflow.ack_events(text, bigint, bigint),
    workflow.lease_consumer(text, text, interval),
    workflow.release_consumer(text, bigint),
    workflow.save_checkpoint(text, bigint[], bigint, interval),
    workflow.rewind_consumer(text, bigint[], bigint),
    workflow.drop_consumer(text),
    workflow.fold_state_counts(),
    workflow.open_partitions(text)
FROM workflow_writer;
REVOKE EXECUTE ON FUNCTION workflow.purge(timestamptz, boolean, integer) FROM workflow_admin;

DROP VIEW workflow.partitions;
DROP VIEW workflow.settings;
-- Taken from the extension first: it would go on listing for dumps what it has no more.
ALTER EXTENSION pg_workflow DROP TABLE workflow.dropped_partitions;
DROP TABLE workflow.dropped_partitions;
DROP FUNCTION workflow.verify(timestamptz, timestamptz);
DROP FUNCTION workflow.history(text, uuid, integer);
DROP FUNCTION workflow.events_between(pg_snapshot, xid8, bigint, pg_snapshot, xid8, bigint, bigint, bigint, integer);
DROP FUNCTION
    workflow.first_id_at(timestamptz),
    workflow.partition_start(bigint),
    workflow.refuse_tenant(),
    workflow.partition_size(),
    workflow.make_partition(text, bigint),
    workflow.current_partition(text),
    workflow.go_on_to_partition(text, bigint),
    workflow.open_partitions(text),
    workflow.needs_history(workflow.consumers, bigint),
    workflow.who_needs_history(bigint),
    workflow.drop_partition(text, text),
    workflow.free_partitions(boolean),
    workflow.finished_runs(timestamptz),
    workflow.purge_runs(timestamptz, integer, boolean),
    workflow.purge_history(timestamptz, boolean),
    workflow.purge_logs(boolean),
    workflow.purge(timestamptz, boolean, integer),
    workflow.stuck(interval),
    workflow.show_settings(),
    workflow.refuse_drop(),
    workflow.enable_row_security(),
    workflow.disable_row_security();

ALTER TABLE workflow.dags DROP COLUMN tenant;
ALTER TABLE workflow.dag_runs RESET (autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor);
ALTER TABLE workflow.task_instances RESET (autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor);

DROP TRIGGER prepare_load ON workflow.consumer_checkpoints;
ALTER TABLE workflow.state_history DETACH PARTITION workflow.state_history_0;
INSERT INTO workflow.state_history_0 SELECT * FROM workflow.state_history;
ALTER TABLE workflow.state_history RENAME TO state_history_partitioned;
ALTER TABLE workflow.state_history_0 RENAME TO state_history;
ALTER TABLE workflow.state_history RESET (autovacuum_vacuum_insert_scale_factor);
DO $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT coalesce(r.rolname, 'public') AS grantee, r.oid IS NULL AS is_public, a.privilege_type, a.is_grantable
        FROM pg_catalog.pg_class AS c
        CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
        LEFT JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) a.grantee
        WHERE c.oid OPERATOR(pg_catalog.=) 'workflow.state_history_partitioned'::pg_catalog.regclass
            AND a.grantee OPERATOR(pg_catalog.<>) c.relowner
    LOOP
        EXECUTE pg_catalog.format('GRANT %s ON workflow.state_history TO %s%s', held.privilege_type,
            CASE WHEN held.is_public THEN 'PUBLIC' ELSE pg_catalog.quote_ident(held.grantee) END,
            CASE WHEN held.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
        EXECUTE pg_catalog.format('REVOKE ALL ON workflow.state_history_partitioned FROM %s',
            CASE WHEN held.is_public THEN 'PUBLIC' ELSE pg_catalog.quote_ident(held.grantee) END);
    END LOOP;
END
$$;
ALTER SEQUENCE workflow.state_history_id_seq OWNED BY workflow.state_history.id;
COMMENT ON TABLE workflow.state_history IS
'Every creation and every move, written in the transaction that made it: the audit trail and the event feed. It outlives the rows it speaks of.';

CREATE FUNCTION workflow.unfinished_transactions(snapshot pg_snapshot, next_transaction_id xid8)
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
        ORDER BY h.transaction_id
        LIMIT 1;
        EXIT WHEN NOT FOUND;
        RETURN NEXT found_id;
        at_least := (found_id::text::bigint + 1)::text::xid8;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.unfinished_transactions(pg_snapshot, xid8) IS
'Internal: the transactions that were under way at a snapshot, and may have written events below its floor_id.';

CREATE OR REPLACE FUNCTION workflow.fold_state_counts()
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    highest_id bigint;
BEGIN
    -- What this transaction has written would be counted now, and again as that of an unfinished one. And where the
    -- snapshot stands still, nobody knows what the floor was then.
    IF pg_current_xact_id_if_assigned() IS NOT NULL
        OR current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted')
    THEN
        RETURN false;
    END IF;
    IF EXISTS (
        SELECT FROM workflow.state_count_place AS p
        WHERE p.snapshot IS NOT NULL
            AND p.system_identifier = workflow.system_identifier()
            AND p.floor_id = workflow.last_event_id())
        AND NOT EXISTS (SELECT FROM workflow.state_count_changes)
    THEN
        RETURN false;
    END IF;
    -- Before the row, as TRUNCATE takes them.
    LOCK TABLE workflow.dag_runs, workflow.task_instances, workflow.state_history IN ACCESS SHARE MODE;
    PERFORM FROM workflow.state_count_place FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Amid a restore the sequence may be behind.
    highest_id := greatest(workflow.last_event_id(), (SELECT max(h.id) FROM workflow.state_history AS h));
    -- One statement, so one snapshot: that of the counts, of the changes that are taken away, and of the new place.
    WITH place AS MATERIALIZED (
        SELECT workflow.others_snapshot(pg_current_snapshot()) AS snapshot, workflow.next_transaction_id() AS next_transaction_id
    ), counted AS (
        INSERT INTO workflow.state_counts_at AS c (entity_type, state, count)
        SELECT s.entity_type, s.state, s.count FROM workflow.state_counts AS s
        ON CONFLICT ON CONSTRAINT state_counts_at_pkey DO UPDATE SET count = excluded.count
        WHERE c.count <> excluded.count
    ), folded AS (
        DELETE FROM workflow.state_count_changes
    )
    UPDATE workflow.state_count_place AS p
    SET snapshot = place.snapshot,
        next_transaction_id = place.next_transaction_id,
        floor_id = highest_id,
        -- What an unfinished transaction has written is not visible. What is visible of such a number came with a
        -- restore, and so did all before it.
        foreign_id = coalesce((
            SELECT max(h.id)
            FROM workflow.unfinished_transactions(place.snapshot, place.next_transaction_id) AS x (transaction_id)
            JOIN workflow.state_history AS h ON h.transaction_id = x.transaction_id), 0),
        system_identifier = workflow.system_identifier(),
        folded_at = clock_timestamp()
    FROM place;
    RETURN true;
END
$$;
COMMENT ON FUNCTION workflow.fold_state_counts() IS
'Brings the kept counts up to the present, so that the view state_counts has less to add; counts the tables where nothing is kept. Call it every few seconds, in a transaction of its own. Returns false, and does nothing, where nothing has happened since, where another session does it, in a transaction that has written, and at another level than READ COMMITTED.';

CREATE OR REPLACE VIEW workflow.consumer_lag AS
SELECT
    c.name AS consumer,
    pending.count AS pending,
    pending.oldest AS oldest,
    pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pending.oldest AS lag,
    c.updated_at AS last_active
FROM workflow.consumers AS c
CROSS JOIN LATERAL (
    SELECT pg_catalog.count(*) AS count, pg_catalog.min(h.changed_at) AS oldest
    FROM (
        SELECT h.id, h.transaction_id, h.changed_at
        FROM workflow.state_history AS h
        WHERE h.id OPERATOR(pg_catalog.>) c.floor_id
            AND pg_catalog.pg_visible_in_snapshot(h.transaction_id, c.snapshot) IS NOT TRUE
        UNION ALL
        SELECT h.id, h.transaction_id, h.changed_at
        FROM workflow.unfinished_transactions(c.snapshot, c.next_transaction_id) AS x (transaction_id)
        JOIN workflow.state_history AS h ON h.transaction_id OPERATOR(pg_catalog.=) x.transaction_id
        WHERE h.id OPERATOR(pg_catalog.<=) c.floor_id
    ) AS h
    WHERE h.id OPERATOR(pg_catalog.>) c.acked_id
        OR pg_catalog.pg_visible_in_snapshot(h.transaction_id, c.window_snapshot) IS NOT TRUE
) AS pending;

CREATE OR REPLACE VIEW workflow.state_counts AS
WITH place AS MATERIALIZED (
    SELECT p.snapshot, p.next_transaction_id, p.floor_id, p.foreign_id
    FROM workflow.state_count_place AS p
    WHERE p.snapshot IS NOT NULL
        AND p.system_identifier OPERATOR(pg_catalog.=) workflow.system_identifier()
), event AS (
    SELECT h.entity_type, h.old_state, h.new_state
    FROM workflow.state_history AS h
    WHERE h.id OPERATOR(pg_catalog.>) (SELECT p.floor_id FROM place AS p)
        -- True of every id: the planner takes a range with two ends for a short one, as it is, and uses the index.
        AND h.id OPERATOR(pg_catalog.<=) 9223372036854775807
        AND NOT pg_catalog.pg_visible_in_snapshot(h.transaction_id, (SELECT p.snapshot FROM place AS p))
    UNION ALL
    SELECT late.entity_type, late.old_state, late.new_state
    FROM place AS p
    CROSS JOIN LATERAL workflow.unfinished_transactions(p.snapshot, p.next_transaction_id) AS x (transaction_id)
    CROSS JOIN LATERAL (
        SELECT h.entity_type, h.old_state, h.new_state
        FROM workflow.state_history AS h
        WHERE h.transaction_id OPERATOR(pg_catalog.=) x.transaction_id
            -- Not by the index on ids, nor (OFFSET) by a join: that would read all of them.
            AND (h.id OPERATOR(pg_catalog.+) 0) OPERATOR(pg_catalog.<=) p.floor_id
            AND (h.id OPERATOR(pg_catalog.+) 0) OPERATOR(pg_catalog.>) p.foreign_id
        OFFSET 0
    ) AS late
), change AS (
    SELECT e.entity_type, s.state, 0 AS delta
    FROM pg_catalog.unnest('{dag_run,task_instance}'::pg_catalog.text[]) AS e (entity_type)
    CROSS JOIN pg_catalog.unnest(workflow.states()) AS s (state)
    UNION ALL
    SELECT c.entity_type, c.state, c.count
    FROM workflow.state_counts_at AS c
    WHERE EXISTS (SELECT FROM place)
    UNION ALL
    SELECT e.entity_type, d.state, d.delta
    FROM event AS e
    CROSS JOIN LATERAL (VALUES (e.old_state, -1), (e.new_state, 1)) AS d (state, delta)
    WHERE d.state IS NOT NULL
    UNION ALL
    SELECT c.entity_type, c.state, c.delta
    FROM workflow.state_count_changes AS c
    WHERE EXISTS (SELECT FROM place)
    UNION ALL
    SELECT c.entity_type, c.state, c.count
    FROM workflow.count_states() AS c
    WHERE NOT EXISTS (SELECT FROM place)
)
SELECT c.entity_type, c.state, pg_catalog.sum(c.delta)::bigint AS count
FROM change AS c
GROUP BY c.entity_type, c.state;

DROP FUNCTION workflow.unfinished_transactions(pg_snapshot, xid8, bigint);
DROP TABLE workflow.state_history_partitioned;
ALTER TABLE workflow.state_history RENAME CONSTRAINT state_history_0_pkey TO state_history_pkey;
ALTER TABLE workflow.state_history
    RENAME CONSTRAINT state_history_0_entity_id_version_key TO state_history_entity_id_version_key;
ALTER INDEX workflow.state_history_0_transaction_id_idx RENAME TO state_history_transaction_id_idx;
SELECT pg_catalog.pg_extension_config_dump('workflow.state_history', '');

ALTER TABLE workflow.task_logs DETACH PARTITION workflow.task_logs_0;
INSERT INTO workflow.task_logs_0 SELECT * FROM workflow.task_logs;
ALTER TABLE workflow.task_logs RENAME TO task_logs_partitioned;
ALTER TABLE workflow.task_logs_0 RENAME TO task_logs;
ALTER TABLE workflow.task_logs RESET (autovacuum_vacuum_insert_scale_factor);
DO $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT coalesce(r.rolname, 'public') AS grantee, r.oid IS NULL AS is_public, a.privilege_type, a.is_grantable
        FROM pg_catalog.pg_class AS c
        CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
        LEFT JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) a.grantee
        WHERE c.oid OPERATOR(pg_catalog.=) 'workflow.task_logs_partitioned'::pg_catalog.regclass
            AND a.grantee OPERATOR(pg_catalog.<>) c.relowner
    LOOP
        EXECUTE pg_catalog.format('GRANT %s ON workflow.task_logs TO %s%s', held.privilege_type,
            CASE WHEN held.is_public THEN 'PUBLIC' ELSE pg_catalog.quote_ident(held.grantee) END,
            CASE WHEN held.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
        EXECUTE pg_catalog.format('REVOKE ALL ON workflow.task_logs_partitioned FROM %s',
            CASE WHEN held.is_public THEN 'PUBLIC' ELSE pg_catalog.quote_ident(held.grantee) END);
    END LOOP;
END
$$;
COMMENT ON TABLE workflow.task_logs IS 'What tasks printed; see append_task_log().';

DO $$
DECLARE
    last bigint := pg_catalog.pg_sequence_last_value('workflow.task_logs_id_seq'::pg_catalog.regclass);
BEGIN
    ALTER EXTENSION pg_workflow DROP SEQUENCE workflow.task_logs_id_seq;
    DROP TABLE workflow.task_logs_partitioned;
    ALTER TABLE workflow.task_logs RENAME CONSTRAINT task_logs_0_pkey TO task_logs_pkey;
    ALTER TABLE workflow.task_logs RENAME CONSTRAINT task_logs_0_task_instance_id_fkey TO task_logs_task_instance_id_fkey;
    ALTER INDEX workflow.task_logs_0_task_instance_id_idx RENAME TO task_logs_task_instance_id_idx;
    ALTER TABLE workflow.task_logs ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME workflow.task_logs_id_seq);
    COMMENT ON SEQUENCE workflow.task_logs_id_seq IS 'Ids of task_logs.';
    IF last IS NOT NULL THEN
        PERFORM pg_catalog.setval('workflow.task_logs_id_seq'::pg_catalog.regclass, last);
    END IF;
END
$$;
SELECT pg_catalog.pg_extension_config_dump('workflow.task_logs', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_logs_id_seq', '');
DROP TRIGGER prepare_load ON workflow.task_logs;
DROP FUNCTION workflow.prepare_load();

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
            FROM workflow.unfinished_transactions($1, $2) AS x (transaction_id)
            CROSS JOIN LATERAL (
                SELECT h.*
                FROM workflow.state_history AS h
                WHERE h.transaction_id OPERATOR(pg_catalog.=) x.transaction_id
                    AND h.id OPERATOR(pg_catalog.>) $8
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

CREATE OR REPLACE FUNCTION workflow.read_events(
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

CREATE OR REPLACE FUNCTION workflow.follow_events("position" text, max integer DEFAULT 1000, wait interval DEFAULT '0')
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

CREATE OR REPLACE FUNCTION workflow.found_by_ids(place workflow.consumers)
RETURNS workflow.consumers
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Transaction numbers of another cluster mean nothing here. Ids still do: begin again at the lowest that may not
    -- have been acknowledged. Some events come twice.
    place.floor_id := least(place.floor_id, (
        SELECT min(h.id) - 1
        FROM workflow.unfinished_transactions(place.snapshot, place.next_transaction_id) AS x (transaction_id)
        JOIN workflow.state_history AS h ON h.transaction_id = x.transaction_id));
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

CREATE OR REPLACE FUNCTION workflow.parsed_position("position" text)
RETURNS workflow.consumers
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[] := string_to_array("position", '.');
    place workflow.consumers;
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
    IF place.system_identifier = workflow.system_identifier() AND parts[3]::bigint = workflow.timeline() THEN
        RETURN place;
    END IF;
    RETURN workflow.found_by_ids(place);
EXCEPTION WHEN data_exception THEN
    PERFORM workflow.refuse_argument(
        'cannot follow events: position is ' || CASE
            WHEN "position" IS NULL THEN 'null'
            WHEN place.floor_id > workflow.last_event_id() THEN 'ahead of this database'
            ELSE 'malformed'
        END,
        jsonb_build_object('argument', 'position', 'value', left("position", 250)),
        'Give what follow_events() returned in its last row, or begin anew with current_position().');
END
$$;
COMMENT ON FUNCTION workflow.parsed_position(text) IS
'Internal: the place that a position spells; that of another cluster or timeline found again by ids. Errors: 22023.';
