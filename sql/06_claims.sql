-- Claims: a worker takes tasks, and ends each by its claim. The fence is the claim itself: (task, version, start_date).

CREATE FUNCTION workflow.claim_tasks(
    worker text,
    queues text[]   DEFAULT '{default}',
    max    integer  DEFAULT 1,
    lease  interval DEFAULT '30 s'
)
RETURNS TABLE (
    claim            text,
    id               uuid,
    dag_id           uuid,
    dag_run_id       uuid,
    task_id          text,
    try_number       integer,
    conf             jsonb,
    timeout          interval,
    lease_expires_at timestamptz
)
LANGUAGE c VOLATILE PARALLEL UNSAFE
ROWS 10
AS 'MODULE_PATHNAME', 'claim_tasks_wrapper';
COMMENT ON FUNCTION workflow.claim_tasks(text, text[], integer, interval) IS
'Takes up to max tasks from queues, in their order, by priority and then by the time since which they wait, and moves them to running. Waits for no lock and for no task: see wait_for_tasks(). A task that a trigger, a constraint or a policy refuses to move is a warning, and rests for 10 s in this session; what refuses at the commit is the caller''s error. claim is what ends the claim of each; conf is that of the run. If the lease runs out without renew_claims(), reap_claims() ends the claim: the task is retrying if it has tries left (max_tries), else failed. Errors: 22023 bad argument, 25001 REPEATABLE READ or SERIALIZABLE, 25006 read-only transaction.';

CREATE FUNCTION workflow.complete_claim(claim text, result jsonb DEFAULT '{}')
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'complete_claim_wrapper';
COMMENT ON FUNCTION workflow.complete_claim(text, jsonb) IS
'Moves a claimed task to success, and returns its version. result becomes the metadata of the transition. Said again, it returns the same. Errors: 40001 the claim is lost, so that all that the transaction has written is undone; 22023 bad argument.';

