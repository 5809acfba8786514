\echo Use "ALTER EXTENSION pg_workflow UPDATE TO '0.2.0'" to load this file. \quit
-- From 0.1.0 to 0.2.0. The history and the logs become the first partitions of new tables of their names; nothing is
-- copied, but each is read once, to see that its ids belong there. Moves wait meanwhile.

-- Who the tenants of the old DAGs are is for the administrator to say.
ALTER TABLE workflow.dags ADD COLUMN tenant text NOT NULL DEFAULT CURRENT_USER;
COMMENT ON COLUMN workflow.dags.tenant IS 'the role that created it (current_user), or was made its owner; only that one sees it after enable_row_security()';
ALTER TABLE workflow.dag_runs SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE workflow.task_instances SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

CREATE FUNCTION workflow.prepare_load()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'prepare_load_wrapper';
COMMENT ON FUNCTION workflow.prepare_load() IS
'BEFORE INSERT FOR EACH STATEMENT: lets pg_restore load tables in any order, without their foreign keys being checked. What it loads was consistent when it was dumped; verify() would tell. (refuse_insert() does the same.)';

CREATE TRIGGER prepare_load
BEFORE INSERT ON workflow.consumer_checkpoints
FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load();

CREATE TABLE workflow.dropped_partitions (
    "partition"         text        NOT NULL,
    last_id             bigint,
    last_transaction_id xid8,
    last_changed_at     timestamptz,
    dropped_at          timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    dropped_by          text        NOT NULL DEFAULT SESSION_USER,
    CONSTRAINT dropped_partitions_pkey PRIMARY KEY ("partition", dropped_at)
);

COMMENT ON TABLE workflow.dropped_partitions IS
'What purge() has dropped of the history. verify() expects no history of it, and follow_events() no reader.';
COMMENT ON COLUMN workflow.dropped_partitions."partition" IS 'the partition''s name';
COMMENT ON COLUMN workflow.dropped_partitions.last_id IS 'its last event; null where it had none';
COMMENT ON COLUMN workflow.dropped_partitions.last_transaction_id IS 'the highest number of a transaction that had written there';
COMMENT ON COLUMN workflow.dropped_partitions.last_changed_at IS 'when its last event happened';
COMMENT ON COLUMN workflow.dropped_partitions.dropped_at IS 'when it was dropped';
COMMENT ON COLUMN workflow.dropped_partitions.dropped_by IS 'the role that was logged in (session_user)';

-- They return or read rows of the old table.
DROP FUNCTION workflow.verify();
DROP FUNCTION workflow.history(text, uuid, integer);
DROP FUNCTION workflow.events_between(pg_snapshot, xid8, bigint, pg_snapshot, xid8, bigint, bigint, bigint, integer);

ALTER TABLE workflow.state_history RENAME TO state_history_0;
ALTER TABLE workflow.state_history_0 RENAME CONSTRAINT state_history_pkey TO state_history_0_pkey;
ALTER TABLE workflow.state_history_0
    RENAME CONSTRAINT state_history_entity_id_version_key TO state_history_0_entity_id_version_key;
ALTER INDEX workflow.state_history_transaction_id_idx RENAME TO state_history_0_transaction_id_idx;
ALTER TABLE workflow.state_history_0 SET (autovacuum_vacuum_insert_scale_factor = 0.02);
COMMENT ON TABLE workflow.state_history_0 IS 'Partition 0 of state_history.';

CREATE TABLE workflow.state_history (
    id             bigint      NOT NULL DEFAULT pg_catalog.nextval('workflow.state_history_id_seq'),
    entity_type    text        NOT NULL,
    entity_id      uuid        NOT NULL,
    old_state      text,
    new_state      text        NOT NULL,
    version        bigint      NOT NULL,
    metadata       jsonb       NOT NULL DEFAULT '{}',
    actor          text        NOT NULL DEFAULT SESSION_USER,
    changed_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    dag_id         uuid        NOT NULL,
    dag_run_id     uuid        NOT NULL,
    task_id        text,
    request_id     text,
    transaction_id xid8        NOT NULL DEFAULT pg_catalog.pg_current_xact_id()
    -- Indexes are those of the partitions: see make_partition().
    -- No CHECK: only the database writes here, and each would be parsed again at every move.
) PARTITION BY RANGE (id);

COMMENT ON TABLE workflow.state_history IS
'Every creation and every move, written in the transaction that made it: the audit trail and the event feed. It outlives the rows it speaks of, until purge() drops its partition. Partitioned by id: see the view partitions.';
COMMENT ON COLUMN workflow.state_history.id IS 'in the order of writing, which is not the order of committing: follow the feed with read_events(), not with id > last';
COMMENT ON COLUMN workflow.state_history.entity_type IS 'dag_run or task_instance';
COMMENT ON COLUMN workflow.state_history.entity_id IS 'the run''s or the task instance''s id';
COMMENT ON COLUMN workflow.state_history.old_state IS 'the state left; null at creation';
COMMENT ON COLUMN workflow.state_history.new_state IS 'the state entered';
COMMENT ON COLUMN workflow.state_history.version IS 'the entity''s version after the move; (entity_id, version) identifies the event';
COMMENT ON COLUMN workflow.state_history.metadata IS 'what the caller gave with the move, a JSON object';
COMMENT ON COLUMN workflow.state_history.actor IS 'the role that was logged in (session_user)';
COMMENT ON COLUMN workflow.state_history.changed_at IS 'the clock at the move, before its commit; never goes back within an entity';
COMMENT ON COLUMN workflow.state_history.dag_id IS 'the DAG';
COMMENT ON COLUMN workflow.state_history.dag_run_id IS 'the run';
COMMENT ON COLUMN workflow.state_history.task_id IS 'the task''s name; null for a run';
COMMENT ON COLUMN workflow.state_history.request_id IS 'the caller''s name for the move, by which a retry is known';
COMMENT ON COLUMN workflow.state_history.transaction_id IS 'the top-level transaction that wrote it; used by the event feed';
ALTER SEQUENCE workflow.state_history_id_seq OWNED BY workflow.state_history.id;

