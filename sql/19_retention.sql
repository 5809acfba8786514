-- Retention: purge() deletes finished runs with their tasks and logs, and drops whole partitions of the history.

CREATE FUNCTION workflow.needs_history(pos workflow.feed_position, end_id bigint)
RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
BEGIN
    IF workflow.is_foreign(pos) THEN
        pos := workflow.relocate_position(pos);
    END IF;
    RETURN EXISTS (
        SELECT FROM workflow.state_history AS h
        WHERE h.id > greatest(pos.floor_id, pos.acked_id)
            AND h.id < end_id
            -- By fields: the plan would take a row apart for each event.
            AND NOT workflow.is_acknowledged(
                ROW(pos.snapshot, NULL, pos.floor_id, pos.window_snapshot, NULL, NULL, NULL, pos.acked_id, NULL)::workflow.feed_position,
                h.id, h.transaction_id)
    ) OR EXISTS (SELECT FROM workflow.late_events(pos) AS l WHERE l.id < end_id);
END
$$;
COMMENT ON FUNCTION workflow.needs_history(workflow.feed_position, bigint) IS
'Internal: whether an event with an id below end_id is not acknowledged at a position.';

CREATE FUNCTION workflow.who_needs_history(end_id bigint, given_up text[])
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    reader record;
BEGIN
    FOR reader IN
        SELECT workflow.position_of(c) AS pos, format('consumer "%s" has not acknowledged it', c.name) AS reason
        FROM workflow.consumers AS c
        WHERE c.given_up_at IS NULL AND c.name <> ALL (given_up)
        UNION ALL
        -- The first one needs most.
        SELECT workflow.position_of(c.first), format('consumer "%s" has a checkpoint before its end', o.name)
        FROM workflow.consumers AS o
        CROSS JOIN LATERAL (
            SELECT k AS first FROM workflow.consumer_checkpoints AS k WHERE k.consumer = o.name ORDER BY k."position" LIMIT 1
        ) AS c
        WHERE o.given_up_at IS NULL AND o.name <> ALL (given_up)
        UNION ALL
        SELECT workflow.position_of(p), 'state_counts has not counted it: call fold_state_counts()'
        FROM workflow.state_count_place AS p
        WHERE p.snapshot IS NOT NULL AND p.system_identifier = workflow.origin()
    LOOP
        IF workflow.needs_history(reader.pos, end_id) THEN
            RETURN reader.reason;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION workflow.who_needs_history(bigint, text[]) IS
'Internal: names a reader that has not acknowledged an event with an id below end_id, without the consumers in given_up; null if there is none.';

