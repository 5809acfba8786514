-- How many runs and tasks are in each state, without counting the tables and without a cost to moves.
--
-- The counts as of a snapshot are kept; the view adds what is visible now and was not then. For moves and creations
-- that is told by the history, found as the event feed finds it (see 07_events.sql). Deletions leave no history, so a
-- trigger notes them. fold_state_counts() brings the kept counts up to the present from time to time.

CREATE TABLE workflow.state_count_place (
    snapshot            pg_snapshot,
    next_transaction_id xid8,
    floor_id            bigint,
    foreign_id          bigint,
    system_identifier   bigint,
    folded_at           timestamptz
-- A row that changes often: leave room to change it in place.
) WITH (fillfactor = 10);
-- One row, always: who folds, and who makes what is kept void, meet at its lock.
INSERT INTO workflow.state_count_place DEFAULT VALUES;

COMMENT ON TABLE workflow.state_count_place IS
'As of when state_counts_at holds the counts: one row.';
COMMENT ON COLUMN workflow.state_count_place.snapshot IS 'what is visible in it is counted in state_counts_at; null: nothing is kept, and the tables are counted';
COMMENT ON COLUMN workflow.state_count_place.next_transaction_id IS 'as in consumers';
COMMENT ON COLUMN workflow.state_count_place.floor_id IS 'as in consumers';
COMMENT ON COLUMN workflow.state_count_place.foreign_id IS 'events up to it were written in another cluster: their transaction numbers mean nothing';
COMMENT ON COLUMN workflow.state_count_place.system_identifier IS 'the cluster that the snapshot belongs to; in another one nothing is kept';
COMMENT ON COLUMN workflow.state_count_place.folded_at IS 'when that was';

CREATE TABLE workflow.state_counts_at (
    entity_type text   NOT NULL,
    state       text   NOT NULL,
    count       bigint NOT NULL,
    CONSTRAINT state_counts_at_pkey PRIMARY KEY (entity_type, state)
) WITH (fillfactor = 10);

COMMENT ON TABLE workflow.state_counts_at IS 'The counts as of state_count_place; see the view state_counts.';
COMMENT ON COLUMN workflow.state_counts_at.entity_type IS 'dag_run or task_instance';
COMMENT ON COLUMN workflow.state_counts_at.state IS 'the state';
COMMENT ON COLUMN workflow.state_counts_at.count IS 'how many were in it';

CREATE TABLE workflow.state_count_changes (
    entity_type text   NOT NULL,
    state       text   NOT NULL,
    delta       bigint NOT NULL
);

COMMENT ON TABLE workflow.state_count_changes IS 'Deletions that state_counts_at does not hold yet.';
COMMENT ON COLUMN workflow.state_count_changes.entity_type IS 'dag_run or task_instance';
COMMENT ON COLUMN workflow.state_count_changes.state IS 'the state that the deleted rows were in';
COMMENT ON COLUMN workflow.state_count_changes.delta IS 'how many they were, negative';

CREATE FUNCTION workflow.note_deletion()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO workflow.state_count_changes (entity_type, state, delta)
    SELECT TG_ARGV[0], o.state, -count(*) FROM old_rows AS o GROUP BY o.state;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION workflow.note_deletion() IS
'AFTER DELETE FOR EACH STATEMENT: notes how many rows of each state went, for state_counts. Its argument is the entity type.';

CREATE FUNCTION workflow.forget_state_counts()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE workflow.state_count_place AS p SET snapshot = NULL WHERE p.snapshot IS NOT NULL;
    IF FOUND THEN
        RETURN;
    END IF;
    -- Nothing is kept. Nor may it be until this transaction has ended; the jobs of a restore need not wait for each
    -- other.
    PERFORM FROM workflow.state_count_place FOR SHARE;
    UPDATE workflow.state_count_place AS p SET snapshot = NULL WHERE p.snapshot IS NOT NULL;
END
$$;
COMMENT ON FUNCTION workflow.forget_state_counts() IS
'Internal: has the tables counted again, by the view and by the next fold_state_counts(). For the owner.';

