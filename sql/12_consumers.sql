-- Consumers: readers of the event feed whose position the database stores. Each gets every event at least once.
--
-- A consumer belongs to the role that created it. The functions run with the rights of their caller, and row security
-- shows a consumer to its owner and to administrators only.

CREATE TABLE workflow.consumers (
    name                       text        NOT NULL,
    snapshot                   pg_snapshot,
    next_transaction_id        xid8,
    floor_id                   bigint      NOT NULL,
    window_snapshot            pg_snapshot,
    window_next_transaction_id xid8,
    window_floor_id            bigint,
    window_ceiling_id          bigint,
    acked_id                   bigint      NOT NULL DEFAULT 0,
    system_identifier          bigint      NOT NULL,
    lease_number               bigint      NOT NULL DEFAULT 0,
    lease_holder               text,
    lease_duration             interval,
    lease_expires_at           timestamptz,
    lease_pid                  integer,
    lease_backend_start        timestamptz,
    created_at                 timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at                 timestamptz NOT NULL DEFAULT pg_catalog.now(),
    owner                      text        NOT NULL DEFAULT CURRENT_USER,
    given_up_at                timestamptz,
    returned_id                bigint      NOT NULL DEFAULT 0,
    CONSTRAINT consumers_pkey PRIMARY KEY (name),
    CONSTRAINT consumers_name_check CHECK (
        name OPERATOR(pg_catalog.~) '[^[:space:]]' AND pg_catalog.char_length(name) OPERATOR(pg_catalog.<=) 250
    ),
    CONSTRAINT consumers_snapshot_check CHECK ((snapshot IS NULL) OPERATOR(pg_catalog.=) (next_transaction_id IS NULL)),
    CONSTRAINT consumers_window_check CHECK (
        pg_catalog.num_nulls(window_snapshot, window_next_transaction_id, window_floor_id, window_ceiling_id)
            OPERATOR(pg_catalog.=) ANY ('{0,4}'::integer[])
    ),
    -- What a role can store costs every reader of positions. A snapshot has eight bytes for each open transaction.
    CONSTRAINT consumers_size_check CHECK (
        pg_catalog.pg_column_size(snapshot) OPERATOR(pg_catalog.<=) 1048576
        AND pg_catalog.pg_column_size(window_snapshot) OPERATOR(pg_catalog.<=) 1048576
    )
-- The row changes with every batch: leave room to change it in place.
) WITH (fillfactor = 10);

COMMENT ON TABLE workflow.consumers IS 'Consumers of the event feed, with their positions; see create_consumer().';
COMMENT ON COLUMN workflow.consumers.name IS 'unique name; 1 to 250 characters, not blank';
COMMENT ON COLUMN workflow.consumers.snapshot IS 'events visible in it are acknowledged; null: events up to floor_id are';
COMMENT ON COLUMN workflow.consumers.next_transaction_id IS 'transactions from this ID on began after the snapshot; null if snapshot is';
COMMENT ON COLUMN workflow.consumers.floor_id IS 'events of those transactions have ids above it';
COMMENT ON COLUMN workflow.consumers.window_snapshot IS 'end of the open window; null: no window is open';
COMMENT ON COLUMN workflow.consumers.window_next_transaction_id IS 'next_transaction_id at the end of the window; null: no window is open';
COMMENT ON COLUMN workflow.consumers.window_floor_id IS 'floor_id at the end of the window; null: no window is open';
COMMENT ON COLUMN workflow.consumers.window_ceiling_id IS 'no event of the window has an id above it; null: no window is open';
COMMENT ON COLUMN workflow.consumers.acked_id IS 'last acknowledged event of the window; 0: none';
COMMENT ON COLUMN workflow.consumers.system_identifier IS 'origin() of the database that the snapshots belong to; 0: not this one';
COMMENT ON COLUMN workflow.consumers.lease_number IS 'number of the last lease; see lease_consumer()';
COMMENT ON COLUMN workflow.consumers.lease_holder IS 'name that the holder of the lease gave; null: never leased';
COMMENT ON COLUMN workflow.consumers.lease_duration IS 'duration by which each read and acknowledgement renews the lease; null: never leased';
COMMENT ON COLUMN workflow.consumers.lease_expires_at IS 'time at which another session may acquire the lease; null: released';
COMMENT ON COLUMN workflow.consumers.lease_pid IS 'process ID of the session that acquired the lease; null: released';
COMMENT ON COLUMN workflow.consumers.lease_backend_start IS 'start time of that session; null: released';
COMMENT ON COLUMN workflow.consumers.created_at IS 'time of creation';
COMMENT ON COLUMN workflow.consumers.updated_at IS 'time at which its position or its lease last changed';
COMMENT ON COLUMN workflow.consumers.owner IS 'role that created it, or that an administrator entered; only roles with its privileges and members of workflow_admin can use it';
COMMENT ON COLUMN workflow.consumers.given_up_at IS 'time at which purge() stopped keeping events for it; null: it keeps them';
COMMENT ON COLUMN workflow.consumers.returned_id IS 'read_events() has returned the events of the window up to this id; only they can be acknowledged';

