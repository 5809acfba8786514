//! Tables of other roles with foreign keys to DAGs, runs and tasks: allowed, but not with code of their owners.

use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;

/// Code of the writer that a superuser must never run. A sequence counts its calls also if the transaction rolls back.
const CODE: &str = "
    CREATE SCHEMA mine;
    CREATE SEQUENCE mine.calls;
    CREATE FUNCTION mine.note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM nextval('mine.calls'); RETURN COALESCE(NEW, OLD); END $$;
    CREATE TYPE mine.key AS (id uuid);
    CREATE FUNCTION mine.to_uuid(key mine.key) RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN PERFORM nextval('mine.calls'); RETURN (key).id; END $$;
    CREATE CAST (mine.key AS uuid) WITH FUNCTION mine.to_uuid(mine.key) AS IMPLICIT;";

/// Set-up, then the statement that is rejected, and the cause in DETAIL.
const UNSAFE: [(&str, &str, &str); 17] = [
    ("", "CREATE TABLE mine.t (id mine.key REFERENCES workflow.task_instances)", "types"),
    ("", "CREATE SCHEMA yours CREATE TABLE t (id mine.key REFERENCES workflow.task_instances)", "types"),
    (
        // PostgreSQL compares the rows that are there already.
        "CREATE TABLE mine.t (id mine.key); INSERT INTO mine.t SELECT ROW(id)::mine.key FROM workflow.task_instances",
        "ALTER TABLE mine.t ADD FOREIGN KEY (id) REFERENCES workflow.task_instances",
        "types",
    ),
    (
        "CREATE TABLE mine.t (id uuid REFERENCES workflow.task_instances)",
        "ALTER TABLE mine.t ALTER id TYPE mine.key USING ROW(id)::mine.key",
        "types",
    ),
    ("", "CREATE TABLE mine.t (name varchar REFERENCES workflow.dags (name))", "types"),
    (
        "CREATE TABLE mine.t (id uuid PRIMARY KEY REFERENCES workflow.task_instances ON DELETE CASCADE)",
        "CREATE TABLE mine.u (id mine.key REFERENCES mine.t ON DELETE CASCADE)",
        "types",
    ),
    (
        "CREATE TABLE mine.t (id uuid PRIMARY KEY REFERENCES workflow.task_instances ON DELETE CASCADE)",
        "CREATE TABLE mine.u (id mine.key REFERENCES mine.t)",
        "types",
    ),
    (
        "CREATE TABLE mine.t (id uuid PRIMARY KEY); CREATE TABLE mine.u (id mine.key REFERENCES mine.t)",
        "ALTER TABLE mine.t ADD FOREIGN KEY (id) REFERENCES workflow.task_instances ON DELETE CASCADE",
        "types",
    ),
    ("", "CREATE TABLE mine.t (id uuid REFERENCES workflow.dag_runs ON DELETE SET NULL)", "action"),
    ("", "CREATE TABLE mine.t (id uuid REFERENCES workflow.dag_runs ON DELETE SET DEFAULT)", "action"),
    ("", "CREATE TABLE mine.t (name text REFERENCES workflow.dags (name) ON UPDATE CASCADE)", "action"),
    (
        "CREATE TABLE mine.t (id uuid REFERENCES workflow.task_instances ON DELETE CASCADE)",
        "CREATE CONSTRAINT TRIGGER t AFTER DELETE ON mine.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mine.note()",
        "code",
    ),
    (
        "CREATE TABLE mine.t (id uuid REFERENCES workflow.task_instances ON DELETE CASCADE)",
        "CREATE RULE r AS ON DELETE TO mine.t DO ALSO SELECT nextval('mine.calls')",
        "code",
    ),
    (
        "CREATE TABLE mine.t (id uuid); CREATE TRIGGER t BEFORE DELETE ON mine.t FOR EACH ROW EXECUTE FUNCTION mine.note()",
        "ALTER TABLE mine.t ADD FOREIGN KEY (id) REFERENCES workflow.task_instances ON DELETE CASCADE",
        "code",
    ),
    (
        "CREATE TABLE mine.t (id uuid PRIMARY KEY REFERENCES workflow.task_instances ON DELETE CASCADE);
         CREATE TABLE mine.u (id uuid REFERENCES mine.t ON DELETE CASCADE)",
        "CREATE TRIGGER t AFTER DELETE ON mine.u FOR EACH STATEMENT EXECUTE FUNCTION mine.note()",
        "code",
    ),
    (
        "CREATE TABLE mine.t (id uuid PRIMARY KEY);
         CREATE TABLE mine.u (id uuid REFERENCES mine.t ON DELETE SET NULL)",
        "ALTER TABLE mine.t ADD FOREIGN KEY (id) REFERENCES workflow.task_instances ON DELETE CASCADE",
        "action",
    ),
    (
        "CREATE TABLE mine.t (id uuid REFERENCES workflow.task_instances ON DELETE CASCADE) PARTITION BY HASH (id);
         CREATE TABLE mine.p (id uuid);
         CREATE TRIGGER t AFTER DELETE ON mine.p FOR EACH ROW EXECUTE FUNCTION mine.note()",
        "ALTER TABLE mine.t ATTACH PARTITION mine.p FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "code",
    ),
];

