-- Leases: exclusive use of a consumer, so that one of several relays leads.
--
-- A lease gives a consumer to one session for some seconds; each read and acknowledgement renews it. It ends with the
-- session, and when its time has passed, also if the clock is set back meanwhile: is_leased() decides. The next holder
-- terminates a session that has locked the consumer's row, because the last one may hang in a read. It terminates no
-- other: behind a pooler, the session that acquired the lease is lent to other clients, and the last holder may hang in
-- another one. It does so with its own rights: a session of a role whose privileges it lacks continues, and the next
-- holder waits for it. The last holder continues without the lease.

-- One sequence for all consumers: one that is dropped and created again gets no number that a session still holds.
CREATE SEQUENCE workflow.lease_number_seq;
COMMENT ON SEQUENCE workflow.lease_number_seq IS
'Internal: draws the numbers of leases.';

CREATE FUNCTION workflow.lease_consumer(consumer text, holder text, duration interval DEFAULT '3 s')
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    current workflow.consumers;
    locked_by xid;
    number bigint;
    lease bigint;
BEGIN
    PERFORM workflow.check_consumer_name(consumer);
    IF duration IS NULL OR duration <= '0' THEN
        PERFORM workflow.refuse_argument(
            format('cannot lease consumer "%s": duration is %s', consumer, coalesce(duration::text, 'null')),
            jsonb_build_object('argument', 'duration', 'value', duration),
            'Set duration to more than 0: the lease expires after it unless it is renewed.');
    END IF;
    SELECT c.* INTO current FROM workflow.consumers AS c WHERE c.name = consumer;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_consumer(consumer, 'lease it');
    END IF;
    IF current.given_up_at IS NOT NULL THEN
        PERFORM workflow.refuse_given_up(consumer, to_jsonb(current.given_up_at) #>> '{}');
    END IF;
    IF workflow.is_leased(current) AND current.lease_holder IS DISTINCT FROM holder THEN
        RETURN NULL;
    END IF;
    IF current.lease_pid IS NOT NULL THEN
        SELECT c.xmax INTO locked_by FROM workflow.consumers AS c WHERE c.name = consumer;
        BEGIN
            -- Also a part of a transaction (SAVEPOINT) has such a lock.
            PERFORM pg_terminate_backend(l.pid)
            FROM pg_locks AS l
            WHERE l.locktype = 'transactionid'
                AND l.transactionid = locked_by
                AND l.granted
                AND l.pid <> pg_backend_pid()
                -- The number can be that of a set of transactions, and the same as that of another transaction.
                AND EXISTS (
                    SELECT FROM pg_locks AS r
                    WHERE r.pid = l.pid
                        AND r.relation = 'workflow.consumers'::regclass
                        AND r.mode IN ('RowShareLock', 'RowExclusiveLock'));
        EXCEPTION WHEN insufficient_privilege THEN
            NULL;
        END;
    END IF;
    number := nextval('workflow.lease_number_seq');
    -- A crash must not undo an acquired lease: two sessions would then hold the same number.
    PERFORM set_config('synchronous_commit', 'on', true);
    UPDATE workflow.consumers AS c
    SET lease_number = greatest(c.lease_number + 1, number),
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
'Acquires an exclusive lease on a consumer and returns its number for read_events() and ack_events(), which renew it; null while another holder has the lease. Terminates a session that has locked the consumer, if the caller has the right. Errors: P0002 no such consumer, 22023 bad argument, 42501 consumer of another role, 55000 given up.';

CREATE FUNCTION workflow.release_consumer(consumer text, lease bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE workflow.consumers AS c
    SET lease_expires_at = NULL, lease_pid = NULL, lease_backend_start = NULL, updated_at = clock_timestamp()
    WHERE c.name = consumer AND c.lease_number = lease AND c.lease_expires_at IS NOT NULL;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION workflow.release_consumer(text, bigint) IS
'Releases a lease before it expires; returns false if it was no longer held.';
