-- All locks at once and before any change: an update beside work causes no deadlock. A wait for one of them is shorter than
-- deadlock_timeout, and gives up those it has. If a transaction keeps its locks for longer, the update waits for its end. After
-- the script of another version it cannot give up that one's locks: it waits at once, and the deadlock detector decides.
DO $$
DECLARE
    lock_all text := 'LOCK TABLE ' OPERATOR(pg_catalog.||) (
        SELECT pg_catalog.string_agg(pg_catalog.format('workflow.%I', c.relname), ', ' ORDER BY c.relkind DESC, c.oid)
        FROM pg_catalog.pg_class AS c
        WHERE c.relnamespace OPERATOR(pg_catalog.=) 'workflow'::pg_catalog.regnamespace
            AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v}'::pg_catalog."char"[])
            AND NOT c.relispartition);
    timeout text := pg_catalog.current_setting('lock_timeout');
    has_locks boolean := EXISTS (
        SELECT FROM pg_catalog.pg_locks AS l
        WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() AND l.mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock'
            AND l.relation OPERATOR(pg_catalog.=) 'workflow.state_history'::pg_catalog.regclass);
    patience interval := CASE
        WHEN has_locks THEN '0'::pg_catalog.interval
        WHEN timeout OPERATOR(pg_catalog.=) '0' THEN '30 s'::pg_catalog.interval
        ELSE timeout::pg_catalog.interval
    END;
    patient_until timestamptz := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) patience;
BEGIN
    WHILE pg_catalog.clock_timestamp() OPERATOR(pg_catalog.<) patient_until LOOP
        BEGIN
            PERFORM pg_catalog.set_config('lock_timeout', '200ms', true);
            EXECUTE lock_all;
            PERFORM pg_catalog.set_config('lock_timeout', timeout, true);
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_catalog.pg_sleep(0.05);
        END;
    END LOOP;
    EXECUTE lock_all;
END
$$;