/// A writer in a database with a task.
fn writer_with_task(db: &Db) -> (Client, Uuid) {
    let owner = &mut db.connect();
    let task = create_task(owner);
    let role = create_writer(owner);
    let database: String = owner.query_one("SELECT current_database()::text", &[]).unwrap().get(0);
    owner.batch_execute(&format!("GRANT CREATE ON DATABASE \"{database}\" TO {role}")).unwrap();
    (db.connect_as(&role), task)
}

#[test]
fn foreign_keys_with_code_of_their_owner_are_rejected() {
    let db = Db::new();
    let (mut writer, _) = writer_with_task(&db);
    writer.batch_execute(CODE).unwrap();
    for (set_up, statement, problem) in UNSAFE {
        let mut transaction = writer.transaction().unwrap();
        transaction.batch_execute(set_up).unwrap_or_else(|error| panic!("{set_up}: {error:?}"));
        let failed = failure(transaction.batch_execute(statement));
        assert_eq!(failed.sqlstate, "42501", "{statement}: {failed:?}");
        assert_eq!(failed.detail["problem"], problem, "{statement}: {failed:?}");
    }
    let is_called: bool = writer.query_one("SELECT is_called FROM mine.calls", &[]).unwrap().get(0);
    assert!(!is_called, "code of the writer ran");
}

#[test]
fn rows_without_code_go_with_their_task() {
    let db = Db::new();
    let (mut writer, task) = writer_with_task(&db);
    writer
        .batch_execute(
            "CREATE SCHEMA mine;
             CREATE TABLE mine.t (id uuid PRIMARY KEY REFERENCES workflow.task_instances ON DELETE CASCADE);
             CREATE TABLE mine.u (id uuid REFERENCES mine.t ON DELETE CASCADE);",
        )
        .unwrap();
    writer.execute("INSERT INTO mine.t VALUES ($1)", &[&task]).unwrap();
    writer.execute("INSERT INTO mine.u VALUES ($1)", &[&task]).unwrap();
    db.connect().execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&task]).unwrap();
    let rows: i64 = writer.query_one("SELECT count(*) FROM mine.u", &[]).unwrap().get(0);
    assert_eq!(rows, 0);
}

#[test]
fn tables_elsewhere_and_of_superusers_have_any_code() {
    let db = Db::new();
    let (mut writer, task) = writer_with_task(&db);
    writer.batch_execute(CODE).unwrap();
    writer
        .batch_execute(
            "CREATE TABLE mine.kept (id uuid REFERENCES workflow.task_instances);
             CREATE TRIGGER t AFTER INSERT ON mine.kept FOR EACH ROW EXECUTE FUNCTION mine.note();
             CREATE TABLE mine.other (id uuid PRIMARY KEY);
             CREATE TABLE mine.others (id uuid REFERENCES mine.other ON DELETE SET NULL);
             CREATE TRIGGER t AFTER DELETE ON mine.others FOR EACH ROW EXECUTE FUNCTION mine.note()",
        )
        .unwrap();
    let sql = "CREATE TABLE trusted (id uuid REFERENCES workflow.task_instances ON DELETE SET NULL)";
    db.connect().batch_execute(sql).unwrap();
    writer.execute("INSERT INTO mine.kept VALUES ($1)", &[&task]).unwrap();
}