CREATE FUNCTION workflow.owns_consumer(owner text)
RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'owns_consumer_wrapper';
COMMENT ON FUNCTION workflow.owns_consumer(text) IS
'Internal: returns whether the current role has the privileges of the owner of a consumer, or of workflow_admin.';

CREATE FUNCTION workflow.forget_origin()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'forget_origin_wrapper';
COMMENT ON FUNCTION workflow.forget_origin() IS
'BEFORE INSERT on consumers: sets no origin, so that a restored row is that of another database until finish_copy(), also if it was this one. create_consumer() sets it.';

CREATE TRIGGER forget_origin
BEFORE INSERT ON workflow.consumers
FOR EACH ROW EXECUTE FUNCTION workflow.forget_origin();
ALTER TABLE workflow.consumers ENABLE ALWAYS TRIGGER forget_origin;

CREATE POLICY owner ON workflow.consumers USING (workflow.owns_consumer(owner));
ALTER TABLE workflow.consumers ENABLE ROW LEVEL SECURITY;

CREATE FUNCTION workflow.position_of(consumer workflow.consumers)
RETURNS workflow.feed_position
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT ROW(
        ($1).snapshot, ($1).next_transaction_id, ($1).floor_id,
        ($1).window_snapshot, ($1).window_next_transaction_id, ($1).window_floor_id, ($1).window_ceiling_id,
        ($1).acked_id, ($1).system_identifier
    )::workflow.feed_position
$$;
COMMENT ON FUNCTION workflow.position_of(workflow.consumers) IS
'Internal: returns the position of a consumer.';

CREATE FUNCTION workflow.check_consumer_name(name text)
RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF name IS NULL OR name !~ '[^[:space:]]' OR char_length(name) > 250 THEN
        PERFORM workflow.refuse_argument(
            'a consumer''s name is ' || CASE WHEN name IS NULL THEN 'null' WHEN name !~ '[^[:space:]]' THEN 'empty' ELSE 'too long' END,
            jsonb_build_object('argument', 'consumer', 'value', left(name, 250)),
            'A name has 1 to 250 characters, at least one of them visible.');
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.check_consumer_name(text) IS 'Internal: checks the name of a consumer. Errors: 22023 invalid name.';

