-- The guard trigger: it makes a plain UPDATE as safe as transition().
--
-- Before the update, row by row, it checks the transition and sets the managed columns. After the statement a second
-- trigger records all its transitions and notifies of them. The row trigger's name sorts last, so that it sees the
-- changes of other BEFORE triggers; the statement trigger checks the rows that were really written.

CREATE FUNCTION workflow.guard()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'guard_wrapper';
COMMENT ON FUNCTION workflow.guard() IS
'BEFORE UPDATE FOR EACH ROW: rejects transitions that are not allowed and changes of managed columns; sets version, dates and try_number. Its argument is the kind of row.';

CREATE FUNCTION workflow.record()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'record_wrapper';
COMMENT ON FUNCTION workflow.record() IS
'AFTER UPDATE FOR EACH STATEMENT: writes the statement''s transitions to state_history and notifies of them. Its argument is the entity type.';

CREATE FUNCTION workflow.refuse_insert()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'refuse_insert_wrapper';
COMMENT ON FUNCTION workflow.refuse_insert() IS
'BEFORE INSERT FOR EACH STATEMENT: rejects rows from roles other than the table''s owner, so that every entity has a history. The create functions and a restore insert as the owner. Its argument names the function to use.';

CREATE FUNCTION workflow.prepare_load()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'prepare_load_wrapper';
COMMENT ON FUNCTION workflow.prepare_load() IS
'BEFORE INSERT FOR EACH STATEMENT: lets pg_restore load tables in any order, without checks of foreign keys. A dump is consistent; verify() checks it. (refuse_insert() does the same.)';

CREATE TRIGGER prepare_load
BEFORE INSERT ON workflow.parked
FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load();

CREATE TRIGGER prepare_load
BEFORE INSERT ON workflow.joins
FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load();

CREATE TRIGGER prepare_load
BEFORE INSERT ON workflow.waits
FOR EACH STATEMENT EXECUTE FUNCTION workflow.prepare_load();

CREATE FUNCTION workflow.check_fields()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'check_fields_wrapper';
COMMENT ON FUNCTION workflow.check_fields() IS
'BEFORE INSERT FOR EACH ROW: rejects texts and tags beyond pg_workflow.max_field_size and infinite dates. The owner may insert them: a restore does.';

CREATE TRIGGER zz_check_fields
BEFORE INSERT ON workflow.dags
FOR EACH ROW EXECUTE FUNCTION workflow.check_fields();

CREATE TRIGGER zz_check_fields
BEFORE INSERT ON workflow.task_logs
FOR EACH ROW EXECUTE FUNCTION workflow.check_fields();

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
