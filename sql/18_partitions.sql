-- Partitions of state_history and task_logs.
--
-- They are ranges of ids, not of time. Every read of the feed asks for ids, so it opens one partition, whatever their
-- number. The primary key stays (id), and a row finds its partition without a look at the calendar. Partition n takes
-- the ids from n * 10^12 on, which is more than a month can bring. A new month begins when the sequence is set to the
-- start of the next partition, which was created long before. Until then rows keep going into the current partition.

CREATE FUNCTION workflow.partition_size()
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT 1000000000000 $$;
COMMENT ON FUNCTION workflow.partition_size() IS
'Internal: returns the number of ids in a partition.';

CREATE FUNCTION workflow.create_partition(table_name text, number bigint)
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    "partition" text := format('%s_%s', table_name, number);
BEGIN
    -- Rows are only added, and vacuumed once: soon, while they are few.
    EXECUTE format(
        'CREATE TABLE workflow.%I (LIKE workflow.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS)
            WITH (autovacuum_vacuum_insert_scale_factor = 0.02)',
        "partition", table_name);
    -- Each partition has its own indexes and foreign keys. A dump creates and attaches the later partitions, loads them,
    -- and then adds these. Indexes and keys of the whole table come with the extension, so they would be there from the start.
    EXECUTE format('ALTER TABLE workflow.%I ADD CONSTRAINT %I PRIMARY KEY (id)', "partition", "partition" || '_pkey');
    IF table_name = 'task_logs' THEN
        -- NOT VALID is checked for new rows as well. A dump keeps it, so pg_restore reads no table to validate it: with
        -- --jobs that would be before the tasks are loaded, which belong to the extension.
        EXECUTE format(
            'ALTER TABLE workflow.%I ADD CONSTRAINT %I FOREIGN KEY (task_instance_id)
                REFERENCES workflow.task_instances (id) ON DELETE CASCADE NOT VALID',
            "partition", "partition" || '_task_instance_id_fkey');
        -- The log of a task in order, and the cascade of its deletion.
        EXECUTE format('CREATE INDEX %I ON workflow.%I (task_instance_id, id)',
            "partition" || '_task_instance_id_idx', "partition");
        EXECUTE format(
            'CREATE TRIGGER prepare_load BEFORE INSERT ON workflow.%I
                FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load()',
            "partition");
    ELSE
        -- The history of an entity; and no version is ever won twice.
        EXECUTE format('ALTER TABLE workflow.%I ADD CONSTRAINT %I UNIQUE (entity_id, version)',
            "partition", "partition" || '_entity_id_version_key');
        -- The event feed: events of a transaction that committed late.
        EXECUTE format('CREATE INDEX %I ON workflow.%I (transaction_id, id)',
            "partition" || '_transaction_id_idx', "partition");
        -- Events of a time whose ids are not of that time. Its summaries cost a transition next to nothing.
        EXECUTE format('CREATE INDEX %I ON workflow.%I USING brin (id, changed_at) WITH (autosummarize = true)',
            "partition" || '_id_changed_at_idx', "partition");
        EXECUTE format(
            'CREATE TRIGGER forget_counts AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON workflow.%I
                FOR EACH STATEMENT EXECUTE FUNCTION workflow.forget_counts()',
            "partition");
    END IF;
    PERFORM workflow.create_policy(table_name, "partition");
    -- Default privileges must give PUBLIC no more than the table does.
    EXECUTE format('REVOKE ALL ON workflow.%I FROM PUBLIC', "partition");
    EXECUTE format('COMMENT ON TABLE workflow.%I IS %L', "partition", format('Partition %s of %s.', number, table_name));
    -- Unlike CREATE TABLE … PARTITION OF, this lets other sessions read and write the table meanwhile.
    EXECUTE format('ALTER TABLE workflow.%I ATTACH PARTITION workflow.%I FOR VALUES FROM (%s) TO (%s)',
        table_name, "partition", number * workflow.partition_size(), (number + 1) * workflow.partition_size());
    RETURN "partition";
END
$$;
COMMENT ON FUNCTION workflow.create_partition(text, bigint) IS
'Internal: creates a partition of state_history or task_logs and returns its name. For the owner.';

