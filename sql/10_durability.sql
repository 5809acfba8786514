-- Only durable events are delivered: a crash may undo a commit that is visible, but not yet on disk.

CREATE FUNCTION workflow.is_durable()
RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'is_durable_wrapper';
COMMENT ON FUNCTION workflow.is_durable() IS
'Internal: returns whether every visible event is known to be on disk, and no synchronous standby is to be waited for.';

CREATE FUNCTION workflow.wait_until_durable()
RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'wait_until_durable_wrapper';
COMMENT ON FUNCTION workflow.wait_until_durable() IS
'Internal: waits until all that any transaction has written so far is on disk and, as synchronous_commit says, on the synchronous standbys.';

CREATE FUNCTION workflow.make_durable()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    durability text := current_setting('synchronous_commit');
BEGIN
    IF durability IN ('off', 'local', 'remote_write') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    PERFORM workflow.wait_until_durable();
    PERFORM set_config('synchronous_commit', durability, true);
END
$$;
COMMENT ON FUNCTION workflow.make_durable() IS
'Internal: calls wait_until_durable(), also if the session itself waits neither for the disk nor for the standbys.';