CREATE FUNCTION workflow.check_reading(tried text, max integer, wait interval)
RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF max IS NULL OR max < 1 THEN
        PERFORM workflow.refuse_argument(
            format('cannot %s: max is %s', tried, coalesce(max::text, 'null')),
            jsonb_build_object('argument', 'max', 'value', max),
            'Set max to 1 or more.');
    END IF;
    IF wait IS NULL OR wait < '0' THEN
        PERFORM workflow.refuse_argument(
            format('cannot %s: wait is %s', tried, coalesce(wait::text, 'null')),
            jsonb_build_object('argument', 'wait', 'value', wait),
            'Set wait to 0 or more.');
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.check_reading(text, integer, interval) IS
'Internal: checks the arguments of read_events() and follow_events(). Errors: 22023 bad argument.';

CREATE FUNCTION workflow.create_consumer(name text, from_beginning boolean DEFAULT false)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pos workflow.feed_position := workflow.first_position();
BEGIN
    PERFORM workflow.check_consumer_name(name);
    PERFORM workflow.refuse_copy(format('create consumer "%s"', name));
    IF NOT coalesce(from_beginning, false) THEN
        pos := workflow.close_window(workflow.open_window(pos));
    END IF;
    INSERT INTO workflow.consumers (name, snapshot, next_transaction_id, floor_id,
        window_snapshot, window_next_transaction_id, window_floor_id, window_ceiling_id, acked_id, system_identifier)
    VALUES (create_consumer.name, pos.*)
    ON CONFLICT ON CONSTRAINT consumers_pkey DO NOTHING;
    IF FOUND THEN
        -- See forget_origin().
        UPDATE workflow.consumers AS c SET system_identifier = workflow.origin() WHERE c.name = create_consumer.name;
        RETURN true;
    END IF;
    IF NOT EXISTS (SELECT FROM workflow.consumers AS c WHERE c.name = create_consumer.name) THEN
        PERFORM workflow.refuse_consumer(name, 'create it');
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION workflow.create_consumer(text, boolean) IS
'Creates a consumer of the event feed that starts with the next commit, or with the first event still stored. The current role owns it. Returns false and changes nothing if it already exists. Errors: 22023 bad argument, 42501 the consumer of that name belongs to another role, 55000 a subscription writes this database, or finish_copy() was not called.';