CREATE FUNCTION workflow.fail_claim(
    claim       text,
    error       text,
    retry_after interval DEFAULT NULL,
    metadata    jsonb    DEFAULT '{}'
)
RETURNS TABLE (state text, version bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE
ROWS 1
AS 'MODULE_PATHNAME', 'fail_claim_wrapper';
COMMENT ON FUNCTION workflow.fail_claim(text, text, interval, jsonb) IS
'Ends a claim with an error: the task is retrying if it has tries left (max_tries), else failed. retry_after: how long it then waits; null: 2 s, 4 s, 8 s and so on up to an hour, by a quarter more or less; negative: no retry. After request_cancel() it is failed. Said again, it returns the same. Errors: 40001 the claim is lost, 22023 bad argument.';

CREATE FUNCTION workflow.finish_claims(outcomes jsonb, strict boolean DEFAULT false)
RETURNS TABLE (claim text, outcome text, state text, version bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE
ROWS 100
AS 'MODULE_PATHNAME', 'finish_claims_wrapper';
COMMENT ON FUNCTION workflow.finish_claims(jsonb, boolean) IS
'Ends many claims: outcomes is an array of objects with claim, state (success or failed), and perhaps result (the metadata); for failed also error, and retry_after in seconds, as for fail_claim(). Returns an outcome for each, in their order: done, or lost, and the state and version of its task. strict: a lost claim is an error. Errors: 22023 bad argument, 40001 (strict) a claim is lost.';

CREATE FUNCTION workflow.release_claims(claims text[], delay interval DEFAULT '0')
RETURNS TABLE (claim text, outcome text)
LANGUAGE c VOLATILE PARALLEL UNSAFE
ROWS 10
AS 'MODULE_PATHNAME', 'release_claims_wrapper';
COMMENT ON FUNCTION workflow.release_claims(text[], interval) IS
'Gives tasks back unfinished: they are retrying, can be claimed after the delay, and this attempt does not count against max_tries. Returns an outcome for each claim: released, cancelled (request_cancel() was called: the task is failed) or lost. Errors: 22023 bad argument, 40001 another transaction has changed a task since the snapshot (REPEATABLE READ or SERIALIZABLE).';

CREATE FUNCTION workflow.renew_claims(claims text[], lease interval DEFAULT NULL)
RETURNS TABLE (claim text, outcome text)
LANGUAGE c VOLATILE PARALLEL UNSAFE
ROWS 10
AS 'MODULE_PATHNAME', 'renew_claims_wrapper';
COMMENT ON FUNCTION workflow.renew_claims(text[], interval) IS
'Renews leases from now on, for as long as each was claimed if lease is null. A lease that has run out is renewed, too, until reap_claims() ends it. Returns an outcome for each claim: renewed, cancel (renewed, but request_cancel() was called: stop, and call fail_claim()), lost (stop: another worker can have the task), or refused (not renewed: a trigger, a constraint or a policy refuses it, as a warning tells). Waits for no lock. Errors: 22023 bad argument, 40001 another transaction has changed a task since the snapshot (REPEATABLE READ or SERIALIZABLE).';

CREATE FUNCTION workflow.is_claim_of(claim text, id uuid, version bigint, start_date timestamptz)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'is_claim_of_wrapper';
COMMENT ON FUNCTION workflow.is_claim_of(text, uuid, bigint, timestamptz) IS
'Internal: returns whether a task is still as a claim has left it. Errors: 22023 no claim.';

CREATE FUNCTION workflow.refuse_lost_claim(claim text, task_instance_id uuid)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'refuse_lost_claim_wrapper';
COMMENT ON FUNCTION workflow.refuse_lost_claim(text, uuid) IS
'Internal: raises the error of a lost claim. Errors: 40001 the claim is lost, 22023 no claim, or one of another task.';

CREATE FUNCTION workflow.lease_end(id uuid, version bigint, start_date timestamptz, lease_expires_at timestamptz)
RETURNS timestamptz
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'lease_end_wrapper';
COMMENT ON FUNCTION workflow.lease_end(uuid, bigint, timestamptz, timestamptz) IS
'Internal: returns the end of a claim''s lease. If the library is preloaded, renewals are in shared memory.';

CREATE FUNCTION workflow.has_expired(id uuid, version bigint, start_date timestamptz, lease_expires_at timestamptz)
RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'has_expired_wrapper';
COMMENT ON FUNCTION workflow.has_expired(uuid, bigint, timestamptz, timestamptz) IS
'Internal: returns whether a claim''s lease has run out.';

CREATE FUNCTION workflow.reap_claims(max integer DEFAULT 100)
RETURNS TABLE (id uuid, worker text, reason text, state text)
LANGUAGE c VOLATILE PARALLEL UNSAFE
ROWS 10
AS 'MODULE_PATHNAME', 'reap_claims_wrapper';
COMMENT ON FUNCTION workflow.reap_claims(integer) IS
'Ends up to max claims whose lease or timeout has run out: the tasks are retrying if they have tries left (max_tries), else failed. Returns them. Tasks that other transactions have locked are skipped; a claim whose end fails, for example in a trigger, is a warning. If statement_timeout passes, it returns what it has ended, and the next call of the session begins with the next task. Outside a transaction block, deferred constraints are checked for each claim. If renewals write the row, because shared memory has no room for them, a claim whose row was locked is ended half a lease after that was seen. Errors: 22023 bad argument, 25006 read-only transaction.';

CREATE FUNCTION workflow.note_cancel(task_instance_id uuid)
RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'note_cancel_wrapper';
COMMENT ON FUNCTION workflow.note_cancel(uuid) IS
'Internal: asks the holder of a running task to stop. Returns whether it runs.';

CREATE FUNCTION workflow.request_cancel(id uuid)
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    task record;
    current_state text;
BEGIN
    IF id IS NULL THEN
        PERFORM workflow.refuse_argument(
            'cannot cancel a task or a run: id is null',
            jsonb_build_object('argument', 'id', 'value', NULL),
            'Give the id of a task instance or of a run.');
    END IF;
    IF EXISTS (SELECT FROM workflow.dag_runs AS r WHERE r.id = request_cancel.id) THEN
        FOR task IN
            SELECT t.id FROM workflow.task_instances AS t
            WHERE t.dag_run_id = request_cancel.id AND '{queued,retrying,running}'::text[] @> ARRAY[t.state]
            ORDER BY t.id
        LOOP
            PERFORM workflow.request_cancel(task.id);
        END LOOP;
        RETURN 'requested';
    END IF;
    SELECT t.state INTO current_state FROM workflow.task_instances AS t WHERE t.id = request_cancel.id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_missing('task_instance', id::text, 'cancel it');
    END IF;
    IF current_state = 'queued' THEN
        PERFORM workflow.transition_task_instance(id, 'queued', 'skipped', '{"reason": "cancelled"}');
        RETURN 'skipped';
    ELSIF current_state = 'retrying' THEN
        PERFORM workflow.transition_task_instance(id, 'retrying', 'failed', '{"reason": "cancelled", "error": "cancelled"}');
        RETURN 'failed';
    ELSIF current_state = 'running' THEN
        PERFORM workflow.note_cancel(id);
        RETURN 'requested';
    END IF;
    RETURN 'ended';
END
$$;
COMMENT ON FUNCTION workflow.request_cancel(uuid) IS
'Cancels a task, or all tasks of a run, or none if one of them is refused. A queued task is skipped, a retrying one fails. The holder of a running one learns it from renew_claims(), and it is not retried. Returns skipped, failed, requested or ended (it had ended before); for a run, requested. Errors: P0002 no such task or run, 22023 bad argument.';

CREATE FUNCTION workflow.seconds_to_task(queues text[])
RETURNS double precision
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'seconds_to_task_wrapper';
COMMENT ON FUNCTION workflow.seconds_to_task(text[]) IS
'Internal: returns in how many seconds a task of these queues can be claimed; null: none waits. Errors: 22023 bad argument.';

CREATE PROCEDURE workflow.wait_for_tasks(
    queues text[] DEFAULT '{default}', timeout interval DEFAULT '20 s', INOUT has_tasks boolean DEFAULT NULL
)
LANGUAGE c
AS 'MODULE_PATHNAME', 'wait_for_tasks_of_queues';
COMMENT ON PROCEDURE workflow.wait_for_tasks(text[], interval, boolean) IS
'Waits until a task of these queues can be claimed, at most "timeout"; has_tasks tells whether one can. Meanwhile the session holds no snapshot and no lock. CALL it outside a transaction block, then call claim_tasks(). Errors: 22023 bad argument, 25001 in a transaction block.';

CREATE VIEW workflow.claims
WITH (security_invoker = true) AS
SELECT
    t.id,
    t.task_id,
    t.dag_run_id,
    q.name AS queue,
    t.worker,
    t.try_number,
    t.start_date AS claimed_at,
    workflow.lease_end(t.id, t.version, t.start_date, t.lease_expires_at) AS lease_expires_at,
    t.start_date OPERATOR(pg_catalog.+) t.timeout AS times_out_at,
    t.cancel_requested_at
FROM workflow.task_instances AS t
LEFT JOIN workflow.queue_settings AS q ON q.id OPERATOR(pg_catalog.=) t.queue_id
WHERE t.state OPERATOR(pg_catalog.=) 'running' AND t.worker IS NOT NULL;
COMMENT ON VIEW workflow.claims IS 'Tasks that workers have claimed.';
COMMENT ON COLUMN workflow.claims.id IS 'task instance';
COMMENT ON COLUMN workflow.claims.task_id IS 'task name';
COMMENT ON COLUMN workflow.claims.dag_run_id IS 'run';
COMMENT ON COLUMN workflow.claims.queue IS 'name of the queue';
COMMENT ON COLUMN workflow.claims.worker IS 'worker that has claimed it';
COMMENT ON COLUMN workflow.claims.try_number IS 'number of this attempt';
COMMENT ON COLUMN workflow.claims.claimed_at IS 'time of the claim';
COMMENT ON COLUMN workflow.claims.lease_expires_at IS 'end of its lease';
COMMENT ON COLUMN workflow.claims.times_out_at IS 'end of its longest time; null: none';
COMMENT ON COLUMN workflow.claims.cancel_requested_at IS 'time of request_cancel(); null: none';
