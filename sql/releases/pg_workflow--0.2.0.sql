\echo Use "CREATE EXTENSION pg_workflow" to load this file. \quit
-- The rules. One Rust definition (extension/state-machine) answers here, in the guard and in the client.

CREATE FUNCTION workflow.states()
RETURNS text[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'states_wrapper';
COMMENT ON FUNCTION workflow.states() IS
'Every state that a dag_run or a task_instance can be in.';

CREATE FUNCTION workflow.can_transition("from" text, "to" text)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'can_transition_wrapper';
COMMENT ON FUNCTION workflow.can_transition(text, text) IS
'Whether the state machine has the move from one state to the other. An unknown state is an error (22023).';

CREATE FUNCTION workflow.next_states(state text)
RETURNS text[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'next_states_wrapper';
COMMENT ON FUNCTION workflow.next_states(text) IS
'The states that can follow this one; empty for a terminal state.';

CREATE FUNCTION workflow.is_terminal(state text)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'is_terminal_wrapper';
COMMENT ON FUNCTION workflow.is_terminal(text) IS
'Whether no move leaves this state.';

CREATE VIEW workflow.state_machine AS
SELECT
    s.state AS from_state,
    n.state AS to_state
FROM pg_catalog.unnest(workflow.states()) AS s (state)
CROSS JOIN LATERAL pg_catalog.unnest(workflow.next_states(s.state)) AS n (state);
COMMENT ON VIEW workflow.state_machine IS
'The legal moves, a row each: 13 of them, the same for dag_runs and task_instances.';
COMMENT ON COLUMN workflow.state_machine.from_state IS 'the state that the move leaves';
COMMENT ON COLUMN workflow.state_machine.to_state IS 'the state that the move enters';

CREATE FUNCTION workflow.version()
RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'version_wrapper';
COMMENT ON FUNCTION workflow.version() IS
'The version of the loaded library; pg_extension.extversion is that of the SQL objects.';

CREATE FUNCTION workflow.uuid_v7()
RETURNS uuid
LANGUAGE c VOLATILE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'uuid_v7_wrapper';
COMMENT ON FUNCTION workflow.uuid_v7() IS
'A time-ordered UUID (RFC 9562, version 7): ids sort by creation, so that inserts touch one end of each index.';

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

-- The guard: what makes a plain UPDATE as safe as transition().
--
-- Row by row before the update it checks the move and writes the columns that follow from it; once after the
-- statement it records and announces all its moves. The row trigger's name sorts last, so that it sees what other
-- BEFORE triggers made of the row; the statement trigger looks again at what was really written.

CREATE FUNCTION workflow.guard()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'guard_wrapper';
COMMENT ON FUNCTION workflow.guard() IS
'BEFORE UPDATE FOR EACH ROW: refuses illegal moves and changes by hand of the columns that the database keeps; maintains version, dates and try_number. Its argument is the kind of row.';

CREATE FUNCTION workflow.record()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'record_wrapper';
COMMENT ON FUNCTION workflow.record() IS
'AFTER UPDATE FOR EACH STATEMENT: writes the statement''s moves to state_history and announces them. Its argument is the entity type.';

CREATE FUNCTION workflow.refuse_insert()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'refuse_insert_wrapper';
COMMENT ON FUNCTION workflow.refuse_insert() IS
'BEFORE INSERT FOR EACH STATEMENT: only the table''s owner inserts (the create functions, a restore), so that no entity appears without its history. Its argument names the function to use instead.';

CREATE FUNCTION workflow.prepare_load()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'prepare_load_wrapper';
COMMENT ON FUNCTION workflow.prepare_load() IS
'BEFORE INSERT FOR EACH STATEMENT: lets pg_restore load tables in any order, without their foreign keys being checked. What it loads was consistent when it was dumped; verify() would tell. (refuse_insert() does the same.)';

CREATE TRIGGER zz_guard
BEFORE UPDATE ON workflow.dags
FOR EACH ROW EXECUTE FUNCTION workflow.guard('dag');

CREATE TRIGGER refuse_insert
BEFORE INSERT ON workflow.dag_runs
FOR EACH STATEMENT EXECUTE FUNCTION workflow.refuse_insert('create_dag_run');

CREATE TRIGGER zz_guard
BEFORE UPDATE ON workflow.dag_runs
FOR EACH ROW EXECUTE FUNCTION workflow.guard('dag_run');

CREATE TRIGGER zz_record
AFTER UPDATE ON workflow.dag_runs
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
FOR EACH STATEMENT EXECUTE FUNCTION workflow.record('dag_run');

CREATE TRIGGER refuse_insert
BEFORE INSERT ON workflow.task_instances
FOR EACH STATEMENT EXECUTE FUNCTION workflow.refuse_insert('create_task_instances');

CREATE TRIGGER zz_guard
BEFORE UPDATE ON workflow.task_instances
FOR EACH ROW EXECUTE FUNCTION workflow.guard('task_instance');

CREATE TRIGGER zz_record
AFTER UPDATE ON workflow.task_instances
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
FOR EACH STATEMENT EXECUTE FUNCTION workflow.record('task_instance');

-- Moving entities. The caller needs UPDATE (state) and SELECT on the table, no more.

CREATE FUNCTION workflow.transition(
    entity_type      text,
    id               uuid,
    old_state        text,
    new_state        text,
    metadata         jsonb  DEFAULT '{}',
    expected_version bigint DEFAULT NULL,
    request_id       text   DEFAULT NULL
)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'transition_wrapper';
COMMENT ON FUNCTION workflow.transition(text, uuid, text, text, jsonb, bigint, text) IS
'Moves one entity (dag_run or task_instance) from old_state to new_state and returns its new version. With expected_version it must have just that version; the same request_id again returns the first answer. Errors: 23514 illegal move, 40001 the state or version is another, P0002 no such entity, 22023 bad argument.';

CREATE FUNCTION workflow.transition_dag_run(
    id               uuid,
    old_state        text,
    new_state        text,
    metadata         jsonb  DEFAULT '{}',
    expected_version bigint DEFAULT NULL,
    request_id       text   DEFAULT NULL
)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'transition_dag_run_wrapper';
COMMENT ON FUNCTION workflow.transition_dag_run(uuid, text, text, jsonb, bigint, text) IS
'transition() for a dag_run.';

CREATE FUNCTION workflow.transition_task_instance(
    id               uuid,
    old_state        text,
    new_state        text,
    metadata         jsonb  DEFAULT '{}',
    expected_version bigint DEFAULT NULL,
    request_id       text   DEFAULT NULL
)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'transition_task_instance_wrapper';
COMMENT ON FUNCTION workflow.transition_task_instance(uuid, text, text, jsonb, bigint, text) IS
'transition() for a task_instance. "error" in the metadata becomes the task''s error.';

CREATE FUNCTION workflow.transition_many(
    entity_type text,
    ids         uuid[],
    old_state   text,
    new_state   text,
    metadata    jsonb   DEFAULT '{}',
    dry_run     boolean DEFAULT false
)
RETURNS TABLE (entity_id uuid, outcome text, state text, version bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE
ROWS 1000
AS 'MODULE_PATHNAME', 'transition_many_wrapper';
COMMENT ON FUNCTION workflow.transition_many(text, uuid[], text, text, jsonb, boolean) IS
'Moves many entities in one statement; old_state null means whatever it is. A row for each id, with its state and version as they are now: applied, stale (in another state than old_state), illegal (no such move from its state), missing. dry_run moves nothing and says what would happen.';

-- Creating and finding entities. The functions that create run, or tasks, are SECURITY DEFINER, because creation
-- writes history too and ordinary roles may insert into neither table.

CREATE FUNCTION workflow.refuse_argument(message text, detail jsonb, hint text)
RETURNS void
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'refuse_argument_wrapper';
COMMENT ON FUNCTION workflow.refuse_argument(text, jsonb, text) IS
'Internal: raises 22023 for an argument that makes no sense.';

CREATE FUNCTION workflow.refuse_missing(entity_type text, id text, tried text)
RETURNS void
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'refuse_missing_wrapper';
COMMENT ON FUNCTION workflow.refuse_missing(text, text, text) IS
'Internal: raises P0002 for an entity that does not exist.';

CREATE FUNCTION workflow.create_dag(
    name        text,
    description text        DEFAULT NULL,
    schedule    text        DEFAULT NULL,
    start_date  timestamptz DEFAULT NULL,
    tags        jsonb       DEFAULT '[]',
    is_paused   boolean     DEFAULT false
)
RETURNS uuid
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    dag_id uuid;
BEGIN
    IF name IS NULL OR name !~ '\S' OR char_length(name) > 250 THEN
        PERFORM workflow.refuse_argument(
            'cannot create dag: its name is ' || CASE WHEN name IS NULL THEN 'null' WHEN name !~ '\S' THEN 'empty' ELSE 'too long' END,
            jsonb_build_object('argument', 'name', 'value', left(name, 250)),
            'A name has 1 to 250 characters, at least one of them visible.');
    END IF;
    IF tags IS NULL OR jsonb_typeof(tags) <> 'array' OR jsonb_path_exists(tags, 'strict $[*] ? (@.type() != "string")') THEN
        PERFORM workflow.refuse_argument(
            format('cannot create dag "%s": tags is not an array of text', name),
            jsonb_build_object('argument', 'tags', 'value', tags),
            'Give tags like ''["etl", "daily"]''.');
    END IF;
    IF is_paused IS NULL THEN
        PERFORM workflow.refuse_argument(
            format('cannot create dag "%s": is_paused is null', name),
            jsonb_build_object('argument', 'is_paused', 'value', NULL),
            'Give true or false.');
    END IF;

    INSERT INTO workflow.dags (name, description, schedule, start_date, tags, is_paused)
    VALUES (create_dag.name, create_dag.description, create_dag.schedule, create_dag.start_date, create_dag.tags, create_dag.is_paused)
    RETURNING id INTO STRICT dag_id;
    RETURN dag_id;
END
$$;
COMMENT ON FUNCTION workflow.create_dag(text, text, text, timestamptz, jsonb, boolean) IS
'Creates a DAG and returns its id. Errors: 23505 (dags_name_key) a DAG of that name exists, 22023 bad argument.';

CREATE FUNCTION workflow.set_dag_paused(id uuid, is_paused boolean)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE workflow.dags AS d
    SET is_paused = set_dag_paused.is_paused
    WHERE d.id = set_dag_paused.id AND d.is_paused <> set_dag_paused.is_paused;
    IF FOUND THEN
        RETURN true;
    END IF;
    IF NOT EXISTS (SELECT FROM workflow.dags AS d WHERE d.id = set_dag_paused.id) THEN
        PERFORM workflow.refuse_missing('dag', id::text, CASE WHEN is_paused THEN 'pause' ELSE 'unpause' END);
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION workflow.set_dag_paused(uuid, boolean) IS
'Internal: what pause_dag and unpause_dag share.';

CREATE FUNCTION workflow.pause_dag(id uuid)
RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
AS $$ SELECT workflow.set_dag_paused(id, true) $$;
COMMENT ON FUNCTION workflow.pause_dag(uuid) IS
'Sets is_paused; returns whether that changed anything. Errors: P0002 no such dag.';

CREATE FUNCTION workflow.unpause_dag(id uuid)
RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
AS $$ SELECT workflow.set_dag_paused(id, false) $$;
COMMENT ON FUNCTION workflow.unpause_dag(uuid) IS
'Clears is_paused; returns whether that changed anything. Errors: P0002 no such dag.';

CREATE FUNCTION workflow.create_dag_run(
    dag_id         uuid,
    execution_date timestamptz DEFAULT pg_catalog.now(),
    conf           jsonb       DEFAULT '{}'
)
RETURNS uuid
LANGUAGE c VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'create_dag_run_wrapper';
COMMENT ON FUNCTION workflow.create_dag_run(uuid, timestamptz, jsonb) IS
'Creates a run in state queued, version 1, with its history, and returns its id. Errors: P0002 no such dag, 23505 (dag_runs_dag_id_execution_date_key) the DAG has a run of that date, 22023 bad argument.';

CREATE FUNCTION workflow.create_task_instances(
    dag_run_id uuid,
    task_ids   text[],
    max_tries  integer DEFAULT 1
)
RETURNS TABLE (id uuid, task_id text)
LANGUAGE c VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 100
AS 'MODULE_PATHNAME', 'create_task_instances_wrapper';
COMMENT ON FUNCTION workflow.create_task_instances(uuid, text[], integer) IS
'Creates tasks of a run in state queued, version 1, with their history; returns their ids in the order given. All or none. Errors: P0002 no such dag_run, 23505 (task_instances_dag_run_id_task_id_key) the run has a task of that name, 22023 bad argument.';

CREATE FUNCTION workflow.latest_dag_run(dag_id uuid)
RETURNS SETOF workflow.dag_runs
LANGUAGE sql STABLE PARALLEL SAFE
ROWS 1
AS $$
SELECT r.*
FROM workflow.dag_runs AS r
WHERE r.dag_id OPERATOR(pg_catalog.=) latest_dag_run.dag_id
ORDER BY r.execution_date DESC
LIMIT 1
$$;
COMMENT ON FUNCTION workflow.latest_dag_run(uuid) IS
'The run of this DAG with the latest execution_date; no row where it has none.';

CREATE FUNCTION workflow.append_task_log(
    task_instance_id uuid,
    message          text,
    level            text        DEFAULT 'INFO',
    logged_at        timestamptz DEFAULT pg_catalog.clock_timestamp()
)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    log_id bigint;
BEGIN
    IF task_instance_id IS NULL OR message IS NULL OR logged_at IS NULL THEN
        PERFORM workflow.refuse_argument(
            'cannot append to a task log: ' || CASE WHEN task_instance_id IS NULL THEN 'task_instance_id' WHEN message IS NULL THEN 'message' ELSE 'logged_at' END || ' is null',
            jsonb_build_object('argument', CASE WHEN task_instance_id IS NULL THEN 'task_instance_id' WHEN message IS NULL THEN 'message' ELSE 'logged_at' END, 'value', NULL),
            'Give the task instance''s id and the text; leave logged_at out for the present moment.');
    END IF;
    IF level IS NULL OR level NOT IN ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL') THEN
        PERFORM workflow.refuse_argument(
            format('cannot append to the log of task_instance %s: unknown level %s', task_instance_id, coalesce(quote_ident(level), 'null')),
            jsonb_build_object('argument', 'level', 'value', level),
            'Levels are DEBUG, INFO, WARNING, ERROR and CRITICAL.');
    END IF;

    INSERT INTO workflow.task_logs AS l (task_instance_id, try_number, logged_at, level, message)
    SELECT i.id, i.try_number, append_task_log.logged_at, append_task_log.level, append_task_log.message
    FROM workflow.task_instances AS i
    WHERE i.id = append_task_log.task_instance_id
    RETURNING l.id INTO log_id;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_missing('task_instance', task_instance_id::text, 'append to its log');
    END IF;
    RETURN log_id;
END
$$;
COMMENT ON FUNCTION workflow.append_task_log(uuid, text, text, timestamptz) IS
'Adds a line to the log of the task''s present try and returns its id. Errors: P0002 no such task_instance, 22023 bad argument.';

-- The audit trail.

CREATE FUNCTION workflow.check_entity_type(entity_type text)
RETURNS text
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'check_entity_type_wrapper';
COMMENT ON FUNCTION workflow.check_entity_type(text) IS
'Internal: its argument, or an error (22023) where that is not dag_run or task_instance.';

CREATE FUNCTION workflow.history(entity_type text, id uuid, max integer DEFAULT 100)
RETURNS SETOF workflow.state_history
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
ROWS 10
AS $$
BEGIN
    IF id IS NULL OR max IS NULL OR max < 0 THEN
        PERFORM workflow.refuse_argument(
            'cannot read history: ' || CASE WHEN id IS NULL THEN 'id is null' WHEN max IS NULL THEN 'max is null' ELSE 'max is negative' END,
            jsonb_build_object('argument', CASE WHEN id IS NULL THEN 'id' ELSE 'max' END, 'value', max),
            'Give the entity''s id and how many moves to return at most.');
    END IF;
    RETURN QUERY
        SELECT h.*
        FROM workflow.state_history AS h
        WHERE h.entity_id = history.id AND h.entity_type = workflow.check_entity_type(history.entity_type)
        ORDER BY h.version DESC
        LIMIT max;
END
$$;
COMMENT ON FUNCTION workflow.history(text, uuid, integer) IS
'The latest moves of an entity, newest first; also of one that has been deleted. No rows where it never existed. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.state_at(entity_type text, id uuid, at timestamptz)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF id IS NULL OR at IS NULL THEN
        PERFORM workflow.refuse_argument(
            'cannot tell a past state: ' || CASE WHEN id IS NULL THEN 'id' ELSE 'at' END || ' is null',
            jsonb_build_object('argument', CASE WHEN id IS NULL THEN 'id' ELSE 'at' END, 'value', NULL),
            'Give the entity''s id and a moment.');
    END IF;
    RETURN (
        SELECT h.new_state
        FROM workflow.state_history AS h
        WHERE h.entity_id = state_at.id
            AND h.entity_type = workflow.check_entity_type(state_at.entity_type)
            AND h.changed_at <= state_at.at
        ORDER BY h.version DESC
        LIMIT 1
    );
END
$$;
COMMENT ON FUNCTION workflow.state_at(text, uuid, timestamptz) IS
'The state that an entity was in at a moment; null before its creation. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.event_id_at(at timestamptz)
RETURNS bigint
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    lowest bigint;
    highest bigint;
    middle bigint;
    found_id bigint;
    found_at timestamptz;
BEGIN
    -- The answer is in lowest .. highest.
    SELECT min(h.id), max(h.id) + 1 INTO lowest, highest FROM workflow.state_history AS h;
    IF lowest IS NULL THEN
        RETURN 1;
    END IF;
    WHILE lowest < highest LOOP
        middle := lowest + (highest - lowest) / 2;
        SELECT h.id, h.changed_at INTO STRICT found_id, found_at
        FROM workflow.state_history AS h
        WHERE h.id >= middle
        ORDER BY h.id
        LIMIT 1;
        IF found_at >= at THEN
            highest := middle;
        ELSE
            lowest := found_id + 1;
        END IF;
    END LOOP;
    RETURN lowest;
END
$$;
COMMENT ON FUNCTION workflow.event_id_at(timestamptz) IS
'The id from which on events are of this moment or later; where all are earlier, one more than the last. Found in some 40 looks at the primary key, so that the history of a time can be read by ids. Ids follow the clock but for short overlaps: take a second more at both ends, and compare changed_at too.';

CREATE FUNCTION workflow.first_id_at(at timestamptz)
RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- RFC 9562, version 7: the first 48 bits are the milliseconds since 1970.
    SELECT CASE
        WHEN at < timestamptz '1970-01-01Z' THEN uuid '00000000-0000-0000-0000-000000000000'
        WHEN at >= timestamptz '10000-01-01Z' THEN uuid 'ffffffff-ffff-ffff-ffff-ffffffffffff'
        ELSE rpad(lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0'), 32, '0')::uuid
    END
$$;
COMMENT ON FUNCTION workflow.first_id_at(timestamptz) IS
'Internal: the least id that an entity created at this moment can have.';

CREATE FUNCTION workflow.verify(created_from timestamptz DEFAULT '-infinity', created_to timestamptz DEFAULT 'infinity')
RETURNS TABLE (entity_type text, entity_id uuid, problem text, detail jsonb)
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH bound AS MATERIALIZED (
        SELECT workflow.first_id_at(created_from) AS first, workflow.first_id_at(created_to) AS last,
            -- Who was created before may have lost the beginning of its history to purge().
            (SELECT max(d.last_changed_at) FROM workflow.dropped_partitions AS d) AS complete_from
    ), entity AS MATERIALIZED (
        SELECT 'dag_run' AS entity_type, r.id, r.state, r.version, NULL::integer AS try_number, r.created_at, NULL::uuid AS run
        FROM workflow.dag_runs AS r
        WHERE r.id >= (SELECT b.first FROM bound AS b) AND r.id <= (SELECT b.last FROM bound AS b)
        UNION ALL
        SELECT 'task_instance', t.id, t.state, t.version, t.try_number, t.created_at, t.dag_run_id
        FROM workflow.task_instances AS t
        WHERE t.id >= (SELECT b.first FROM bound AS b) AND t.id <= (SELECT b.last FROM bound AS b)
    ), move AS MATERIALIZED (
        SELECT
            h.entity_type, h.entity_id, h.old_state, h.new_state, h.version, h.changed_at,
            lag(h.new_state) OVER entity AS state_before,
            lag(h.version) OVER entity AS version_before,
            lag(h.changed_at) OVER entity AS changed_before,
            lead(h.version) OVER entity IS NULL AS is_last,
            first_value(h.version) OVER entity = 1 AS is_complete,
            count(*) FILTER (WHERE h.new_state = 'running') OVER entity AS tries
        FROM workflow.state_history AS h
        WHERE h.entity_id >= (SELECT b.first FROM bound AS b) AND h.entity_id <= (SELECT b.last FROM bound AS b)
        WINDOW entity AS (PARTITION BY h.entity_id ORDER BY h.version)
    )
    SELECT e.entity_type, e.id, 'no history', jsonb_build_object('state', e.state, 'version', e.version)
    FROM entity AS e
    WHERE NOT EXISTS (SELECT FROM move AS m WHERE m.entity_id = e.id)
        AND e.created_at <= (SELECT b.complete_from FROM bound AS b) IS NOT TRUE
    UNION ALL
    -- A restore does not check foreign keys.
    SELECT e.entity_type, e.id, 'no dag_run', jsonb_build_object('dag_run_id', e.run)
    FROM entity AS e
    WHERE e.run IS NOT NULL AND NOT EXISTS (SELECT FROM workflow.dag_runs AS r WHERE r.id = e.run)
    UNION ALL
    SELECT e.entity_type, e.id, 'row and history disagree', jsonb_build_object(
        'row', jsonb_build_object('entity_type', e.entity_type, 'state', e.state, 'version', e.version, 'try_number', e.try_number),
        'history', jsonb_build_object('entity_type', m.entity_type, 'state', m.new_state, 'version', m.version,
            'try_number', CASE WHEN e.entity_type = 'task_instance' AND m.is_complete THEN m.tries END))
    FROM entity AS e
    JOIN move AS m ON m.entity_id = e.id AND m.is_last
    WHERE (e.entity_type, e.state, e.version) IS DISTINCT FROM (m.entity_type, m.new_state, m.version)
        OR (e.try_number <> m.tries AND m.is_complete)
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'version missing', jsonb_build_object('after', coalesce(m.version_before, 0), 'before', m.version)
    FROM move AS m
    WHERE m.version <> coalesce(m.version_before, 0) + 1
        AND (m.version_before IS NOT NULL
            OR coalesce((SELECT e.created_at FROM entity AS e WHERE e.id = m.entity_id), '-infinity')
                <= (SELECT b.complete_from FROM bound AS b) IS NOT TRUE)
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'move from another state', jsonb_build_object('version', m.version, 'from', m.old_state, 'was', m.state_before)
    FROM move AS m
    WHERE m.version = coalesce(m.version_before, 0) + 1 AND m.old_state IS DISTINCT FROM m.state_before
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'illegal move', jsonb_build_object('version', m.version, 'from', m.old_state, 'to', m.new_state)
    FROM move AS m
    WHERE CASE
        WHEN m.old_state IS NULL THEN m.new_state <> 'queued'
        ELSE (m.old_state, m.new_state) NOT IN (SELECT s.from_state, s.to_state FROM workflow.state_machine AS s)
    END
    UNION ALL
    SELECT m.entity_type, m.entity_id, 'clock went back', jsonb_build_object('version', m.version, 'changed_at', m.changed_at, 'before', m.changed_before)
    FROM move AS m
    WHERE m.changed_at < m.changed_before
    UNION ALL
    SELECT c.entity_type, NULL, 'counts disagree', jsonb_build_object('state', c.state, 'state_counts', c.count, 'rows', coalesce(t.rows, 0))
    FROM workflow.state_counts AS c
    LEFT JOIN (
        SELECT e.entity_type, e.state, count(*) AS rows FROM entity AS e GROUP BY e.entity_type, e.state
    ) AS t ON t.entity_type = c.entity_type AND t.state = c.state
    WHERE c.count <> coalesce(t.rows, 0)
        -- The whole is compared with the whole.
        AND created_from = '-infinity' AND created_to = 'infinity'
        AND NOT row_security_active('workflow.task_instances')
$$;
COMMENT ON FUNCTION workflow.verify(timestamptz, timestamptz) IS
'Replays the history of the runs and tasks that were created from one moment to the other against their rows, and lists every disagreement: none on a healthy database. Without arguments it reads all there are, and compares the view state_counts with them too. What purge() has dropped is not missed.';

-- The event feed: named consumers that each read every event at least once.
--
-- The order of ids is not the order of commits, so "id > last" loses events. A consumer's place is therefore a
-- snapshot: it has been given what was visible in it. The next window is what is visible now and was not then
-- (the way of PgQ). Within a window events come in the order of their ids, which within an entity is the order
-- of its versions: the next version cannot be written before the last has committed.
--
-- Finding a window without reading the table. With each snapshot go two numbers: floor_id, the last id drawn before
-- the snapshot was taken, and next_transaction_id, the first transaction number not yet given out after it.
--   * A transaction from next_transaction_id on began later, so its ids are above floor_id: most of the window is a
--     range of the primary key.
--   * Any other that is not visible in the snapshot was under way: it is in the snapshot's list, or its number is
--     from the snapshot's xmax (which is the last one that ended, plus one) up to next_transaction_id. There are no
--     more of those than sessions, and what they wrote is found by their numbers (state_history_transaction_id_idx).

CREATE TABLE workflow.consumers (
    name                       text        NOT NULL,
    snapshot                   pg_snapshot,
    next_transaction_id        xid8,
    floor_id                   bigint      NOT NULL,
    window_snapshot            pg_snapshot,
    window_next_transaction_id xid8,
    window_floor_id            bigint,
    window_ceiling_id          bigint,
    acked_id                   bigint      NOT NULL DEFAULT 0,
    system_identifier          bigint      NOT NULL,
    lease_number               bigint      NOT NULL DEFAULT 0,
    lease_holder               text,
    lease_duration             interval,
    lease_expires_at           timestamptz,
    lease_pid                  integer,
    lease_backend_start        timestamptz,
    created_at                 timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at                 timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT consumers_pkey PRIMARY KEY (name),
    CONSTRAINT consumers_snapshot_check CHECK ((snapshot IS NULL) OPERATOR(pg_catalog.=) (next_transaction_id IS NULL)),
    CONSTRAINT consumers_window_check CHECK (
        pg_catalog.num_nulls(window_snapshot, window_next_transaction_id, window_floor_id, window_ceiling_id)
            OPERATOR(pg_catalog.=) ANY ('{0,4}'::integer[])
    )
-- A row that changes with every batch: leave room to change it in place.
) WITH (fillfactor = 10);

COMMENT ON TABLE workflow.consumers IS 'Readers of the event feed and their places in it; see create_consumer().';
COMMENT ON COLUMN workflow.consumers.name IS 'unique; 1 to 250 characters, not blank';
COMMENT ON COLUMN workflow.consumers.snapshot IS 'what is visible in it has been acknowledged; null: what has an id up to floor_id has been';
COMMENT ON COLUMN workflow.consumers.next_transaction_id IS 'transactions from this number on began after the snapshot';
COMMENT ON COLUMN workflow.consumers.floor_id IS 'those transactions'' events have ids above it';
COMMENT ON COLUMN workflow.consumers.window_snapshot IS 'while a window is being read: what the window reaches to';
COMMENT ON COLUMN workflow.consumers.window_next_transaction_id IS 'next_transaction_id of the next window';
COMMENT ON COLUMN workflow.consumers.window_floor_id IS 'floor_id of the next window';
COMMENT ON COLUMN workflow.consumers.window_ceiling_id IS 'no event of the window has an id above it';
COMMENT ON COLUMN workflow.consumers.acked_id IS 'the last event of the window that was acknowledged; 0: none';
COMMENT ON COLUMN workflow.consumers.system_identifier IS 'the cluster that the snapshots belong to';
COMMENT ON COLUMN workflow.consumers.lease_number IS 'the lease last given out; see lease_consumer()';
COMMENT ON COLUMN workflow.consumers.lease_holder IS 'who holds it, in its own words';
COMMENT ON COLUMN workflow.consumers.lease_duration IS 'for how long each read and acknowledgement renews it';
COMMENT ON COLUMN workflow.consumers.lease_expires_at IS 'when somebody else may take it; null: it was given back';
COMMENT ON COLUMN workflow.consumers.lease_pid IS 'the session that took it; null: it was given back';
COMMENT ON COLUMN workflow.consumers.lease_backend_start IS 'when that session began';
COMMENT ON COLUMN workflow.consumers.created_at IS 'when the consumer was created';
COMMENT ON COLUMN workflow.consumers.updated_at IS 'when it last opened or closed a window, or acknowledged';

CREATE FUNCTION workflow.system_identifier()
RETURNS bigint
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'system_identifier_wrapper';
COMMENT ON FUNCTION workflow.system_identifier() IS
'Internal: the cluster''s identifier. Transaction numbers mean nothing in another.';

CREATE FUNCTION workflow.last_event_id()
RETURNS bigint
-- Not SQL, here and below: that would be planned anew at every call.
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce(pg_sequence_last_value('workflow.state_history_id_seq'::regclass), 0);
END
$$;
COMMENT ON FUNCTION workflow.last_event_id() IS
'Internal: the highest id drawn so far, by any transaction.';

CREATE FUNCTION workflow.next_transaction_id()
RETURNS xid8
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'next_transaction_id_wrapper';
COMMENT ON FUNCTION workflow.next_transaction_id() IS
'Internal: the first transaction number that has not been given out.';

CREATE FUNCTION workflow.is_preloaded()
RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'is_preloaded_wrapper';
COMMENT ON FUNCTION workflow.is_preloaded() IS
'Whether pg_workflow is in shared_preload_libraries: commits then wake whoever waits in read_events(), and a notifier announces events.';

CREATE FUNCTION workflow.commits()
RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'commits_wrapper';
COMMENT ON FUNCTION workflow.commits() IS
'Internal: how many transactions with events have committed in this database since the server started; 0 where pg_workflow is not preloaded.';

CREATE FUNCTION workflow.wait_for_events(consumer text, seconds double precision)
RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'wait_for_events_wrapper';
COMMENT ON FUNCTION workflow.wait_for_events(text, double precision) IS
'Internal: waits until a transaction with events commits, unless this session''s last read of the consumer may have left something. Without preloading it waits for a notification that the session listens to.';

CREATE FUNCTION workflow.note_found_nothing(consumer text, commits bigint)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'note_found_nothing_wrapper';
COMMENT ON FUNCTION workflow.note_found_nothing(text, bigint) IS
'Internal: the session''s last read, begun at this count of commits(), found nothing for this consumer; null: it found something.';

CREATE FUNCTION workflow.is_durable()
RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'is_durable_wrapper';
COMMENT ON FUNCTION workflow.is_durable() IS
'Internal: whether every event that is visible is known to be on disk, and no synchronous standby is to be waited for.';

CREATE FUNCTION workflow.wait_until_durable()
RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'wait_until_durable_wrapper';
COMMENT ON FUNCTION workflow.wait_until_durable() IS
'Internal: waits until all that has been written so far, by whatever transaction, is on disk and, as synchronous_commit says, with the synchronous standbys.';

CREATE FUNCTION workflow.make_durable()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    durability text := current_setting('synchronous_commit');
BEGIN
    IF durability IN ('off', 'local', 'remote_write') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    PERFORM workflow.wait_until_durable();
    PERFORM set_config('synchronous_commit', durability, true);
END
$$;
COMMENT ON FUNCTION workflow.make_durable() IS
'Internal: wait_until_durable(), also where the session itself does not wait for the disk or the standbys.';

CREATE FUNCTION workflow.refuse_leased(consumer text, lease bigint, holder text, current_lease bigint)
RETURNS void
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'refuse_leased_wrapper';
COMMENT ON FUNCTION workflow.refuse_leased(text, bigint, text, bigint) IS
'Internal: raises 55006.';

CREATE FUNCTION workflow.others_snapshot(now pg_snapshot)
RETURNS pg_snapshot
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own xid8 := pg_current_xact_id_if_assigned();
BEGIN
    -- The calling transaction is not in its own snapshot's list. It may still write more, so it must be.
    IF own IS NULL OR own >= pg_snapshot_xmax(now) THEN
        RETURN now;
    END IF;
    RETURN format('%s:%s:%s', least(own, pg_snapshot_xmin(now)), pg_snapshot_xmax(now),
        (SELECT string_agg(x.xid::text, ',' ORDER BY x.xid)
         FROM (SELECT pg_snapshot_xip(now) UNION SELECT own) AS x (xid)));
END
$$;
COMMENT ON FUNCTION workflow.others_snapshot(pg_snapshot) IS
'Internal: this current snapshot, with the calling transaction counted as in progress.';

CREATE FUNCTION workflow.current_place(
    OUT snapshot pg_snapshot,
    OUT next_transaction_id xid8,
    OUT floor_id bigint,
    OUT ceiling_id bigint
)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- In this order, and each seeing the present: see the head of this file. A transaction whose snapshot stands still
    -- cannot tell what the floor was then.
    IF current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') THEN
        floor_id := workflow.last_event_id();
    END IF;
    snapshot := workflow.others_snapshot(pg_current_snapshot());
    next_transaction_id := workflow.next_transaction_id();
    ceiling_id := workflow.last_event_id();
END
$$;
COMMENT ON FUNCTION workflow.current_place() IS
'Internal: the place of whoever has read all that is visible now. No event of it has an id above ceiling_id. floor_id is null where the snapshot stands still.';

CREATE FUNCTION workflow.partition_start(id bigint)
RETURNS bigint
-- Without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT $1 OPERATOR(pg_catalog.-) ($1 OPERATOR(pg_catalog.%) 1000000000000) $$;
COMMENT ON FUNCTION workflow.partition_start(bigint) IS
'Internal: the first id of the partition that takes this one; see partition_size().';

CREATE FUNCTION workflow.unfinished_transactions(snapshot pg_snapshot, next_transaction_id xid8, floor_id bigint)
RETURNS SETOF xid8
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
ROWS 10
AS $$
DECLARE
    at_least xid8 := pg_snapshot_xmax(snapshot);
    found_id xid8;
BEGIN
    RETURN QUERY SELECT pg_snapshot_xip(snapshot);
    -- Walks the index from one number to the next, however much each has written.
    LOOP
        SELECT h.transaction_id INTO found_id
        FROM workflow.state_history AS h
        WHERE h.transaction_id >= at_least
            AND h.transaction_id < unfinished_transactions.next_transaction_id
            -- Nobody had written before this who was still under way: a partition is opened when nobody has the table open.
            AND h.id >= workflow.partition_start(unfinished_transactions.floor_id)
        ORDER BY h.transaction_id
        LIMIT 1;
        EXIT WHEN NOT FOUND;
        RETURN NEXT found_id;
        at_least := (found_id::text::bigint + 1)::text::xid8;
    END LOOP;
END
$$;
COMMENT ON FUNCTION workflow.unfinished_transactions(pg_snapshot, xid8, bigint) IS
'Internal: the transactions that were under way at a snapshot, and may have written events below its floor_id.';

CREATE FUNCTION workflow.events_between(
    snapshot pg_snapshot,
    next_transaction_id xid8,
    floor_id bigint,
    end_snapshot pg_snapshot,
    end_next_transaction_id xid8,
    end_floor_id bigint,
    end_ceiling_id bigint,
    after_id bigint,
    max integer
)
RETURNS SETOF workflow.state_history
-- In SQL and without settings of its own, so that it becomes part of the query that calls it.
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT w.*
    FROM (
        (
            SELECT late.*
            FROM workflow.unfinished_transactions($1, $2, $3) AS x (transaction_id)
            CROSS JOIN LATERAL (
                SELECT h.*
                FROM workflow.state_history AS h
                WHERE h.transaction_id OPERATOR(pg_catalog.=) x.transaction_id
                    AND h.id OPERATOR(pg_catalog.>) $8
                    AND h.id OPERATOR(pg_catalog.>=) workflow.partition_start($3)
                    AND h.id OPERATOR(pg_catalog.<=) $3
                ORDER BY h.id
                LIMIT $9
            ) AS late
            WHERE pg_catalog.pg_visible_in_snapshot(x.transaction_id, $4)
        )
        UNION ALL
        (
            SELECT h.*
            FROM workflow.state_history AS h
            WHERE h.id OPERATOR(pg_catalog.>) GREATEST($8, $3)
                AND h.id OPERATOR(pg_catalog.<=) $7
                AND (
                    pg_catalog.pg_visible_in_snapshot(h.transaction_id, $4)
                    -- Written in another cluster: here the number has not been given out yet.
                    OR ($1 IS NULL AND h.transaction_id OPERATOR(pg_catalog.>=) $5 AND h.id OPERATOR(pg_catalog.<=) $6)
                )
                AND pg_catalog.pg_visible_in_snapshot(h.transaction_id, $1) IS NOT TRUE
            ORDER BY h.id
            LIMIT $9
        )
    ) AS w
    ORDER BY w.id
    LIMIT $9
$$;
COMMENT ON FUNCTION workflow.events_between(pg_snapshot, xid8, bigint, pg_snapshot, xid8, bigint, bigint, bigint, integer) IS
'Internal: the events of the window between two places, in order, after this id.';

CREATE FUNCTION workflow.check_consumer_name(name text)
RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF name IS NULL OR name !~ '\S' OR char_length(name) > 250 THEN
        PERFORM workflow.refuse_argument(
            'a consumer''s name is ' || CASE WHEN name IS NULL THEN 'null' WHEN name !~ '\S' THEN 'empty' ELSE 'too long' END,
            jsonb_build_object('argument', 'consumer', 'value', left(name, 250)),
            'A name has 1 to 250 characters, at least one of them visible.');
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.check_consumer_name(text) IS 'Internal: raises 22023 for a name that makes no sense.';

CREATE FUNCTION workflow.refuse_tenant()
RETURNS void
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'refuse_tenant_wrapper';
COMMENT ON FUNCTION workflow.refuse_tenant() IS
'Internal: raises 42501 where the session''s role sees only a part of the history, by row security: the feed has all of it.';

CREATE FUNCTION workflow.check_reading(tried text, max integer, wait interval)
RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF max IS NULL OR max < 1 THEN
        PERFORM workflow.refuse_argument(
            format('cannot %s: max is %s', tried, coalesce(max::text, 'null')),
            jsonb_build_object('argument', 'max', 'value', max),
            'Give how many events to return at most, 1 or more.');
    END IF;
    IF wait IS NULL OR wait < '0' THEN
        PERFORM workflow.refuse_argument(
            format('cannot %s: wait is %s', tried, coalesce(wait::text, 'null')),
            jsonb_build_object('argument', 'wait', 'value', wait),
            'Give how long to wait where there is nothing to read, 0 or more.');
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.check_reading(text, integer, interval) IS
'Internal: raises 22023 for what read_events() and follow_events() cannot be told.';

CREATE FUNCTION workflow.create_consumer(name text, from_beginning boolean DEFAULT false)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place record;
BEGIN
    PERFORM workflow.check_consumer_name(name);
    IF coalesce(from_beginning, false) THEN
        INSERT INTO workflow.consumers (name, floor_id, system_identifier)
        VALUES (create_consumer.name, 0, workflow.system_identifier())
        ON CONFLICT ON CONSTRAINT consumers_pkey DO NOTHING;
        RETURN FOUND;
    END IF;
    place := workflow.current_place();
    -- Where the floor is not known it begins at 0, which only costs a longer search.
    INSERT INTO workflow.consumers (name, snapshot, next_transaction_id, floor_id, system_identifier)
    VALUES (create_consumer.name, place.snapshot, place.next_transaction_id, coalesce(place.floor_id, 0),
        workflow.system_identifier())
    ON CONFLICT ON CONSTRAINT consumers_pkey DO NOTHING;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION workflow.create_consumer(text, boolean) IS
'Creates a reader of the event feed that begins with what commits from now on, or with the first event still kept. Returns false, and changes nothing, where it exists already. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.open_window(place workflow.consumers)
RETURNS workflow.consumers
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    window_end record := workflow.current_place();
BEGIN
    place.window_snapshot := window_end.snapshot;
    place.window_next_transaction_id := window_end.next_transaction_id;
    -- Where the snapshot stands still, the old floor is right too.
    place.window_floor_id := coalesce(window_end.floor_id, place.floor_id);
    place.window_ceiling_id := window_end.ceiling_id;
    RETURN place;
END
$$;
COMMENT ON FUNCTION workflow.open_window(workflow.consumers) IS
'Internal: this place with a window that reaches to the present. Writes nothing.';

CREATE FUNCTION workflow.found_by_ids(place workflow.consumers)
RETURNS workflow.consumers
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- No event with an id up to this was written in this cluster.
    foreign_id bigint := greatest(place.floor_id, place.window_ceiling_id);
BEGIN
    -- Transaction numbers of another cluster mean nothing to what is written here. Ids do: begin again after the last
    -- below which all has been acknowledged. Events come twice only where one was acknowledged beyond one that was not.
    place.floor_id := coalesce(
        (
            SELECT min(h.id) - 1
            FROM (
                (
                    SELECT h.id
                    FROM workflow.state_history AS h
                    WHERE h.id > place.floor_id
                        AND (h.id > foreign_id
                            OR (pg_visible_in_snapshot(h.transaction_id, place.snapshot) IS NOT TRUE
                                AND (h.id > place.acked_id
                                    OR pg_visible_in_snapshot(h.transaction_id, place.window_snapshot) IS NOT TRUE)))
                    ORDER BY h.id
                    LIMIT 1
                )
                UNION ALL
                SELECT h.id
                FROM workflow.unfinished_transactions(place.snapshot, place.next_transaction_id, place.floor_id) AS x (transaction_id)
                JOIN workflow.state_history AS h ON h.transaction_id = x.transaction_id
                WHERE h.id <= place.floor_id
                    AND (h.id > place.acked_id
                        OR pg_visible_in_snapshot(h.transaction_id, place.window_snapshot) IS NOT TRUE)
            ) AS h
        ),
        foreign_id);
    place.snapshot := NULL;
    place.next_transaction_id := NULL;
    place.window_snapshot := NULL;
    place.window_next_transaction_id := NULL;
    place.window_floor_id := NULL;
    place.window_ceiling_id := NULL;
    place.acked_id := 0;
    place.system_identifier := workflow.system_identifier();
    RETURN place;
END
$$;
COMMENT ON FUNCTION workflow.found_by_ids(workflow.consumers) IS
'Internal: a place of another cluster as a place of this one. Writes nothing.';

CREATE FUNCTION workflow.locked_consumer(name text, lease bigint)
RETURNS workflow.consumers
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    consumer workflow.consumers;
    now timestamptz := clock_timestamp();
BEGIN
    PERFORM workflow.check_consumer_name(name);
    SELECT c.* INTO consumer FROM workflow.consumers AS c WHERE c.name = locked_consumer.name FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_missing('consumer', name, 'read its events');
    END IF;
    IF (lease IS NULL AND consumer.lease_expires_at > now)
        OR (lease IS NOT NULL AND (lease <> consumer.lease_number OR consumer.lease_expires_at IS NULL))
    THEN
        PERFORM workflow.refuse_leased(name, lease, consumer.lease_holder, consumer.lease_number);
    END IF;
    -- Not each time: that would write the row again at every look.
    IF lease IS NOT NULL AND consumer.lease_expires_at < now + consumer.lease_duration * 0.7 THEN
        UPDATE workflow.consumers AS c
        SET lease_expires_at = now + c.lease_duration
        WHERE c.name = locked_consumer.name;
    END IF;
    IF consumer.system_identifier = workflow.system_identifier() THEN
        RETURN consumer;
    END IF;
    -- The table came from another cluster: a restored dump, pg_upgrade.
    consumer := workflow.found_by_ids(consumer);
    UPDATE workflow.consumers AS c
    SET snapshot = NULL,
        next_transaction_id = NULL,
        floor_id = consumer.floor_id,
        window_snapshot = NULL, window_next_transaction_id = NULL, window_floor_id = NULL, window_ceiling_id = NULL,
        acked_id = 0,
        system_identifier = consumer.system_identifier,
        updated_at = clock_timestamp()
    WHERE c.name = locked_consumer.name
    RETURNING c.* INTO consumer;
    RETURN consumer;
END
$$;
COMMENT ON FUNCTION workflow.locked_consumer(text, bigint) IS
'Internal: the consumer, locked until the transaction ends; its lease is renewed. Errors: P0002 no such consumer, 55006 it is leased to somebody else.';

CREATE FUNCTION workflow.read_events(
    consumer text,
    max integer DEFAULT 1000,
    wait interval DEFAULT '0',
    lease bigint DEFAULT NULL
)
RETURNS TABLE (
    id          bigint,
    entity_type text,
    entity_id   uuid,
    dag_id      uuid,
    dag_run_id  uuid,
    task_id     text,
    old_state   text,
    new_state   text,
    version     bigint,
    changed_at  timestamptz,
    actor       text,
    metadata    jsonb
)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 1000
AS $$
#variable_conflict use_column
DECLARE
    place workflow.consumers;
    was_open boolean;
    commits bigint;
    count bigint;
BEGIN
    PERFORM workflow.refuse_tenant();
    PERFORM workflow.check_reading(format('read events of consumer "%s"', consumer), max, wait);
    -- Before the consumer is locked: whoever waits holds up nobody.
    IF wait > '0' THEN
        PERFORM workflow.wait_for_events(consumer, extract(epoch FROM wait)::double precision);
    END IF;
    commits := workflow.commits();
    place := workflow.locked_consumer(consumer, lease);
    LOOP
        was_open := place.window_snapshot IS NOT NULL;
        IF NOT was_open THEN
            place := workflow.open_window(place);
        END IF;

        RETURN QUERY
            SELECT e.id, e.entity_type, e.entity_id, e.dag_id, e.dag_run_id, e.task_id,
                e.old_state, e.new_state, e.version, e.changed_at, e.actor, e.metadata
            FROM workflow.events_between(place.snapshot, place.next_transaction_id, place.floor_id,
                place.window_snapshot, place.window_next_transaction_id, place.window_floor_id, place.window_ceiling_id,
                place.acked_id, max) AS e;
        GET DIAGNOSTICS count = ROW_COUNT;

        IF count > 0 AND NOT was_open THEN
            UPDATE workflow.consumers AS c
            SET window_snapshot = place.window_snapshot,
                window_next_transaction_id = place.window_next_transaction_id,
                window_floor_id = place.window_floor_id,
                window_ceiling_id = place.window_ceiling_id,
                updated_at = clock_timestamp()
            WHERE c.name = consumer;
            -- What is visible need not be on disk (synchronous_commit = off), nor with the synchronous standby (a
            -- session that was ended while it waited for that). Nobody is told of what a crash may undo.
            IF NOT workflow.is_durable() THEN
                PERFORM workflow.make_durable();
            END IF;
        END IF;
        EXIT WHEN count > 0 OR NOT was_open;

        -- The window has been read to its end: its snapshot is the new place.
        UPDATE workflow.consumers AS c
        SET snapshot = c.window_snapshot,
            next_transaction_id = c.window_next_transaction_id,
            floor_id = c.window_floor_id,
            window_snapshot = NULL, window_next_transaction_id = NULL, window_floor_id = NULL, window_ceiling_id = NULL,
            acked_id = 0,
            updated_at = clock_timestamp()
        WHERE c.name = consumer
        RETURNING c.* INTO place;
    END LOOP;
    PERFORM workflow.note_found_nothing(CASE WHEN count = 0 THEN consumer END, commits);
END
$$;
COMMENT ON FUNCTION workflow.read_events(text, integer, interval, bigint) IS
'The next events of a consumer, in order within each entity, none skipped. The same come again until ack_events() has been told of them. Where the session''s last read found nothing, it waits up to "wait" for news first. What it returns is on disk, and with the synchronous standbys. Readers of one consumer take turns; with a lease from lease_consumer() only its holder reads. Errors: P0002 no such consumer, 22023 bad argument, 55006 leased to somebody else.';

CREATE FUNCTION workflow.ack_events(consumer text, up_to bigint, lease bigint DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place workflow.consumers := workflow.locked_consumer(consumer, lease);
    written_by xid8;
BEGIN
    SELECT h.transaction_id INTO written_by FROM workflow.state_history AS h WHERE h.id = up_to;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_argument(
            format('cannot acknowledge event %s for consumer "%s": there is no such event', coalesce(up_to::text, 'null'), consumer),
            jsonb_build_object('argument', 'up_to', 'value', up_to),
            'Give the id of the last event that read_events() returned and you have dealt with.');
    END IF;
    -- An id of an earlier window, acknowledged again, must not skip what the present window has below it.
    IF place.window_snapshot IS NULL
        OR up_to <= place.acked_id
        OR pg_visible_in_snapshot(written_by, place.snapshot)
        OR (place.snapshot IS NULL AND up_to <= place.floor_id)
    THEN
        RETURN false;
    END IF;
    IF up_to > place.window_ceiling_id
        OR (place.snapshot IS NOT NULL AND NOT pg_visible_in_snapshot(written_by, place.window_snapshot))
    THEN
        PERFORM workflow.refuse_argument(
            format('cannot acknowledge event %s for consumer "%s": it has not been read yet', up_to, consumer),
            jsonb_build_object('argument', 'up_to', 'value', up_to),
            'Give the id of the last event that read_events() returned and you have dealt with.');
    END IF;
    UPDATE workflow.consumers AS c
    SET acked_id = up_to, updated_at = clock_timestamp()
    WHERE c.name = consumer;
    RETURN true;
END
$$;
COMMENT ON FUNCTION workflow.ack_events(text, bigint, bigint) IS
'Says that this event, and all that read_events() returned before it, have been dealt with. Returns false where that was known already. Errors: P0002 no such consumer, 22023 no such event, or one that was not read yet, 55006 leased to somebody else.';

CREATE FUNCTION workflow.drop_consumer(name text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM workflow.consumers AS c WHERE c.name = drop_consumer.name;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_missing('consumer', name, 'drop it');
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.drop_consumer(text) IS
'Forgets a consumer and its place. Errors: P0002 no such consumer.';

-- Following the feed without a consumer: the place is a text that the reader keeps, and the database keeps nothing.
--
-- A position holds what a row of consumers holds. It is given out only when all that had been written before it is on
-- disk: after a crash, numbers and ids that were lost are given out again, and such an event would lie behind it.
-- A row of consumers needs no such care, because it is lost too.

CREATE TYPE workflow.followed_event AS (
    id          bigint,
    entity_type text,
    entity_id   uuid,
    dag_id      uuid,
    dag_run_id  uuid,
    task_id     text,
    old_state   text,
    new_state   text,
    version     bigint,
    changed_at  timestamptz,
    actor       text,
    metadata    jsonb,
    "position"  text
);
COMMENT ON TYPE workflow.followed_event IS
'An event as follow_events() returns it, and in the last one of a batch the position after it.';

CREATE FUNCTION workflow.timeline()
RETURNS bigint
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'timeline_wrapper';
COMMENT ON FUNCTION workflow.timeline() IS
'Internal: the timeline of the write-ahead log. A standby that was promoted, and a cluster recovered to an earlier moment, have another than before.';

-- A snapshot's numbers after the first are told from the first.

CREATE FUNCTION workflow.spelled_snapshot(snapshot pg_snapshot)
RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    xmin bigint := pg_snapshot_xmin(snapshot)::text::bigint;
BEGIN
    RETURN concat_ws(':', xmin, pg_snapshot_xmax(snapshot)::text::bigint - xmin, (
        SELECT string_agg((x.xid::text::bigint - xmin)::text, ':' ORDER BY x.xid)
        FROM pg_snapshot_xip(snapshot) AS x (xid)));
END
$$;
COMMENT ON FUNCTION workflow.spelled_snapshot(pg_snapshot) IS
'Internal: a snapshot as a position spells it; empty for null.';

CREATE FUNCTION workflow.parsed_snapshot(spelled text)
RETURNS pg_snapshot
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    numbers bigint[] := string_to_array(spelled, ':')::bigint[];
BEGIN
    IF spelled = '' THEN
        RETURN NULL;
    END IF;
    RETURN format('%s:%s:%s', numbers[1], numbers[1] + numbers[2],
        (SELECT string_agg((numbers[1] + x.offset_)::text, ',') FROM unnest(numbers[3:]) AS x (offset_)));
END
$$;
COMMENT ON FUNCTION workflow.parsed_snapshot(text) IS
'Internal: the snapshot that spelled_snapshot() has spelled, or an error of class 22.';

CREATE FUNCTION workflow.spelled_position(place workflow.consumers)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    spelled text := concat_ws('.', '1', place.system_identifier, workflow.timeline(),
        workflow.spelled_snapshot(place.snapshot), coalesce(place.next_transaction_id::text, ''), place.floor_id);
BEGIN
    IF place.window_snapshot IS NULL THEN
        RETURN spelled;
    END IF;
    RETURN concat_ws('.', spelled, workflow.spelled_snapshot(place.window_snapshot), place.window_next_transaction_id,
        place.window_floor_id, place.window_ceiling_id, place.acked_id);
END
$$;
COMMENT ON FUNCTION workflow.spelled_position(workflow.consumers) IS
'Internal: a place as a text of digits, dots and colons.';

CREATE FUNCTION workflow.parsed_position("position" text)
RETURNS workflow.consumers
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[] := string_to_array("position", '.');
    place workflow.consumers;
    is_behind boolean;
BEGIN
    -- Digits without a sign, so that what is given out later can be spelled as well.
    IF "position" IS NULL OR "position" ~ '[^0-9.:]' OR parts[1] <> '1' OR cardinality(parts) NOT IN (6, 11) THEN
        RAISE invalid_text_representation;
    END IF;
    place.system_identifier := parts[2];
    place.snapshot := workflow.parsed_snapshot(parts[4]);
    place.next_transaction_id := nullif(parts[5], '')::bigint::text;
    place.floor_id := parts[6];
    place.acked_id := 0;
    IF cardinality(parts) = 11 THEN
        place.window_snapshot := workflow.parsed_snapshot(parts[7]);
        place.window_next_transaction_id := parts[8]::bigint::text;
        place.window_floor_id := parts[9];
        place.window_ceiling_id := parts[10];
        place.acked_id := parts[11];
    END IF;
    IF (place.snapshot IS NULL) <> (place.next_transaction_id IS NULL)
        OR (place.window_snapshot IS NULL) <> (cardinality(parts) = 6)
        -- The database has lost its latest events: an asynchronous standby was promoted, or a backup was restored.
        OR place.floor_id > workflow.last_event_id()
    THEN
        RAISE invalid_text_representation;
    END IF;
    is_behind := EXISTS (
        SELECT FROM workflow.dropped_partitions AS d
        WHERE d.last_id > place.floor_id
            AND (place.snapshot IS NULL OR pg_snapshot_xmin(place.snapshot) <= d.last_transaction_id));
    IF is_behind THEN
        RAISE invalid_text_representation;
    END IF;
    IF place.system_identifier = workflow.system_identifier() AND parts[3]::bigint = workflow.timeline() THEN
        RETURN place;
    END IF;
    -- The database may have less than the position speaks of, and give those numbers and ids out again.
    place.window_snapshot := NULL;
    place.window_ceiling_id := NULL;
    place.acked_id := 0;
    RETURN workflow.found_by_ids(place);
EXCEPTION WHEN data_exception THEN
    PERFORM workflow.refuse_argument(
        'cannot follow events: position is ' || CASE
            WHEN "position" IS NULL THEN 'null'
            WHEN place.floor_id > workflow.last_event_id() THEN 'ahead of this database'
            WHEN is_behind THEN 'behind what is kept: events after it have been purged'
            ELSE 'malformed'
        END,
        jsonb_build_object('argument', 'position', 'value', left("position", 250)),
        'Give what follow_events() returned in its last row, or begin anew with current_position().');
END
$$;
COMMENT ON FUNCTION workflow.parsed_position(text) IS
'Internal: the place that a position spells; that of another cluster or timeline found again by ids. Errors: 22023.';

CREATE FUNCTION workflow.close_window(place workflow.consumers)
RETURNS workflow.consumers
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    place.snapshot := place.window_snapshot;
    place.next_transaction_id := place.window_next_transaction_id;
    place.floor_id := place.window_floor_id;
    place.window_snapshot := NULL;
    place.window_next_transaction_id := NULL;
    place.window_floor_id := NULL;
    place.window_ceiling_id := NULL;
    place.acked_id := 0;
    RETURN place;
END
$$;
COMMENT ON FUNCTION workflow.close_window(workflow.consumers) IS
'Internal: the place of whoever has read its window to the end. Writes nothing.';

CREATE FUNCTION workflow.position_after(place workflow.consumers, id bigint, is_last boolean)
RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF is_last OR NOT EXISTS (
        SELECT FROM workflow.events_between(place.snapshot, place.next_transaction_id, place.floor_id,
            place.window_snapshot, place.window_next_transaction_id, place.window_floor_id, place.window_ceiling_id,
            position_after.id, 1))
    THEN
        RETURN workflow.spelled_position(workflow.close_window(place));
    END IF;
    place.acked_id := position_after.id;
    RETURN workflow.spelled_position(place);
END
$$;
COMMENT ON FUNCTION workflow.position_after(workflow.consumers, bigint, boolean) IS
'Internal: the position after this event of the place''s window. is_last: it is known to be the window''s last.';

CREATE FUNCTION workflow.current_position()
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place workflow.consumers;
BEGIN
    place.system_identifier := workflow.system_identifier();
    -- Where the snapshot stands still: which only costs a longer search.
    place.floor_id := 0;
    place := workflow.close_window(workflow.open_window(place));
    PERFORM workflow.make_durable();
    RETURN workflow.spelled_position(place);
END
$$;
COMMENT ON FUNCTION workflow.current_position() IS
'The position in the event feed of whoever has seen all that has committed so far, for follow_events(). An opaque text without white space, quotes and commas. Errors: 25006 this is a standby.';

CREATE FUNCTION workflow.follow_events("position" text, max integer DEFAULT 1000, wait interval DEFAULT '0')
RETURNS SETOF workflow.followed_event
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 1000
AS $$
DECLARE
    given workflow.consumers;
    place workflow.consumers;
    was_open boolean;
    commits bigint;
    count bigint;
BEGIN
    PERFORM workflow.refuse_tenant();
    PERFORM workflow.check_reading('follow events', max, wait);
    given := workflow.parsed_position("position");
    -- Unlike a consumer, who follows may come through another session each time: look before waiting, and again after.
    FOR look IN 1 .. 2 LOOP
        commits := workflow.commits();
        place := given;
        LOOP
            was_open := place.window_snapshot IS NOT NULL;
            IF NOT was_open THEN
                place := workflow.open_window(place);
            END IF;
            RETURN QUERY
                SELECT e.id, e.entity_type, e.entity_id, e.dag_id, e.dag_run_id, e.task_id,
                    e.old_state, e.new_state, e.version, e.changed_at, e.actor, e.metadata,
                    CASE WHEN lead(e.id) OVER by_id IS NULL
                        THEN workflow.position_after(place, e.id, row_number() OVER by_id < max)
                    END
                FROM workflow.events_between(place.snapshot, place.next_transaction_id, place.floor_id,
                    place.window_snapshot, place.window_next_transaction_id, place.window_floor_id,
                    place.window_ceiling_id, place.acked_id, max) AS e
                WINDOW by_id AS (ORDER BY e.id);
            GET DIAGNOSTICS count = ROW_COUNT;
            EXIT WHEN count > 0 OR NOT was_open;
            place := workflow.close_window(place);
        END LOOP;
        PERFORM workflow.note_found_nothing(CASE WHEN count = 0 THEN "position" END, commits);
        EXIT WHEN count > 0 OR wait = '0' OR look = 2;
        PERFORM workflow.wait_for_events("position", extract(epoch FROM wait)::double precision);
    END LOOP;
    IF count > 0 AND NOT was_open THEN
        PERFORM workflow.make_durable();
    END IF;
END
$$;
COMMENT ON FUNCTION workflow.follow_events(text, integer, interval) IS
'The next events after a position, in order within each entity, none skipped. The column "position" of the last row is what to give next time, in that of every other row null; where there is no row the position stays as it was. Where there is nothing to read it waits up to "wait" for news. What it returns is on disk, and with the synchronous standbys. Nothing is kept or locked, and the transaction may be read-only. After a restore or a promotion some events come twice. Errors: 22023 bad argument, 25006 this is a standby.';

-- Leases and checkpoints: what a relay needs to be one of several, and to be exact where the store that it writes to
-- forgets.
--
-- A lease gives a consumer to one session for some seconds; each read and acknowledgement renews it. Whoever takes
-- over ends the session of the holder before: that may hang within a read, with the consumer's row locked.
--
-- A checkpoint says: all that the consumer had acknowledged then, and nothing else, is in the store at or before this
-- position. A relay that finds the store at another position than it remembers goes back to the last checkpoint that
-- is not beyond it, and reads from the store what has come after.

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
        REFERENCES workflow.consumers (name) ON DELETE CASCADE
);
-- Those that are old enough to be removed.
CREATE INDEX consumer_checkpoints_created_at_idx ON workflow.consumer_checkpoints (consumer, created_at);

CREATE TRIGGER prepare_load
BEFORE INSERT ON workflow.consumer_checkpoints
FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load();

COMMENT ON TABLE workflow.consumer_checkpoints IS
'Places that consumers had acknowledged, and how far the store they write to was then; see save_checkpoint().';
COMMENT ON COLUMN workflow.consumer_checkpoints.consumer IS 'the consumer';
COMMENT ON COLUMN workflow.consumer_checkpoints.position IS 'the store''s last entry then; for a Redis stream the two numbers of its id';
COMMENT ON COLUMN workflow.consumer_checkpoints.snapshot IS 'as in consumers, and so are the next seven';
COMMENT ON COLUMN workflow.consumer_checkpoints.next_transaction_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.floor_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.window_snapshot IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.window_next_transaction_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.window_floor_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.window_ceiling_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.acked_id IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.system_identifier IS 'as in consumers';
COMMENT ON COLUMN workflow.consumer_checkpoints.created_at IS 'when it was saved';

CREATE FUNCTION workflow.lease_consumer(consumer text, holder text, duration interval DEFAULT '3 s')
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    current workflow.consumers;
    lease bigint;
BEGIN
    PERFORM workflow.check_consumer_name(consumer);
    IF duration IS NULL OR duration <= '0' THEN
        PERFORM workflow.refuse_argument(
            format('cannot lease consumer "%s": duration is %s', consumer, coalesce(duration::text, 'null')),
            jsonb_build_object('argument', 'duration', 'value', duration),
            'Give how long the lease holds without being renewed, more than 0.');
    END IF;
    SELECT c.* INTO current FROM workflow.consumers AS c WHERE c.name = consumer;
    IF NOT FOUND THEN
        PERFORM workflow.refuse_missing('consumer', consumer, 'lease it');
    END IF;
    IF current.lease_expires_at > clock_timestamp() AND current.lease_holder IS DISTINCT FROM holder THEN
        RETURN NULL;
    END IF;
    PERFORM pg_terminate_backend(a.pid)
    FROM pg_stat_activity AS a
    WHERE a.pid = current.lease_pid
        AND a.backend_start = current.lease_backend_start
        AND a.pid <> pg_backend_pid();
    -- A lease that is taken must not be forgotten by a crash: two sessions would then hold the same number.
    PERFORM set_config('synchronous_commit', 'on', true);
    UPDATE workflow.consumers AS c
    SET lease_number = c.lease_number + 1,
        lease_holder = holder,
        lease_duration = duration,
        lease_expires_at = clock_timestamp() + duration,
        lease_pid = pg_backend_pid(),
        lease_backend_start = (SELECT a.backend_start FROM pg_stat_activity AS a WHERE a.pid = pg_backend_pid()),
        updated_at = clock_timestamp()
    WHERE c.name = consumer
        AND c.lease_number = current.lease_number
    RETURNING c.lease_number INTO lease;
    RETURN lease;
END
$$;
COMMENT ON FUNCTION workflow.lease_consumer(text, text, interval) IS
'Takes a consumer for this session alone, and returns the lease''s number for read_events() and ack_events(), which renew it; null while the lease of another holder holds. Ends the session that had the lease before. Errors: P0002 no such consumer, 22023 bad argument.';

CREATE FUNCTION workflow.release_consumer(consumer text, lease bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE workflow.consumers AS c
    SET lease_expires_at = NULL, lease_pid = NULL, lease_backend_start = NULL, updated_at = clock_timestamp()
    WHERE c.name = consumer AND c.lease_number = lease AND c.lease_expires_at IS NOT NULL;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION workflow.release_consumer(text, bigint) IS
'Gives a lease back, so that others need not wait until it runs out; false where it was not held any more.';

CREATE FUNCTION workflow.save_checkpoint(
    consumer text,
    "position" bigint[],
    lease bigint DEFAULT NULL,
    keep interval DEFAULT '7 days'
)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place workflow.consumers := workflow.locked_consumer(consumer, lease);
BEGIN
    INSERT INTO workflow.consumer_checkpoints (consumer, "position",
        snapshot, next_transaction_id, floor_id,
        window_snapshot, window_next_transaction_id, window_floor_id, window_ceiling_id,
        acked_id, system_identifier)
    VALUES (save_checkpoint.consumer, save_checkpoint."position",
        place.snapshot, place.next_transaction_id, place.floor_id,
        place.window_snapshot, place.window_next_transaction_id, place.window_floor_id, place.window_ceiling_id,
        place.acked_id, place.system_identifier)
    ON CONFLICT ON CONSTRAINT consumer_checkpoints_pkey DO NOTHING;
    DELETE FROM workflow.consumer_checkpoints AS c
    WHERE c.consumer = save_checkpoint.consumer
        AND c.created_at < clock_timestamp() - keep
        AND c."position" < save_checkpoint."position";
END
$$;
COMMENT ON FUNCTION workflow.save_checkpoint(text, bigint[], bigint, interval) IS
'Notes that the store this consumer writes to ends at this position, and holds just what the consumer has acknowledged. Forgets checkpoints older than "keep". Errors: P0002 no such consumer, 55006 leased to somebody else.';

CREATE FUNCTION workflow.rewind_consumer(consumer text, "position" bigint[], lease bigint DEFAULT NULL)
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    checkpoint workflow.consumer_checkpoints;
BEGIN
    PERFORM workflow.locked_consumer(consumer, lease);
    SELECT c.* INTO checkpoint
    FROM workflow.consumer_checkpoints AS c
    WHERE c.consumer = rewind_consumer.consumer
    -- The last that is not beyond the position; where all are, the first.
    ORDER BY c."position" <= rewind_consumer."position" DESC,
        CASE WHEN c."position" <= rewind_consumer."position" THEN c."position" END DESC,
        c."position"
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE workflow.consumers AS c
    SET snapshot = checkpoint.snapshot,
        next_transaction_id = checkpoint.next_transaction_id,
        floor_id = checkpoint.floor_id,
        window_snapshot = checkpoint.window_snapshot,
        window_next_transaction_id = checkpoint.window_next_transaction_id,
        window_floor_id = checkpoint.window_floor_id,
        window_ceiling_id = checkpoint.window_ceiling_id,
        acked_id = checkpoint.acked_id,
        system_identifier = checkpoint.system_identifier,
        updated_at = clock_timestamp()
    WHERE c.name = rewind_consumer.consumer;
    -- What they say of the store is no longer true. That must not come back with a crash, when what was missing has
    -- been written behind it.
    PERFORM set_config('synchronous_commit', 'on', true);
    DELETE FROM workflow.consumer_checkpoints AS c
    WHERE c.consumer = rewind_consumer.consumer AND c."position" > checkpoint."position";
    PERFORM workflow.note_found_nothing(NULL, 0);
    RETURN checkpoint."position";
END
$$;
COMMENT ON FUNCTION workflow.rewind_consumer(text, bigint[], bigint) IS
'Takes a consumer back to its last checkpoint that is not beyond this position, or to its first one, and returns that checkpoint''s position; null where it has none. What was acknowledged since comes again. Errors: P0002 no such consumer, 55006 leased to somebody else.';

-- What is going on.

CREATE VIEW workflow.consumer_lag AS
SELECT
    c.name AS consumer,
    pending.count AS pending,
    pending.oldest AS oldest,
    pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pending.oldest AS lag,
    c.updated_at AS last_active
FROM workflow.consumers AS c
CROSS JOIN LATERAL (
    SELECT pg_catalog.count(*) AS count, pg_catalog.min(h.changed_at) AS oldest
    FROM (
        SELECT h.id, h.transaction_id, h.changed_at
        FROM workflow.state_history AS h
        WHERE h.id OPERATOR(pg_catalog.>) c.floor_id
            AND pg_catalog.pg_visible_in_snapshot(h.transaction_id, c.snapshot) IS NOT TRUE
        UNION ALL
        SELECT h.id, h.transaction_id, h.changed_at
        FROM workflow.unfinished_transactions(c.snapshot, c.next_transaction_id, c.floor_id) AS x (transaction_id)
        JOIN workflow.state_history AS h ON h.transaction_id OPERATOR(pg_catalog.=) x.transaction_id
        WHERE h.id OPERATOR(pg_catalog.<=) c.floor_id
    ) AS h
    WHERE h.id OPERATOR(pg_catalog.>) c.acked_id
        OR pg_catalog.pg_visible_in_snapshot(h.transaction_id, c.window_snapshot) IS NOT TRUE
) AS pending;
COMMENT ON VIEW workflow.consumer_lag IS
'What each consumer has yet to acknowledge. Counts it: the more is pending, the longer this takes.';
COMMENT ON COLUMN workflow.consumer_lag.consumer IS 'the consumer''s name';
COMMENT ON COLUMN workflow.consumer_lag.pending IS 'committed events that it has not acknowledged';
COMMENT ON COLUMN workflow.consumer_lag.oldest IS 'when the oldest of them happened; null where there is none';
COMMENT ON COLUMN workflow.consumer_lag.lag IS 'how long ago that is';
COMMENT ON COLUMN workflow.consumer_lag.last_active IS 'when it last read or acknowledged something new';

CREATE FUNCTION workflow.notifiers()
RETURNS TABLE (
    database      text,
    pid           integer,
    started_at    timestamptz,
    is_listened   boolean,
    pending       bigint,
    lag_seconds   double precision,
    last_event_id bigint,
    events        bigint,
    batches       bigint,
    announced_at  timestamptz,
    errors        bigint,
    last_error    text,
    last_error_at timestamptz
)
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
ROWS 1
AS 'MODULE_PATHNAME', 'notifiers_wrapper';
COMMENT ON FUNCTION workflow.notifiers() IS
'Internal: the notifiers of all databases of the server; see the view notifier.';

CREATE VIEW workflow.notifier AS
SELECT
    n.pid,
    n.started_at,
    n.is_listened,
    n.pending,
    pg_catalog.make_interval(secs => n.lag_seconds) AS lag,
    n.last_event_id,
    n.events,
    n.batches,
    n.announced_at,
    n.errors,
    n.last_error,
    n.last_error_at
FROM workflow.notifiers() AS n
WHERE n.database OPERATOR(pg_catalog.=) pg_catalog.current_database();
COMMENT ON VIEW workflow.notifier IS
'The background worker that announces this database''s events on the channel workflow_events. No row: none has been written since the server started, or pg_workflow is not in shared_preload_libraries and each transaction announces its own.';
COMMENT ON COLUMN workflow.notifier.pid IS 'its process; null while none runs: the next event starts one';
COMMENT ON COLUMN workflow.notifier.started_at IS 'when it started';
COMMENT ON COLUMN workflow.notifier.is_listened IS 'whether any session has said LISTEN workflow_events since the server started; before that nothing is announced';
COMMENT ON COLUMN workflow.notifier.pending IS 'transactions with events that have committed and are yet to be announced';
COMMENT ON COLUMN workflow.notifier.lag IS 'for how long it has not caught up; 0 where nothing is pending';
COMMENT ON COLUMN workflow.notifier.last_event_id IS 'the event announced last';
COMMENT ON COLUMN workflow.notifier.events IS 'how many events it has announced';
COMMENT ON COLUMN workflow.notifier.batches IS 'in how many transactions';
COMMENT ON COLUMN workflow.notifier.announced_at IS 'when it last announced any';
COMMENT ON COLUMN workflow.notifier.errors IS 'how often it failed; it tries again, each time after a longer pause';
COMMENT ON COLUMN workflow.notifier.last_error IS 'how it failed last';
COMMENT ON COLUMN workflow.notifier.last_error_at IS 'when that was';

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

-- What an operator asks first. (See also the views consumer_lag and notifier, state_counts and partitions.)

CREATE FUNCTION workflow.stuck(longer_than interval DEFAULT '1 hour')
RETURNS TABLE (
    entity_type   text,
    entity_id     uuid,
    dag           text,
    dag_run_id    uuid,
    task_id       text,
    state         text,
    version       bigint,
    try_number    integer,
    last_progress timestamptz,
    idle          interval
)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
ROWS 10
AS $$
#variable_conflict use_column
BEGIN
    IF longer_than IS NULL OR longer_than < '0' THEN
        PERFORM workflow.refuse_argument(
            format('cannot look for stuck entities: longer_than is %s', coalesce(longer_than::text, 'null')),
            jsonb_build_object('argument', 'longer_than', 'value', longer_than),
            'Give how long nothing has happened to them, 0 or more.');
    END IF;
    RETURN QUERY
        WITH under_way AS (
            SELECT 'dag_run' AS entity_type, r.id, r.dag_id, r.id AS dag_run_id, NULL AS task_id, r.state, r.version,
                NULL::integer AS try_number,
                greatest(r.updated_at, (
                    SELECT max(t.updated_at) FROM workflow.task_instances AS t WHERE t.dag_run_id = r.id)) AS last_progress
            FROM workflow.dag_runs AS r
            WHERE r.state IN ('running', 'retrying')
            UNION ALL
            SELECT 'task_instance', t.id, r.dag_id, r.id, t.task_id, t.state, t.version, t.try_number,
                -- By the index on the task, newest partition or not.
                greatest(t.updated_at, (
                    SELECT max(l.logged_at) FROM workflow.task_logs AS l
                    WHERE l.task_instance_id = t.id AND l.try_number = t.try_number))
            FROM workflow.task_instances AS t
            JOIN workflow.dag_runs AS r ON r.id = t.dag_run_id
            WHERE t.state IN ('running', 'retrying')
        )
        SELECT u.entity_type, u.id, d.name, u.dag_run_id, u.task_id, u.state, u.version, u.try_number,
            u.last_progress, now() - u.last_progress
        FROM under_way AS u
        JOIN workflow.dags AS d ON d.id = u.dag_id
        WHERE now() - u.last_progress > longer_than
        ORDER BY u.last_progress;
END
$$;
COMMENT ON FUNCTION workflow.stuck(interval) IS
'Runs and tasks that are running or retrying, and have made no progress for longer than this; who is idle longest first. Progress of a task is a move or a line in its log, that of a run also a move of one of its tasks. Errors: 22023 bad argument.';

CREATE FUNCTION workflow.show_settings()
RETURNS TABLE (name text, setting text, unit text, default_setting text, source text, changed_by text, description text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
ROWS 5
AS $$
BEGIN
    -- They are known once the library is loaded.
    PERFORM workflow.version();
    RETURN QUERY
        SELECT s.name, s.setting, s.unit, s.boot_val, s.source,
            CASE s.context WHEN 'sighup' THEN 'reload' WHEN 'superuser' THEN 'superuser' ELSE s.context END, s.short_desc
        FROM pg_settings AS s
        WHERE s.name LIKE 'pg\_workflow.%'
        ORDER BY s.name;
END
$$;
COMMENT ON FUNCTION workflow.show_settings() IS
'Internal: what the view settings shows.';

CREATE VIEW workflow.settings AS
SELECT s.name, s.setting, s.unit, s.default_setting, s.source, s.changed_by, s.description
FROM workflow.show_settings() AS s;
COMMENT ON VIEW workflow.settings IS
'The settings pg_workflow.* as they hold in this session.';
COMMENT ON COLUMN workflow.settings.name IS 'the setting''s name';
COMMENT ON COLUMN workflow.settings.setting IS 'its value';
COMMENT ON COLUMN workflow.settings.unit IS 'the unit of the value, where it has one';
COMMENT ON COLUMN workflow.settings.default_setting IS 'its value where nobody has set it';
COMMENT ON COLUMN workflow.settings.source IS 'where the value comes from, as in pg_settings';
COMMENT ON COLUMN workflow.settings.changed_by IS 'reload: in postgresql.conf; superuser: also with SET, by a superuser';
COMMENT ON COLUMN workflow.settings.description IS 'what it does';

-- Roles. They belong to the cluster, not to this database: DROP EXTENSION leaves them.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{workflow_reader,workflow_writer,workflow_admin}'::pg_catalog.text[] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname OPERATOR(pg_catalog.=) name) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                -- Another database of the cluster was as fast.
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;

GRANT workflow_reader TO workflow_writer;
GRANT workflow_writer TO workflow_admin;

GRANT USAGE ON SCHEMA workflow TO workflow_reader;

-- Reads everything but the places of consumers.
GRANT SELECT ON
    workflow.dags, workflow.dag_runs, workflow.task_instances, workflow.task_logs, workflow.state_history,
    workflow.state_machine, workflow.state_counts, workflow.consumer_lag, workflow.notifier, workflow.partitions,
    workflow.settings
TO workflow_reader;
-- How far ids have got: for the view partitions.
GRANT SELECT ON SEQUENCE workflow.state_history_id_seq, workflow.task_logs_id_seq TO workflow_reader;
-- Everybody's verify() asks it.
GRANT SELECT ON workflow.dropped_partitions TO PUBLIC;

-- What a scheduler, a worker and the server do. State is moved, never set: the guard sees to that, whoever updates.
GRANT INSERT (name, description, schedule, start_date, tags, is_paused) ON workflow.dags TO workflow_writer;
GRANT UPDATE (name, description, schedule, start_date, tags, is_paused) ON workflow.dags TO workflow_writer;
GRANT UPDATE (state, execution_date, conf) ON workflow.dag_runs TO workflow_writer;
GRANT UPDATE (state, max_tries, error) ON workflow.task_instances TO workflow_writer;
GRANT INSERT (task_instance_id, try_number, logged_at, level, message) ON workflow.task_logs TO workflow_writer;

-- Removes what others have created.
GRANT DELETE ON workflow.dags, workflow.dag_runs, workflow.task_instances, workflow.task_logs TO workflow_admin;

-- What runs with the owner's rights is for those only whom it is granted to. Other functions run with the caller's.
REVOKE EXECUTE ON FUNCTION
    workflow.create_dag_run(uuid, timestamptz, jsonb),
    workflow.create_task_instances(uuid, text[], integer),
    workflow.create_consumer(text, boolean),
    workflow.read_events(text, integer, interval, bigint),
    workflow.current_position(),
    workflow.follow_events(text, integer, interval),
    workflow.ack_events(text, bigint, bigint),
    workflow.lease_consumer(text, text, interval),
    workflow.release_consumer(text, bigint),
    workflow.save_checkpoint(text, bigint[], bigint, interval),
    workflow.rewind_consumer(text, bigint[], bigint),
    workflow.drop_consumer(text),
    workflow.fold_state_counts(),
    workflow.open_partitions(text),
    workflow.purge(timestamptz, boolean, integer)
FROM PUBLIC;

GRANT EXECUTE ON FUNCTION
    workflow.current_position(),
    workflow.follow_events(text, integer, interval)
TO workflow_reader;

GRANT EXECUTE ON FUNCTION
    workflow.create_dag_run(uuid, timestamptz, jsonb),
    workflow.create_task_instances(uuid, text[], integer),
    workflow.create_consumer(text, boolean),
    workflow.read_events(text, integer, interval, bigint),
    workflow.ack_events(text, bigint, bigint),
    workflow.lease_consumer(text, text, interval),
    workflow.release_consumer(text, bigint),
    workflow.save_checkpoint(text, bigint[], bigint, interval),
    workflow.rewind_consumer(text, bigint[], bigint),
    workflow.drop_consumer(text),
    workflow.fold_state_counts(),
    workflow.open_partitions(text)
TO workflow_writer;

GRANT EXECUTE ON FUNCTION workflow.purge(timestamptz, boolean, integer) TO workflow_admin;

-- The users' data: it is dumped with the database, and does not go with the extension unasked.

SELECT pg_catalog.pg_extension_config_dump('workflow.dags', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.dag_runs', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_instances', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_logs_0', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_logs_1', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.task_logs_id_seq', '');
-- Partitions that are made later do not belong to the extension: they are dumped as any table is.
SELECT pg_catalog.pg_extension_config_dump('workflow.state_history_0', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.state_history_1', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.state_history_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.dropped_partitions', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.consumers', '');
SELECT pg_catalog.pg_extension_config_dump('workflow.consumer_checkpoints', '');
-- Not dumped: state_count_place and what belongs to it. A restored database counts anew.

CREATE FUNCTION workflow.refuse_drop()
RETURNS event_trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'refuse_drop_wrapper';
COMMENT ON FUNCTION workflow.refuse_drop() IS
'ON ddl_command_start: refuses DROP EXTENSION pg_workflow without CASCADE (2BP01) while its tables hold data.';

CREATE EVENT TRIGGER pg_workflow_refuse_drop ON ddl_command_start
WHEN TAG IN ('DROP EXTENSION')
EXECUTE FUNCTION workflow.refuse_drop();
COMMENT ON EVENT TRIGGER pg_workflow_refuse_drop IS
'PostgreSQL counts the tables as part of the extension, and would drop them without a word.';

-- Several tenants in one database, where an administrator wants it: each role sees its own DAGs, and what belongs to them.

CREATE FUNCTION workflow.enable_row_security()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Made here rather than by CREATE EXTENSION: whether it is on is the administrator's, and dumped with his database.
    CREATE POLICY tenant ON workflow.dags USING (tenant = CURRENT_USER);
    CREATE POLICY tenant ON workflow.dag_runs
        USING (EXISTS (SELECT FROM workflow.dags AS d WHERE d.id = dag_runs.dag_id));
    CREATE POLICY tenant ON workflow.task_instances
        USING (EXISTS (SELECT FROM workflow.dag_runs AS r WHERE r.id = task_instances.dag_run_id));
    CREATE POLICY tenant ON workflow.task_logs
        USING (EXISTS (SELECT FROM workflow.task_instances AS t WHERE t.id = task_logs.task_instance_id));
    CREATE POLICY tenant ON workflow.state_history
        USING (EXISTS (SELECT FROM workflow.dags AS d WHERE d.id = state_history.dag_id));
    ALTER TABLE workflow.dags ENABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.dag_runs ENABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.task_instances ENABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.task_logs ENABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.state_history ENABLE ROW LEVEL SECURITY;
END
$$;
COMMENT ON FUNCTION workflow.enable_row_security() IS
'Has each role see only DAGs whose tenant it is (current_user), with their runs, tasks, logs and history. Superusers, the owner and roles with BYPASSRLS see everything. The event feed is closed to everybody else (42501), because it has everything; the views of totals (state_counts, consumer_lag, partitions) count everything. Set pg_workflow.announce to wakeup or off: any role can LISTEN. For the owner.';

CREATE FUNCTION workflow.disable_row_security()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    ALTER TABLE workflow.dags DISABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.dag_runs DISABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.task_instances DISABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.task_logs DISABLE ROW LEVEL SECURITY;
    ALTER TABLE workflow.state_history DISABLE ROW LEVEL SECURITY;
    DROP POLICY IF EXISTS tenant ON workflow.state_history;
    DROP POLICY IF EXISTS tenant ON workflow.task_logs;
    DROP POLICY IF EXISTS tenant ON workflow.task_instances;
    DROP POLICY IF EXISTS tenant ON workflow.dag_runs;
    DROP POLICY IF EXISTS tenant ON workflow.dags;
END
$$;
COMMENT ON FUNCTION workflow.disable_row_security() IS
'Undoes enable_row_security(). Who the tenants are is kept. For the owner.';