CREATE FUNCTION workflow.store_position(consumer text, pos workflow.feed_position, returned_id bigint DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE workflow.consumers AS c
    SET (snapshot, next_transaction_id, floor_id,
        window_snapshot, window_next_transaction_id, window_floor_id, window_ceiling_id,
        acked_id, system_identifier, returned_id, updated_at)
        = ROW (pos.*, coalesce(store_position.returned_id, pos.acked_id), clock_timestamp())
    WHERE c.name = consumer;
END
$$;
COMMENT ON FUNCTION workflow.store_position(text, workflow.feed_position, bigint) IS
'Internal: sets the position of a consumer, which the transaction has locked, and the last event returned from its window; null: the last acknowledged one.';

CREATE FUNCTION workflow.note_returned(id bigint)
RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'note_returned_event';
COMMENT ON FUNCTION workflow.note_returned(bigint) IS
'Internal: returns this id, and notes it for last_returned().';

CREATE FUNCTION workflow.last_returned()
RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'last_returned_wrapper';
COMMENT ON FUNCTION workflow.last_returned() IS
'Internal: returns the id that this session noted last. read_events() asks right after its query, which would otherwise run twice.';

CREATE FUNCTION workflow.is_leased(consumer workflow.consumers)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now timestamptz := clock_timestamp();
BEGIN
    -- A lease that expires much later than one acquired now: the clock was set back.
    IF consumer.lease_expires_at IS NULL OR consumer.lease_expires_at NOT BETWEEN now AND now + 2 * consumer.lease_duration THEN
        RETURN false;
    END IF;
    -- A role without the right to see it finds no start time of another role's session.
    RETURN EXISTS (
        SELECT FROM pg_stat_activity AS a
        WHERE a.pid = consumer.lease_pid
            AND a.datname = current_database()
            AND (a.backend_start IS NULL OR a.backend_start = consumer.lease_backend_start));
END
$$;
COMMENT ON FUNCTION workflow.is_leased(workflow.consumers) IS
'Internal: returns whether a session holds the lease of a consumer: it is connected, and the lease has not expired.';

CREATE FUNCTION workflow.refuse_foreign(consumer workflow.consumers)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM workflow.refuse_copy(format('use consumer "%s"', left(consumer.name, 250)));
    RAISE EXCEPTION USING
        ERRCODE = 'object_not_in_prerequisite_state',
        MESSAGE = format('cannot use consumer "%s": its position is of another database', left(consumer.name, 250)),
        DETAIL = jsonb_build_object('consumer', left(consumer.name, 250), 'floor_id', consumer.floor_id)::text,
        HINT = 'When the restore is complete, the owner of the extension calls finish_copy() once.';
END
$$;
COMMENT ON FUNCTION workflow.refuse_foreign(workflow.consumers) IS
'Internal: raises 55000 for a consumer whose position is of another database, which finish_copy() changes.';

CREATE FUNCTION workflow.lock_consumer(name text, lease bigint, ignores_lease boolean DEFAULT false)
RETURNS workflow.feed_position
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    consumer workflow.consumers;
    pos workflow.feed_position;
    now timestamptz := clock_timestamp();
BEGIN
    -- A position that is computed from a part of the history would skip the other events.
    PERFORM workflow.refuse_tenant();
    SELECT c.* INTO consumer FROM workflow.consumers AS c WHERE c.name = lock_consumer.name FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM workflow.check_consumer_name(name);
        PERFORM workflow.refuse_consumer(name, 'read its events');
    END IF;
    IF consumer.given_up_at IS NOT NULL THEN
        PERFORM workflow.refuse_given_up(name, to_jsonb(consumer.given_up_at) #>> '{}');
    END IF;
    pos := workflow.position_of(consumer);
    -- The table came from another database, by a restored dump or by logical replication. The history may not be complete
    -- yet.
    IF workflow.is_foreign(pos) THEN
        PERFORM workflow.refuse_foreign(consumer);
    END IF;
    IF NOT ignores_lease AND (
        (lease IS NULL AND workflow.is_leased(consumer))
        OR (lease IS NOT NULL AND (lease <> consumer.lease_number OR consumer.lease_expires_at IS NULL)))
    THEN
        PERFORM workflow.refuse_leased(name, lease, consumer.lease_holder, consumer.lease_number);
    END IF;
    -- Not each time: that would write the row again at every read.
    IF lease IS NOT NULL
        AND consumer.lease_expires_at NOT BETWEEN now + consumer.lease_duration * 0.7 AND now + consumer.lease_duration
    THEN
        UPDATE workflow.consumers AS c
        SET lease_expires_at = now + c.lease_duration
        WHERE c.name = lock_consumer.name;
    END IF;
    RETURN pos;
END
$$;
COMMENT ON FUNCTION workflow.lock_consumer(text, bigint, boolean) IS
'Internal: locks a consumer until the transaction ends, renews its lease, and returns its position. Errors: P0002 no such consumer, 42501 consumer of another role or row security, 55000 given up, or of another database, 55006 leased to another session.';

CREATE FUNCTION workflow.consumer_has_events(name text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    consumer workflow.consumers;
BEGIN
    PERFORM workflow.refuse_tenant();
    SELECT c.* INTO consumer FROM workflow.consumers AS c WHERE c.name = consumer_has_events.name;
    IF NOT FOUND THEN
        PERFORM workflow.check_consumer_name(name);
        PERFORM workflow.refuse_consumer(name, 'wait for its events');
    END IF;
    IF consumer.given_up_at IS NOT NULL THEN
        PERFORM workflow.refuse_given_up(name, to_jsonb(consumer.given_up_at) #>> '{}');
    END IF;
    IF workflow.is_foreign(workflow.position_of(consumer)) THEN
        PERFORM workflow.refuse_foreign(consumer);
    END IF;
    RETURN workflow.has_events(workflow.position_of(consumer));
END
$$;
COMMENT ON FUNCTION workflow.consumer_has_events(text) IS
'Internal: returns whether a consumer has events that are not acknowledged. Locks nothing. Errors: P0002 no such consumer, 42501 consumer of another role or row security, 55000 given up, or of another database.';

CREATE FUNCTION workflow.wait_in_function(consumer text, wait interval)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    seconds double precision := extract(epoch FROM wait);
    seen bigint;
BEGIN
    WHILE seconds > 0 LOOP
        seen := workflow.commits();
        EXIT WHEN workflow.consumer_has_events(consumer);
        seconds := workflow.wait_for_commit(seen, seconds);
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.wait_in_function(text, interval) IS
'Internal: waits until a consumer has events, within the statement that calls it.';

CREATE PROCEDURE workflow.wait_for_events(consumer text, timeout interval, INOUT has_events boolean DEFAULT NULL)
LANGUAGE c
AS 'MODULE_PATHNAME', 'wait_for_events_of_consumer';
COMMENT ON PROCEDURE workflow.wait_for_events(text, interval, boolean) IS
'Waits until a consumer has events that are not acknowledged, at most "timeout"; has_events tells whether it has any. Meanwhile the session holds no snapshot and no lock. CALL it outside a transaction block, then call read_events(). Errors: P0002 no such consumer, 22023 bad argument, 25001 in a transaction block, 25006 the server is a standby, 42501 consumer of another role or row security, 55000 given up, or of another database.';

CREATE FUNCTION workflow.read_events(
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
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
-- Nor does a partition without statistics: its range of ids would seem short enough to sort.
SET enable_bitmapscan = off
SET jit = off
ROWS 1000
AS $$
#variable_conflict use_column
DECLARE
    pos workflow.feed_position;
    closed workflow.feed_position;
    was_open boolean;
    has_ended boolean;
    count bigint;
    returned bigint;
BEGIN
    IF (max > 0 AND wait >= '0') IS NOT TRUE THEN
        PERFORM workflow.check_reading(format('read events of consumer "%s"', consumer), max, wait);
    END IF;
    -- Before the consumer is locked: a session that waits blocks no other.
    IF wait > '0' THEN
        PERFORM workflow.wait_in_function(consumer, wait);
    END IF;
    pos := workflow.lock_consumer(consumer, lease);
    -- Then no query need look at the window.
    has_ended := pos.acked_id >= pos.window_ceiling_id;
    LOOP
        IF has_ended THEN
            pos := workflow.close_window(pos);
            closed := pos;
        END IF;
        was_open := pos.window_snapshot IS NOT NULL;
        IF NOT was_open THEN
            pos := workflow.open_window(pos);
        END IF;

        -- Nearly always none is late. The shorter query costs a tenth less.
        IF EXISTS (
            SELECT FROM workflow.late_ids_in_window(
                ROW(pos.snapshot, pos.next_transaction_id, pos.floor_id, pos.window_snapshot, NULL, NULL, NULL,
                    pos.acked_id, NULL)::workflow.feed_position,
                1)
        ) THEN
            RETURN QUERY
                SELECT workflow.note_returned(e.id), e.entity_type, e.entity_id, e.dag_id, e.dag_run_id, e.task_id,
                    e.old_state, e.new_state, e.version, e.changed_at, e.actor, e.metadata
                -- By fields: the plan would take a row apart for each event.
                FROM workflow.events_between(pos.snapshot, pos.next_transaction_id, pos.floor_id,
                    pos.window_snapshot, pos.window_next_transaction_id, pos.window_floor_id, pos.window_ceiling_id,
                    pos.acked_id, max) AS e;
        ELSE
            RETURN QUERY
                SELECT workflow.note_returned(e.id), e.entity_type, e.entity_id, e.dag_id, e.dag_run_id, e.task_id,
                    e.old_state, e.new_state, e.version, e.changed_at, e.actor, e.metadata
                FROM workflow.events_above(
                    ROW(pos.snapshot, pos.next_transaction_id, pos.floor_id,
                        pos.window_snapshot, pos.window_next_transaction_id, pos.window_floor_id, pos.window_ceiling_id,
                        pos.acked_id, NULL)::workflow.feed_position,
                    max) AS e;
        END IF;
        GET DIAGNOSTICS count = ROW_COUNT;
        EXIT WHEN count > 0 OR NOT was_open;
        has_ended := true;
    END LOOP;
    IF count = 0 THEN
        IF has_ended THEN
            PERFORM workflow.store_position(consumer, closed);
        END IF;
        RETURN;
    END IF;

    returned := workflow.last_returned();
    IF count < max THEN
        -- The window has no more.
        pos.window_ceiling_id := returned;
    END IF;
    IF was_open THEN
        UPDATE workflow.consumers AS c
        SET returned_id = greatest(c.returned_id, returned), window_ceiling_id = pos.window_ceiling_id
        WHERE c.name = consumer AND (c.returned_id < returned OR c.window_ceiling_id > pos.window_ceiling_id);
    ELSE
        -- As store_position() does, without the cost of its call.
        UPDATE workflow.consumers AS c
        SET (snapshot, next_transaction_id, floor_id,
            window_snapshot, window_next_transaction_id, window_floor_id, window_ceiling_id,
            acked_id, system_identifier, returned_id, updated_at)
            = ROW (pos.*, returned, clock_timestamp())
        WHERE c.name = consumer;
        -- Visible events need not be on disk (synchronous_commit = off), nor on the synchronous standby (a session
        -- that was terminated while it waited for that). Never deliver an event that a crash may undo.
        IF NOT workflow.is_durable() THEN
            PERFORM workflow.make_durable();
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.read_events(text, integer, interval, bigint) IS
'Returns the next events of a consumer, in order within each entity. Unacknowledged events are redelivered. Waits up to "wait" for new events, with a snapshot that holds back VACUUM, or until another session takes them; wait_for_events() waits without one. Only durable events are delivered. Errors: P0002 no such consumer, 22023 bad argument, 42501 consumer of another role or row security, 55000 given up, or of another database, 55006 leased to another session.';

CREATE FUNCTION workflow.ack_events(consumer text, up_to bigint, lease bigint DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
-- A plan for each call would cost half as much as the call.
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    pos workflow.feed_position := workflow.lock_consumer(consumer, lease);
    written_by xid8;
    is_in_window boolean;
BEGIN
    SELECT h.transaction_id INTO written_by FROM workflow.state_history AS h WHERE h.id = up_to;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_argument(
            format('cannot acknowledge event %s for consumer "%s": no such event', coalesce(up_to::text, 'null'), consumer),
            jsonb_build_object('argument', 'up_to', 'value', up_to),
            'Give the id of the last event that read_events() returned and you have processed.');
    END IF;
    -- An id of an earlier window, acknowledged again, must not skip events of the open window below it.
    is_in_window := coalesce(workflow.is_in_window(pos, up_to, written_by), false);
    IF workflow.is_acknowledged(pos, up_to, written_by) OR (up_to <= pos.acked_id AND is_in_window) THEN
        RETURN false;
    END IF;
    -- Not by store_position(): only this field changes, and every batch of every consumer comes here.
    UPDATE workflow.consumers AS c
    SET acked_id = up_to, updated_at = clock_timestamp()
    WHERE c.name = consumer AND c.returned_id >= up_to AND is_in_window;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_argument(
            format('cannot acknowledge event %s for consumer "%s": it has not been read yet', up_to, consumer),
            jsonb_build_object('argument', 'up_to', 'value', up_to),
            'Give the id of the last event that read_events() returned and you have processed.');
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION workflow.ack_events(text, bigint, bigint) IS
'Acknowledges an event and all earlier ones that read_events() returned. Returns false if they were acknowledged before. Errors: P0002 no such consumer, 22023 no such event or not read yet, 42501 consumer of another role or row security, 55000 given up, or of another database, 55006 leased to another session.';

CREATE FUNCTION workflow.skip_event(consumer text, event_id bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    pos workflow.feed_position := workflow.lock_consumer(consumer, NULL::bigint, true);
    was_open boolean;
    next_id bigint;
BEGIN
    LOOP
        was_open := pos.window_snapshot IS NOT NULL;
        IF NOT was_open THEN
            pos := workflow.open_window(pos);
        END IF;
        -- Only the id: the rest of the event may be what no reader can take.
        SELECT e.id INTO next_id FROM workflow.events_in_window(pos, 1) AS e;
        EXIT WHEN next_id IS NOT NULL OR NOT was_open;
        pos := workflow.close_window(pos);
    END LOOP;
    IF next_id IS NULL OR next_id IS DISTINCT FROM event_id THEN
        PERFORM workflow.refuse_argument(
            format('cannot skip event %s for consumer "%s": its next event is %s',
                coalesce(event_id::text, 'null'), consumer, coalesce(next_id::text, 'not written yet')),
            jsonb_build_object('argument', 'event_id', 'value', event_id, 'next_event', next_id),
            'Skip only the next event, and only if no reader can process it.');
    END IF;
    -- As in read_events(): it delivers the rest of an open window without another wait.
    IF NOT was_open THEN
        PERFORM workflow.make_durable();
    END IF;
    pos.acked_id := next_id;
    PERFORM workflow.store_position(consumer, pos, CASE WHEN was_open THEN (
        SELECT greatest(c.returned_id, next_id) FROM workflow.consumers AS c WHERE c.name = consumer) END);
END
$$;
COMMENT ON FUNCTION workflow.skip_event(text, bigint) IS
'Acknowledges the next event of a consumer without reading it, also while another session has the lease: for an event that cannot be delivered. For administrators. Errors: P0002 no such consumer, 22023 not its next event, 42501 row security, 55000 given up.';

CREATE FUNCTION workflow.resume_consumer(name text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    consumer workflow.consumers;
BEGIN
    PERFORM workflow.check_consumer_name(name);
    SELECT c.* INTO consumer FROM workflow.consumers AS c WHERE c.name = resume_consumer.name FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_consumer(name, 'resume it');
    END IF;
    -- From here on purge() drops no partition before the transaction ends: then it sees the consumer.
    LOCK TABLE ONLY workflow.state_history IN ACCESS SHARE MODE;
    PERFORM workflow.check_partitions(consumer.floor_id);
    UPDATE workflow.consumers AS c
    SET given_up_at = NULL, updated_at = clock_timestamp()
    WHERE c.name = resume_consumer.name AND c.given_up_at IS NOT NULL;
    RETURN FOUND AND EXISTS (
        SELECT FROM workflow.dropped_partitions AS d
        WHERE d.dropped_at >= consumer.given_up_at AND d.last_id > consumer.floor_id);
END
$$;
COMMENT ON FUNCTION workflow.resume_consumer(text) IS
'Lets a consumer that purge() has given up read the events that are still stored. Returns whether purge() has dropped events since then that it had not read. Errors: P0002 no such consumer, 40001 purged since the transaction''s snapshot, 42501 consumer of another role.';

CREATE FUNCTION workflow.drop_consumer(name text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM workflow.consumers AS c WHERE c.name = drop_consumer.name;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_consumer(name, 'drop it');
    END IF;
    PERFORM workflow.wake_readers();
END
$$;
COMMENT ON FUNCTION workflow.drop_consumer(text) IS
'Deletes a consumer and its position. Errors: P0002 no such consumer, 42501 consumer of another role.';
