-- Waiting for new events. A reader asks whether it has events, waits for a commit, and asks again. The session remembers
-- nothing: rollbacks, other sessions and other consumers change the answer.

CREATE FUNCTION workflow.is_preloaded()
RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'is_preloaded_wrapper';
COMMENT ON FUNCTION workflow.is_preloaded() IS
'Returns whether pg_workflow is in shared_preload_libraries. If so, commits wake sessions that wait for events, and a notifier sends the notifications.';

CREATE FUNCTION workflow.commits()
RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'commits_wrapper';
COMMENT ON FUNCTION workflow.commits() IS
'Internal: returns how many transactions with events have committed in this database since the server started; 0 without preloading.';

CREATE FUNCTION workflow.wake_readers()
RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'wake_readers_wrapper';
COMMENT ON FUNCTION workflow.wake_readers() IS
'Internal: lets the commit of the transaction wake the sessions that wait for events.';

CREATE FUNCTION workflow.wait_for_commit(seen bigint, seconds double precision)
RETURNS double precision
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'wait_for_commit_wrapper';
COMMENT ON FUNCTION workflow.wait_for_commit(bigint, double precision) IS
'Internal: waits until commits() is no longer "seen", or until it is time to look again. Returns how many of the seconds are left; 0 if the transaction cannot see new events.';

CREATE FUNCTION workflow.has_events(pos workflow.feed_position)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    new_id bigint;
BEGIN
    -- An error on a standby, also if the open window has events.
    PERFORM workflow.next_transaction_id();
    IF pos.window_snapshot IS NOT NULL THEN
        IF pos.acked_id < pos.window_ceiling_id AND EXISTS (SELECT FROM workflow.events_in_window(pos, 1)) THEN
            RETURN true;
        END IF;
        -- See open_window().
        IF EXISTS (SELECT FROM pg_subscription_rel) THEN
            PERFORM workflow.refuse_subscriber('read events');
        END IF;
        -- The usual news, found without a search: events that were not there when the window was opened. In this order,
        -- which only the primary key has: the BRIN index would read thousands of rows.
        SELECT h.id INTO new_id
        FROM workflow.state_history AS h
        -- The ceiling can be lower: it follows what was returned, and the events of late commits have low ids.
        WHERE h.id > greatest(pos.window_ceiling_id, pos.window_floor_id)
            -- As in others_snapshot(): the transaction's own events are not among them.
            AND h.transaction_id IS DISTINCT FROM pg_current_xact_id_if_assigned()
            AND pg_visible_in_snapshot(h.transaction_id, pg_current_snapshot())
            AND NOT pg_visible_in_snapshot(h.transaction_id, pos.window_snapshot)
        ORDER BY h.id
        LIMIT 1;
        IF FOUND THEN
            RETURN true;
        END IF;
        pos := workflow.close_window(pos);
    END IF;
    pos := workflow.open_window(pos);
    RETURN EXISTS (SELECT FROM workflow.events_in_window(pos, 1));
END
$$;
COMMENT ON FUNCTION workflow.has_events(workflow.feed_position) IS
'Internal: returns whether there are events after a consumer''s position. Errors: 25006 the server is a standby.';
