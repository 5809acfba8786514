//! Changes of definitions that an administrator or a user can make, and which path the functions then take.

/// How the functions write rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    Direct,
    Statement,
}

pub struct Change {
    pub apply: &'static str,
    /// `None`: what is left is not as before.
    pub undo: Option<&'static str>,
    /// Of a task's transitions by a superuser.
    pub transitions: Path,
    /// Of creations of tasks.
    pub creations: Path,
}

use Path::{Direct, Statement};

macro_rules! change {
    ($apply:expr, $undo:expr, $transitions:ident, $creations:ident) => {
        Change { apply: $apply, undo: Some($undo), transitions: $transitions, creations: $creations }
    };
    ($apply:expr, $transitions:ident, $creations:ident) => {
        Change { apply: $apply, undo: None, transitions: $transitions, creations: $creations }
    };
}

/// A trigger of a user on tasks, as `BEFORE UPDATE … FOR EACH ROW`.
macro_rules! trigger {
    ($events:literal, $rest:literal, $transitions:ident, $creations:ident) => {
        change!(
            concat!(
                "CREATE TRIGGER of_user ",
                $events,
                " ON workflow.task_instances ",
                $rest,
                " EXECUTE FUNCTION public.note()"
            ),
            "DROP TRIGGER of_user ON workflow.task_instances",
            $transitions,
            $creations
        )
    };
}

macro_rules! index {
    ($kind:literal, $columns:literal, $transitions:ident, $creations:ident) => {
        change!(
            concat!("CREATE ", $kind, " of_user ON workflow.task_instances ", $columns),
            "DROP INDEX workflow.of_user",
            $transitions,
            $creations
        )
    };
}

macro_rules! constraint {
    ($table:literal, $constraint:literal, $transitions:ident, $creations:ident) => {
        change!(
            concat!("ALTER TABLE workflow.", $table, " ADD CONSTRAINT of_user ", $constraint),
            concat!("ALTER TABLE workflow.", $table, " DROP CONSTRAINT of_user"),
            $transitions,
            $creations
        )
    };
}

macro_rules! default {
    ($column:literal, $new:literal, $old:literal, $transitions:ident, $creations:ident) => {
        change!(
            concat!("ALTER TABLE workflow.task_instances ALTER ", $column, " SET DEFAULT ", $new),
            concat!("ALTER TABLE workflow.task_instances ALTER ", $column, " SET DEFAULT ", $old),
            $transitions,
            $creations
        )
    };
}

