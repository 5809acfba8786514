-- Leases and checkpoints: what a relay needs to be one of several, and to be exact where the store that it writes to
-- forgets.
--
-- A lease gives a consumer to one session for some seconds; each read and acknowledgement renews it. Whoever takes
-- over ends the session of the holder before: that may hang within a read, with the consumer's row locked.
--
-- A checkpoint says: all that the consumer had acknowledged then, and nothing else, is in the store at or before this
-- position. A relay that finds the store at another position than it remembers goes back to the last checkpoint that
-- is not beyond it, and reads from the store what has come after.

CREATE TABLE workflow.consumer_checkpoints (
    consumer                   text        NOT NULL,
    position                   bigint[]    NOT NULL,
    snapshot                   pg_snapshot,
    next_transaction_id        xid8,
    floor_id                   bigint      NOT NULL,
    window_snapshot            pg_snapshot,
    window_next_transaction_id xid8,
    window_floor_id            bigint,
    window_ceiling_id          bigint,
    acked_id                   bigint      NOT NULL,
    system_identifier          bigint      NOT NULL,
    created_at                 timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    CONSTRAINT consumer_checkpoints_pkey PRIMARY KEY (consumer, position),
    CONSTRAINT consumer_checkpoints_consumer_fkey FOREIGN KEY (consumer)
        REFERENCES workflow.consumers (name) ON DELETE CASCADE
);
-- Those that are old enough to be removed.
CREATE INDEX consumer_checkpoints_created_at_idx ON workflow.consumer_checkpoints (consumer, created_at);

CREATE TRIGGER prepare_load
BEFORE INSERT ON workflow.consumer_checkpoints
FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load();

COMMENT ON TABLE workflow.consumer_checkpoints IS
'Places that consumers had acknowledged, and how far the store they write to was then; see save_checkpoint().';
COMMENT ON COLUMN workflow.consumer_checkpoints.consumer IS 'the consumer';
COMMENT ON COLUMN workflow.consumer_checkpoints.position IS 'the store''s last entry then; for a Redis stream the two numbers of its id';
COMMENT ON COLUMN workflow.consumer_checkpoints.snapshot IS 'as in consumers, and so are the next seven';
COMMENT ON COLUMN workflow.consumer_checkpoints.next_transaction_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.floor_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.window_snapshot IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.window_next_transaction_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.window_floor_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.window_ceiling_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.acked_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.system_identifier IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.created_at IS 'when it was saved';

CREATE FUNCTION workflow.lease_consumer(consumer text, holder text, duration interval DEFAULT '3 s')
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    current workflow.consumers;
    lease bigint;
BEGIN
    PERFORM workflow.check_consumer_name(consumer);
    IF duration IS NULL OR duration <= '0' THEN
        PERFORM workflow.refuse_argument(
            format('cannot lease consumer "%s": duration is %s', consumer, coalesce(duration::text, 'null')),
            jsonb_build_object('argument', 'duration', 'value', duration),
            'Give how long the lease holds without being renewed, more than 0.');
    END IF;
    SELECT c.* INTO current FROM workflow.consumers AS c WHERE c.name = consumer;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_missing('consumer', consumer, 'lease it');
    END IF;
    IF current.lease_expires_at > clock_timestamp() AND current.lease_holder IS DISTINCT FROM holder THEN
        RETURN NULL;
    END IF;
    PERFORM pg_terminate_backend(a.pid)
    FROM pg_stat_activity AS a
    WHERE a.pid = current.lease_pid
        AND a.backend_start = current.lease_backend_start
        AND a.pid <> pg_backend_pid();
    -- A lease that is taken must not be forgotten by a crash: two sessions would then hold the same number.
    PERFORM set_config('synchronous_commit', 'on', true);
    UPDATE workflow.consumers AS c
    SET lease_number = c.lease_number + 1,
        lease_holder = holder,
        lease_duration = duration,
        lease_expires_at = clock_timestamp() + duration,
        lease_pid = pg_backend_pid(),
        lease_backend_start = (SELECT a.backend_start FROM pg_stat_activity AS a WHERE a.pid = pg_backend_pid()),
        updated_at = clock_timestamp()
    WHERE c.name = consumer
        AND c.lease_number = current.lease_number
    RETURNING c.lease_number INTO lease;
    RETURN lease;
