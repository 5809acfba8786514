//! The guard: a trigger on every updated row, whoever updates it and how.

use crate::args;
use crate::columns::{self, Columns};
use crate::creation;
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::plan::Plan;
use crate::ffi::session;
use crate::ffi::trigger::{Row, Trigger, export_trigger};
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{clock, text_datum};
use crate::request;
use pg_workflow_state_machine::State;
use pgrx::pg_sys::Datum;

export_trigger!(guard_wrapper, pg_finfo_guard_wrapper, guard);
export_trigger!(refuse_insert_wrapper, pg_finfo_refuse_insert_wrapper, refuse_insert);
export_trigger!(prepare_load_wrapper, pg_finfo_prepare_load_wrapper, prepare_load);

/// Columns to set in the updated row.
type Changes = Vec<(usize, Option<Datum>)>;

/// BEFORE UPDATE FOR EACH ROW.
fn guard(trigger: Trigger) -> Datum {
    let (old, new) = trigger.old_and_new();
    let changes = match EntityType::parse(trigger.argument()) {
        Some(kind) => guard_entity(kind, trigger, &old, &new),
        None => guard_dag(trigger, &old, &new),
    };
    trigger.new_with(&changes)
}

fn guard_dag(trigger: Trigger, old: &Row, new: &Row) -> Changes {
    let [id, created_at, updated_at] = ["id", "created_at", "updated_at"].map(|name| trigger.column(name));
    let kept = Kept { kind: "dag", id: uuid(old, id), old, new };
    kept.refuse_changed_uuid(id, "id");
    kept.refuse_changed(created_at, "created_at");
    vec![(updated_at, Some(Datum::from(now_after(old, updated_at))))]
}

fn guard_entity(kind: EntityType, trigger: Trigger, old: &Row, new: &Row) -> Changes {
    let columns = Columns::of(kind, trigger);
    let kept = Kept { kind: kind.as_str(), id: uuid(old, columns.id), old, new };
    kept.refuse_changed_uuid(columns.id, "id");
    kept.refuse_changed_uuid(columns.parent, columns::parent_name(kind));
    kept.refuse_changed(columns.version, "version");
    kept.refuse_changed(columns.start_date, "start_date");
    kept.refuse_changed(columns.end_date, "end_date");
    kept.refuse_changed(columns.created_at, "created_at");
    if let Some(task) = columns.task {
        kept.refuse_changed(task.try_number, "try_number");
        kept.refuse_changed(task.duration, "duration");
    }

    let now = now_after(old, columns.updated_at);
    let mut changes = vec![(columns.updated_at, Some(Datum::from(now)))];
    let (from, to) = (old.text(columns.state), new.text(columns.state));
    if from != to {
        let (from, to) = (args::state("state", from), args::state("state", to));
        if !from.can_transition(to) {
            errors::illegal_move(kind, kept.id, from, to);
        }
        changes.extend(move_changes(&columns, kept.id, old, to, now));
    }
    changes
}

/// What follows from entering a state.
fn move_changes(columns: &Columns, id: Uuid, old: &Row, to: State, now: i64) -> Changes {
    let now_datum = Some(Datum::from(now));
    let mut changes = vec![(columns.version, Some(Datum::from(old.i64(columns.version).unwrap_or(0) + 1)))];
    if to == State::Running {
        changes.extend([(columns.start_date, now_datum), (columns.end_date, None)]);
    } else if to.ends_a_try() {
        changes.push((columns.end_date, now_datum));
    }
    let Some(task) = columns.task else { return changes };

    if to == State::Running {
        let try_number = old.i32(task.try_number).unwrap_or(0) + 1;
        changes.extend([(task.try_number, Some(Datum::from(try_number))), (task.duration, None), (task.error, None)]);
    } else if to.ends_a_try() {
        let seconds = old.i64(columns.start_date).map(|start| (now - start) as f64 / 1e6);
        changes.push((task.duration, seconds.map(|seconds| Datum::from(seconds.to_bits()))));
    }
    if to != State::Running
        && let Some(error) = request::about(id, |request| request.metadata.get_text("error")).flatten()
    {
        changes.push((task.error, Some(text_datum(&error))));
    }
    changes
}

/// Columns that the database keeps: an UPDATE that sets one to another value is refused, rather than its value
/// dropped in silence.
struct Kept<'a> {
    kind: &'a str,
    id: Uuid,
    old: &'a Row,
    new: &'a Row,
}

impl Kept<'_> {
    fn refuse_changed_uuid(&self, column: usize, name: &str) {
        if self.old.uuid(column) != self.new.uuid(column) {
            errors::kept_column(self.kind, self.id, name);
        }
    }

    /// For types that are passed by value.
    fn refuse_changed(&self, column: usize, name: &str) {
        if self.old.i64(column) != self.new.i64(column) {
            errors::kept_column(self.kind, self.id, name);
        }
    }
}

fn uuid(row: &Row, column: usize) -> Uuid {
    row.uuid(column).unwrap_or(Uuid([0; 16]))
}

/// The clock, but never before the row's last change: an entity's history does not run backwards.
fn now_after(old: &Row, updated_at: usize) -> i64 {
    clock().max(old.i64(updated_at).unwrap_or(i64::MIN))
}

/// BEFORE INSERT FOR EACH STATEMENT.
fn refuse_insert(trigger: Trigger) -> Datum {
    if !session::has_privileges_of(trigger.table_owner()) {
        errors::direct_insert(&trigger.table_name(), trigger.argument());
    }
    if !creation::is_under_way() {
        forget_state_counts();
        check_no_foreign_keys_of_a_restore();
    }
    Datum::null()
}

/// BEFORE INSERT FOR EACH STATEMENT, where nothing else is to be seen to.
fn prepare_load(_: Trigger) -> Datum {
    check_no_foreign_keys_of_a_restore();
    Datum::null()
}

/// `pg_restore --jobs` loads tables at once and in any order: pg_dump tells it of foreign keys that it restores itself, not of
/// those that an extension brings. So for its transaction, which loads one table, they are not checked.
fn check_no_foreign_keys_of_a_restore() {
    thread_local! {
        static RELAX: Plan = Plan::new(
            "SELECT pg_catalog.set_config('session_replication_role', 'replica', true) \
             FROM pg_catalog.pg_roles AS r \
             WHERE r.rolname OPERATOR(pg_catalog.=) CURRENT_USER AND r.rolsuper \
                AND pg_catalog.current_setting('application_name') OPERATOR(pg_catalog.=) 'pg_restore'"
                .to_owned(),
            &[],
        );
    }
    RELAX.with(|plan| plan.run(&[], |_| ()));
}

/// The owner inserts rows without their history (a restore), which alone tells how many there are.
fn forget_state_counts() {
    thread_local! {
        static FORGET: Plan = Plan::new("SELECT workflow.forget_state_counts()".to_owned(), &[]);
    }
    FORGET.with(|plan| plan.run(&[], |_| ()));
}
