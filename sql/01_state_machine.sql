-- The states and the allowed transitions. One Rust definition (extension/state-machine) answers here, in the guard
-- trigger and in the client.

CREATE FUNCTION workflow.states()
RETURNS text[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'states_wrapper';
COMMENT ON FUNCTION workflow.states() IS
'Returns every state that a run or a task can be in.';

CREATE FUNCTION workflow.can_transition("from" text, "to" text)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'can_transition_wrapper';
COMMENT ON FUNCTION workflow.can_transition(text, text) IS
'Returns whether the state machine allows a transition from one state to the other. Errors: 22023 unknown state.';

CREATE FUNCTION workflow.next_states(state text)
RETURNS text[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'next_states_wrapper';
COMMENT ON FUNCTION workflow.next_states(text) IS
'Returns the states that can follow a state; an empty array for a terminal state. Errors: 22023 unknown state.';

CREATE FUNCTION workflow.is_terminal(state text)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'is_terminal_wrapper';
COMMENT ON FUNCTION workflow.is_terminal(text) IS
'Returns whether no transition leaves a state. Errors: 22023 unknown state.';

CREATE FUNCTION workflow.is_finished(state text)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'is_finished_wrapper';
COMMENT ON FUNCTION workflow.is_finished(text) IS
'Returns whether a run or a task in this state has ended: success, failed, upstream_failed or skipped. Errors: 22023 unknown state.';

CREATE VIEW workflow.state_machine AS
SELECT
    s.state AS from_state,
    n.state AS to_state
FROM pg_catalog.unnest(workflow.states()) AS s (state)
CROSS JOIN LATERAL pg_catalog.unnest(workflow.next_states(s.state)) AS n (state);
COMMENT ON VIEW workflow.state_machine IS
'Allowed transitions, one row each: 13, the same for dag_runs and task_instances.';
COMMENT ON COLUMN workflow.state_machine.from_state IS 'state before the transition';
COMMENT ON COLUMN workflow.state_machine.to_state IS 'state after the transition';

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
'Returns a time-ordered UUID (RFC 9562, version 7). Such ids sort by creation, so inserts touch one end of each index.';
