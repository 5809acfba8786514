-- Tables of other roles whose rows belong to ours by foreign keys. Such a table may contain no code, because PostgreSQL
-- would run it with the rights of the owner of our tables, or of the role that deletes a run. The library checks that
-- when a foreign key, a trigger, a rule or an expression is created: it must be loaded then, also if it is not preloaded.

CREATE FUNCTION workflow.load_library()
RETURNS event_trigger
LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM workflow.version();
EXCEPTION WHEN undefined_file THEN
    -- The package is gone. Our tables reject every change then, and other tables must not.
    NULL;
END
$$;
COMMENT ON FUNCTION workflow.load_library() IS
'ON ddl_command_start: loads the library, which rejects foreign keys to DAGs, runs and tasks through which code of another role would run (42501).';

CREATE EVENT TRIGGER pg_workflow_load_library ON ddl_command_start
WHEN TAG IN ('ALTER TABLE', 'CREATE INDEX', 'CREATE RULE', 'CREATE SCHEMA', 'CREATE STATISTICS', 'CREATE TABLE', 'CREATE TRIGGER')
EXECUTE FUNCTION workflow.load_library();
COMMENT ON EVENT TRIGGER pg_workflow_load_library IS
'Guard of tables with foreign keys to DAGs, runs and tasks: they may contain no code of roles without superuser rights.';