END
$$;
COMMENT ON FUNCTION workflow.lease_consumer(text, text, interval) IS
'Takes a consumer for this session alone, and returns the lease''s number for read_events() and ack_events(), which renew it; null while the lease of another holder holds. Ends the session that had the lease before. Errors: P0002 no such consumer, 22023 bad argument.';

CREATE FUNCTION workflow.release_consumer(consumer text, lease bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE workflow.consumers AS c
    SET lease_expires_at = NULL, lease_pid = NULL, lease_backend_start = NULL, updated_at = clock_timestamp()
    WHERE c.name = consumer AND c.lease_number = lease AND c.lease_expires_at IS NOT NULL;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION workflow.release_consumer(text, bigint) IS
'Gives a lease back, so that others need not wait until it runs out; false where it was not held any more.';

CREATE FUNCTION workflow.save_checkpoint(
    consumer text,
    "position" bigint[],
    lease bigint DEFAULT NULL,
    keep interval DEFAULT '7 days'
)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place workflow.consumers := workflow.locked_consumer(consumer, lease);
BEGIN
    INSERT INTO workflow.consumer_checkpoints (consumer, "position",
        snapshot, next_transaction_id, floor_id,
        window_snapshot, window_next_transaction_id, window_floor_id, window_ceiling_id,
        acked_id, system_identifier)
    VALUES (save_checkpoint.consumer, save_checkpoint."position",
        place.snapshot, place.next_transaction_id, place.floor_id,
        place.window_snapshot, place.window_next_transaction_id, place.window_floor_id, place.window_ceiling_id,
        place.acked_id, place.system_identifier)
    ON CONFLICT ON CONSTRAINT consumer_checkpoints_pkey DO NOTHING;
    DELETE FROM workflow.consumer_checkpoints AS c
    WHERE c.consumer = save_checkpoint.consumer
        AND c.created_at < clock_timestamp() - keep
        AND c."position" < save_checkpoint."position";
END
$$;
COMMENT ON FUNCTION workflow.save_checkpoint(text, bigint[], bigint, interval) IS
'Notes that the store this consumer writes to ends at this position, and holds just what the consumer has acknowledged. Forgets checkpoints older than "keep". Errors: P0002 no such consumer, 55006 leased to somebody else.';

CREATE FUNCTION workflow.rewind_consumer(consumer text, "position" bigint[], lease bigint DEFAULT NULL)
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    checkpoint workflow.consumer_checkpoints;
BEGIN
    PERFORM workflow.locked_consumer(consumer, lease);
    SELECT c.* INTO checkpoint
    FROM workflow.consumer_checkpoints AS c
    WHERE c.consumer = rewind_consumer.consumer
    -- The last that is not beyond the position; where all are, the first.
    ORDER BY c."position" <= rewind_consumer."position" DESC,
        CASE WHEN c."position" <= rewind_consumer."position" THEN c."position" END DESC,
        c."position"
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE workflow.consumers AS c
    SET snapshot = checkpoint.snapshot,
        next_transaction_id = checkpoint.next_transaction_id,
        floor_id = checkpoint.floor_id,
        window_snapshot = checkpoint.window_snapshot,
        window_next_transaction_id = checkpoint.window_next_transaction_id,
        window_floor_id = checkpoint.window_floor_id,
        window_ceiling_id = checkpoint.window_ceiling_id,
        acked_id = checkpoint.acked_id,
        system_identifier = checkpoint.system_identifier,
        updated_at = clock_timestamp()
    WHERE c.name = rewind_consumer.consumer;
    -- What they say of the store is no longer true. That must not come back with a crash, when what was missing has
    -- been written behind it.
    PERFORM set_config('synchronous_commit', 'on', true);
    DELETE FROM workflow.consumer_checkpoints AS c
    WHERE c.consumer = rewind_consumer.consumer AND c."position" > checkpoint."position";
    PERFORM workflow.note_found_nothing(NULL, 0);
    RETURN checkpoint."position";
END
$$;
COMMENT ON FUNCTION workflow.rewind_consumer(text, bigint[], bigint) IS
'Takes a consumer back to its last checkpoint that is not beyond this position, or to its first one, and returns that checkpoint''s position; null where it has none. What was acknowledged since comes again. Errors: P0002 no such consumer, 55006 leased to somebody else.';

-- What is going on.

CREATE VIEW workflow.consumer_lag AS
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
COMMENT ON VIEW workflow.consumer_lag IS
'What each consumer has yet to acknowledge. Counts it: the more is pending, the longer this takes.';
COMMENT ON COLUMN workflow.consumer_lag.consumer IS 'the consumer''s name';
COMMENT ON COLUMN workflow.consumer_lag.pending IS 'committed events that it has not acknowledged';
COMMENT ON COLUMN workflow.consumer_lag.oldest IS 'when the oldest of them happened; null where there is none';
COMMENT ON COLUMN workflow.consumer_lag.lag IS 'how long ago that is';
COMMENT ON COLUMN workflow.consumer_lag.last_active IS 'when it last read or acknowledged something new';

CREATE FUNCTION workflow.notifiers()
RETURNS TABLE (
    database      text,
    pid           integer,
    started_at    timestamptz,
    is_listened   boolean,
    pending       bigint,
    lag_seconds   double precision,
    last_event_id bigint,
    events        bigint,
    batches       bigint,
    announced_at  timestamptz,
    errors        bigint,
    last_error    text,
    last_error_at timestamptz
)
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
ROWS 1
AS 'MODULE_PATHNAME', 'notifiers_wrapper';
COMMENT ON FUNCTION workflow.notifiers() IS
'Internal: the notifiers of all databases of the server; see the view notifier.';

CREATE VIEW workflow.notifier AS
SELECT
    n.pid,
    n.started_at,
    n.is_listened,
    n.pending,
    pg_catalog.make_interval(secs => n.lag_seconds) AS lag,
    n.last_event_id,
    n.events,
    n.batches,
    n.announced_at,
    n.errors,
    n.last_error,
    n.last_error_at
FROM workflow.notifiers() AS n
WHERE n.database OPERATOR(pg_catalog.=) pg_catalog.current_database();
COMMENT ON VIEW workflow.notifier IS
'The background worker that announces this database''s events on the channel workflow_events. No row: none has been written since the server started, or pg_workflow is not in shared_preload_libraries and each transaction announces its own.';
COMMENT ON COLUMN workflow.notifier.pid IS 'its process; null while none runs: the next event starts one';
COMMENT ON COLUMN workflow.notifier.started_at IS 'when it started';
COMMENT ON COLUMN workflow.notifier.is_listened IS 'whether any session has said LISTEN workflow_events since the server started; before that nothing is announced';
COMMENT ON COLUMN workflow.notifier.pending IS 'transactions with events that have committed and are yet to be announced';
COMMENT ON COLUMN workflow.notifier.lag IS 'for how long it has not caught up; 0 where nothing is pending';
COMMENT ON COLUMN workflow.notifier.last_event_id IS 'the event announced last';
COMMENT ON COLUMN workflow.notifier.events IS 'how many events it has announced';
COMMENT ON COLUMN workflow.notifier.batches IS 'in how many transactions';
COMMENT ON COLUMN workflow.notifier.announced_at IS 'when it last announced any';
COMMENT ON COLUMN workflow.notifier.errors IS 'how often it failed; it tries again, each time after a longer pause';
COMMENT ON COLUMN workflow.notifier.last_error IS 'how it failed last';
COMMENT ON COLUMN workflow.notifier.last_error_at IS 'when that was';