CREATE FUNCTION workflow.forget_counts()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM workflow.forget_state_counts();
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION workflow.forget_counts() IS
'AFTER a statement that the kept counts do not survive: TRUNCATE, and what the owner does to the history. (Rows that the owner inserts himself: see refuse_insert().)';

CREATE TRIGGER note_deletion
AFTER DELETE ON workflow.dag_runs
REFERENCING OLD TABLE AS old_rows
FOR EACH STATEMENT EXECUTE FUNCTION workflow.note_deletion('dag_run');

CREATE TRIGGER note_deletion
AFTER DELETE ON workflow.task_instances
REFERENCING OLD TABLE AS old_rows
FOR EACH STATEMENT EXECUTE FUNCTION workflow.note_deletion('task_instance');

CREATE TRIGGER forget_counts
AFTER TRUNCATE ON workflow.dag_runs
FOR EACH STATEMENT EXECUTE FUNCTION workflow.forget_counts();

CREATE TRIGGER forget_counts
AFTER TRUNCATE ON workflow.task_instances
FOR EACH STATEMENT EXECUTE FUNCTION workflow.forget_counts();

-- What the database itself writes there is inserted without a statement. Each partition has this trigger too.
CREATE TRIGGER forget_counts
AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON workflow.state_history
FOR EACH STATEMENT EXECUTE FUNCTION workflow.forget_counts();

CREATE FUNCTION workflow.count_states()
RETURNS TABLE (entity_type text, state text, count bigint)
-- A function, so that the view's plan is a cheap one: else it would be compiled (jit), for what is seldom run.
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
ROWS 14
AS $$
BEGIN
    RETURN QUERY
        SELECT 'dag_run', r.state, count(*) FROM workflow.dag_runs AS r GROUP BY r.state
        UNION ALL
        SELECT 'task_instance', t.state, count(*) FROM workflow.task_instances AS t GROUP BY t.state;
END
$$;
COMMENT ON FUNCTION workflow.count_states() IS
'Internal: how many rows of the tables are in each state that there are any of.';

CREATE VIEW workflow.state_counts AS
WITH place AS MATERIALIZED (
    SELECT p.snapshot, p.next_transaction_id, p.floor_id, p.foreign_id
    FROM workflow.state_count_place AS p
    WHERE p.snapshot IS NOT NULL
        AND p.system_identifier OPERATOR(pg_catalog.=) workflow.system_identifier()
), event AS (
    SELECT h.entity_type, h.old_state, h.new_state
    FROM workflow.state_history AS h
    WHERE h.id OPERATOR(pg_catalog.>) (SELECT p.floor_id FROM place AS p)
        -- True of every id: the planner takes a range with two ends for a short one, as it is, and uses the index.
        AND h.id OPERATOR(pg_catalog.<=) 9223372036854775807
        AND NOT pg_catalog.pg_visible_in_snapshot(h.transaction_id, (SELECT p.snapshot FROM place AS p))
    UNION ALL
    SELECT late.entity_type, late.old_state, late.new_state
    FROM place AS p
    CROSS JOIN LATERAL workflow.unfinished_transactions(p.snapshot, p.next_transaction_id, p.floor_id) AS x (transaction_id)
    CROSS JOIN LATERAL (
        SELECT h.entity_type, h.old_state, h.new_state
        FROM workflow.state_history AS h
        WHERE h.transaction_id OPERATOR(pg_catalog.=) x.transaction_id
            -- Not by the index on ids, nor (OFFSET) by a join: that would read all of them.
            AND (h.id OPERATOR(pg_catalog.+) 0) OPERATOR(pg_catalog.<=) p.floor_id
            AND (h.id OPERATOR(pg_catalog.+) 0) OPERATOR(pg_catalog.>) p.foreign_id
        OFFSET 0
    ) AS late
), change AS (
    SELECT e.entity_type, s.state, 0 AS delta
    FROM pg_catalog.unnest('{dag_run,task_instance}'::pg_catalog.text[]) AS e (entity_type)
    CROSS JOIN pg_catalog.unnest(workflow.states()) AS s (state)
    UNION ALL
    SELECT c.entity_type, c.state, c.count
    FROM workflow.state_counts_at AS c
    WHERE EXISTS (SELECT FROM place)
    UNION ALL
    SELECT e.entity_type, d.state, d.delta
    FROM event AS e
    CROSS JOIN LATERAL (VALUES (e.old_state, -1), (e.new_state, 1)) AS d (state, delta)
    WHERE d.state IS NOT NULL
    UNION ALL
    SELECT c.entity_type, c.state, c.delta
    FROM workflow.state_count_changes AS c
    WHERE EXISTS (SELECT FROM place)
    UNION ALL
    SELECT c.entity_type, c.state, c.count
    FROM workflow.count_states() AS c
    WHERE NOT EXISTS (SELECT FROM place)
)
SELECT c.entity_type, c.state, pg_catalog.sum(c.delta)::bigint AS count
FROM change AS c
GROUP BY c.entity_type, c.state;
COMMENT ON VIEW workflow.state_counts IS
'How many runs and tasks are in each state, exactly: 14 rows. Takes time for what has happened since the last fold_state_counts(); before the first one, and after a restore, it counts the tables.';
COMMENT ON COLUMN workflow.state_counts.entity_type IS 'dag_run or task_instance';
COMMENT ON COLUMN workflow.state_counts.state IS 'the state';
COMMENT ON COLUMN workflow.state_counts.count IS 'how many are in it; 0 where none is';