CREATE FUNCTION workflow.current_partition(table_name text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (coalesce(pg_sequence_last_value(format('workflow.%I', table_name || '_id_seq')::regclass), 0) + 1)
        / workflow.partition_size();
END
$$;
COMMENT ON FUNCTION workflow.current_partition(text) IS
'Internal: returns the number of the partition that takes the next row.';

CREATE FUNCTION workflow.switch_to_partition(table_name text, number bigint)
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A session that has the table open may not know of the partition yet: a read would miss its rows, and an insert
    -- would fail. So wait until no session has it open, but only for a short time: others queue for the lock.
    EXECUTE format('LOCK TABLE ONLY workflow.%I IN ACCESS EXCLUSIVE MODE', table_name);
    IF workflow.current_partition(table_name) <> number - 1 THEN
        RETURN 'opened by another session';
    END IF;
    PERFORM setval(format('workflow.%I', table_name || '_id_seq')::regclass, number * workflow.partition_size() - 1);
    RETURN 'opened';
EXCEPTION WHEN lock_not_available THEN
    RETURN 'not opened: the table is in use, try again';
END
$$;
COMMENT ON FUNCTION workflow.switch_to_partition(text, bigint) IS
'Internal: switches inserts to a partition, which another transaction has created; returns the outcome.';

CREATE FUNCTION workflow.advance_partitions(period text)
RETURNS TABLE ("partition" text, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
#variable_conflict use_column
DECLARE
    history_number bigint := workflow.current_partition('state_history');
    logs_number bigint := workflow.current_partition('task_logs');
    began timestamptz;
    is_due boolean;
    step record;
BEGIN
    IF period IS NULL OR period NOT IN ('hour', 'day', 'week', 'month', 'quarter', 'year') THEN
        PERFORM workflow.refuse_argument(
            format('cannot open partitions: unknown period %s', coalesce(quote_literal(period), 'null')),
            jsonb_build_object('argument', 'period', 'value', period),
            'Periods are hour, day, week, month, quarter and year.');
    END IF;
    -- A rollback would undo the partitions that this transaction has created, but not a step of a sequence.
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT h.changed_at INTO began
    FROM workflow.state_history AS h
    WHERE h.id >= history_number * workflow.partition_size()
    ORDER BY h.id
    LIMIT 1;
    is_due := date_trunc(period, began AT TIME ZONE 'UTC') < date_trunc(period, now() AT TIME ZONE 'UTC');

    -- The logs follow the history, so that partitions of one number are of one time. One step for each table, and none
    -- after a lock that other sessions wait for.
    FOR step IN
        SELECT s.table_name, s.number + 1 AS next, s.is_due,
            to_regclass(format('workflow.%I', format('%s_%s', s.table_name, s.number + 1))) IS NOT NULL AS is_made
        FROM (VALUES
            ('task_logs', logs_number, logs_number < history_number),
            ('state_history', history_number, coalesce(is_due, false)),
            -- The current ones. If a client has dropped or detached one, every write fails until it is made again.
            ('state_history', history_number - 1, false),
            ('task_logs', logs_number - 1, false)
        ) AS s (table_name, number, is_due)
        ORDER BY is_made, s.number
    LOOP
        "partition" := format('%s_%s', step.table_name, step.next);
        IF NOT step.is_made THEN
            BEGIN
                PERFORM workflow.create_partition(step.table_name, step.next);
                outcome := 'made';
            EXCEPTION WHEN lock_not_available THEN
                outcome := 'not made: the table is in use, try again';
            END;
            RETURN NEXT;
        ELSIF step.is_due THEN
            outcome := workflow.switch_to_partition(step.table_name, step.next);
            RETURN NEXT;
            RETURN;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.advance_partitions(text) IS
'Internal: creates the next partitions, or switches to them, for open_partitions(). For the owner.';

CREATE FUNCTION workflow.open_partitions(period text DEFAULT 'month')
RETURNS TABLE ("partition" text, outcome text)
LANGUAGE c VOLATILE PARALLEL UNSAFE
ROWS 4
AS 'MODULE_PATHNAME', 'open_partitions_wrapper';
COMMENT ON FUNCTION workflow.open_partitions(text) IS
'Creates missing partitions, the current and the next ones, and switches to the next when a period (hour, day, week, month, quarter or year, in UTC) is over. Call it every few minutes. Returns one row a step. For administrators. Errors: 22023 bad argument, 25001 in a transaction block.';

-- pg_dump --load-via-partition-root loads the whole table; each partition has this trigger too.
CREATE TRIGGER prepare_load
BEFORE INSERT ON workflow.task_logs
FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load();

-- The first partition and the next one.
SELECT workflow.create_partition(t.table_name, n.number)
FROM (VALUES ('state_history'::pg_catalog.text), ('task_logs')) AS t (table_name)
CROSS JOIN (VALUES (0::pg_catalog.int8), (1)) AS n (number);
