-- Waiting for new events.

CREATE FUNCTION workflow.is_preloaded()
RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'is_preloaded_wrapper';
COMMENT ON FUNCTION workflow.is_preloaded() IS
'Returns whether pg_workflow is in shared_preload_libraries. If so, commits wake sessions that wait in read_events(), and a notifier sends the notifications.';

CREATE FUNCTION workflow.commits()
RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'commits_wrapper';
COMMENT ON FUNCTION workflow.commits() IS
'Internal: returns how many transactions with events have committed in this database since the server started; 0 without preloading.';

CREATE FUNCTION workflow.wait_for_events(consumer text, seconds double precision)
RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'wait_for_events_wrapper';
COMMENT ON FUNCTION workflow.wait_for_events(text, double precision) IS
'Internal: waits until a transaction with events commits, unless the session''s last read of the consumer may have left some. Without preloading it waits for a notification that the session listens to.';

CREATE FUNCTION workflow.note_found_nothing(consumer text, commits bigint)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'note_found_nothing_wrapper';
COMMENT ON FUNCTION workflow.note_found_nothing(text, bigint) IS
'Internal: stores that the session''s last read, begun at this count of commits(), found nothing for a consumer; null: it found events.';
