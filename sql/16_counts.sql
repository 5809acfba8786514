-- How many runs and tasks are in each state, without counting the tables and at no cost to transitions.
--
-- The counts as of a snapshot are stored; the view adds the changes that are visible now and were not visible then. The
-- history holds creations, transitions and deletions, and 09_position.sql tells how they are found. What a cascade or
-- purge() deletes has no event, so the trigger records it. fold_state_counts() refreshes the stored counts from time to
-- time.

CREATE TABLE workflow.state_count_place (
    snapshot            pg_snapshot,
    next_transaction_id xid8,
    floor_id            bigint,
    foreign_id          bigint,
    system_identifier   bigint,
    folded_at           timestamptz,
    is_only_row         boolean     NOT NULL DEFAULT true,
    CONSTRAINT state_count_place_pkey PRIMARY KEY (is_only_row),
    CONSTRAINT state_count_place_check CHECK (is_only_row)
-- The row changes often: leave room to change it in place.
) WITH (fillfactor = 10);
-- Always one row: refreshing and discarding both lock it.
INSERT INTO workflow.state_count_place DEFAULT VALUES;

COMMENT ON TABLE workflow.state_count_place IS
'Position of the stored counts in state_counts_at: one row.';
COMMENT ON COLUMN workflow.state_count_place.snapshot IS 'events visible in it are counted in state_counts_at; null: no counts are stored, and the tables are counted';
COMMENT ON COLUMN workflow.state_count_place.next_transaction_id IS 'as in consumers';
COMMENT ON COLUMN workflow.state_count_place.floor_id IS 'as in consumers';
COMMENT ON COLUMN workflow.state_count_place.foreign_id IS 'events up to it were written in another cluster: their transaction IDs mean nothing';
COMMENT ON COLUMN workflow.state_count_place.system_identifier IS 'origin() of the database that the snapshot belongs to; in another one the stored counts are not used';
COMMENT ON COLUMN workflow.state_count_place.folded_at IS 'time of the last refresh; null: never';
COMMENT ON COLUMN workflow.state_count_place.is_only_row IS 'key: the table has one row';

CREATE TABLE workflow.state_counts_at (
    entity_type text   NOT NULL,
    state       text   NOT NULL,
    count       bigint NOT NULL,
    CONSTRAINT state_counts_at_pkey PRIMARY KEY (entity_type, state)
) WITH (fillfactor = 10);

COMMENT ON TABLE workflow.state_counts_at IS 'Stored counts as of state_count_place; see the view state_counts.';
COMMENT ON COLUMN workflow.state_counts_at.entity_type IS 'dag_run or task_instance';
COMMENT ON COLUMN workflow.state_counts_at.state IS 'state';
COMMENT ON COLUMN workflow.state_counts_at.count IS 'number of entities in the state';

