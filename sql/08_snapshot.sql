-- The numbers that a position in the event feed is made of; see 09_position.sql.
--
-- They are plpgsql functions: SQL functions would be planned again at every call.

CREATE FUNCTION workflow.system_identifier()
RETURNS bigint
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'system_identifier_wrapper';
COMMENT ON FUNCTION workflow.system_identifier() IS
'Internal: returns the identifier of the cluster. Transaction IDs mean nothing in another one.';

-- The mark of this database: a dump leaves it out. A copy of the cluster's files keeps it, as it keeps transaction IDs.
CREATE SEQUENCE workflow.database_mark MAXVALUE 9223372036854775807;
COMMENT ON SEQUENCE workflow.database_mark IS
'Internal: a random number, drawn by CREATE EXTENSION, or by finish_copy() after a restore; see origin().';

CREATE FUNCTION workflow.draw_mark()
RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT setval('workflow.database_mark', (hashtextextended(gen_random_uuid()::text, 0) & 9223372036854775806) + 1)
$$;
COMMENT ON FUNCTION workflow.draw_mark() IS
'Internal: draws the mark of this database. For the owner.';

-- Not in a restore, which turns row_security off: the feed is closed until finish_copy().
SELECT workflow.draw_mark()
WHERE pg_catalog.current_setting('row_security'::pg_catalog.text) OPERATOR(pg_catalog.=) 'on';

CREATE FUNCTION workflow.origin()
RETURNS bigint
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'origin_wrapper';
COMMENT ON FUNCTION workflow.origin() IS
'Internal: returns the mark of this database; 0: none is drawn yet. In a database with another one its transaction IDs mean nothing.';

CREATE FUNCTION workflow.timeline()
RETURNS bigint
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'timeline_wrapper';
COMMENT ON FUNCTION workflow.timeline() IS
'Internal: returns the timeline of the write-ahead log. It changes when a standby is promoted, and when a cluster is recovered to an earlier time.';

CREATE FUNCTION workflow.wal_end()
RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'wal_end_wrapper';
COMMENT ON FUNCTION workflow.wal_end() IS
'Internal: returns the end of the write-ahead log, in bytes since its start.';

CREATE FUNCTION workflow.timeline_end(timeline bigint)
RETURNS bigint
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'timeline_end_wrapper';
COMMENT ON FUNCTION workflow.timeline_end(bigint) IS
'Internal: returns the end of the write-ahead log on an earlier timeline, where the history of the current one left it; null: it is none of these.';

CREATE FUNCTION workflow.event_hash(id bigint, entity_id uuid, version bigint, changed_at timestamptz)
RETURNS bigint
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'event_hash_wrapper';
COMMENT ON FUNCTION workflow.event_hash(bigint, uuid, bigint, timestamptz) IS
'Internal: returns a hash that tells an event from another one with the same id, in another history.';

CREATE FUNCTION workflow.last_event_id()
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce(pg_sequence_last_value('workflow.state_history_id_seq'::regclass), 0);
END
$$;
COMMENT ON FUNCTION workflow.last_event_id() IS
'Internal: returns the highest event id drawn so far, by any transaction.';

CREATE FUNCTION workflow.next_transaction_id()
RETURNS xid8
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'next_transaction_id_wrapper';
COMMENT ON FUNCTION workflow.next_transaction_id() IS
'Internal: returns the first transaction ID that has not been assigned.';

CREATE FUNCTION workflow.others_snapshot(now pg_snapshot)
RETURNS pg_snapshot
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own xid8 := pg_current_xact_id_if_assigned();
BEGIN
    -- The calling transaction is not in its own snapshot's list. Add it, because it may still write more.
    IF own IS NULL OR own >= pg_snapshot_xmax(now) THEN
        RETURN now;
    END IF;
    RETURN format('%s:%s:%s', least(own, pg_snapshot_xmin(now)), pg_snapshot_xmax(now),
        (SELECT string_agg(x.xid::text, ',' ORDER BY x.xid)
         FROM (SELECT pg_snapshot_xip(now) UNION SELECT own) AS x (xid)));
END
$$;
COMMENT ON FUNCTION workflow.others_snapshot(pg_snapshot) IS
'Internal: returns the current snapshot with the calling transaction added as in progress.';

CREATE FUNCTION workflow.current_place(
    OUT snapshot pg_snapshot,
    OUT next_transaction_id xid8,
    OUT floor_id bigint,
    OUT ceiling_id bigint
)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- In this order, each number current: see the head of 09_position.sql. A transaction with a fixed snapshot cannot
    -- know the floor as of its snapshot.
    IF current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') THEN
        floor_id := workflow.last_event_id();
    END IF;
    snapshot := workflow.others_snapshot(pg_current_snapshot());
    next_transaction_id := workflow.next_transaction_id();
    ceiling_id := workflow.last_event_id();
END
$$;
COMMENT ON FUNCTION workflow.current_place() IS
'Internal: returns the numbers of the position after the latest committed event, which has an id up to ceiling_id. floor_id is null with a fixed snapshot.';
