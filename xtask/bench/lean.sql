-- The lean baseline: the tables of an orchestrator by hand. The tasks have the columns of ours, with states as an enum.
-- The history has a row for each transition, none for the creation, and no columns for an event feed. No foreign key, no
-- CHECK and no trigger.
CREATE SCHEMA lean;
CREATE TYPE lean.state AS ENUM ('queued', 'running', 'success', 'failed', 'retrying', 'skipped');
CREATE TABLE lean.tasks (
    id         uuid        PRIMARY KEY DEFAULT workflow.uuid_v7(),
    run_id     uuid        NOT NULL,
    name       text        NOT NULL,
    state      lean.state  NOT NULL DEFAULT 'queued',
    version    bigint      NOT NULL DEFAULT 1,
    try_number integer     NOT NULL DEFAULT 0,
    max_tries  integer     NOT NULL DEFAULT 1,
    start_date timestamptz,
    end_date   timestamptz,
    duration   double precision,
    error      text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (run_id, name)
) WITH (fillfactor = 80);
CREATE INDEX ON lean.tasks (state, id);
CREATE TABLE lean.history (
    id          bigint      GENERATED ALWAYS AS IDENTITY,
    entity_type text        NOT NULL,
    entity_id   uuid        NOT NULL,
    old_state   lean.state  NOT NULL,
    new_state   lean.state  NOT NULL,
    version     bigint      NOT NULL,
    metadata    jsonb       NOT NULL DEFAULT '{}',
    actor       text        NOT NULL DEFAULT SESSION_USER,
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON lean.history (entity_id, id);
CREATE INDEX ON lean.history (changed_at);
