-- Partitions of state_history and task_logs.
--
-- They are ranges of ids, not of time. Every reader of the feed asks for ids, so it opens one partition, however many
-- there are; the primary key stays (id); and a row finds its partition without a look at the calendar. Partition n
-- takes the ids from n * 10^12 on, which is more than a month can bring. A new month begins by moving the sequence on
-- to the next partition, which is made long before. If nobody ever does, the present one goes on taking rows.

CREATE FUNCTION workflow.partition_size()
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT 1000000000000 $$;
COMMENT ON FUNCTION workflow.partition_size() IS
'Internal: how many ids a partition takes.';

CREATE FUNCTION workflow.make_partition(table_name text, number bigint)
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
    -- Indexes and foreign keys are each partition's own. A dump makes and attaches the later ones, loads them, and then adds
    -- those: with indexes and keys of the whole table, which the extension brings, they would be there from the beginning.
    EXECUTE format('ALTER TABLE workflow.%I ADD CONSTRAINT %I PRIMARY KEY (id)', "partition", "partition" || '_pkey');
    IF table_name = 'task_logs' THEN
        EXECUTE format(
            'ALTER TABLE workflow.%I ADD CONSTRAINT %I FOREIGN KEY (task_instance_id)
                REFERENCES workflow.task_instances (id) ON DELETE CASCADE',
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
        -- The event feed: what a transaction that committed late had written.
        EXECUTE format('CREATE INDEX %I ON workflow.%I (transaction_id, id)',
            "partition" || '_transaction_id_idx', "partition");
        EXECUTE format(
            'CREATE TRIGGER forget_counts AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON workflow.%I
                FOR EACH STATEMENT EXECUTE FUNCTION workflow.forget_counts()',
            "partition");
    END IF;
    EXECUTE format('COMMENT ON TABLE workflow.%I IS %L', "partition", format('Partition %s of %s.', number, table_name));
    -- Unlike CREATE TABLE … PARTITION OF, this lets others go on reading and writing the table.
    EXECUTE format('ALTER TABLE workflow.%I ATTACH PARTITION workflow.%I FOR VALUES FROM (%s) TO (%s)',
        table_name, "partition", number * workflow.partition_size(), (number + 1) * workflow.partition_size());
    RETURN "partition";
END
$$;
COMMENT ON FUNCTION workflow.make_partition(text, bigint) IS
'Internal: makes this partition of state_history or task_logs, and returns its name. For the owner.';

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
'Internal: the number of the partition that takes the next row.';

CREATE VIEW workflow.partitions AS
SELECT
    p.relname::pg_catalog.text AS table_name,
    c.relname::pg_catalog.text AS "partition",
    n.number AS number,
    CASE
        WHEN n.number OPERATOR(pg_catalog.<) current.number THEN 'past'
        WHEN n.number OPERATOR(pg_catalog.=) current.number THEN 'current'
        ELSE 'next'
    END AS role,
    GREATEST(c.reltuples, 0)::pg_catalog.int8 AS estimated_rows,
    pg_catalog.pg_total_relation_size(c.oid) AS bytes
FROM pg_catalog.pg_class AS p
JOIN pg_catalog.pg_inherits AS i ON i.inhparent OPERATOR(pg_catalog.=) p.oid
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid
CROSS JOIN LATERAL (
    SELECT pg_catalog.substr(c.relname::pg_catalog.text, pg_catalog.length(p.relname::pg_catalog.text) OPERATOR(pg_catalog.+) 2)::pg_catalog.int8
) AS n (number)
CROSS JOIN LATERAL workflow.current_partition(p.relname::pg_catalog.text) AS current (number)
WHERE p.relnamespace OPERATOR(pg_catalog.=) 'workflow'::pg_catalog.regnamespace
    AND p.relname OPERATOR(pg_catalog.=) ANY ('{state_history,task_logs}'::pg_catalog.name[]);
COMMENT ON VIEW workflow.partitions IS
'The partitions of state_history and task_logs: partition n takes the ids from n * 10^12 on. See open_partitions() and purge().';
COMMENT ON COLUMN workflow.partitions.table_name IS 'state_history or task_logs';
COMMENT ON COLUMN workflow.partitions."partition" IS 'its name, in the schema workflow';
COMMENT ON COLUMN workflow.partitions.number IS 'its number, in the order of time';
COMMENT ON COLUMN workflow.partitions.role IS 'current: takes the rows of the present; past: took them before; next: will';
COMMENT ON COLUMN workflow.partitions.estimated_rows IS 'how many rows it had when it was last vacuumed or analysed';
COMMENT ON COLUMN workflow.partitions.bytes IS 'its size on disk, with its indexes';

CREATE FUNCTION workflow.go_on_to_partition(table_name text, number bigint)
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Whoever has the table open may not know of the partition yet: readers would miss its rows, and a row could not
    -- go in. So wait until nobody has, though not for long, since others queue behind us.
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
COMMENT ON FUNCTION workflow.go_on_to_partition(text, bigint) IS
'Internal: has the rows to come go into this partition, which another transaction has made; returns what was done.';

CREATE FUNCTION workflow.open_partitions(period text DEFAULT 'month')
RETURNS TABLE ("partition" text, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
    -- What this transaction has made could be undone, a step of a sequence could not.
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
    -- after a lock that others wait for.
    FOR step IN
        SELECT s.table_name, s.number + 1 AS next, s.is_due,
            to_regclass(format('workflow.%I', format('%s_%s', s.table_name, s.number + 1))) IS NOT NULL AS is_made
        FROM (VALUES
            ('task_logs', logs_number, logs_number < history_number),
            ('state_history', history_number, coalesce(is_due, false))
        ) AS s (table_name, number, is_due)
        ORDER BY is_made
    LOOP
        "partition" := format('%s_%s', step.table_name, step.next);
        IF NOT step.is_made THEN
            BEGIN
                PERFORM workflow.make_partition(step.table_name, step.next);
                outcome := 'made';
            EXCEPTION WHEN lock_not_available THEN
                outcome := 'not made: the table is in use, try again';
            END;
            RETURN NEXT;
        ELSIF step.is_due THEN
            outcome := workflow.go_on_to_partition(step.table_name, step.next);
            RETURN NEXT;
            RETURN;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.open_partitions(text) IS
'Makes the next partitions of state_history and task_logs where they are missing, and has new rows go there once a period (hour, day, week, month, quarter, year; in UTC) is over. Call it every few minutes, with pg_cron or by workflow-server, in a transaction of its own: it takes one step at a time, and returns a row for each. Where nobody calls it, the present partition goes on taking rows. Errors: 22023 bad argument.';

-- The first, and the one to go on to.
SELECT workflow.make_partition(t.table_name, n.number)
FROM (VALUES ('state_history'), ('task_logs')) AS t (table_name)
CROSS JOIN (VALUES (0), (1)) AS n (number);