CREATE TABLE workflow.state_count_changes (
    entity_type text   NOT NULL,
    state       text   NOT NULL,
    delta       bigint NOT NULL,
    id          uuid   NOT NULL DEFAULT workflow.uuid_v7(),
    CONSTRAINT state_count_changes_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE workflow.state_count_changes IS 'Deletions without an event, by a cascade or purge(), that the stored counts do not include yet.';
COMMENT ON COLUMN workflow.state_count_changes.entity_type IS 'dag_run or task_instance';
COMMENT ON COLUMN workflow.state_count_changes.state IS 'state of the deleted rows';
COMMENT ON COLUMN workflow.state_count_changes.delta IS 'number of deleted rows, negative';
COMMENT ON COLUMN workflow.state_count_changes.id IS 'key, for publications';

CREATE FUNCTION workflow.position_of(stored workflow.state_count_place)
RETURNS workflow.feed_position
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT ROW(
        ($1).snapshot, ($1).next_transaction_id, ($1).floor_id, NULL, NULL, NULL, NULL, 0, ($1).system_identifier
    )::workflow.feed_position
$$;
COMMENT ON FUNCTION workflow.position_of(workflow.state_count_place) IS
'Internal: returns the position of the stored counts.';

CREATE FUNCTION workflow.note_deletion()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'note_deletion_wrapper';
COMMENT ON FUNCTION workflow.note_deletion() IS
'AFTER DELETE FOR EACH STATEMENT: writes the deletions to state_history, or for state_counts the number of rows that a cascade or purge() deleted. Its argument is the entity type.';

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
    -- No counts are stored, and none may be until this transaction ends. The jobs of a restore share this lock, so
    -- that they do not wait for each other.
    PERFORM FROM workflow.state_count_place FOR SHARE;
    UPDATE workflow.state_count_place AS p SET snapshot = NULL WHERE p.snapshot IS NOT NULL;
END
$$;
COMMENT ON FUNCTION workflow.forget_state_counts() IS
'Internal: discards the stored counts; the view and the next fold_state_counts() count the tables. For the owner.';

CREATE FUNCTION workflow.forget_counts()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'forget_counts_wrapper';
COMMENT ON FUNCTION workflow.forget_counts() IS
'AFTER statements that invalidate the stored counts: TRUNCATE, and changes of the history by the owner. (For rows that the owner inserts see refuse_insert().)';

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

-- The extension itself inserts there without a statement. Each partition has this trigger too.
CREATE TRIGGER forget_counts
AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON workflow.state_history
FOR EACH STATEMENT EXECUTE FUNCTION workflow.forget_counts();

CREATE FUNCTION workflow.count_states()
RETURNS TABLE (entity_type text, state text, count bigint)
-- A function, so that the plan of the view is cheap: PostgreSQL would otherwise compile it (jit), for a part that
-- seldom runs. In C, because it counts as the owner, as a view does: totals are of all tenants.
LANGUAGE c STABLE PARALLEL SAFE
ROWS 14
AS 'MODULE_PATHNAME', 'count_states_wrapper';
COMMENT ON FUNCTION workflow.count_states() IS
'Internal: counts the rows of the tables in each state that has any, of all tenants. For roles that can read state_counts.';

CREATE VIEW workflow.state_counts AS
WITH place AS MATERIALIZED (
    SELECT p.snapshot, p.floor_id, p.foreign_id, workflow.position_of(p) AS pos
    FROM workflow.state_count_place AS p
    WHERE p.snapshot IS NOT NULL
        AND p.system_identifier OPERATOR(pg_catalog.=) workflow.origin()
), event AS (
    SELECT h.entity_type, h.old_state, h.new_state
    FROM workflow.state_history AS h
    WHERE h.id OPERATOR(pg_catalog.>) (SELECT p.floor_id FROM place AS p)
        -- True of every id. The planner takes a range with two ends for a short one, as it is, and uses the index.
        AND h.id OPERATOR(pg_catalog.<=) 9223372036854775807
        AND NOT pg_catalog.pg_visible_in_snapshot(h.transaction_id, (SELECT p.snapshot FROM place AS p))
    UNION ALL
    SELECT h.entity_type, h.old_state, h.new_state
    FROM place AS p
    CROSS JOIN LATERAL workflow.unfinished_transactions(p.pos) AS x (transaction_id)
    CROSS JOIN LATERAL workflow.written_ids(x.transaction_id, p.foreign_id, p.floor_id, 0, 2147483647) AS w (id)
    -- One by one: a plan from when the table was small would read all of it for a join.
    CROSS JOIN LATERAL (
        SELECT * FROM workflow.state_history AS e WHERE e.id OPERATOR(pg_catalog.=) w.id LIMIT 1
    ) AS h
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
'Exact numbers of runs and tasks in each state: 14 rows. Takes time for the transitions since the last fold_state_counts(). Before the first refresh, and after a restore, it counts the tables.';
COMMENT ON COLUMN workflow.state_counts.entity_type IS 'dag_run or task_instance';
COMMENT ON COLUMN workflow.state_counts.state IS 'state';
COMMENT ON COLUMN workflow.state_counts.count IS 'number of entities in the state, 0 or more';

CREATE FUNCTION workflow.fold_state_counts()
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- A session keeps its plans while the tables grow.
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    highest_id bigint;
BEGIN
    -- The events of this transaction would be counted now, and again as those of an unfinished one. And with a fixed
    -- snapshot the floor as of the snapshot is unknown.
    IF pg_current_xact_id_if_assigned() IS NOT NULL
        OR current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted')
        -- Changes that a subscription writes fire no trigger, and have transaction IDs of another cluster.
        OR workflow.is_subscriber()
    THEN
        RETURN false;
    END IF;
    IF EXISTS (
        SELECT FROM workflow.state_count_place AS p
        WHERE p.snapshot IS NOT NULL
            AND p.system_identifier = workflow.origin()
            AND p.floor_id = workflow.last_event_id())
        AND NOT EXISTS (SELECT FROM workflow.state_count_changes)
    THEN
        RETURN false;
    END IF;
    -- Before the row, in the order in which TRUNCATE locks them.
    LOCK TABLE workflow.dag_runs, workflow.task_instances, workflow.state_history IN ACCESS SHARE MODE;
    PERFORM FROM workflow.state_count_place FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- During a restore the sequence may be lower.
    highest_id := greatest(workflow.last_event_id(), (SELECT max(h.id) FROM workflow.state_history AS h));
    -- One statement, so one snapshot for the counts, the deleted changes and the new position.
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
        -- Events of an unfinished transaction are not visible. A visible event with such a transaction ID came with a
        -- restore, like all events before it.
        foreign_id = coalesce((
            SELECT max(w.id)
            FROM workflow.unfinished_transactions(
                -- Those that have written in any partition: of another cluster, too.
                ROW(place.snapshot, place.next_transaction_id, 0, NULL, NULL, NULL, NULL, 0, NULL)::workflow.feed_position
            ) AS x (transaction_id)
            CROSS JOIN LATERAL workflow.written_ids(x.transaction_id, 0, highest_id, 0, 2147483647) AS w (id)), 0),
        system_identifier = workflow.origin(),
        folded_at = clock_timestamp()
    FROM place;
    RETURN true;
END
$$;
COMMENT ON FUNCTION workflow.fold_state_counts() IS
'Refreshes the stored counts, so that state_counts has less to add. Call it every few seconds in its own READ COMMITTED transaction. Returns false if nothing has changed, another session is refreshing, or the transaction has written.';