CREATE FUNCTION workflow.give_up_consumers(end_id bigint, last_changed_at timestamptz, dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text, name text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- purge() waits for no session for long.
SET lock_timeout = '100ms'
AS $$
#variable_conflict use_column
DECLARE
    max_lag interval;
    late record;
BEGIN
    -- The server knows the setting when the library is loaded.
    PERFORM workflow.version();
    max_lag := current_setting('pg_workflow.max_consumer_lag');
    IF max_lag = '0' OR last_changed_at IS NULL OR last_changed_at >= clock_timestamp() - max_lag THEN
        RETURN;
    END IF;
    FOR late IN
        SELECT c.name, workflow.position_of(c) AS pos FROM workflow.consumers AS c WHERE c.given_up_at IS NULL ORDER BY c.name
    LOOP
        CONTINUE WHEN NOT workflow.needs_history(late.pos, end_id);
        object := format('consumer "%s"', late.name);
        rows := 0;
        name := late.name;
        outcome := format('%s: it lags more than pg_workflow.max_consumer_lag',
            CASE WHEN dry_run THEN 'would be given up' ELSE 'given up' END);
        IF NOT dry_run THEN
            BEGIN
                UPDATE workflow.consumers AS c SET given_up_at = clock_timestamp() WHERE c.name = late.name;
            EXCEPTION WHEN lock_not_available THEN
                outcome := 'not given up: a session uses it, try again';
            END;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.give_up_consumers(bigint, timestamptz, boolean) IS
'Internal: gives up the consumers that need events with an id below end_id, if the last of these events is older than pg_workflow.max_consumer_lag.';

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
    IF to_regclass(format('workflow.%I', "partition")) IS NULL THEN
        RETURN 'kept: another session has dropped it';
    END IF;
    IF EXISTS (
        SELECT FROM pg_depend AS d
        WHERE d.classid = 'pg_class'::regclass
            AND d.objid = to_regclass(format('workflow.%I', "partition"))
            AND d.deptype = 'e')
    THEN
        EXECUTE format('ALTER EXTENSION pg_workflow DROP TABLE workflow.%I', "partition");
    END IF;
    -- A later call removes its files, in free_partitions(): other sessions should not wait for the lock that long.
    EXECUTE format('ALTER TABLE workflow.%I DETACH PARTITION workflow.%I', table_name, "partition");
    -- Here, because this locks the other table too: free_partitions() must not wait for it.
    FOR name IN
        SELECT c.conname
        FROM pg_constraint AS c
        WHERE c.conrelid = format('workflow.%I', "partition")::regclass AND c.contype = 'f'
    LOOP
        EXECUTE format('ALTER TABLE workflow.%I DROP CONSTRAINT %I', "partition", name);
    END LOOP;
    -- Until then a dump includes it: its name must differ from that of a partition which CREATE EXTENSION creates.
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
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    RETURN 'kept: the table is in use, try again';
END
$$;
COMMENT ON FUNCTION workflow.drop_partition(text, text) IS
'Internal: detaches a partition with all its rows, unless another session uses its table for longer than 100 ms.';

CREATE FUNCTION workflow.free_partitions(dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
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
            BEGIN
                EXECUTE format('DROP TABLE IF EXISTS workflow.%I', 'dropped_' || object);
                outcome := 'freed';
            EXCEPTION WHEN lock_not_available THEN
                outcome := 'kept: the table is in use, try again';
            END;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.free_partitions(boolean) IS
'Internal: frees the space of partitions that an earlier call has dropped, except those that another session uses for longer than 100 ms.';

CREATE FUNCTION workflow.finished_runs(before timestamptz)
RETURNS SETOF workflow.dag_runs
-- Without settings of its own, so that it becomes part of the query that calls it: a query with a limit reads no more.
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT r.*
    FROM workflow.dag_runs AS r
    WHERE r.created_at OPERATOR(pg_catalog.<) $1
        AND r.state OPERATOR(pg_catalog.=) ANY ('{success,failed,upstream_failed,skipped}'::pg_catalog.text[])
        AND r.updated_at OPERATOR(pg_catalog.<) $1
        AND NOT EXISTS (
            SELECT FROM workflow.task_instances AS t
            WHERE t.dag_run_id OPERATOR(pg_catalog.=) r.id
                AND (t.state OPERATOR(pg_catalog.=) ANY ('{running,retrying}'::pg_catalog.text[])
                    OR t.updated_at OPERATOR(pg_catalog.>=) $1)
            -- Not as a join, which would read all tasks to find those few.
            OFFSET 0)
$$;
COMMENT ON FUNCTION workflow.finished_runs(timestamptz) IS
'Internal: returns the finished runs in which nothing is running or has changed since a time.';

CREATE FUNCTION workflow.delete_runs(runs uuid[])
RETURNS TABLE (object text, rows bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    tasks uuid[] := ARRAY(SELECT t.id FROM workflow.task_instances AS t WHERE t.dag_run_id = ANY (runs));
    run_count bigint;
    task_count bigint;
    log_count bigint;
BEGIN
    -- Children first, so that each statement finds its rows by an index, and counts them.
    DELETE FROM workflow.task_logs AS l WHERE l.task_instance_id = ANY (tasks);
    GET DIAGNOSTICS log_count = ROW_COUNT;
    DELETE FROM workflow.task_instances AS t WHERE t.id = ANY (tasks);
    GET DIAGNOSTICS task_count = ROW_COUNT;
    DELETE FROM workflow.dag_runs AS r WHERE r.id = ANY (runs);
    GET DIAGNOSTICS run_count = ROW_COUNT;
    -- Deferred foreign keys of other tables would fail only at the end of the transaction.
    SET CONSTRAINTS ALL IMMEDIATE;
    RETURN QUERY VALUES ('dag_runs'::text, run_count), ('task_instances'::text, task_count), ('task_logs'::text, log_count);
END
$$;
COMMENT ON FUNCTION workflow.delete_runs(uuid[]) IS
'Internal: deletes runs with their tasks and logs; returns the number of rows of each table. Errors: 23503, 23001 another table refers to one.';

CREATE FUNCTION workflow.next_finished_runs(before timestamptz, max_runs integer, from_time timestamptz, passed uuid[])
RETURNS uuid[]
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
-- So that it reads runs by time until there are enough: old statistics make all of them seem few.
SET enable_seqscan = off
SET jit = off
SET enable_bitmapscan = off
SET enable_sort = off
AS $$
BEGIN
    -- Few runs, and few tasks unless one run has more: their rows are locked while they are deleted.
    RETURN ARRAY(
        SELECT n.id
        FROM (
            SELECT f.id, f.created_at, sum((SELECT count(*) FROM workflow.task_instances AS t WHERE t.dag_run_id = f.id))
                OVER (ORDER BY f.created_at, f.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS tasks_before
            FROM (
                SELECT r.id, r.created_at
                FROM workflow.finished_runs(before) AS r
                WHERE r.created_at >= from_time AND r.id <> ALL (passed)
                ORDER BY r.created_at
                LIMIT 10
            ) AS f
        ) AS n
        WHERE coalesce(n.tasks_before, 0) < 1000
        ORDER BY n.created_at, n.id
        LIMIT max_runs);
END
$$;
COMMENT ON FUNCTION workflow.next_finished_runs(timestamptz, integer, timestamptz, uuid[]) IS
'Internal: returns the next runs to delete together, oldest first: those created from a time on, without those in passed.';

CREATE FUNCTION workflow.lock_finished_runs(before timestamptz, runs uuid[])
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    locked uuid[];
    locked_tasks bigint;
    finished bigint;
BEGIN
    -- Waits for no session that is changing a run or a task, so there is no deadlock.
    locked := ARRAY(SELECT r.id FROM workflow.dag_runs AS r WHERE r.id = ANY (runs) FOR UPDATE SKIP LOCKED);
    SELECT count(*) INTO locked_tasks
    FROM (SELECT FROM workflow.task_instances AS t WHERE t.dag_run_id = ANY (locked) FOR UPDATE SKIP LOCKED) AS t;
    -- Now no other session can change them.
    SELECT count(*) INTO finished FROM workflow.finished_runs(before) AS r WHERE r.id = ANY (locked);
    IF finished < cardinality(runs)
        OR locked_tasks < (SELECT count(*) FROM workflow.task_instances AS t WHERE t.dag_run_id = ANY (locked))
    THEN
        RAISE lock_not_available;
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.lock_finished_runs(timestamptz, uuid[]) IS
'Internal: locks runs that finished before a time, and their tasks. Errors: 55P03 another session uses one, or has changed it.';

CREATE FUNCTION workflow.delete_finished_runs(before timestamptz, max_runs integer, dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
-- Rows of other tables that go with a run may be locked.
SET lock_timeout = '20ms'
AS $$
#variable_conflict use_column
DECLARE
    -- The rows stay locked until the transaction ends.
    deadline timestamptz := clock_timestamp() + interval '50 ms';
    -- Earlier runs have been tried, and those of this time that have passed.
    from_time timestamptz := '-infinity';
    last_time timestamptz;
    passed uuid[] := '{}';
    runs uuid[];
    run uuid;
    holder text;
    deleted bigint[] := '{0,0,0}';
    removed bigint[];
BEGIN
    IF dry_run THEN
        RETURN QUERY
            WITH run AS MATERIALIZED (
                SELECT f.id FROM workflow.finished_runs(before) AS f
            ), task AS MATERIALIZED (
                SELECT t.id FROM run JOIN workflow.task_instances AS t ON t.dag_run_id = run.id
            )
            SELECT 'dag_runs'::text, (SELECT count(*) FROM run), 'would be removed'::text
            UNION ALL
            SELECT 'task_instances', (SELECT count(*) FROM task), 'would be removed'
            UNION ALL
            SELECT 'task_logs', (SELECT count(*) FROM task JOIN workflow.task_logs AS l ON l.task_instance_id = task.id),
                'would be removed';
        RETURN;
    END IF;
    -- Another table may refer to a run, or another session may use it. Such runs stay, and others take their place. A
    -- run that stays is locked no longer: that goes back with its subtransaction.
    LOOP
        runs := workflow.next_finished_runs(before, (max_runs - deleted[1])::integer, from_time, passed);
        EXIT WHEN runs = '{}';
        SELECT max(r.created_at) INTO last_time FROM workflow.dag_runs AS r WHERE r.id = ANY (runs);
        passed := CASE WHEN last_time > from_time THEN '{}' ELSE passed END
            || ARRAY(SELECT r.id FROM workflow.dag_runs AS r WHERE r.id = ANY (runs) AND r.created_at = last_time);
        from_time := coalesce(last_time, from_time);
        BEGIN
            PERFORM workflow.lock_finished_runs(before, runs);
            removed := ARRAY(SELECT d.rows FROM workflow.delete_runs(runs) AS d);
            deleted := ARRAY[deleted[1] + removed[1], deleted[2] + removed[2], deleted[3] + removed[3]];
        EXCEPTION WHEN foreign_key_violation OR restrict_violation OR lock_not_available THEN
            FOREACH run IN ARRAY runs LOOP
                BEGIN
                    PERFORM workflow.lock_finished_runs(before, ARRAY[run]);
                    removed := ARRAY(SELECT d.rows FROM workflow.delete_runs(ARRAY[run]) AS d);
                    deleted := ARRAY[deleted[1] + removed[1], deleted[2] + removed[2], deleted[3] + removed[3]];
                EXCEPTION
                    WHEN lock_not_available THEN
                        NULL;
                    WHEN foreign_key_violation OR restrict_violation THEN
                        GET STACKED DIAGNOSTICS holder = CONSTRAINT_NAME;
                        object := 'dag_run ' || run;
                        rows := 0;
                        outcome := format('kept: foreign key "%s" refers to it', holder);
                        RETURN NEXT;
                END;
                EXIT WHEN deleted[1] > 0 AND clock_timestamp() >= deadline;
            END LOOP;
        END;
        EXIT WHEN deleted[1] >= max_runs OR (deleted[1] > 0 AND clock_timestamp() >= deadline);
    END LOOP;
    RETURN QUERY VALUES ('dag_runs'::text, deleted[1], 'removed'::text), ('task_instances'::text, deleted[2], 'removed'::text),
        ('task_logs'::text, deleted[3], 'removed'::text);
END
$$;
COMMENT ON FUNCTION workflow.delete_finished_runs(timestamptz, integer, boolean) IS
'Internal: deletes runs that finished before a time, with their tasks and logs, for 50 ms and at most max_runs; returns the number of rows of each table, and the runs that another table holds.';

CREATE FUNCTION workflow.purge_runs(before timestamptz, max_runs integer, dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
ROWS 10
AS 'MODULE_PATHNAME', 'purge_runs_wrapper';
COMMENT ON FUNCTION workflow.purge_runs(timestamptz, integer, boolean) IS
'Internal: calls delete_finished_runs(), whose deletions are then no events, and records in purges what it deleted.';

CREATE FUNCTION workflow.past_history(before timestamptz, dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text, dropped workflow.dropped_partitions)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
SET enable_sort = off
AS $$
#variable_conflict use_column
DECLARE
    past record;
    first_id bigint;
    last workflow.dropped_partitions;
    late record;
    given_up text[] := '{}';
BEGIN
    FOR past IN
        SELECT p."partition", p.number * workflow.partition_size() AS from_id, (p.number + 1) * workflow.partition_size() AS end_id
        FROM workflow.partitions AS p
        WHERE p.table_name = 'state_history' AND p.role = 'past'
        ORDER BY p.number
    LOOP
        last := NULL;
        SELECT min(h.id), max(h.id) INTO first_id, last.last_id
        FROM workflow.state_history AS h
        WHERE h.id >= past.from_id AND h.id < past.end_id;
        -- Ids and times rise together, except for overlaps of far fewer rows than this.
        SELECT max(h.changed_at) INTO last.last_changed_at
        FROM (
            SELECT h.changed_at FROM workflow.state_history AS h
            WHERE h.id >= past.from_id AND h.id < past.end_id ORDER BY h.id DESC LIMIT 1000
        ) AS h;
        EXIT WHEN last.last_changed_at >= before;
        dropped := NULL;
        FOR late IN SELECT g.* FROM workflow.give_up_consumers(past.end_id, last.last_changed_at, dry_run) AS g LOOP
            -- Only named: before the next partition it is there again.
            CONTINUE WHEN late.name = ANY (given_up);
            IF dry_run THEN
                given_up := given_up || late.name;
            END IF;
            object := late.object;
            rows := late.rows;
            outcome := late.outcome;
            RETURN NEXT;
        END LOOP;
        SELECT h.transaction_id INTO last.last_transaction_id
        FROM workflow.state_history AS h
        WHERE h.id < past.end_id
        ORDER BY h.transaction_id DESC
        LIMIT 1;
        last."partition" := past."partition";
        object := past."partition";
        rows := coalesce(last.last_id - first_id + 1, 0);
        outcome := 'kept: ' || workflow.who_needs_history(past.end_id, given_up);
        dropped := last;
        RETURN NEXT;
        -- The other partitions are later.
        EXIT WHEN outcome IS NOT NULL;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.past_history(timestamptz, boolean) IS
'Internal: returns the partitions of the history that end before a time, up to the first one that a reader needs, and gives up consumers that lag too much. outcome is null if a partition can be dropped.';

CREATE FUNCTION workflow.purge_history(before timestamptz, dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    past record;
    -- With the time of creation: one of them may be dropped, and created again.
    examined text[] := ARRAY(
        SELECT format('%s %s', c.created_at, c.name) FROM workflow.consumers AS c WHERE c.given_up_at IS NULL);
BEGIN
    -- All are examined before the first one is dropped: that takes as long as the readers' positions make it, and
    -- transitions would wait for the lock meanwhile.
    FOR past IN SELECT p.* FROM workflow.past_history(before, dry_run) AS p LOOP
        object := past.object;
        rows := past.rows;
        outcome := past.outcome;
        IF outcome IS NULL AND dry_run THEN
            outcome := 'would be dropped';
        ELSIF outcome IS NULL THEN
            BEGIN
                outcome := workflow.drop_partition('state_history', object);
                IF outcome = 'dropped' AND EXISTS (
                    SELECT FROM workflow.consumers AS c
                    WHERE c.given_up_at IS NULL AND format('%s %s', c.created_at, c.name) <> ALL (examined))
                THEN
                    RAISE lock_not_available;
                END IF;
            EXCEPTION WHEN lock_not_available THEN
                outcome := 'kept: a consumer has begun to read, try again';
            END;
            IF outcome = 'dropped' THEN
                INSERT INTO workflow.dropped_partitions ("partition", last_id, last_transaction_id, last_changed_at)
                VALUES (object, (past.dropped).last_id, (past.dropped).last_transaction_id, (past.dropped).last_changed_at);
            END IF;
        END IF;
        RETURN NEXT;
        -- The other partitions are later.
        EXIT WHEN outcome LIKE 'kept%';
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.purge_history(timestamptz, boolean) IS
'Internal: drops the partitions of the history that end before a time, if every reader has acknowledged them.';

CREATE FUNCTION workflow.purge_logs(dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
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
'Internal: drops the past partitions of task_logs that are empty.';

CREATE FUNCTION workflow.drop_old_partitions(before timestamptz, dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- It does not show the consumers that have come since.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RETURN QUERY VALUES ('partitions'::text, 0::bigint, 'kept: the transaction has a fixed snapshot'::text);
        RETURN;
    END IF;
    IF NOT dry_run THEN
        -- Two at once would wait for each other: each has read what the other drops.
        BEGIN
            LOCK TABLE workflow.dropped_partitions IN SHARE ROW EXCLUSIVE MODE NOWAIT;
        EXCEPTION WHEN lock_not_available THEN
            RETURN QUERY VALUES ('partitions'::text, 0::bigint, 'kept: another session drops partitions, try again'::text);
            RETURN;
        END;
    END IF;
    RETURN QUERY SELECT p.* FROM workflow.free_partitions(dry_run) AS p;
    RETURN QUERY SELECT p.* FROM workflow.purge_history(before, dry_run) AS p;
    RETURN QUERY SELECT p.* FROM workflow.purge_logs(dry_run) AS p;
    IF NOT dry_run THEN
        DELETE FROM workflow.purges AS p WHERE p.purged_at < drop_old_partitions.before;
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.drop_old_partitions(timestamptz, boolean) IS
'Internal: frees and drops partitions for purge(), and deletes old rows of purges. For the owner.';

CREATE FUNCTION workflow.purge_partitions(before timestamptz, dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
ROWS 10
AS 'MODULE_PATHNAME', 'purge_partitions_wrapper';
COMMENT ON FUNCTION workflow.purge_partitions(timestamptz, boolean) IS
'Internal: calls drop_old_partitions() as the owner, unless row security hides events from the role.';

CREATE FUNCTION workflow.purge(before timestamptz, dry_run boolean DEFAULT false, max_runs integer DEFAULT 1000)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
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
            'Give the time before which runs must have finished, and the maximum number of runs to delete, 1 or more.');
    END IF;
    FOR object, rows, outcome IN SELECT r.object, r.rows, r.outcome FROM workflow.purge_runs(before, max_runs, dry_run) AS r LOOP
        removed := coalesce(removed, 0) + rows;
        RETURN NEXT;
    END LOOP;
    -- Partitions last, in a call that deletes no run: no other session should wait for their locks during a long deletion.
    IF dry_run OR removed = 0 THEN
        RETURN QUERY SELECT p.* FROM workflow.purge_partitions(before, dry_run) AS p;
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.purge(timestamptz, boolean, integer) IS
'Deletes up to max_runs runs finished before a time, for about 50 ms; if none is left, drops old history partitions and empty log partitions. Keeps unacknowledged events, and runs that a session or a foreign key of another table uses. Row security applies. Call it until it removes nothing. dry_run changes nothing. Errors: 22023 bad argument.';
