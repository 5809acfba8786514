-- Work by hand, as a careful team would write it: the lean tables, with the columns of a queue, and an index on what waits.
CREATE TABLE lean.work (LIKE lean.tasks INCLUDING ALL) WITH (fillfactor = 80);
ALTER TABLE lean.work
    ADD COLUMN queue text NOT NULL DEFAULT 'default',
    ADD COLUMN priority smallint NOT NULL DEFAULT 5,
    ADD COLUMN ready_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN worker text,
    ADD COLUMN lease_expires_at timestamptz;
CREATE INDEX ON lean.work (queue, priority, ready_at) WHERE state IN ('queued', 'retrying');