CREATE FUNCTION workflow.fold_state_counts()
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    highest_id bigint;
BEGIN
    -- What this transaction has written would be counted now, and again as that of an unfinished one. And where the
    -- snapshot stands still, nobody knows what the floor was then.
    IF pg_current_xact_id_if_assigned() IS NOT NULL
        OR current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted')
    THEN
        RETURN false;
    END IF;
    IF EXISTS (
        SELECT FROM workflow.state_count_place AS p
        WHERE p.snapshot IS NOT NULL
            AND p.system_identifier = workflow.system_identifier()
            AND p.floor_id = workflow.last_event_id())
        AND NOT EXISTS (SELECT FROM workflow.state_count_changes)
    THEN
        RETURN false;
    END IF;
    -- Before the row, as TRUNCATE takes them.
    LOCK TABLE workflow.dag_runs, workflow.task_instances, workflow.state_history IN ACCESS SHARE MODE;
    PERFORM FROM workflow.state_count_place FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Amid a restore the sequence may be behind.
    highest_id := greatest(workflow.last_event_id(), (SELECT max(h.id) FROM workflow.state_history AS h));
    -- One statement, so one snapshot: that of the counts, of the changes that are taken away, and of the new place.
    WITH place AS MATERIALIZED (
        SELECT workflow.others_snapshot(pg_current_snapshot()) AS snapshot, workflow.next_transaction_id() AS next_transaction_id
    ), counted AS (
        INSERT INTO workflow.state_counts_at AS c (entity_type, state, count)
        SELECT s.entity_type, s.state, s.count FROM workflow.state_counts AS s
        ON CONFLICT ON CONSTRAINT state_counts_at_pkey DO UPDATE SET count = excluded.count
        WHERE c.count <> excluded.count
    ), folded AS (
        DELETE FROM workflow.state_count_changes
    )
    UPDATE workflow.state_count_place AS p
    SET snapshot = place.snapshot,
        next_transaction_id = place.next_transaction_id,
        floor_id = highest_id,
        -- What an unfinished transaction has written is not visible. What is visible of such a number came with a
        -- restore, and so did all before it.
        foreign_id = coalesce((
            SELECT max(h.id)
            FROM workflow.unfinished_transactions(place.snapshot, place.next_transaction_id, highest_id) AS x (transaction_id)
            JOIN workflow.state_history AS h ON h.transaction_id = x.transaction_id), 0),
        system_identifier = workflow.system_identifier(),
        folded_at = clock_timestamp()
    FROM place;
    RETURN true;
END
$$;
COMMENT ON FUNCTION workflow.fold_state_counts() IS
'Brings the kept counts up to the present, so that the view state_counts has less to add; counts the tables where nothing is kept. Call it every few seconds, in a transaction of its own. Returns false, and does nothing, where nothing has happened since, where another session does it, in a transaction that has written, and at another level than READ COMMITTED.';