pub const CHANGES: &[Change] = &[
    // Triggers.
    trigger!("BEFORE UPDATE", "FOR EACH ROW", Statement, Direct),
    trigger!("AFTER UPDATE", "FOR EACH ROW", Statement, Direct),
    trigger!("BEFORE UPDATE", "FOR EACH STATEMENT", Statement, Direct),
    trigger!("AFTER UPDATE", "FOR EACH STATEMENT", Statement, Direct),
    trigger!("AFTER UPDATE OF state", "FOR EACH ROW WHEN (NEW.state = 'failed')", Statement, Direct),
    trigger!("BEFORE INSERT", "FOR EACH ROW", Direct, Statement),
    trigger!("AFTER INSERT", "FOR EACH ROW", Direct, Statement),
    trigger!("BEFORE INSERT", "FOR EACH STATEMENT", Direct, Statement),
    trigger!("AFTER INSERT OR UPDATE", "FOR EACH STATEMENT", Statement, Statement),
    trigger!("AFTER DELETE", "FOR EACH ROW", Direct, Direct),
    change!(
        "CREATE CONSTRAINT TRIGGER of_user AFTER UPDATE ON workflow.task_instances DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.note()",
        "DROP TRIGGER of_user ON workflow.task_instances",
        Statement,
        Direct
    ),
    change!(
        "CREATE TRIGGER of_user AFTER UPDATE ON workflow.task_instances FOR EACH ROW EXECUTE FUNCTION public.note(); ALTER TABLE workflow.task_instances DISABLE TRIGGER of_user",
        "DROP TRIGGER of_user ON workflow.task_instances",
        Direct,
        Direct
    ),
    change!(
        "CREATE TRIGGER of_user AFTER UPDATE ON workflow.task_instances FOR EACH ROW EXECUTE FUNCTION public.note(); ALTER TABLE workflow.task_instances ENABLE REPLICA TRIGGER of_user",
        "DROP TRIGGER of_user ON workflow.task_instances",
        Direct,
        Direct
    ),
    change!(
        "CREATE TRIGGER of_user AFTER UPDATE ON workflow.task_instances FOR EACH ROW EXECUTE FUNCTION public.note(); ALTER TABLE workflow.task_instances ENABLE ALWAYS TRIGGER of_user",
        "DROP TRIGGER of_user ON workflow.task_instances",
        Statement,
        Direct
    ),
    change!(
        "CREATE TRIGGER of_user AFTER UPDATE ON workflow.dag_runs FOR EACH ROW EXECUTE FUNCTION public.note()",
        "DROP TRIGGER of_user ON workflow.dag_runs",
        Direct,
        Direct
    ),
    change!(
        "ALTER TABLE workflow.task_instances ENABLE ALWAYS TRIGGER zz_guard",
        "ALTER TABLE workflow.task_instances ENABLE TRIGGER zz_guard",
        Direct,
        Direct
    ),
    // Rows of the history alone go through the executor.
    change!(
        "CREATE TRIGGER of_user AFTER INSERT ON workflow.state_history FOR EACH ROW EXECUTE FUNCTION public.note()",
        "DROP TRIGGER of_user ON workflow.state_history",
        Direct,
        Direct
    ),
    change!(
        "CREATE TRIGGER of_user BEFORE INSERT ON workflow.state_history FOR EACH ROW EXECUTE FUNCTION public.note()",
        "DROP TRIGGER of_user ON workflow.state_history",
        Direct,
        Direct
    ),
    constraint!("state_history", "CHECK (version < 4) NOT VALID", Direct, Direct),
    change!(
        "CREATE INDEX of_user ON workflow.state_history USING gin (metadata)",
        "DROP INDEX workflow.of_user",
        Direct,
        Direct
    ),
    change!(
        "CREATE INDEX of_user ON workflow.state_history (lower(actor))",
        "DROP INDEX workflow.of_user",
        Direct,
        Direct
    ),
    change!(
        "CREATE TRIGGER of_user AFTER INSERT ON workflow.state_history_0 FOR EACH STATEMENT EXECUTE FUNCTION public.note()",
        "DROP TRIGGER of_user ON workflow.state_history_0",
        Direct,
        Direct
    ),
    change!(
        "CREATE TRIGGER of_user BEFORE INSERT ON workflow.state_history_0 FOR EACH ROW EXECUTE FUNCTION public.note()",
        "DROP TRIGGER of_user ON workflow.state_history_0",
        Direct,
        Direct
    ),
    constraint!("state_history_0", "CHECK (new_state <> 'failed') NOT VALID", Direct, Direct),
    constraint!("state_history_0", "UNIQUE (entity_id, version, actor) DEFERRABLE INITIALLY DEFERRED", Direct, Direct),
    constraint!("state_history_0", "FOREIGN KEY (task_id) REFERENCES public.known NOT VALID", Direct, Direct),
    // Constraints.
    constraint!("task_instances", "CHECK (state <> 'skipped') NOT VALID", Statement, Statement),
    constraint!("task_instances", "FOREIGN KEY (task_id) REFERENCES public.known NOT VALID", Statement, Statement),
    constraint!("task_instances", "EXCLUDE USING btree (id WITH =)", Statement, Statement),
    constraint!("task_instances", "UNIQUE (id, task_id) DEFERRABLE INITIALLY DEFERRED", Statement, Statement),
    constraint!("task_instances", "UNIQUE (id, state)", Statement, Direct),
    constraint!("task_instances", "UNIQUE (id, task_id)", Direct, Direct),
    constraint!("dag_runs", "CHECK (state <> 'skipped') NOT VALID", Direct, Direct),
    change!(
        "CREATE TABLE public.refers (task uuid REFERENCES workflow.task_instances ON UPDATE CASCADE ON DELETE CASCADE)",
        "DROP TABLE public.refers",
        Direct,
        Direct
    ),
    // Indexes.
    index!("INDEX", "(lower(state))", Statement, Statement),
    index!("INDEX", "(id) WHERE state = 'running'", Statement, Statement),
    index!("INDEX", "USING gin (to_tsvector('simple', task_id))", Statement, Statement),
    index!("INDEX", "USING hash (state)", Statement, Statement),
    index!("UNIQUE INDEX", "(task_id, dag_run_id, state)", Statement, Direct),
    index!("INDEX", "(error)", Direct, Direct),
    index!("INDEX", "(updated_at) INCLUDE (state, error)", Direct, Direct),
    index!("INDEX", "USING brin (updated_at)", Direct, Direct),
    // Defaults.
    default!("error", "'none'", "NULL", Direct, Statement),
    default!("id", "gen_random_uuid()", "workflow.uuid_v7()", Direct, Statement),
    default!("try_number", "1 - 1 + 2", "0", Direct, Statement),
    default!("start_date", "now()", "NULL", Direct, Statement),
    default!("max_tries", "7", "1", Direct, Direct),
    default!("created_at", "'2020-01-01Z'", "pg_catalog.now()", Direct, Direct),
    // Rights and tenants.
    change!(
        "CREATE POLICY of_user ON workflow.task_instances AS RESTRICTIVE USING (task_id NOT LIKE '%5')",
        "DROP POLICY of_user ON workflow.task_instances",
        Direct,
        Direct
    ),
    change!(
        "CREATE POLICY of_user ON workflow.task_instances AS RESTRICTIVE FOR UPDATE USING (true) WITH CHECK (state <> 'failed')",
        "DROP POLICY of_user ON workflow.task_instances",
        Direct,
        Direct
    ),
    change!("SELECT workflow.enable_row_security()", "SELECT workflow.disable_row_security()", Direct, Direct),
    change!(
        "ALTER TABLE workflow.task_instances FORCE ROW LEVEL SECURITY",
        "ALTER TABLE workflow.task_instances NO FORCE ROW LEVEL SECURITY",
        Direct,
        Direct
    ),
    change!(
        "ALTER TABLE workflow.task_instances DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE workflow.task_instances ENABLE ROW LEVEL SECURITY",
        Direct,
        Direct
    ),
    change!(
        "REVOKE UPDATE (state) ON workflow.task_instances FROM workflow_writer",
        "GRANT UPDATE (state) ON workflow.task_instances TO workflow_writer",
        Direct,
        Direct
    ),
    // Replication.
    change!("CREATE PUBLICATION of_user FOR TABLE workflow.task_instances", "DROP PUBLICATION of_user", Direct, Direct),
    change!(
        "ALTER TABLE workflow.task_instances REPLICA IDENTITY FULL",
        "ALTER TABLE workflow.task_instances REPLICA IDENTITY DEFAULT",
        Direct,
        Direct
    ),
    change!(
        "ALTER TABLE workflow.task_instances REPLICA IDENTITY NOTHING; CREATE PUBLICATION of_user FOR TABLE workflow.task_instances",
        "DROP PUBLICATION of_user; ALTER TABLE workflow.task_instances REPLICA IDENTITY DEFAULT",
        Direct,
        Direct
    ),
    // What stays.
    change!("CREATE RULE of_user AS ON DELETE TO workflow.task_instances DO ALSO NOTHING", Statement, Statement),
    change!("CREATE TABLE public.child () INHERITS (workflow.task_instances)", Statement, Statement),
    change!("ALTER TABLE workflow.task_instances ADD COLUMN of_user text", Direct, Statement),
    change!(
        "ALTER TABLE workflow.task_instances ADD COLUMN of_user text NOT NULL DEFAULT 'x' || (random() < 2)",
        Direct,
        Statement
    ),
    change!(
        "ALTER TABLE workflow.task_instances ADD COLUMN of_user text GENERATED ALWAYS AS (state || '!') STORED",
        Statement,
        Statement
    ),
    change!(
        "ALTER TABLE workflow.task_instances ADD COLUMN of_user text; ALTER TABLE workflow.task_instances DROP COLUMN of_user",
        Statement,
        Statement
    ),
    change!(
        "ALTER TABLE workflow.dag_runs ADD COLUMN of_user text; ALTER TABLE workflow.dag_runs DROP COLUMN of_user",
        Direct,
        Statement
    ),
    change!(
        "UPDATE workflow.task_instances SET error = 'none'; ALTER TABLE workflow.task_instances ALTER error SET NOT NULL",
        Statement,
        Statement
    ),
    change!("ALTER TABLE workflow.task_instances ALTER max_tries TYPE smallint", Statement, Statement),
    change!("ALTER TABLE workflow.task_instances ALTER error TYPE varchar(4)", Statement, Statement),
    change!(
        "ALTER TABLE workflow.task_instances DROP CONSTRAINT task_instances_check; ALTER TABLE workflow.task_instances ADD CONSTRAINT task_instances_check CHECK (max_tries < 5) NOT VALID",
        Statement,
        Statement
    ),
    // The next event but two is in the next partition.
    change!(
        "SELECT setval('workflow.state_history_id_seq', (SELECT (max(id) / workflow.partition_size() + 1) * workflow.partition_size() - 3 FROM workflow.state_history))",
        Direct,
        Direct
    ),
    change!("ALTER TABLE workflow.state_history ADD COLUMN of_user text DEFAULT 'x'", Direct, Direct),
    change!(
        "UPDATE workflow.state_history SET acted_as = 'x'; ALTER TABLE workflow.state_history ALTER acted_as SET NOT NULL",
        Direct,
        Direct
    ),
    change!("ALTER TABLE workflow.task_instances DISABLE TRIGGER zz_guard", Statement, Direct),
    change!("ALTER TABLE workflow.task_instances ENABLE REPLICA TRIGGER zz_record", Statement, Direct),
    change!(
        "ALTER TABLE workflow.task_instances DROP CONSTRAINT task_instances_dag_run_id_fkey; CREATE TABLE public.runs (id uuid PRIMARY KEY); ALTER TABLE workflow.task_instances ADD FOREIGN KEY (dag_run_id) REFERENCES public.runs NOT VALID",
        Statement,
        Statement
    ),
    change!("ALTER TABLE workflow.task_instances DROP CONSTRAINT task_instances_check", Statement, Statement),
    change!(
        "DO $$ DECLARE name regclass; BEGIN FOR name IN SELECT inhrelid FROM pg_inherits WHERE inhparent IN ('workflow.task_logs'::regclass, 'workflow.state_history'::regclass) LOOP EXECUTE 'ALTER TABLE ' || name || ' SET UNLOGGED'; END LOOP; END $$; ALTER TABLE workflow.task_instances SET UNLOGGED",
        Direct,
        Direct
    ),
];
