-- The five tables. Every constraint has a name; every index says which question it answers.
--
-- fillfactor: a row moves a few times and then rests. The free fifth of each page lets a new row version
-- stay beside the old one.
--
-- autovacuum: each move leaves a dead row version, and a dead entry in every index. By default a table of 10,000,000
-- tasks would be vacuumed after 2,000,000 of them, and its state index would be mostly dead where it is read most: at
-- the newest tasks. A fiftieth keeps a vacuum short.

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
        name OPERATOR(pg_catalog.~) '\S' AND pg_catalog.char_length(name) OPERATOR(pg_catalog.<=) 250
    ),
    CONSTRAINT dags_tags_check CHECK (
        pg_catalog.jsonb_typeof(tags) OPERATOR(pg_catalog.=) 'array'
        AND NOT pg_catalog.jsonb_path_exists(tags, 'strict $[*] ? (@.type() != "string")')
    )
);
-- DAGs whose name begins so: name LIKE 'etl%', whatever the collation.
CREATE INDEX dags_name_prefix_idx ON workflow.dags (name text_pattern_ops);
-- DAGs by tag: tags @> '["etl"]' and tags ? 'etl'.
CREATE INDEX dags_tags_idx ON workflow.dags USING gin (tags);

COMMENT ON TABLE workflow.dags IS 'Workflow definitions: a name, a schedule, tags.';
COMMENT ON COLUMN workflow.dags.id IS 'time-ordered UUID';
COMMENT ON COLUMN workflow.dags.name IS 'unique; 1 to 250 characters, not blank';
COMMENT ON COLUMN workflow.dags.description IS 'free text';
COMMENT ON COLUMN workflow.dags.schedule IS 'when to run, as the scheduler spells it (a cron expression, "@daily"); not interpreted here';
COMMENT ON COLUMN workflow.dags.start_date IS 'the first moment that the schedule covers';
COMMENT ON COLUMN workflow.dags.tags IS 'JSON array of text';
COMMENT ON COLUMN workflow.dags.is_paused IS 'schedulers start no new run while it is true; see pause_dag and unpause_dag';
COMMENT ON COLUMN workflow.dags.created_at IS 'when the row was created';
COMMENT ON COLUMN workflow.dags.updated_at IS 'when the row last changed; kept by the guard';
COMMENT ON COLUMN workflow.dags.tenant IS 'the role that created it (current_user), or was made its owner; only that one sees it after enable_row_security()';

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
'Executions of a DAG. Create with create_dag_run(); move with transition() or a plain UPDATE of state.';
COMMENT ON COLUMN workflow.dag_runs.id IS 'time-ordered UUID; cannot be changed';
COMMENT ON COLUMN workflow.dag_runs.dag_id IS 'the DAG; cannot be changed';
COMMENT ON COLUMN workflow.dag_runs.execution_date IS 'the moment that this run stands for; one run a DAG and moment';
COMMENT ON COLUMN workflow.dag_runs.state IS 'current state; changes only along workflow.state_machine';
COMMENT ON COLUMN workflow.dag_runs.version IS '1 at creation, + 1 each move; kept by the guard';
COMMENT ON COLUMN workflow.dag_runs.conf IS 'parameters of this run, a JSON object';
COMMENT ON COLUMN workflow.dag_runs.start_date IS 'when it last began to run; kept by the guard';
COMMENT ON COLUMN workflow.dag_runs.end_date IS 'when it ended; kept by the guard';
COMMENT ON COLUMN workflow.dag_runs.created_at IS 'when the row was created';
COMMENT ON COLUMN workflow.dag_runs.updated_at IS 'when the row last changed; kept by the guard';

CREATE FUNCTION workflow.check_task_instance(task_id text, state text, max_tries integer)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'check_task_instance_wrapper';
COMMENT ON FUNCTION workflow.check_task_instance(text, text, integer) IS
'Internal: true, or an error (22023) that names the column: task_id has 1 to 500 characters and is not blank, state is a state, max_tries is not negative.';

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
    CONSTRAINT task_instances_pkey PRIMARY KEY (id),
    -- also "the tasks of this run", whatever their state
    CONSTRAINT task_instances_dag_run_id_task_id_key UNIQUE (dag_run_id, task_id),
    CONSTRAINT task_instances_dag_run_id_fkey FOREIGN KEY (dag_run_id) REFERENCES workflow.dag_runs (id) ON DELETE CASCADE,
    -- One call rather than three expressions: PostgreSQL parses a table's CHECKs again at every statement.
    CONSTRAINT task_instances_check CHECK (workflow.check_task_instance(task_id, state, max_tries))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
-- Tasks of all runs by state, newest first: what a scheduler and an on-call person ask.
CREATE INDEX task_instances_state_idx ON workflow.task_instances (state, id);

