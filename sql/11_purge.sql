-- Retention: runs that have ended long ago, with their tasks and logs, and whole partitions of the history.

CREATE FUNCTION workflow.needs_history(place workflow.consumers, end_id bigint)
RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF place.system_identifier <> workflow.system_identifier() THEN
        place := workflow.found_by_ids(place);
    END IF;
    RETURN EXISTS (
        SELECT FROM workflow.state_history AS h
        WHERE h.id > place.floor_id
            AND h.id < end_id
            AND pg_visible_in_snapshot(h.transaction_id, place.snapshot) IS NOT TRUE
            AND (h.id > place.acked_id OR pg_visible_in_snapshot(h.transaction_id, place.window_snapshot) IS NOT TRUE)
    ) OR EXISTS (
        SELECT FROM workflow.unfinished_transactions(place.snapshot, place.next_transaction_id, place.floor_id) AS x (transaction_id)
        JOIN workflow.state_history AS h ON h.transaction_id = x.transaction_id
        WHERE h.id < end_id
            AND (h.id > place.acked_id OR pg_visible_in_snapshot(h.transaction_id, place.window_snapshot) IS NOT TRUE)
    );
END
$$;
COMMENT ON FUNCTION workflow.needs_history(workflow.consumers, bigint) IS
'Internal: whether any event with an id below end_id is yet to be given to, or acknowledged by, a consumer at this place.';

CREATE FUNCTION workflow.who_needs_history(end_id bigint)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    consumer record;
    place workflow.consumers;
BEGIN
    FOR consumer IN
        SELECT c.name, c.snapshot, c.next_transaction_id, c.floor_id, c.window_snapshot, c.acked_id, c.system_identifier,
            'consumer "%s" has yet to read it' AS reason
        FROM workflow.consumers AS c
        UNION ALL
        SELECT c.consumer, c.snapshot, c.next_transaction_id, c.floor_id, c.window_snapshot, c.acked_id, c.system_identifier,
            'consumer "%s" has a checkpoint before its end'
        FROM workflow.consumer_checkpoints AS c
        UNION ALL
        SELECT '', p.snapshot, p.next_transaction_id, p.floor_id, NULL, 0, p.system_identifier,
            'state_counts has yet to count it: call fold_state_counts()'
        FROM workflow.state_count_place AS p
        WHERE p.snapshot IS NOT NULL AND p.system_identifier = workflow.system_identifier()
    LOOP
        place := NULL;
        place.snapshot := consumer.snapshot;
        place.next_transaction_id := consumer.next_transaction_id;
        place.floor_id := consumer.floor_id;
        place.window_snapshot := consumer.window_snapshot;
        place.acked_id := consumer.acked_id;
        place.system_identifier := consumer.system_identifier;
        IF workflow.needs_history(place, end_id) THEN
            RETURN format(consumer.reason, consumer.name);
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION workflow.who_needs_history(bigint) IS
'Internal: who is yet to read an event with an id below end_id; null where nobody is.';

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
    IF EXISTS (
        SELECT FROM pg_depend AS d
        WHERE d.classid = 'pg_class'::regclass
            AND d.objid = to_regclass(format('workflow.%I', "partition"))
            AND d.deptype = 'e')
    THEN
        EXECUTE format('ALTER EXTENSION pg_workflow DROP TABLE workflow.%I', "partition");
    END IF;
    -- Its files are removed by a later call, in free_partitions(): that takes longer than anybody should wait for the lock.
    EXECUTE format('ALTER TABLE workflow.%I DETACH PARTITION workflow.%I', table_name, "partition");
    -- Until then a dump has it, and must not meet one of that name which the extension brings.
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
EXCEPTION WHEN lock_not_available THEN
    RETURN 'kept: the table is in use, try again';
END
$$;
COMMENT ON FUNCTION workflow.drop_partition(text, text) IS
'Internal: takes a partition, with all its rows, out of its table, unless somebody uses that for longer than others should wait.';

