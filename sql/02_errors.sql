-- The functions that raise errors. They are written in C, so that an error has DETAIL in JSON and a HINT.

CREATE FUNCTION workflow.refuse_argument(message text, detail jsonb, hint text)
RETURNS void
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'refuse_argument_wrapper';
COMMENT ON FUNCTION workflow.refuse_argument(text, jsonb, text) IS
'Internal: raises 22023 for an invalid argument.';

CREATE FUNCTION workflow.refuse_missing(entity_type text, id text, tried text)
RETURNS void
LANGUAGE c VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'refuse_missing_wrapper';
COMMENT ON FUNCTION workflow.refuse_missing(text, text, text) IS
'Internal: raises P0002 for an entity that does not exist.';

CREATE FUNCTION workflow.refuse_consumer(name text, tried text)
RETURNS void
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'refuse_consumer_wrapper';
COMMENT ON FUNCTION workflow.refuse_consumer(text, text) IS
'Internal: raises 42501 for a consumer of another role, and P0002 for a consumer that does not exist.';

CREATE FUNCTION workflow.refuse_given_up(name text, since text)
RETURNS void
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'refuse_given_up_wrapper';
COMMENT ON FUNCTION workflow.refuse_given_up(text, text) IS
'Internal: raises 55000 for a consumer that purge() has given up.';

CREATE FUNCTION workflow.refuse_leased(consumer text, lease bigint, holder text, current_lease bigint)
RETURNS void
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'refuse_leased_wrapper';
COMMENT ON FUNCTION workflow.refuse_leased(text, bigint, text, bigint) IS
'Internal: raises 55006 for a consumer that is leased to another session.';

CREATE FUNCTION workflow.refuse_tenant()
RETURNS void
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'refuse_restricted_reader_wrapper';
COMMENT ON FUNCTION workflow.refuse_tenant() IS
'Internal: raises 42501 if row security hides a part of the history from the current role, or in a security-restricted operation. The feed has all of it.';

CREATE FUNCTION workflow.check_size(name text, value text)
RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'check_text_size_wrapper';
COMMENT ON FUNCTION workflow.check_size(text, text) IS
'Internal: returns true if a text has at most pg_workflow.max_field_size bytes. Errors: 22023 names the field.';

CREATE FUNCTION workflow.check_size(name text, value jsonb)
RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'check_jsonb_size_wrapper';
COMMENT ON FUNCTION workflow.check_size(text, jsonb) IS
'Internal: returns true if a jsonb has at most pg_workflow.max_field_size bytes as text. Errors: 22023 names the field.';

CREATE FUNCTION workflow.check_finite(name text, value timestamptz)
RETURNS boolean
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'check_finite_wrapper';
COMMENT ON FUNCTION workflow.check_finite(text, timestamptz) IS
'Internal: returns true if a time is null or finite. Errors: 22023 names the field.';

CREATE FUNCTION workflow.check_entity_type(entity_type text)
RETURNS text
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'check_entity_type_wrapper';
COMMENT ON FUNCTION workflow.check_entity_type(text) IS
'Internal: returns its argument, dag_run or task_instance. Errors: 22023 any other text.';

CREATE FUNCTION workflow.check_task_instance(task_id text, state text, max_tries integer)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'check_task_instance_wrapper';
COMMENT ON FUNCTION workflow.check_task_instance(text, text, integer) IS
'Internal: returns true if task_id has 1 to 500 characters and is not blank, state is a state, and max_tries is not negative. Errors: 22023 names the column.';
