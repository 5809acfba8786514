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
'Returns the version of the loaded library; pg_extension.extversion is the version of the SQL objects.';

CREATE FUNCTION workflow.uuid_v7()
RETURNS uuid
LANGUAGE c VOLATILE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'uuid_v7_wrapper';
COMMENT ON FUNCTION workflow.uuid_v7() IS
'A time-ordered UUID (RFC 9562, version 7): ids sort by creation, so that inserts touch one end of each index.';
