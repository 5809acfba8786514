-- The tables. Every constraint has a name; every index says which question it answers.
--
-- fillfactor: a row changes a few times and then rests. The free fifth of each page holds the next row version beside
-- the old one.
--
-- autovacuum: each transition leaves a dead row version, and a dead entry in every index. By default autovacuum would
-- start after 2,000,000 transitions in a table of 10,000,000 tasks. Its state index would then be mostly dead at the
-- newest tasks, which are read most. A scale factor of a fiftieth keeps each vacuum short.

CREATE TABLE workflow.dags (
    id          uuid        NOT NULL DEFAULT workflow.uuid_v7(),
    name        text        NOT NULL,
    description text,
    schedule    text,
    start_date  timestamptz,
    tags        jsonb       NOT NULL DEFAULT '[]',
    is_paused   boolean     NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    tenant      text        NOT NULL DEFAULT CURRENT_USER,
    CONSTRAINT dags_pkey PRIMARY KEY (id),
    CONSTRAINT dags_name_key UNIQUE (name),
    CONSTRAINT dags_name_check CHECK (
        name OPERATOR(pg_catalog.~) '[^[:space:]]' AND pg_catalog.char_length(name) OPERATOR(pg_catalog.<=) 250
    ),
    CONSTRAINT dags_tags_check CHECK (
        pg_catalog.jsonb_typeof(tags) OPERATOR(pg_catalog.=) 'array'
        AND NOT pg_catalog.jsonb_path_exists(tags, 'strict $[*] ? (@.type() != "string")')
    )
);
-- DAGs by the start of their name: name LIKE 'etl%', in every collation.
CREATE INDEX dags_name_prefix_idx ON workflow.dags (name text_pattern_ops);
-- DAGs by tag: tags @> '["etl"]' and tags ? 'etl'.
CREATE INDEX dags_tags_idx ON workflow.dags USING gin (tags);

COMMENT ON TABLE workflow.dags IS 'Workflow definitions: name, schedule, tags.';
COMMENT ON COLUMN workflow.dags.id IS 'time-ordered UUID';
COMMENT ON COLUMN workflow.dags.name IS 'unique name; 1 to 250 characters, not blank';
COMMENT ON COLUMN workflow.dags.description IS 'free text; null: none';
COMMENT ON COLUMN workflow.dags.schedule IS 'schedule in the scheduler''s format (a cron expression, "@daily"), not interpreted here; null: none';
COMMENT ON COLUMN workflow.dags.start_date IS 'first point in time that the schedule covers; null: no limit';
COMMENT ON COLUMN workflow.dags.tags IS 'JSON array of text';
COMMENT ON COLUMN workflow.dags.is_paused IS 'true: schedulers start no new run; see pause_dag() and unpause_dag()';
COMMENT ON COLUMN workflow.dags.created_at IS 'time of creation';
COMMENT ON COLUMN workflow.dags.updated_at IS 'time of the last change; managed column';
COMMENT ON COLUMN workflow.dags.tenant IS 'role that created it (current_user), or that an administrator entered; after enable_row_security() only this role sees it';