DO $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT coalesce(r.rolname, 'public') AS grantee, r.oid IS NULL AS is_public, a.privilege_type, a.is_grantable
        FROM pg_catalog.pg_class AS c
        CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
        LEFT JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) a.grantee
        WHERE c.oid OPERATOR(pg_catalog.=) 'workflow.state_history_0'::pg_catalog.regclass
            AND a.grantee OPERATOR(pg_catalog.<>) c.relowner
    LOOP
        EXECUTE pg_catalog.format('GRANT %s ON workflow.state_history TO %s%s', held.privilege_type,
            CASE WHEN held.is_public THEN 'PUBLIC' ELSE pg_catalog.quote_ident(held.grantee) END,
            CASE WHEN held.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
        EXECUTE pg_catalog.format('REVOKE ALL ON workflow.state_history_0 FROM %s',
            CASE WHEN held.is_public THEN 'PUBLIC' ELSE pg_catalog.quote_ident(held.grantee) END);
    END LOOP;
END
$$;

CREATE TRIGGER forget_counts
AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON workflow.state_history
FOR EACH STATEMENT EXECUTE FUNCTION workflow.forget_counts();

ALTER TABLE workflow.task_logs RENAME TO task_logs_0;
ALTER TABLE workflow.task_logs_0 RENAME CONSTRAINT task_logs_pkey TO task_logs_0_pkey;
ALTER TABLE workflow.task_logs_0
    RENAME CONSTRAINT task_logs_task_instance_id_fkey TO task_logs_0_task_instance_id_fkey;
ALTER INDEX workflow.task_logs_task_instance_id_idx RENAME TO task_logs_0_task_instance_id_idx;
ALTER TABLE workflow.task_logs_0 SET (autovacuum_vacuum_insert_scale_factor = 0.02);
COMMENT ON TABLE workflow.task_logs_0 IS 'Partition 0 of task_logs.';
CREATE TRIGGER prepare_load
BEFORE INSERT ON workflow.task_logs_0
FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load();
-- The sequence goes with the identity; the new one, of the same name, begins where it ended.
ALTER SEQUENCE workflow.task_logs_id_seq RENAME TO task_logs_0_id_seq;

CREATE TABLE workflow.task_logs (
    id               bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    task_instance_id uuid        NOT NULL,
    try_number       integer     NOT NULL,
    logged_at        timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    level            text        NOT NULL DEFAULT 'INFO',
    message          text        NOT NULL,
    CONSTRAINT task_logs_level_check CHECK (
        level OPERATOR(pg_catalog.=) ANY ('{DEBUG,INFO,WARNING,ERROR,CRITICAL}'::pg_catalog.text[])
    )
-- Indexes, and the foreign key to the task, are those of the partitions: see make_partition().
) PARTITION BY RANGE (id);

COMMENT ON TABLE workflow.task_logs IS 'What tasks printed; see append_task_log(). Partitioned by id: see the view partitions.';
COMMENT ON SEQUENCE workflow.task_logs_id_seq IS 'Ids of task_logs.';
COMMENT ON COLUMN workflow.task_logs.id IS 'in the order of arrival';
COMMENT ON COLUMN workflow.task_logs.task_instance_id IS 'the task';
COMMENT ON COLUMN workflow.task_logs.try_number IS 'the try that printed it';
COMMENT ON COLUMN workflow.task_logs.logged_at IS 'when it was printed';
COMMENT ON COLUMN workflow.task_logs.level IS 'DEBUG, INFO, WARNING, ERROR or CRITICAL';
COMMENT ON COLUMN workflow.task_logs.message IS 'the text';

DO $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT coalesce(r.rolname, 'public') AS grantee, r.oid IS NULL AS is_public, a.privilege_type, a.is_grantable
        FROM pg_catalog.pg_class AS c
        CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
        LEFT JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) a.grantee
        WHERE c.oid OPERATOR(pg_catalog.=) 'workflow.task_logs_0'::pg_catalog.regclass
            AND a.grantee OPERATOR(pg_catalog.<>) c.relowner
    LOOP
        EXECUTE pg_catalog.format('GRANT %s ON workflow.task_logs TO %s%s', held.privilege_type,
            CASE WHEN held.is_public THEN 'PUBLIC' ELSE pg_catalog.quote_ident(held.grantee) END,
            CASE WHEN held.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
        EXECUTE pg_catalog.format('REVOKE ALL ON workflow.task_logs_0 FROM %s',
            CASE WHEN held.is_public THEN 'PUBLIC' ELSE pg_catalog.quote_ident(held.grantee) END);
    END LOOP;
END
$$;

DO $$
DECLARE
    last bigint := pg_catalog.pg_sequence_last_value('workflow.task_logs_0_id_seq'::pg_catalog.regclass);
BEGIN
    ALTER EXTENSION pg_workflow DROP SEQUENCE workflow.task_logs_0_id_seq;
    ALTER TABLE workflow.task_logs_0 ALTER COLUMN id DROP IDENTITY;
    IF last IS NOT NULL THEN
        PERFORM pg_catalog.setval('workflow.task_logs_id_seq'::pg_catalog.regclass, last);
    END IF;
END
$$;
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

CREATE FUNCTION workflow.partition_start(id bigint)
RETURNS bigint
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT $1 OPERATOR(pg_catalog.-) ($1 OPERATOR(pg_catalog.%) 1000000000000) $$;
COMMENT ON FUNCTION workflow.partition_start(bigint) IS
'Internal: the first id of the partition that takes this one; see partition_size().';

CREATE FUNCTION workflow.unfinished_transactions(snapshot pg_snapshot, next_transaction_id xid8, floor_id bigint)
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
            -- Nobody had written before this who was still under way: a partition is opened when nobody has the table open.
            AND h.id >= workflow.partition_start(unfinished_transactions.floor_id)
        ORDER BY h.transaction_id
        LIMIT 1;
        EXIT WHEN NOT FOUND;
        RETURN NEXT found_id;
        at_least := (found_id::text::bigint + 1)::text::xid8;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.unfinished_transactions(pg_snapshot, xid8, bigint) IS
'Internal: the transactions that were under way at a snapshot, and may have written events below its floor_id.';

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
            FROM workflow.unfinished_transactions($1, $2, $3) AS x (transaction_id)
            CROSS JOIN LATERAL (
                SELECT h.*
                FROM workflow.state_history AS h
                WHERE h.transaction_id OPERATOR(pg_catalog.=) x.transaction_id
                    AND h.id OPERATOR(pg_catalog.>) $8
                    AND h.id OPERATOR(pg_catalog.>=) workflow.partition_start($3)
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

CREATE FUNCTION workflow.refuse_tenant()
RETURNS void
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'refuse_tenant_wrapper';
COMMENT ON FUNCTION workflow.refuse_tenant() IS
'Internal: raises 42501 where the session''s role sees only a part of the history, by row security: the feed has all of it.';

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
    PERFORM workflow.refuse_tenant();
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

CREATE OR REPLACE FUNCTION workflow.found_by_ids(place workflow.consumers)
RETURNS workflow.consumers
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- No event with an id up to this was written in this cluster.
    foreign_id bigint := greatest(place.floor_id, place.window_ceiling_id);
BEGIN
    -- Transaction numbers of another cluster mean nothing to what is written here. Ids do: begin again after the last
    -- below which all has been acknowledged. Events come twice only where one was acknowledged beyond one that was not.
    place.floor_id := coalesce(
        (
            SELECT min(h.id) - 1
            FROM (
                (
                    SELECT h.id
                    FROM workflow.state_history AS h
                    WHERE h.id > place.floor_id
                        AND (h.id > foreign_id
                            OR (pg_visible_in_snapshot(h.transaction_id, place.snapshot) IS NOT TRUE
                                AND (h.id > place.acked_id
                                    OR pg_visible_in_snapshot(h.transaction_id, place.window_snapshot) IS NOT TRUE)))
                    ORDER BY h.id
                    LIMIT 1
                )
                UNION ALL
                SELECT h.id
                FROM workflow.unfinished_transactions(place.snapshot, place.next_transaction_id, place.floor_id) AS x (transaction_id)
                JOIN workflow.state_history AS h ON h.transaction_id = x.transaction_id
                WHERE h.id <= place.floor_id
                    AND (h.id > place.acked_id
                        OR pg_visible_in_snapshot(h.transaction_id, place.window_snapshot) IS NOT TRUE)
            ) AS h
        ),
        foreign_id);
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
            FROM workflow.unfinished_transactions(place.snapshot, place.next_transaction_id, highest_id) AS x (transaction_id)
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
        FROM workflow.unfinished_transactions(c.snapshot, c.next_transaction_id, c.floor_id) AS x (transaction_id)
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
    CROSS JOIN LATERAL workflow.unfinished_transactions(p.snapshot, p.next_transaction_id, p.floor_id) AS x (transaction_id)
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

DROP FUNCTION workflow.unfinished_transactions(pg_snapshot, xid8);

-- Partitions of state_history and task_logs.
--
-- They are ranges of ids, not of time. Every reader of the feed asks for ids, so it opens one partition, however many
-- there are; the primary key stays (id); and a row finds its partition without a look at the calendar. Partition n
-- takes the ids from n * 10^12 on, which is more than a month can bring. A new month begins by moving the sequence on
-- to the next partition, which is made long before. If nobody ever does, the present one goes on taking rows.

CREATE FUNCTION workflow.partition_size()
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT 1000000000000 $$;
COMMENT ON FUNCTION workflow.partition_size() IS
'Internal: how many ids a partition takes.';

CREATE FUNCTION workflow.make_partition(table_name text, number bigint)
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    "partition" text := format('%s_%s', table_name, number);
BEGIN
    -- Rows are only added, and vacuumed once: soon, while they are few.
    EXECUTE format(
        'CREATE TABLE workflow.%I (LIKE workflow.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS)
            WITH (autovacuum_vacuum_insert_scale_factor = 0.02)',
        "partition", table_name);
    -- Indexes and foreign keys are each partition's own. A dump makes and attaches the later ones, loads them, and then adds
    -- those: with indexes and keys of the whole table, which the extension brings, they would be there from the beginning.
    EXECUTE format('ALTER TABLE workflow.%I ADD CONSTRAINT %I PRIMARY KEY (id)', "partition", "partition" || '_pkey');
    IF table_name = 'task_logs' THEN
        EXECUTE format(
            'ALTER TABLE workflow.%I ADD CONSTRAINT %I FOREIGN KEY (task_instance_id)
                REFERENCES workflow.task_instances (id) ON DELETE CASCADE',
            "partition", "partition" || '_task_instance_id_fkey');
        -- The log of a task in order, and the cascade of its deletion.
        EXECUTE format('CREATE INDEX %I ON workflow.%I (task_instance_id, id)',
            "partition" || '_task_instance_id_idx', "partition");
        EXECUTE format(
            'CREATE TRIGGER prepare_load BEFORE INSERT ON workflow.%I
                FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load()',
            "partition");
    ELSE
        -- The history of an entity; and no version is ever won twice.
        EXECUTE format('ALTER TABLE workflow.%I ADD CONSTRAINT %I UNIQUE (entity_id, version)',
            "partition", "partition" || '_entity_id_version_key');
        -- The event feed: what a transaction that committed late had written.
        EXECUTE format('CREATE INDEX %I ON workflow.%I (transaction_id, id)',
            "partition" || '_transaction_id_idx', "partition");
        EXECUTE format(
            'CREATE TRIGGER forget_counts AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON workflow.%I
                FOR EACH STATEMENT EXECUTE FUNCTION workflow.forget_counts()',
            "partition");
    END IF;
    EXECUTE format('COMMENT ON TABLE workflow.%I IS %L', "partition", format('Partition %s of %s.', number, table_name));
    -- Unlike CREATE TABLE … PARTITION OF, this lets others go on reading and writing the table.
    EXECUTE format('ALTER TABLE workflow.%I ATTACH PARTITION workflow.%I FOR VALUES FROM (%s) TO (%s)',
        table_name, "partition", number * workflow.partition_size(), (number + 1) * workflow.partition_size());
    RETURN "partition";
END
$$;
COMMENT ON FUNCTION workflow.make_partition(text, bigint) IS
'Internal: makes this partition of state_history or task_logs, and returns its name. For the owner.';

CREATE FUNCTION workflow.current_partition(table_name text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (coalesce(pg_sequence_last_value(format('workflow.%I', table_name || '_id_seq')::regclass), 0) + 1)
        / workflow.partition_size();
END
$$;
COMMENT ON FUNCTION workflow.current_partition(text) IS
'Internal: the number of the partition that takes the next row.';

CREATE VIEW workflow.partitions AS
SELECT
    p.relname::pg_catalog.text AS table_name,
    c.relname::pg_catalog.text AS "partition",
    n.number AS number,
    CASE
        WHEN n.number OPERATOR(pg_catalog.<) current.number THEN 'past'
        WHEN n.number OPERATOR(pg_catalog.=) current.number THEN 'current'
        ELSE 'next'
    END AS role,
    GREATEST(c.reltuples, 0)::pg_catalog.int8 AS estimated_rows,
    pg_catalog.pg_total_relation_size(c.oid) AS bytes
FROM pg_catalog.pg_class AS p
JOIN pg_catalog.pg_inherits AS i ON i.inhparent OPERATOR(pg_catalog.=) p.oid
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid
CROSS JOIN LATERAL (
    SELECT pg_catalog.substr(c.relname::pg_catalog.text, pg_catalog.length(p.relname::pg_catalog.text) OPERATOR(pg_catalog.+) 2)::pg_catalog.int8
) AS n (number)
CROSS JOIN LATERAL workflow.current_partition(p.relname::pg_catalog.text) AS current (number)
WHERE p.relnamespace OPERATOR(pg_catalog.=) 'workflow'::pg_catalog.regnamespace
    AND p.relname OPERATOR(pg_catalog.=) ANY ('{state_history,task_logs}'::pg_catalog.name[]);
COMMENT ON VIEW workflow.partitions IS
'The partitions of state_history and task_logs: partition n takes the ids from n * 10^12 on. See open_partitions() and purge().';
COMMENT ON COLUMN workflow.partitions.table_name IS 'state_history or task_logs';
COMMENT ON COLUMN workflow.partitions."partition" IS 'its name, in the schema workflow';
COMMENT ON COLUMN workflow.partitions.number IS 'its number, in the order of time';
COMMENT ON COLUMN workflow.partitions.role IS 'current: takes the rows of the present; past: took them before; next: will';
COMMENT ON COLUMN workflow.partitions.estimated_rows IS 'how many rows it had when it was last vacuumed or analysed';
COMMENT ON COLUMN workflow.partitions.bytes IS 'its size on disk, with its indexes';

CREATE FUNCTION workflow.go_on_to_partition(table_name text, number bigint)
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Whoever has the table open may not know of the partition yet: readers would miss its rows, and a row could not
    -- go in. So wait until nobody has, though not for long, since others queue behind us.
    EXECUTE format('LOCK TABLE ONLY workflow.%I IN ACCESS EXCLUSIVE MODE', table_name);
    IF workflow.current_partition(table_name) <> number - 1 THEN
        RETURN 'opened by another session';
    END IF;
    PERFORM setval(format('workflow.%I', table_name || '_id_seq')::regclass, number * workflow.partition_size() - 1);
    RETURN 'opened';
EXCEPTION WHEN lock_not_available THEN
    RETURN 'not opened: the table is in use, try again';
END
$$;
COMMENT ON FUNCTION workflow.go_on_to_partition(text, bigint) IS
'Internal: has the rows to come go into this partition, which another transaction has made; returns what was done.';

CREATE FUNCTION workflow.open_partitions(period text DEFAULT 'month')
RETURNS TABLE ("partition" text, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
#variable_conflict use_column
DECLARE
    history_number bigint := workflow.current_partition('state_history');
    logs_number bigint := workflow.current_partition('task_logs');
    began timestamptz;
    is_due boolean;
    step record;
BEGIN
    IF period IS NULL OR period NOT IN ('hour', 'day', 'week', 'month', 'quarter', 'year') THEN
        PERFORM workflow.refuse_argument(
            format('cannot open partitions: unknown period %s', coalesce(quote_literal(period), 'null')),
            jsonb_build_object('argument', 'period', 'value', period),
            'Periods are hour, day, week, month, quarter and year.');
    END IF;
    -- What this transaction has made could be undone, a step of a sequence could not.
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT h.changed_at INTO began
    FROM workflow.state_history AS h
    WHERE h.id >= history_number * workflow.partition_size()
    ORDER BY h.id
    LIMIT 1;
    is_due := date_trunc(period, began AT TIME ZONE 'UTC') < date_trunc(period, now() AT TIME ZONE 'UTC');

    -- The logs follow the history, so that partitions of one number are of one time. One step for each table, and none
    -- after a lock that others wait for.
    FOR step IN
        SELECT s.table_name, s.number + 1 AS next, s.is_due,
            to_regclass(format('workflow.%I', format('%s_%s', s.table_name, s.number + 1))) IS NOT NULL AS is_made
        FROM (VALUES
            ('task_logs', logs_number, logs_number < history_number),
            ('state_history', history_number, coalesce(is_due, false))
        ) AS s (table_name, number, is_due)
        ORDER BY is_made
    LOOP
        "partition" := format('%s_%s', step.table_name, step.next);
        IF NOT step.is_made THEN
            BEGIN
                PERFORM workflow.make_partition(step.table_name, step.next);
                outcome := 'made';
            EXCEPTION WHEN lock_not_available THEN
                outcome := 'not made: the table is in use, try again';
            END;
            RETURN NEXT;
        ELSIF step.is_due THEN
            outcome := workflow.go_on_to_partition(step.table_name, step.next);
            RETURN NEXT;
            RETURN;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.open_partitions(text) IS
'Makes the next partitions of state_history and task_logs where they are missing, and has new rows go there once a period (hour, day, week, month, quarter, year; in UTC) is over. Call it every few minutes, with pg_cron or by workflow-server, in a transaction of its own: it takes one step at a time, and returns a row for each. Where nobody calls it, the present partition goes on taking rows. Errors: 22023 bad argument.';

-- The old tables, and the ones to go on to. Where this database has been at 0.2.0 before, ids may be far beyond the first
-- partition: then they are the one whose turn it is.
DO $$
DECLARE
    name text;
    old text;
    new text;
    number bigint;
    index text;
BEGIN
    FOREACH name IN ARRAY '{state_history,task_logs}'::pg_catalog.text[] LOOP
        old := name OPERATOR(pg_catalog.||) '_0';
        number := workflow.current_partition(name);
        EXECUTE pg_catalog.format('ALTER TABLE workflow.%I ATTACH PARTITION workflow.%I FOR VALUES FROM (0) TO (%s)',
            name, old, (number OPERATOR(pg_catalog.+) 1) OPERATOR(pg_catalog.*) workflow.partition_size());
        IF number OPERATOR(pg_catalog.>) 0 THEN
            new := pg_catalog.format('%s_%s', name, number);
            EXECUTE pg_catalog.format('ALTER TABLE workflow.%I RENAME TO %I', old, new);
            EXECUTE pg_catalog.format('COMMENT ON TABLE workflow.%I IS %L', new, pg_catalog.format('Partition %s of %s.', number, name));
            FOR index IN
                SELECT c.relname
                FROM pg_catalog.pg_index AS i
                JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
                WHERE i.indrelid OPERATOR(pg_catalog.=) pg_catalog.format('workflow.%I', new)::pg_catalog.regclass
            LOOP
                EXECUTE pg_catalog.format('ALTER INDEX workflow.%I RENAME TO %I', index,
                    new OPERATOR(pg_catalog.||) pg_catalog.substr(index, pg_catalog.length(old) OPERATOR(pg_catalog.+) 1));
            END LOOP;
            IF name OPERATOR(pg_catalog.=) 'task_logs' THEN
                EXECUTE pg_catalog.format('ALTER TABLE workflow.%I RENAME CONSTRAINT %I TO %I', new,
                    old OPERATOR(pg_catalog.||) '_task_instance_id_fkey', new OPERATOR(pg_catalog.||) '_task_instance_id_fkey');
            END IF;
        END IF;
        PERFORM pg_catalog.pg_extension_config_dump(
            pg_catalog.format('workflow.%I', workflow.make_partition(name, number OPERATOR(pg_catalog.+) 1))::pg_catalog.regclass, '');
    END LOOP;
END
$$;

-- Retention: runs that have ended long ago, with their tasks and logs, and whole partitions of the history.

CREATE FUNCTION workflow.needs_history(place workflow.consumers, end_id bigint)
RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF place.system_identifier <> workflow.system_identifier() THEN
        place := workflow.found_by_ids(place);
    END IF;
    RETURN EXISTS (
        SELECT FROM workflow.state_history AS h
        WHERE h.id > place.floor_id
            AND h.id < end_id
            AND pg_visible_in_snapshot(h.transaction_id, place.snapshot) IS NOT TRUE
            AND (h.id > place.acked_id OR pg_visible_in_snapshot(h.transaction_id, place.window_snapshot) IS NOT TRUE)
    ) OR EXISTS (
        SELECT FROM workflow.unfinished_transactions(place.snapshot, place.next_transaction_id, place.floor_id) AS x (transaction_id)
        JOIN workflow.state_history AS h ON h.transaction_id = x.transaction_id
        WHERE h.id < end_id
            AND (h.id > place.acked_id OR pg_visible_in_snapshot(h.transaction_id, place.window_snapshot) IS NOT TRUE)
    );
END
$$;
COMMENT ON FUNCTION workflow.needs_history(workflow.consumers, bigint) IS
'Internal: whether any event with an id below end_id is yet to be given to, or acknowledged by, a consumer at this place.';

CREATE FUNCTION workflow.who_needs_history(end_id bigint)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    consumer record;
    place workflow.consumers;
BEGIN
    FOR consumer IN
        SELECT c.name, c.snapshot, c.next_transaction_id, c.floor_id, c.window_snapshot, c.acked_id, c.system_identifier,
            'consumer "%s" has yet to read it' AS reason
        FROM workflow.consumers AS c
        UNION ALL
        SELECT c.consumer, c.snapshot, c.next_transaction_id, c.floor_id, c.window_snapshot, c.acked_id, c.system_identifier,
            'consumer "%s" has a checkpoint before its end'
        FROM workflow.consumer_checkpoints AS c
        UNION ALL
        SELECT '', p.snapshot, p.next_transaction_id, p.floor_id, NULL, 0, p.system_identifier,
            'state_counts has yet to count it: call fold_state_counts()'
        FROM workflow.state_count_place AS p
        WHERE p.snapshot IS NOT NULL AND p.system_identifier = workflow.system_identifier()
    LOOP
        place := NULL;
        place.snapshot := consumer.snapshot;
        place.next_transaction_id := consumer.next_transaction_id;
        place.floor_id := consumer.floor_id;
        place.window_snapshot := consumer.window_snapshot;
        place.acked_id := consumer.acked_id;
        place.system_identifier := consumer.system_identifier;
        IF workflow.needs_history(place, end_id) THEN
            RETURN format(consumer.reason, consumer.name);
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION workflow.who_needs_history(bigint) IS
'Internal: who is yet to read an event with an id below end_id; null where nobody is.';

CREATE FUNCTION workflow.drop_partition(table_name text, "partition" text)
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
DECLARE
    name text;
BEGIN
    EXECUTE format('LOCK TABLE ONLY workflow.%I IN ACCESS EXCLUSIVE MODE', table_name);
    IF EXISTS (
        SELECT FROM pg_depend AS d
        WHERE d.classid = 'pg_class'::regclass
            AND d.objid = to_regclass(format('workflow.%I', "partition"))
            AND d.deptype = 'e')
    THEN
        EXECUTE format('ALTER EXTENSION pg_workflow DROP TABLE workflow.%I', "partition");
    END IF;
    -- Its files are removed by a later call, in free_partitions(): that takes longer than anybody should wait for the lock.
    EXECUTE format('ALTER TABLE workflow.%I DETACH PARTITION workflow.%I', table_name, "partition");
    -- Until then a dump has it, and must not meet one of that name which the extension brings.
    FOR name IN
        SELECT c.relname
        FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE i.indrelid = format('workflow.%I', "partition")::regclass
    LOOP
        EXECUTE format('ALTER INDEX workflow.%I RENAME TO %I', name, 'dropped_' || name);
    END LOOP;
    EXECUTE format('ALTER TABLE workflow.%I RENAME TO %I', "partition", 'dropped_' || "partition");
    RETURN 'dropped';
EXCEPTION WHEN lock_not_available THEN
    RETURN 'kept: the table is in use, try again';
END
$$;
COMMENT ON FUNCTION workflow.drop_partition(text, text) IS
'Internal: takes a partition, with all its rows, out of its table, unless somebody uses that for longer than others should wait.';

CREATE FUNCTION workflow.free_partitions(dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    FOR object, rows IN
        SELECT substr(c.relname::text, length('dropped_') + 1), greatest(c.reltuples, 0)::bigint
        FROM pg_class AS c
        WHERE c.relnamespace = 'workflow'::regnamespace
            AND c.relkind = 'r'
            AND c.relname ~ '^dropped_(state_history|task_logs)_[0-9]+$'
    LOOP
        outcome := 'would be freed';
        IF NOT dry_run THEN
            EXECUTE format('DROP TABLE workflow.%I', 'dropped_' || object);
            outcome := 'freed';
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.free_partitions(boolean) IS
'Internal: frees the space of partitions that an earlier call has dropped.';

CREATE FUNCTION workflow.finished_runs(before timestamptz)
RETURNS SETOF uuid
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.id
    FROM workflow.dag_runs AS r
    WHERE r.created_at < before
        AND r.state IN ('success', 'failed', 'upstream_failed', 'skipped')
        AND r.updated_at < before
        AND NOT EXISTS (
            SELECT FROM workflow.task_instances AS t
            WHERE t.dag_run_id = r.id AND (t.state IN ('running', 'retrying') OR t.updated_at >= before))
    ORDER BY r.created_at
$$;
COMMENT ON FUNCTION workflow.finished_runs(timestamptz) IS
'Internal: the runs that have ended, of which nothing runs and nothing has changed since; the oldest first.';

CREATE FUNCTION workflow.purge_runs(before timestamptz, max_runs integer, dry_run boolean)
RETURNS TABLE (object text, rows bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    runs uuid[];
    tasks uuid[];
    run_count bigint;
    task_count bigint;
    log_count bigint;
BEGIN
    IF dry_run THEN
        RETURN QUERY
            WITH run AS MATERIALIZED (
                SELECT f.id FROM workflow.finished_runs(before) AS f (id)
            ), task AS MATERIALIZED (
                SELECT t.id FROM run JOIN workflow.task_instances AS t ON t.dag_run_id = run.id
            )
            SELECT 'dag_runs', (SELECT count(*) FROM run)
            UNION ALL
            SELECT 'task_instances', (SELECT count(*) FROM task)
            UNION ALL
            SELECT 'task_logs', (SELECT count(*) FROM task JOIN workflow.task_logs AS l ON l.task_instance_id = task.id);
        RETURN;
    END IF;
    -- What another session has locked is moving.
    runs := ARRAY(
        SELECT r.id
        FROM workflow.dag_runs AS r
        WHERE r.id IN (SELECT f.id FROM workflow.finished_runs(before) AS f (id) LIMIT max_runs)
        FOR UPDATE SKIP LOCKED);
    PERFORM FROM workflow.task_instances AS t WHERE t.dag_run_id = ANY (runs) ORDER BY t.id FOR UPDATE;
    -- Again, now that nothing of them can move.
    runs := ARRAY(
        SELECT r.id
        FROM workflow.dag_runs AS r
        WHERE r.id = ANY (runs)
            AND r.state IN ('success', 'failed', 'upstream_failed', 'skipped')
            AND r.updated_at < before
            AND NOT EXISTS (
                SELECT FROM workflow.task_instances AS t
                WHERE t.dag_run_id = r.id AND (t.state IN ('running', 'retrying') OR t.updated_at >= before)));
    tasks := ARRAY(SELECT t.id FROM workflow.task_instances AS t WHERE t.dag_run_id = ANY (runs));
    -- From the leaves, so that each statement finds its rows by an index, and counts them.
    DELETE FROM workflow.task_logs AS l WHERE l.task_instance_id = ANY (tasks);
    GET DIAGNOSTICS log_count = ROW_COUNT;
    DELETE FROM workflow.task_instances AS t WHERE t.id = ANY (tasks);
    GET DIAGNOSTICS task_count = ROW_COUNT;
    DELETE FROM workflow.dag_runs AS r WHERE r.id = ANY (runs);
    GET DIAGNOSTICS run_count = ROW_COUNT;
    RETURN QUERY VALUES ('dag_runs', run_count), ('task_instances', task_count), ('task_logs', log_count);
END
$$;
COMMENT ON FUNCTION workflow.purge_runs(timestamptz, integer, boolean) IS
'Internal: removes runs that have ended before, at most so many, with their tasks and logs; returns how many rows of each.';

CREATE FUNCTION workflow.purge_history(before timestamptz, dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    past record;
    first_id bigint;
    last workflow.dropped_partitions;
BEGIN
    FOR past IN
        SELECT p."partition", p.number * workflow.partition_size() AS from_id, (p.number + 1) * workflow.partition_size() AS end_id
        FROM workflow.partitions AS p
        WHERE p.table_name = 'state_history' AND p.role = 'past'
        ORDER BY p.number
    LOOP
        SELECT min(h.id), max(h.id) INTO first_id, last.last_id
        FROM workflow.state_history AS h
        WHERE h.id >= past.from_id AND h.id < past.end_id;
        -- Ids and times rise together, but for overlaps that are far shorter than this.
        SELECT max(h.changed_at) INTO last.last_changed_at
        FROM (
            SELECT h.changed_at FROM workflow.state_history AS h
            WHERE h.id >= past.from_id AND h.id < past.end_id ORDER BY h.id DESC LIMIT 1000
        ) AS h;
        EXIT WHEN last.last_changed_at >= before;
        object := past."partition";
        rows := coalesce(last.last_id - first_id + 1, 0);
        outcome := 'kept: ' || workflow.who_needs_history(past.end_id);
        IF outcome IS NULL AND dry_run THEN
            outcome := 'would be dropped';
        ELSIF outcome IS NULL THEN
            SELECT h.transaction_id INTO last.last_transaction_id
            FROM workflow.state_history AS h
            WHERE h.id < past.end_id
            ORDER BY h.transaction_id DESC
            LIMIT 1;
            outcome := workflow.drop_partition('state_history', past."partition");
            IF outcome = 'dropped' THEN
                INSERT INTO workflow.dropped_partitions ("partition", last_id, last_transaction_id, last_changed_at)
                VALUES (past."partition", last.last_id, last.last_transaction_id, last.last_changed_at);
            END IF;
        END IF;
        RETURN NEXT;
        -- The others are later.
        EXIT WHEN outcome LIKE 'kept%';
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.purge_history(timestamptz, boolean) IS
'Internal: drops the partitions of the history that end before, and that nobody is yet to read.';

CREATE FUNCTION workflow.purge_logs(dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    past record;
BEGIN
    FOR past IN
        SELECT p."partition", p.number * workflow.partition_size() AS from_id, (p.number + 1) * workflow.partition_size() AS end_id
        FROM workflow.partitions AS p
        WHERE p.table_name = 'task_logs' AND p.role = 'past'
        ORDER BY p.number
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM workflow.task_logs AS l WHERE l.id >= past.from_id AND l.id < past.end_id);
        object := past."partition";
        rows := 0;
        outcome := CASE WHEN dry_run THEN 'would be dropped' ELSE workflow.drop_partition('task_logs', past."partition") END;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.purge_logs(boolean) IS
'Internal: drops the past partitions of task_logs that hold nothing any more.';

CREATE FUNCTION workflow.purge(before timestamptz, dry_run boolean DEFAULT false, max_runs integer DEFAULT 1000)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    removed bigint;
BEGIN
    IF before IS NULL OR dry_run IS NULL OR max_runs IS NULL OR max_runs < 1 THEN
        PERFORM workflow.refuse_argument(
            'cannot purge: ' || CASE WHEN before IS NULL THEN 'before is null' WHEN dry_run IS NULL THEN 'dry_run is null'
                WHEN max_runs IS NULL THEN 'max_runs is null' ELSE 'max_runs is less than 1' END,
            jsonb_build_object('argument', CASE WHEN before IS NULL THEN 'before' WHEN dry_run IS NULL THEN 'dry_run' ELSE 'max_runs' END,
                'value', CASE WHEN before IS NOT NULL AND dry_run IS NOT NULL THEN max_runs END),
            'Give the moment before which runs must have ended, and how many to remove at most.');
    END IF;
    FOR object, rows IN SELECT r.object, r.rows FROM workflow.purge_runs(before, max_runs, dry_run) AS r LOOP
        outcome := CASE WHEN dry_run THEN 'would be removed' ELSE 'removed' END;
        removed := coalesce(removed, rows);
        RETURN NEXT;
    END LOOP;
    -- Partitions last, in a call that removes no run: their locks are not to wait for the deletion of many rows.
    IF dry_run OR removed = 0 THEN
        RETURN QUERY SELECT p.* FROM workflow.free_partitions(dry_run) AS p;
        RETURN QUERY SELECT p.* FROM workflow.purge_history(before, dry_run) AS p;
        RETURN QUERY SELECT p.* FROM workflow.purge_logs(dry_run) AS p;
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.purge(timestamptz, boolean, integer) IS
'Removes runs that ended before a moment, at most max_runs, with their tasks and logs; once there are none left, also the past partitions of state_history that end before it (their rows are counted by ids, at most), and those of task_logs that are empty; the call after that frees their space. Keeps runs of which anything runs or has changed since, and events that a consumer is yet to read, and says so. Call it until it removes nothing: each call is a batch. dry_run only says what would go. Errors: 22023 bad argument.';

-- What an operator asks first. (See also the views consumer_lag and notifier, state_counts and partitions.)

CREATE FUNCTION workflow.stuck(longer_than interval DEFAULT '1 hour')
RETURNS TABLE (
    entity_type   text,
    entity_id     uuid,
    dag           text,
    dag_run_id    uuid,
    task_id       text,
    state         text,
    version       bigint,
    try_number    integer,
    last_progress timestamptz,
    idle          interval
)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
ROWS 10
AS $$
#variable_conflict use_column
BEGIN
    IF longer_than IS NULL OR longer_than < '0' THEN
        PERFORM workflow.refuse_argument(
            format('cannot look for stuck entities: longer_than is %s', coalesce(longer_than::text, 'null')),
            jsonb_build_object('argument', 'longer_than', 'value', longer_than),
            'Give how long nothing has happened to them, 0 or more.');
    END IF;
    RETURN QUERY
        WITH under_way AS (
            SELECT 'dag_run' AS entity_type, r.id, r.dag_id, r.id AS dag_run_id, NULL AS task_id, r.state, r.version,
                NULL::integer AS try_number,
                greatest(r.updated_at, (
                    SELECT max(t.updated_at) FROM workflow.task_instances AS t WHERE t.dag_run_id = r.id)) AS last_progress
            FROM workflow.dag_runs AS r
            WHERE r.state IN ('running', 'retrying')
            UNION ALL
            SELECT 'task_instance', t.id, r.dag_id, r.id, t.task_id, t.state, t.version, t.try_number,
                -- By the index on the task, newest partition or not.
                greatest(t.updated_at, (
                    SELECT max(l.logged_at) FROM workflow.task_logs AS l
                    WHERE l.task_instance_id = t.id AND l.try_number = t.try_number))
            FROM workflow.task_instances AS t
            JOIN workflow.dag_runs AS r ON r.id = t.dag_run_id
            WHERE t.state IN ('running', 'retrying')
        )
        SELECT u.entity_type, u.id, d.name, u.dag_run_id, u.task_id, u.state, u.version, u.try_number,
            u.last_progress, now() - u.last_progress
        FROM under_way AS u
        JOIN workflow.dags AS d ON d.id = u.dag_id
        WHERE now() - u.last_progress > longer_than
        ORDER BY u.last_progress;
END
$$;
COMMENT ON FUNCTION workflow.stuck(interval) IS
'Runs and tasks that are running or retrying, and have made no progress for longer than this; who is idle longest first. Progress of a task is a move or a line in its log, that of a run also a move of one of its tasks. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.show_settings()
RETURNS TABLE (name text, setting text, unit text, default_setting text, source text, changed_by text, description text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
ROWS 5
AS $$
BEGIN
    -- They are known once the library is loaded.
    PERFORM workflow.version();
    RETURN QUERY
        SELECT s.name, s.setting, s.unit, s.boot_val, s.source,
            CASE s.context WHEN 'sighup' THEN 'reload' WHEN 'superuser' THEN 'superuser' ELSE s.context END, s.short_desc
        FROM pg_settings AS s
        WHERE s.name LIKE 'pg\_workflow.%'
        ORDER BY s.name;
END
$$;
COMMENT ON FUNCTION workflow.show_settings() IS
'Internal: what the view settings shows.';

CREATE VIEW workflow.settings AS
SELECT s.name, s.setting, s.unit, s.default_setting, s.source, s.changed_by, s.description
FROM workflow.show_settings() AS s;
COMMENT ON VIEW workflow.settings IS
'The settings pg_workflow.* as they hold in this session.';
COMMENT ON COLUMN workflow.settings.name IS 'the setting''s name';
COMMENT ON COLUMN workflow.settings.setting IS 'its value';
COMMENT ON COLUMN workflow.settings.unit IS 'the unit of the value, where it has one';
COMMENT ON COLUMN workflow.settings.default_setting IS 'its value where nobody has set it';
COMMENT ON COLUMN workflow.settings.source IS 'where the value comes from, as in pg_settings';
COMMENT ON COLUMN workflow.settings.changed_by IS 'reload: in postgresql.conf; superuser: also with SET, by a superuser';
COMMENT ON COLUMN workflow.settings.description IS 'what it does';

-- Roles. They belong to the cluster, not to this database: DROP EXTENSION leaves them.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{workflow_reader,workflow_writer,workflow_admin}'::pg_catalog.text[] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname OPERATOR(pg_catalog.=) name) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                -- Another database of the cluster was as fast.
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;

GRANT workflow_reader TO workflow_writer;
GRANT workflow_writer TO workflow_admin;

GRANT USAGE ON SCHEMA workflow TO workflow_reader;

-- Reads everything but the places of consumers.
GRANT SELECT ON
    workflow.dags, workflow.dag_runs, workflow.task_instances, workflow.task_logs, workflow.state_history,
    workflow.state_machine, workflow.state_counts, workflow.consumer_lag, workflow.notifier, workflow.partitions,
    workflow.settings
TO workflow_reader;
-- How far ids have got: for the view partitions.
GRANT SELECT ON SEQUENCE workflow.state_history_id_seq, workflow.task_logs_id_seq TO workflow_reader;
-- Everybody's verify() asks it.
GRANT SELECT ON workflow.dropped_partitions TO PUBLIC;

-- What a scheduler, a worker and the server do. State is moved, never set: the guard sees to that, whoever updates.
GRANT INSERT (name, description, schedule, start_date, tags, is_paused) ON workflow.dags TO workflow_writer;
GRANT UPDATE (name, description, schedule, start_date, tags, is_paused) ON workflow.dags TO workflow_writer;
GRANT UPDATE (state, execution_date, conf) ON workflow.dag_runs TO workflow_writer;
GRANT UPDATE (state, max_tries, error) ON workflow.task_instances TO workflow_writer;
GRANT INSERT (task_instance_id, try_number, logged_at, level, message) ON workflow.task_logs TO workflow_writer;

-- Removes what others have created.
GRANT DELETE ON workflow.dags, workflow.dag_runs, workflow.task_instances, workflow.task_logs TO workflow_admin;

-- What runs with the owner's rights is for those only whom it is granted to. Other functions run with the caller's.
REVOKE EXECUTE ON FUNCTION
    workflow.create_dag_run(uuid, timestamptz, jsonb),
    workflow.create_task_instances(uuid, text[], integer),
    workflow.create_consumer(text, boolean),
    workflow.read_events(text, integer, interval, bigint),
    workflow.current_position(),
    workflow.follow_events(text, integer, interval),
    workflow.ack_events(text, bigint, bigint),
    workflow.lease_consumer(text, text, interval),
    workflow.release_consumer(text, bigint),
    workflow.save_checkpoint(text, bigint[], bigint, interval),
    workflow.rewind_consumer(text, bigint[], bigint),
    workflow.drop_consumer(text),
    workflow.fold_state_counts(),
    workflow.open_partitions(text),
    workflow.purge(timestamptz, boolean, integer)
FROM PUBLIC;

GRANT EXECUTE ON FUNCTION
    workflow.current_position(),
    workflow.follow_events(text, integer, interval)
TO workflow_reader;

GRANT EXECUTE ON FUNCTION
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
TO workflow_writer;

GRANT EXECUTE ON FUNCTION workflow.purge(timestamptz, boolean, integer) TO workflow_admin;

-- The old tables are dumped still, as partitions.
SELECT pg_catalog.pg_extension_config_dump('workflow.task_logs_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.dropped_partitions', '');

CREATE FUNCTION workflow.refuse_drop()
RETURNS event_trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'refuse_drop_wrapper';
COMMENT ON FUNCTION workflow.refuse_drop() IS
'ON ddl_command_start: refuses DROP EXTENSION pg_workflow without CASCADE (2BP01) while its tables hold data.';

CREATE EVENT TRIGGER pg_workflow_refuse_drop ON ddl_command_start
WHEN TAG IN ('DROP EXTENSION')
EXECUTE FUNCTION workflow.refuse_drop();
COMMENT ON EVENT TRIGGER pg_workflow_refuse_drop IS
'PostgreSQL counts the tables as part of the extension, and would drop them without a word.';

-- Several tenants in one database, where an administrator wants it: each role sees its own DAGs, and what belongs to them.

CREATE FUNCTION workflow.enable_row_security()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Made here rather than by CREATE EXTENSION: whether it is on is the administrator's, and dumped with his database.
    CREATE POLICY tenant ON workflow.dags USING (tenant = CURRENT_USER);
    CREATE POLICY tenant ON workflow.dag_runs
        USING (EXISTS (SELECT FROM workflow.dags AS d WHERE d.id = dag_runs.dag_id));
    CREATE POLICY tenant ON workflow.task_instances
        USING (EXISTS (SELECT FROM workflow.dag_runs AS r WHERE r.id = task_instances.dag_run_id));
    CREATE POLICY tenant ON workflow.task_logs
        USING (EXISTS (SELECT FROM workflow.task_instances AS t WHERE t.id = task_logs.task_instance_id));
    CREATE POLICY tenant ON workflow.state_history
        USING (EXISTS (SELECT FROM workflow.dags AS d WHERE d.id = state_history.dag_id));
    ALTER TABLE workflow.dags ENABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.dag_runs ENABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.task_instances ENABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.task_logs ENABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.state_history ENABLE ROW LEVEL SECURITY;
END
$$;
COMMENT ON FUNCTION workflow.enable_row_security() IS
'Has each role see only DAGs whose tenant it is (current_user), with their runs, tasks, logs and history. Superusers, the owner and roles with BYPASSRLS see everything. The event feed is closed to everybody else (42501), because it has everything; the views of totals (state_counts, consumer_lag, partitions) count everything. Set pg_workflow.announce to wakeup or off: any role can LISTEN. For the owner.';

CREATE FUNCTION workflow.disable_row_security()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    ALTER TABLE workflow.dags DISABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.dag_runs DISABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.task_instances DISABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.task_logs DISABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.state_history DISABLE ROW LEVEL SECURITY;
    DROP POLICY IF EXISTS tenant ON workflow.state_history;
    DROP POLICY IF EXISTS tenant ON workflow.task_logs;
    DROP POLICY IF EXISTS tenant ON workflow.task_instances;
    DROP POLICY IF EXISTS tenant ON workflow.dag_runs;
    DROP POLICY IF EXISTS tenant ON workflow.dags;
END
$$;
COMMENT ON FUNCTION workflow.disable_row_security() IS
'Undoes enable_row_security(). Who the tenants are is kept. For the owner.';