CREATE FUNCTION workflow.free_partitions(dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
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
            EXECUTE format('DROP TABLE workflow.%I', 'dropped_' || object);
            outcome := 'freed';
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.free_partitions(boolean) IS
'Internal: frees the space of partitions that an earlier call has dropped.';

CREATE FUNCTION workflow.finished_runs(before timestamptz)
RETURNS SETOF uuid
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.id
    FROM workflow.dag_runs AS r
    WHERE r.created_at < before
        AND r.state IN ('success', 'failed', 'upstream_failed', 'skipped')
        AND r.updated_at < before
        AND NOT EXISTS (
            SELECT FROM workflow.task_instances AS t
            WHERE t.dag_run_id = r.id AND (t.state IN ('running', 'retrying') OR t.updated_at >= before))
    ORDER BY r.created_at
$$;
COMMENT ON FUNCTION workflow.finished_runs(timestamptz) IS
'Internal: the runs that have ended, of which nothing runs and nothing has changed since; the oldest first.';

CREATE FUNCTION workflow.purge_runs(before timestamptz, max_runs integer, dry_run boolean)
RETURNS TABLE (object text, rows bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    runs uuid[];
    tasks uuid[];
    run_count bigint;
    task_count bigint;
    log_count bigint;
BEGIN
    IF dry_run THEN
        RETURN QUERY
            WITH run AS MATERIALIZED (
                SELECT f.id FROM workflow.finished_runs(before) AS f (id)
            ), task AS MATERIALIZED (
                SELECT t.id FROM run JOIN workflow.task_instances AS t ON t.dag_run_id = run.id
            )
            SELECT 'dag_runs', (SELECT count(*) FROM run)
            UNION ALL
            SELECT 'task_instances', (SELECT count(*) FROM task)
            UNION ALL
            SELECT 'task_logs', (SELECT count(*) FROM task JOIN workflow.task_logs AS l ON l.task_instance_id = task.id);
        RETURN;
    END IF;
    -- What another session has locked is moving.
    runs := ARRAY(
        SELECT r.id
        FROM workflow.dag_runs AS r
        WHERE r.id IN (SELECT f.id FROM workflow.finished_runs(before) AS f (id) LIMIT max_runs)
        FOR UPDATE SKIP LOCKED);
    PERFORM FROM workflow.task_instances AS t WHERE t.dag_run_id = ANY (runs) ORDER BY t.id FOR UPDATE;
    -- Again, now that nothing of them can move.
    runs := ARRAY(
        SELECT r.id
        FROM workflow.dag_runs AS r
        WHERE r.id = ANY (runs)
            AND r.state IN ('success', 'failed', 'upstream_failed', 'skipped')
            AND r.updated_at < before
            AND NOT EXISTS (
                SELECT FROM workflow.task_instances AS t
                WHERE t.dag_run_id = r.id AND (t.state IN ('running', 'retrying') OR t.updated_at >= before)));
    tasks := ARRAY(SELECT t.id FROM workflow.task_instances AS t WHERE t.dag_run_id = ANY (runs));
    -- From the leaves, so that each statement finds its rows by an index, and counts them.
    DELETE FROM workflow.task_logs AS l WHERE l.task_instance_id = ANY (tasks);
    GET DIAGNOSTICS log_count = ROW_COUNT;
    DELETE FROM workflow.task_instances AS t WHERE t.id = ANY (tasks);
    GET DIAGNOSTICS task_count = ROW_COUNT;
    DELETE FROM workflow.dag_runs AS r WHERE r.id = ANY (runs);
    GET DIAGNOSTICS run_count = ROW_COUNT;
    RETURN QUERY VALUES ('dag_runs', run_count), ('task_instances', task_count), ('task_logs', log_count);
END
$$;
COMMENT ON FUNCTION workflow.purge_runs(timestamptz, integer, boolean) IS
'Internal: removes runs that have ended before, at most so many, with their tasks and logs; returns how many rows of each.';

CREATE FUNCTION workflow.purge_history(before timestamptz, dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    past record;
    first_id bigint;
    last workflow.dropped_partitions;
BEGIN
    FOR past IN
        SELECT p."partition", p.number * workflow.partition_size() AS from_id, (p.number + 1) * workflow.partition_size() AS end_id
        FROM workflow.partitions AS p
        WHERE p.table_name = 'state_history' AND p.role = 'past'
        ORDER BY p.number
    LOOP
        SELECT min(h.id), max(h.id) INTO first_id, last.last_id
        FROM workflow.state_history AS h
        WHERE h.id >= past.from_id AND h.id < past.end_id;
        -- Ids and times rise together, but for overlaps that are far shorter than this.
        SELECT max(h.changed_at) INTO last.last_changed_at
        FROM (
            SELECT h.changed_at FROM workflow.state_history AS h
            WHERE h.id >= past.from_id AND h.id < past.end_id ORDER BY h.id DESC LIMIT 1000
        ) AS h;
        EXIT WHEN last.last_changed_at >= before;
        object := past."partition";
        rows := coalesce(last.last_id - first_id + 1, 0);
        outcome := 'kept: ' || workflow.who_needs_history(past.end_id);
        IF outcome IS NULL AND dry_run THEN
            outcome := 'would be dropped';
        ELSIF outcome IS NULL THEN
            SELECT h.transaction_id INTO last.last_transaction_id
            FROM workflow.state_history AS h
            WHERE h.id < past.end_id
            ORDER BY h.transaction_id DESC
            LIMIT 1;
            outcome := workflow.drop_partition('state_history', past."partition");
            IF outcome = 'dropped' THEN
                INSERT INTO workflow.dropped_partitions ("partition", last_id, last_transaction_id, last_changed_at)
                VALUES (past."partition", last.last_id, last.last_transaction_id, last.last_changed_at);
            END IF;
        END IF;
        RETURN NEXT;
        -- The others are later.
        EXIT WHEN outcome LIKE 'kept%';
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.purge_history(timestamptz, boolean) IS
'Internal: drops the partitions of the history that end before, and that nobody is yet to read.';

CREATE FUNCTION workflow.purge_logs(dry_run boolean)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
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
'Internal: drops the past partitions of task_logs that hold nothing any more.';

CREATE FUNCTION workflow.purge(before timestamptz, dry_run boolean DEFAULT false, max_runs integer DEFAULT 1000)
RETURNS TABLE (object text, rows bigint, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
            'Give the moment before which runs must have ended, and how many to remove at most.');
    END IF;
    FOR object, rows IN SELECT r.object, r.rows FROM workflow.purge_runs(before, max_runs, dry_run) AS r LOOP
        outcome := CASE WHEN dry_run THEN 'would be removed' ELSE 'removed' END;
        removed := coalesce(removed, rows);
        RETURN NEXT;
    END LOOP;
    -- Partitions last, in a call that removes no run: their locks are not to wait for the deletion of many rows.
    IF dry_run OR removed = 0 THEN
        RETURN QUERY SELECT p.* FROM workflow.free_partitions(dry_run) AS p;
        RETURN QUERY SELECT p.* FROM workflow.purge_history(before, dry_run) AS p;
        RETURN QUERY SELECT p.* FROM workflow.purge_logs(dry_run) AS p;
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.purge(timestamptz, boolean, integer) IS
'Removes runs that ended before a moment, at most max_runs, with their tasks and logs; once there are none left, also the past partitions of state_history that end before it (their rows are counted by ids, at most), and those of task_logs that are empty; the call after that frees their space. Keeps runs of which anything runs or has changed since, and events that a consumer is yet to read, and says so. Call it until it removes nothing: each call is a batch. dry_run only says what would go. Errors: 22023 bad argument.';
