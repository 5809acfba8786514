-- Relay checkpoints: they keep a relay exact if its destination loses entries.
--
-- A checkpoint means: the destination holds, up to this entry, exactly the events that the consumer had acknowledged
-- then. If the destination ends at another entry than the relay remembers, the relay goes back to the last checkpoint
-- that is not beyond that entry, and reads the later entries from the destination.

CREATE TABLE workflow.consumer_checkpoints (
    consumer                   text        NOT NULL,
    position                   bigint[]    NOT NULL,
    snapshot                   pg_snapshot,
    next_transaction_id        xid8,
    floor_id                   bigint      NOT NULL,
    window_snapshot            pg_snapshot,
    window_next_transaction_id xid8,
    window_floor_id            bigint,
    window_ceiling_id          bigint,
    acked_id                   bigint      NOT NULL,
    system_identifier          bigint      NOT NULL,
    created_at                 timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    CONSTRAINT consumer_checkpoints_pkey PRIMARY KEY (consumer, position),
    CONSTRAINT consumer_checkpoints_consumer_fkey FOREIGN KEY (consumer)
        REFERENCES workflow.consumers (name) ON DELETE CASCADE,
    CONSTRAINT consumer_checkpoints_size_check CHECK (
        pg_catalog.pg_column_size(snapshot) OPERATOR(pg_catalog.<=) 1048576
        AND pg_catalog.pg_column_size(window_snapshot) OPERATOR(pg_catalog.<=) 1048576
    )
);
-- Checkpoints that are old enough to be deleted.
CREATE INDEX consumer_checkpoints_created_at_idx ON workflow.consumer_checkpoints (consumer, created_at);

CREATE TRIGGER prepare_load
BEFORE INSERT ON workflow.consumer_checkpoints
FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load();

CREATE POLICY owner ON workflow.consumer_checkpoints
USING (EXISTS (SELECT FROM workflow.consumers AS c WHERE c.name OPERATOR(pg_catalog.=) consumer));
ALTER TABLE workflow.consumer_checkpoints ENABLE ROW LEVEL SECURITY;

COMMENT ON TABLE workflow.consumer_checkpoints IS
'Relay checkpoints: positions of consumers, each with the last entry of the destination at that time; see save_checkpoint().';
COMMENT ON COLUMN workflow.consumer_checkpoints.consumer IS 'consumer';
COMMENT ON COLUMN workflow.consumer_checkpoints.position IS 'last entry of the destination; for a Redis stream the two numbers of its id';
COMMENT ON COLUMN workflow.consumer_checkpoints.snapshot IS 'as in consumers, like the next seven';
COMMENT ON COLUMN workflow.consumer_checkpoints.next_transaction_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.floor_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.window_snapshot IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.window_next_transaction_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.window_floor_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.window_ceiling_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.acked_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.system_identifier IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.created_at IS 'time at which it was saved';

CREATE FUNCTION workflow.position_of(checkpoint workflow.consumer_checkpoints)
RETURNS workflow.feed_position
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT ROW(
        ($1).snapshot, ($1).next_transaction_id, ($1).floor_id,
        ($1).window_snapshot, ($1).window_next_transaction_id, ($1).window_floor_id, ($1).window_ceiling_id,
        ($1).acked_id, ($1).system_identifier
    )::workflow.feed_position
$$;
COMMENT ON FUNCTION workflow.position_of(workflow.consumer_checkpoints) IS
'Internal: returns the position of a relay checkpoint.';

CREATE FUNCTION workflow.save_checkpoint(
    consumer text,
    "position" bigint[],
    lease bigint DEFAULT NULL,
    keep interval DEFAULT '7 days'
)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pos workflow.feed_position := workflow.lock_consumer(consumer, lease);
BEGIN
    IF cardinality("position") > 1000000 THEN
        PERFORM workflow.refuse_argument(
            'position must not have more than 1000000 elements'::text,
            jsonb_build_object('argument', 'position', 'value', NULL),
            'Set position to the numbers of one entry.'::text);
    END IF;
    -- Also one at the same entry: an event that was skipped since then is acknowledged, and not in the destination. One
    -- beyond it is no longer true: the destination ends here.
    DELETE FROM workflow.consumer_checkpoints AS c
    WHERE c.consumer = save_checkpoint.consumer
        AND (c."position" >= save_checkpoint."position"
            OR c.created_at < clock_timestamp() - keep AND c."position" < save_checkpoint."position");
    INSERT INTO workflow.consumer_checkpoints (consumer, "position",
        snapshot, next_transaction_id, floor_id,
        window_snapshot, window_next_transaction_id, window_floor_id, window_ceiling_id,
        acked_id, system_identifier)
    VALUES (save_checkpoint.consumer, save_checkpoint."position", pos.*)
    ON CONFLICT ON CONSTRAINT consumer_checkpoints_pkey DO NOTHING;
END
$$;
COMMENT ON FUNCTION workflow.save_checkpoint(text, bigint[], bigint, interval) IS
'Stores that a relay''s destination ends at this entry, and holds exactly the events that the consumer has acknowledged. Deletes checkpoints older than "keep". Errors: P0002 no such consumer, 42501 consumer of another role, 55000 given up, or of another database, 55006 leased to another session.';

CREATE FUNCTION workflow.rewind_consumer(consumer text, "position" bigint[], lease bigint DEFAULT NULL)
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    checkpoint workflow.consumer_checkpoints;
    pos workflow.feed_position;
BEGIN
    IF cardinality("position") > 1000000 THEN
        PERFORM workflow.refuse_argument(
            'position must not have more than 1000000 elements'::text,
            jsonb_build_object('argument', 'position', 'value', NULL),
            'Set position to the numbers of one entry.'::text);
    END IF;
    PERFORM workflow.lock_consumer(consumer, lease);
    SELECT c.* INTO checkpoint
    FROM workflow.consumer_checkpoints AS c
    WHERE c.consumer = rewind_consumer.consumer
    -- The last that is not beyond the position; if all are, the first.
    ORDER BY c."position" <= rewind_consumer."position" DESC,
        CASE WHEN c."position" <= rewind_consumer."position" THEN c."position" END DESC,
        c."position"
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    pos := workflow.position_of(checkpoint);
    IF workflow.is_foreign(pos) THEN
        pos := workflow.relocate_position(pos);
        pos.system_identifier := workflow.origin();
    END IF;
    PERFORM workflow.store_position(consumer, pos);
    -- The later checkpoints are no longer true of the destination. A crash must not restore them after the relay has
    -- written the missing entries again.
    PERFORM set_config('synchronous_commit', 'on', true);
    DELETE FROM workflow.consumer_checkpoints AS c
    WHERE c.consumer = rewind_consumer.consumer AND c."position" > checkpoint."position";
    PERFORM workflow.wake_readers();
    IF workflow.is_foreign(workflow.position_of(checkpoint)) THEN
        -- Found by ids: events before the checkpoint can be redelivered.
        RETURN array_fill(0::bigint, ARRAY[cardinality(checkpoint."position")]);
    END IF;
    RETURN checkpoint."position";
END
$$;
COMMENT ON FUNCTION workflow.rewind_consumer(text, bigint[], bigint) IS
'Moves a consumer back to its last checkpoint that is not beyond this entry, or to its first one. Returns that checkpoint''s entry; null if it has none, zeros if it is of another database, because then earlier events can be redelivered, too. Later events are redelivered. Errors: P0002 no such consumer, 42501 consumer of another role, 55000 given up, or of another database, 55006 leased to another session.';