CREATE TABLE workflow.dag_runs (
    id             uuid        NOT NULL DEFAULT workflow.uuid_v7(),
    dag_id         uuid        NOT NULL,
    execution_date timestamptz NOT NULL DEFAULT pg_catalog.now(),
    state          text        NOT NULL DEFAULT 'queued',
    version        bigint      NOT NULL DEFAULT 1,
    conf           jsonb       NOT NULL DEFAULT '{}',
    start_date     timestamptz,
    end_date       timestamptz,
    created_at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT dag_runs_pkey PRIMARY KEY (id),
    -- also "the latest run of this DAG"
    CONSTRAINT dag_runs_dag_id_execution_date_key UNIQUE (dag_id, execution_date),
    CONSTRAINT dag_runs_dag_id_fkey FOREIGN KEY (dag_id) REFERENCES workflow.dags (id) ON DELETE CASCADE,
    CONSTRAINT dag_runs_state_check CHECK (
        state OPERATOR(pg_catalog.=) ANY ('{queued,running,success,failed,retrying,upstream_failed,skipped}'::pg_catalog.text[])
    ),
    CONSTRAINT dag_runs_conf_check CHECK (pg_catalog.jsonb_typeof(conf) OPERATOR(pg_catalog.=) 'object')
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
-- Runs by state, newest first (ids are in creation order).
CREATE INDEX dag_runs_state_idx ON workflow.dag_runs (state, id);
-- Runs of all DAGs by date.
CREATE INDEX dag_runs_execution_date_idx ON workflow.dag_runs (execution_date);
CREATE INDEX dag_runs_created_at_idx ON workflow.dag_runs (created_at);

COMMENT ON TABLE workflow.dag_runs IS
'Runs of a DAG. Create with create_dag_run(); change the state with transition() or a plain UPDATE.';
COMMENT ON COLUMN workflow.dag_runs.id IS 'time-ordered UUID; cannot be changed';
COMMENT ON COLUMN workflow.dag_runs.dag_id IS 'DAG; cannot be changed';
COMMENT ON COLUMN workflow.dag_runs.execution_date IS 'point in time that the run is for (Airflow: logical date); unique within a DAG';
COMMENT ON COLUMN workflow.dag_runs.state IS 'current state; changes only along workflow.state_machine';
COMMENT ON COLUMN workflow.dag_runs.version IS '1 at creation, + 1 at each transition; managed column';
COMMENT ON COLUMN workflow.dag_runs.conf IS 'parameters of the run, a JSON object';
COMMENT ON COLUMN workflow.dag_runs.start_date IS 'time of the last transition to running; null: never ran; managed column';
COMMENT ON COLUMN workflow.dag_runs.end_date IS 'time at which it finished; null: not finished; managed column';
COMMENT ON COLUMN workflow.dag_runs.created_at IS 'time of creation';
COMMENT ON COLUMN workflow.dag_runs.updated_at IS 'time of the last change; managed column';

CREATE TABLE workflow.task_instances (
    id          uuid             NOT NULL DEFAULT workflow.uuid_v7(),
    dag_run_id  uuid             NOT NULL,
    task_id     text             NOT NULL,
    state       text             NOT NULL DEFAULT 'queued',
    version     bigint           NOT NULL DEFAULT 1,
    try_number  integer          NOT NULL DEFAULT 0,
    max_tries   integer          NOT NULL DEFAULT 1,
    start_date  timestamptz,
    end_date    timestamptz,
    duration    double precision,
    error       text,
    created_at  timestamptz      NOT NULL DEFAULT pg_catalog.now(),
    updated_at  timestamptz      NOT NULL DEFAULT pg_catalog.now(),
    queue_id            integer,
    priority            smallint,
    not_before          timestamptz,
    timeout             interval,
    worker              text,
    lease_expires_at    timestamptz,
    cancel_requested_at timestamptz,
    uncounted_tries     integer,
    join_id             uuid,
    CONSTRAINT task_instances_pkey PRIMARY KEY (id),
    -- also "the tasks of this run", in any state
    CONSTRAINT task_instances_dag_run_id_task_id_key UNIQUE (dag_run_id, task_id),
    CONSTRAINT task_instances_dag_run_id_fkey FOREIGN KEY (dag_run_id) REFERENCES workflow.dag_runs (id) ON DELETE CASCADE,
    -- One call rather than three expressions: PostgreSQL parses a table's CHECKs again at every statement.
    CONSTRAINT task_instances_check CHECK (workflow.check_task_instance(task_id, state, max_tries))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
-- Tasks of all runs by state, newest first: for schedulers and operators.
CREATE INDEX task_instances_state_idx ON workflow.task_instances (state, id);

COMMENT ON TABLE workflow.task_instances IS
'Tasks of a run. Create with create_task_instances(); change the state with transition() or a plain UPDATE. Ids are in the order of creation: ORDER BY id uses the primary key.';
COMMENT ON COLUMN workflow.task_instances.id IS 'time-ordered UUID; cannot be changed';
COMMENT ON COLUMN workflow.task_instances.dag_run_id IS 'run; cannot be changed';
COMMENT ON COLUMN workflow.task_instances.task_id IS 'task name, unique within the run; 1 to 500 characters, not blank';
COMMENT ON COLUMN workflow.task_instances.state IS 'current state; changes only along workflow.state_machine';
COMMENT ON COLUMN workflow.task_instances.version IS '1 at creation, + 1 at each transition; managed column';
COMMENT ON COLUMN workflow.task_instances.try_number IS 'number of attempts so far: transitions to running; managed column';
COMMENT ON COLUMN workflow.task_instances.max_tries IS 'number of attempts; fail_claim() and reap_claims() do not exceed it, transition() does not look at it';
COMMENT ON COLUMN workflow.task_instances.start_date IS 'start of the last attempt; null: none since it was queued; managed column';
COMMENT ON COLUMN workflow.task_instances.end_date IS 'end of the last attempt, or of the task if it never started; null: not ended; managed column';
COMMENT ON COLUMN workflow.task_instances.duration IS 'seconds of the last attempt, from start_date to end_date; null: not ended, or never started; managed column';
COMMENT ON COLUMN workflow.task_instances.error IS 'error of the last attempt, from "error" in the transition''s metadata; null: none; cleared at the next transition to running or queued';
COMMENT ON COLUMN workflow.task_instances.created_at IS 'time of creation';
COMMENT ON COLUMN workflow.task_instances.updated_at IS 'time of the last change; managed column';
COMMENT ON COLUMN workflow.task_instances.queue_id IS 'queue from which workers claim it, an id of queue_settings; null: it is moved by hand';
COMMENT ON COLUMN workflow.task_instances.priority IS '0 (claimed first) to 9; null: 5';
COMMENT ON COLUMN workflow.task_instances.not_before IS 'time before which it is not claimed; null: none; cleared at the next transition';
COMMENT ON COLUMN workflow.task_instances.timeout IS 'longest time of an attempt by a claim, whatever is renewed; null: none';
COMMENT ON COLUMN workflow.task_instances.worker IS 'worker that has claimed it; null: not running, or started by hand; managed column';
COMMENT ON COLUMN workflow.task_instances.lease_expires_at IS 'end of the lease of its claim; null: no claim; managed column';
COMMENT ON COLUMN workflow.task_instances.cancel_requested_at IS 'time of request_cancel() in this attempt; null: none; managed column';
COMMENT ON COLUMN workflow.task_instances.uncounted_tries IS 'attempts that do not count against max_tries, because their workers gave them back; null: 0; managed column';
COMMENT ON COLUMN workflow.task_instances.join_id IS 'row of joins that says which tasks it depends on; null: none; cannot be changed';

CREATE TABLE workflow.queue_settings (
    id           integer     NOT NULL GENERATED BY DEFAULT AS IDENTITY,
    tenant       text        NOT NULL,
    name         text        NOT NULL,
    slots        integer,
    paused_until timestamptz,
    created_at   timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT queue_settings_pkey PRIMARY KEY (id),
    CONSTRAINT queue_settings_tenant_name_key UNIQUE (tenant, name),
    CONSTRAINT queue_settings_name_check CHECK (
        name OPERATOR(pg_catalog.~) '[^[:space:]]' AND pg_catalog.char_length(name) OPERATOR(pg_catalog.<=) 250
    ),
    CONSTRAINT queue_settings_slots_check CHECK (slots OPERATOR(pg_catalog.>=) 0)
);

COMMENT ON TABLE workflow.queue_settings IS
'Queues from which workers claim tasks; see the view queues. Change with set_queue().';
COMMENT ON SEQUENCE workflow.queue_settings_id_seq IS 'Ids of queue_settings.';
COMMENT ON COLUMN workflow.queue_settings.id IS 'number of the queue';
COMMENT ON COLUMN workflow.queue_settings.tenant IS 'tenant of its tasks'' DAGs; empty: shared, created while tenants were not isolated';
COMMENT ON COLUMN workflow.queue_settings.name IS 'name; 1 to 250 characters, not blank; unique within the tenant';
COMMENT ON COLUMN workflow.queue_settings.slots IS 'how many of its tasks can be claimed at a time; null: any number';
COMMENT ON COLUMN workflow.queue_settings.paused_until IS 'no task is claimed before this time; null: not paused';
COMMENT ON COLUMN workflow.queue_settings.created_at IS 'time of creation';

CREATE TABLE workflow.ready (
    queue_id         integer     NOT NULL,
    priority         smallint    NOT NULL,
    ready_at         timestamptz NOT NULL,
    task_instance_id uuid        NOT NULL,
    version          bigint      NOT NULL
);
-- Not unique, and without the task: in batches many entries are equal, and take little room.
CREATE INDEX ready_lane_idx ON workflow.ready (queue_id, priority, ready_at);
-- A publication for all tables then rejects no DELETE.
ALTER TABLE workflow.ready REPLICA IDENTITY FULL;

COMMENT ON TABLE workflow.ready IS
'Tasks that can be claimed, and from when on. A row is a hint: a claim compares it with the task, and drops a row that does not hold any more.';
COMMENT ON COLUMN workflow.ready.queue_id IS 'queue';
COMMENT ON COLUMN workflow.ready.priority IS '0 (first) to 9';
COMMENT ON COLUMN workflow.ready.ready_at IS 'time from which it can be claimed';
COMMENT ON COLUMN workflow.ready.task_instance_id IS 'task instance';
COMMENT ON COLUMN workflow.ready.version IS 'version of the task for which the row holds';

CREATE TABLE workflow.parked (
    dag_run_id       uuid NOT NULL,
    task_instance_id uuid NOT NULL,
    CONSTRAINT parked_pkey PRIMARY KEY (dag_run_id, task_instance_id),
    CONSTRAINT parked_dag_run_id_fkey FOREIGN KEY (dag_run_id) REFERENCES workflow.dag_runs (id) ON DELETE CASCADE
);

COMMENT ON TABLE workflow.parked IS
'Tasks that a claim has met in ready while their DAG was paused or their run had ended. They are claimable again as soon as that changes.';
COMMENT ON COLUMN workflow.parked.dag_run_id IS 'run';
COMMENT ON COLUMN workflow.parked.task_instance_id IS 'task instance; it may have moved since';

CREATE TABLE workflow.joins (
    id           uuid   NOT NULL,
    dag_run_id   uuid   NOT NULL,
    trigger_rule text   NOT NULL,
    parents      uuid[] NOT NULL,
    children     uuid[] NOT NULL,
    CONSTRAINT joins_pkey PRIMARY KEY (id),
    CONSTRAINT joins_dag_run_id_fkey FOREIGN KEY (dag_run_id) REFERENCES workflow.dag_runs (id) ON DELETE CASCADE
);
-- The graph of a run, and its deletion with the run.
CREATE INDEX joins_dag_run_id_idx ON workflow.joins (dag_run_id);

COMMENT ON TABLE workflow.joins IS
'Dependencies: the tasks in children run when those in parents have ended as trigger_rule wants. Tasks of a run that depend on the same ones share a row. A row with the id of the run stands for its end.';
COMMENT ON COLUMN workflow.joins.id IS 'time-ordered UUID; that of the run: the run ends when all its tasks have ended';
COMMENT ON COLUMN workflow.joins.dag_run_id IS 'run';
COMMENT ON COLUMN workflow.joins.trigger_rule IS 'how the parents must have ended, for example all_success; of the row of a run all_done: it fails if any task failed, none_failed: if a leaf did';
COMMENT ON COLUMN workflow.joins.parents IS 'task instances that the children depend on; of a run, some of its tasks';
COMMENT ON COLUMN workflow.joins.children IS 'task instances that wait for them; empty: the run itself, or none any more';

CREATE TABLE workflow.waits (
    watched uuid    NOT NULL,
    join_id uuid    NOT NULL,
    bound   integer NOT NULL,
    CONSTRAINT waits_pkey PRIMARY KEY (watched, join_id),
    CONSTRAINT waits_join_id_fkey FOREIGN KEY (join_id) REFERENCES workflow.joins (id) ON DELETE CASCADE
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
-- Whether the children of a row of joins still wait.
CREATE INDEX waits_join_id_idx ON workflow.waits (join_id);

COMMENT ON TABLE workflow.waits IS
'Rows of joins that are undecided, each with one parent that has not ended: the transaction that ends this parent looks for another one, and if there is none, decides. See why_waiting().';
COMMENT ON COLUMN workflow.waits.watched IS 'task instance; begins with eight zero bytes: none, the next claim looks again';
COMMENT ON COLUMN workflow.waits.join_id IS 'row of joins';
COMMENT ON COLUMN workflow.waits.bound IS 'place in joins.parents, from 0, behind which all have ended';

CREATE TABLE workflow.task_logs (
    id               bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    task_instance_id uuid        NOT NULL,
    try_number       integer     NOT NULL,
    logged_at        timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    level            text        NOT NULL DEFAULT 'INFO',
    message          text        NOT NULL,
    CONSTRAINT task_logs_level_check CHECK (
        level OPERATOR(pg_catalog.=) ANY ('{DEBUG,INFO,WARNING,ERROR,CRITICAL}'::pg_catalog.text[])
    )
-- Indexes, and the foreign key to the task, are those of the partitions: see create_partition().
) PARTITION BY RANGE (id);

COMMENT ON TABLE workflow.task_logs IS 'Log lines of tasks; see append_task_log(). Partitioned by id: see the view partitions.';
COMMENT ON SEQUENCE workflow.task_logs_id_seq IS 'Ids of task_logs.';
COMMENT ON COLUMN workflow.task_logs.id IS 'number in the order of arrival';
COMMENT ON COLUMN workflow.task_logs.task_instance_id IS 'task instance';
COMMENT ON COLUMN workflow.task_logs.try_number IS 'attempt that wrote the line';
COMMENT ON COLUMN workflow.task_logs.logged_at IS 'time at which the line was written';
COMMENT ON COLUMN workflow.task_logs.level IS 'DEBUG, INFO, WARNING, ERROR or CRITICAL';
COMMENT ON COLUMN workflow.task_logs.message IS 'text of the line';

CREATE SEQUENCE workflow.state_history_id_seq AS bigint;
COMMENT ON SEQUENCE workflow.state_history_id_seq IS
'Ids of state_history. Its cache must stay 1: the order of events within an entity depends on it.';

CREATE TABLE workflow.state_history (
    id             bigint      NOT NULL DEFAULT pg_catalog.nextval('workflow.state_history_id_seq'),
    entity_type    text        NOT NULL,
    entity_id      uuid        NOT NULL,
    old_state      text,
    new_state      text,
    version        bigint      NOT NULL,
    metadata       jsonb       NOT NULL DEFAULT '{}',
    actor          text        NOT NULL DEFAULT SESSION_USER,
    changed_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    dag_id         uuid        NOT NULL,
    dag_run_id     uuid        NOT NULL,
    task_id        text,
    request_id     text,
    transaction_id xid8        NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    acted_as       text
    -- Indexes are those of the partitions: see create_partition().
    -- No CHECK: only the database writes here, and PostgreSQL would parse each again at every transition.
) PARTITION BY RANGE (id);
ALTER SEQUENCE workflow.state_history_id_seq OWNED BY workflow.state_history.id;

COMMENT ON TABLE workflow.state_history IS
'Every creation, transition and deletion, written in the same transaction: the audit trail and the event feed. A deleted run has one row, and none for its tasks. Rows stay until purge() drops their partition. Partitioned by id: see the view partitions.';
COMMENT ON COLUMN workflow.state_history.id IS 'number in the order of writing, not of committing: follow the feed with read_events(), not with id > last';
COMMENT ON COLUMN workflow.state_history.entity_type IS 'dag_run or task_instance';
COMMENT ON COLUMN workflow.state_history.entity_id IS 'id of the run or task instance';
COMMENT ON COLUMN workflow.state_history.old_state IS 'state before the transition; null: creation';
COMMENT ON COLUMN workflow.state_history.new_state IS 'state after the transition; null: deletion';
COMMENT ON COLUMN workflow.state_history.version IS 'version of the entity after the transition, one more than its last at a deletion; (entity_id, version) identifies the event';
COMMENT ON COLUMN workflow.state_history.metadata IS 'metadata of the transition, a JSON object from the caller';
COMMENT ON COLUMN workflow.state_history.actor IS 'login role (session_user)';
COMMENT ON COLUMN workflow.state_history.changed_at IS 'clock at the transition, before its commit; never decreases within an entity';
COMMENT ON COLUMN workflow.state_history.dag_id IS 'DAG';
COMMENT ON COLUMN workflow.state_history.dag_run_id IS 'run';
COMMENT ON COLUMN workflow.state_history.task_id IS 'task name; null for a run';
COMMENT ON COLUMN workflow.state_history.request_id IS 'idempotency key of the transition; null: none';
COMMENT ON COLUMN workflow.state_history.transaction_id IS 'ID of the top-level transaction; used by the event feed';
COMMENT ON COLUMN workflow.state_history.acted_as IS 'current_user, if another role than actor: after SET ROLE or in a SECURITY DEFINER function; null: the same';

CREATE TABLE workflow.dropped_partitions (
    "partition"         text        NOT NULL,
    last_id             bigint,
    last_transaction_id xid8,
    last_changed_at     timestamptz,
    dropped_at          timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    dropped_by          text        NOT NULL DEFAULT SESSION_USER,
    CONSTRAINT dropped_partitions_pkey PRIMARY KEY ("partition", dropped_at)
);

COMMENT ON TABLE workflow.dropped_partitions IS
'Partitions of the history that purge() has dropped. verify() does not expect their events, and follow_events() rejects positions before their end.';
COMMENT ON COLUMN workflow.dropped_partitions."partition" IS 'name of the partition';
COMMENT ON COLUMN workflow.dropped_partitions.last_id IS 'id of its last event; null: it had none';
COMMENT ON COLUMN workflow.dropped_partitions.last_transaction_id IS 'highest transaction ID of its events; null: it had none';
COMMENT ON COLUMN workflow.dropped_partitions.last_changed_at IS 'time of its last event; null: it had none';
COMMENT ON COLUMN workflow.dropped_partitions.dropped_at IS 'time at which it was dropped';
COMMENT ON COLUMN workflow.dropped_partitions.dropped_by IS 'login role (session_user)';

CREATE TABLE workflow.copies (
    first_id    bigint      NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    finished_by text        NOT NULL DEFAULT SESSION_USER,
    CONSTRAINT copies_pkey PRIMARY KEY (first_id)
);

COMMENT ON TABLE workflow.copies IS
'Calls of finish_copy(), and updates from 0.2.0. Events with lower ids can have transaction IDs of a database that this one was copied from.';
COMMENT ON COLUMN workflow.copies.first_id IS 'events of this database have higher ids';
COMMENT ON COLUMN workflow.copies.finished_at IS 'time of the call';
COMMENT ON COLUMN workflow.copies.finished_by IS 'login role (session_user)';

CREATE TABLE workflow.purges (
    id             uuid        NOT NULL DEFAULT workflow.uuid_v7(),
    purged_at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    purged_by      text        NOT NULL DEFAULT SESSION_USER,
    before         timestamptz NOT NULL,
    dag_runs       bigint      NOT NULL,
    task_instances bigint      NOT NULL,
    task_logs      bigint      NOT NULL,
    CONSTRAINT purges_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE workflow.purges IS
'Calls of purge() that deleted runs: these deletions are not events. The partitions that it dropped are in dropped_partitions.';
COMMENT ON COLUMN workflow.purges.id IS 'time-ordered UUID';
COMMENT ON COLUMN workflow.purges.purged_at IS 'time of the call';
COMMENT ON COLUMN workflow.purges.purged_by IS 'login role (session_user)';
COMMENT ON COLUMN workflow.purges.before IS 'time before which the runs had finished';
COMMENT ON COLUMN workflow.purges.dag_runs IS 'number of deleted runs';
COMMENT ON COLUMN workflow.purges.task_instances IS 'number of deleted tasks';
COMMENT ON COLUMN workflow.purges.task_logs IS 'number of deleted log lines';
