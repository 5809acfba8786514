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