COMMENT ON TABLE workflow.task_instances IS
'Tasks of a run. Create with create_task_instances(); move with transition() or a plain UPDATE of state. Ids are in creation order: ORDER BY id is ORDER BY created_at, from the primary key.';
COMMENT ON COLUMN workflow.task_instances.id IS 'time-ordered UUID; cannot be changed';
COMMENT ON COLUMN workflow.task_instances.dag_run_id IS 'the run; cannot be changed';
COMMENT ON COLUMN workflow.task_instances.task_id IS 'the task''s name, unique in its run; 1 to 500 characters, not blank';
COMMENT ON COLUMN workflow.task_instances.state IS 'current state; changes only along workflow.state_machine';
COMMENT ON COLUMN workflow.task_instances.version IS '1 at creation, + 1 each move; kept by the guard';
COMMENT ON COLUMN workflow.task_instances.try_number IS 'how often it began to run; kept by the guard';
COMMENT ON COLUMN workflow.task_instances.max_tries IS 'how often the scheduler may run it; recorded, not enforced';
COMMENT ON COLUMN workflow.task_instances.start_date IS 'when this try began to run; kept by the guard';
COMMENT ON COLUMN workflow.task_instances.end_date IS 'when this try ended; kept by the guard';
COMMENT ON COLUMN workflow.task_instances.duration IS 'seconds from start_date to end_date; kept by the guard';
COMMENT ON COLUMN workflow.task_instances.error IS 'what went wrong, from "error" in the metadata of the move; cleared when it runs again';
COMMENT ON COLUMN workflow.task_instances.created_at IS 'when the row was created';
COMMENT ON COLUMN workflow.task_instances.updated_at IS 'when the row last changed; kept by the guard';

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
-- Indexes, and the foreign key to the task, are those of the partitions: see make_partition().
) PARTITION BY RANGE (id);

COMMENT ON TABLE workflow.task_logs IS 'What tasks printed; see append_task_log(). Partitioned by id: see the view partitions.';
COMMENT ON SEQUENCE workflow.task_logs_id_seq IS 'Ids of task_logs.';
COMMENT ON COLUMN workflow.task_logs.id IS 'in the order of arrival';
COMMENT ON COLUMN workflow.task_logs.task_instance_id IS 'the task';
COMMENT ON COLUMN workflow.task_logs.try_number IS 'the try that printed it';
COMMENT ON COLUMN workflow.task_logs.logged_at IS 'when it was printed';
COMMENT ON COLUMN workflow.task_logs.level IS 'DEBUG, INFO, WARNING, ERROR or CRITICAL';
COMMENT ON COLUMN workflow.task_logs.message IS 'the text';

CREATE SEQUENCE workflow.state_history_id_seq AS bigint;
COMMENT ON SEQUENCE workflow.state_history_id_seq IS
'Ids of state_history. Its cache must stay 1: the feed''s order within an entity rests on it.';

CREATE TABLE workflow.state_history (
    id             bigint      NOT NULL DEFAULT pg_catalog.nextval('workflow.state_history_id_seq'),
    entity_type    text        NOT NULL,
    entity_id      uuid        NOT NULL,
    old_state      text,
    new_state      text        NOT NULL,
    version        bigint      NOT NULL,
    metadata       jsonb       NOT NULL DEFAULT '{}',
    actor          text        NOT NULL DEFAULT SESSION_USER,
    changed_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    dag_id         uuid        NOT NULL,
    dag_run_id     uuid        NOT NULL,
    task_id        text,
    request_id     text,
    transaction_id xid8        NOT NULL DEFAULT pg_catalog.pg_current_xact_id()
    -- Indexes are those of the partitions: see make_partition().
    -- No CHECK: only the database writes here, and each would be parsed again at every move.
) PARTITION BY RANGE (id);
ALTER SEQUENCE workflow.state_history_id_seq OWNED BY workflow.state_history.id;

COMMENT ON TABLE workflow.state_history IS
'Every creation and every move, written in the transaction that made it: the audit trail and the event feed. It outlives the rows it speaks of, until purge() drops its partition. Partitioned by id: see the view partitions.';
COMMENT ON COLUMN workflow.state_history.id IS 'in the order of writing, which is not the order of committing: follow the feed with read_events(), not with id > last';
COMMENT ON COLUMN workflow.state_history.entity_type IS 'dag_run or task_instance';
COMMENT ON COLUMN workflow.state_history.entity_id IS 'the run''s or the task instance''s id';
COMMENT ON COLUMN workflow.state_history.old_state IS 'the state left; null at creation';
COMMENT ON COLUMN workflow.state_history.new_state IS 'the state entered';
COMMENT ON COLUMN workflow.state_history.version IS 'the entity''s version after the move; (entity_id, version) identifies the event';
COMMENT ON COLUMN workflow.state_history.metadata IS 'what the caller gave with the move, a JSON object';
COMMENT ON COLUMN workflow.state_history.actor IS 'the role that was logged in (session_user)';
COMMENT ON COLUMN workflow.state_history.changed_at IS 'the clock at the move, before its commit; never goes back within an entity';
COMMENT ON COLUMN workflow.state_history.dag_id IS 'the DAG';
COMMENT ON COLUMN workflow.state_history.dag_run_id IS 'the run';
COMMENT ON COLUMN workflow.state_history.task_id IS 'the task''s name; null for a run';
COMMENT ON COLUMN workflow.state_history.request_id IS 'the caller''s name for the move, by which a retry is known';
COMMENT ON COLUMN workflow.state_history.transaction_id IS 'the top-level transaction that wrote it; used by the event feed';

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
'What purge() has dropped of the history. verify() expects no history of it, and follow_events() no reader.';
COMMENT ON COLUMN workflow.dropped_partitions."partition" IS 'the partition''s name';
COMMENT ON COLUMN workflow.dropped_partitions.last_id IS 'its last event; null where it had none';
COMMENT ON COLUMN workflow.dropped_partitions.last_transaction_id IS 'the highest number of a transaction that had written there';
COMMENT ON COLUMN workflow.dropped_partitions.last_changed_at IS 'when its last event happened';
COMMENT ON COLUMN workflow.dropped_partitions.dropped_at IS 'when it was dropped';
COMMENT ON COLUMN workflow.dropped_partitions.dropped_by IS 'the role that was logged in (session_user)';
