//! Creating the tasks of a run.

use super::{insert, record_unrecorded};
use crate::append::append_creations_in;
use crate::args;
use crate::call::Creation;
use crate::columns::ClaimColumns;
use crate::dependencies::{self, Edges};
use crate::direct::{self, Entities};
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::rows::Rows as NewRows;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{clock, text_array, text_datum, uuid_array};
use crate::ffi::{session, transaction};
use crate::ready::{self, Ready};
use crate::{claims, fields, memory, queues, rights, tenant};
use pg_workflow_state_machine::State;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::iter::TableIterator;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{Array, IntoDatum, name};

/// New tasks that are ready at the same microsecond. Their index entries share a key, which saves room; but a claim begins
/// at a time, and steps through the entries of this time that earlier claims have deleted.
const ALIKE: usize = 32;

/// The function create_task_instances() of SQL, which has as many arguments.
#[allow(clippy::too_many_arguments)]
#[pgrx::pg_extern(sql = false)]
fn create_tasks(
    dag_run_id: Option<pgrx::Uuid>,
    task_ids: Option<Array<'_, &'_ str>>,
    max_tries: Option<i32>,
    queue: Option<&str>,
    priority: Option<i32>,
    not_before: Option<TimestampWithTimeZone>,
    timeout: Option<Interval>,
    depends_on: Option<Jsonb>,
    trigger_rules: Option<Jsonb>,
) -> TableIterator<'static, (name!(id, pgrx::Uuid), name!(task_id, String), name!(is_ready, bool))> {
    let wanted = queue.is_some() || not_before.is_some() || timeout.is_some();
    let wanted = wanted.then(|| {
        let name = args::name("queue", queue);
        let priority = queues::check_priority(args::not_null("priority", priority));
        let not_before = not_before.map(i64::from);
        not_before.into_iter().for_each(|time| fields::check_date("not_before", time));
        timeout.into_iter().for_each(|timeout| _ = claims::positive("timeout", Some(timeout)));
        Wanted { name, priority, not_before, timeout }
    });
    let dependencies = (depends_on, trigger_rules);
    let created = create_tasks_for(session::user(), dag_run_id, task_ids, max_tries, wanted, dependencies);
    TableIterator::new(created)
}

/// For the catalogs of 0.1.0 and 0.2.0: they declare it SECURITY DEFINER, so the current role is the owner.
#[pgrx::pg_extern(sql = false)]
fn create_task_instances(
    dag_run_id: Option<pgrx::Uuid>,
    task_ids: Option<Array<'_, &'_ str>>,
    max_tries: Option<i32>,
) -> TableIterator<'static, (name!(id, pgrx::Uuid), name!(task_id, String))> {
    let created = create_tasks_for(session::outer_user(), dag_run_id, task_ids, max_tries, None, (None, None));
    TableIterator::new(created.map(|(id, name, _)| (id, name)))
}

/// Where new tasks wait.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    name: &'a str,
    priority: i16,
    not_before: Option<i64>,
    timeout: Option<Interval>,
}

fn create_tasks_for(
    caller: Oid,
    dag_run_id: Option<pgrx::Uuid>,
    task_ids: Option<Array<'_, &'_ str>>,
    max_tries: Option<i32>,
    wanted: Option<Wanted>,
    (depends_on, trigger_rules): (Option<Jsonb>, Option<Jsonb>),
) -> impl Iterator<Item = (pgrx::Uuid, String, bool)> + 'static {
    rights::refuse_restricted_operation();
    let run = Uuid(*args::not_null("dag_run_id", dag_run_id).as_bytes());
    let task_ids = args::array("task_ids", task_ids);
    let names = memory::collect(task_ids.iter().map(|name| {
        let name = args::not_null("task_ids", name);
        args::check_task_id("task_ids", name);
        memory::copy(name)
    }));
    let max_tries = args::check_max_tries(args::not_null("max_tries", max_tries));
    let edges = Edges::read(&names, depends_on, trigger_rules);

    let creation = Creation { kind: EntityType::TaskInstance, at: clock(), caller };
    if !tenant::sees_run(caller, run) {
        refuse_missing_run(run);
    }
    let queue = |wanted: Wanted| queues::of_run(run, wanted.name).unwrap_or_else(|| refuse_missing_run(run));
    let queued = wanted.map(|wanted| (queue(wanted), wanted));
    let new = memory::collect(names.iter().map(|_| Uuid::new()));
    let mut tasks = Tasks { creation, run, names: &names, new, joins: Vec::new(), max_tries, queued };
    let ids = tasks.create(edges.as_ref()).unwrap_or_else(|| refuse_missing_run(run));
    let joins = tasks.joins;
    ids.into_iter().zip(names).enumerate().map(move |(n, (task, name))| {
        let has_dependencies = joins.get(n).is_some_and(Option::is_some);
        (pgrx::Uuid::from_bytes(task.0), name, !has_dependencies)
    })
}

fn refuse_missing_run(run: Uuid) -> ! {
    errors::missing("dag_run", &run.to_string(), "create tasks in it")
}

/// The tasks to create.
struct Tasks<'a> {
    creation: Creation,
    run: Uuid,
    names: &'a [String],
    /// Their IDs.
    new: Vec<Uuid>,
    /// The joins of those that depend on others; empty if none does.
    joins: Vec<Option<Uuid>>,
    max_tries: i32,
    /// The queue, if any.
    queued: Option<(i32, Wanted<'a>)>,
}

impl Tasks<'_> {
    /// Creates them, and returns their IDs; `None` if there is no such run.
    ///
    /// Locks the run first: it stays until the transaction has ended, and a run that is being deleted is missed here
    /// rather than by the foreign key.
    fn create(&mut self, edges: Option<&Edges>) -> Option<Vec<Uuid>> {
        let owned = self.creation.kind.relation();
        let directly = rights::as_owner_of(owned, || direct::lock_run(self.run));
        let dag = directly.or_else(|| self.lock_run())?;
        if self.names.is_empty() {
            return Some(Vec::new());
        }
        match edges {
            Some(edges) => self.joins = rights::as_owner_of(owned, || edges.write(self.run, &self.new)),
            None => self.new.last().into_iter().for_each(|task| _ = dependencies::admit(self.run, *task)),
        }
        let inserted = directly.and_then(|_| rights::as_owner_of(owned, || self.insert_directly()));
        let ids = match inserted {
            Some(ids) => {
                append_creations_in(dag, self.creation, self.run, &self.with_names(&ids));
                ready::add(&self.ready(&ids));
                transaction::next_command();
                ids
            }
            None => {
                let ids = self.insert();
                // Fewer if another extension's trigger has skipped any.
                if ids.len() != self.names.len() {
                    return None;
                }
                record_unrecorded(dag, self.creation, self.run, self.with_names(&ids));
                ids
            }
        };
        Some(ids)
    }

    fn with_names(&self, ids: &[Uuid]) -> Vec<(Uuid, Option<&str>)> {
        memory::collect(ids.iter().zip(self.names).map(|(id, name)| (*id, Some(name.as_str()))))
    }

    /// Locks the run, and returns its DAG.
    fn lock_run(&self) -> Option<Uuid> {
        thread_local! {
            static LOCK: Plan = Plan::new(
                "SELECT r.dag_id FROM workflow.dag_runs AS r WHERE r.id OPERATOR(pg_catalog.=) $1 FOR KEY SHARE".to_owned(),
                &[pg_sys::UUIDOID],
            );
        }
        let run = [Some(self.run.as_datum())];
        let dag = |rows: Rows| if rows.len() == 0 { None } else { rows.uuid(0, 1) };
        rights::as_owner_of(c"dag_runs", || LOCK.with(|plan| plan.run(&run, dag)))
    }

    fn insert(&self) -> Vec<Uuid> {
        thread_local! {
            static INSERT: Plan = Plan::new(
                "INSERT INTO workflow.task_instances (id, dag_run_id, task_id, max_tries, created_at, updated_at) \
                 SELECT t.id, $1, t.task_id, $4, $5, $5 \
                 FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) WITH ORDINALITY AS t (id, task_id, ordinal) \
                 ORDER BY t.ordinal \
                 RETURNING id"
                    .to_owned(),
                &[
                    pg_sys::UUIDOID,
                    pg_sys::UUIDARRAYOID,
                    pg_sys::TEXTARRAYOID,
                    pg_sys::INT4OID,
                    pg_sys::TIMESTAMPTZOID,
                ],
            );
            /// The tables of 0.2.0 lack the column.
            static INSERT_JOINED: Plan = Plan::new(
                "INSERT INTO workflow.task_instances (id, dag_run_id, task_id, max_tries, created_at, updated_at, join_id) \
                 SELECT t.id, $1, t.task_id, $4, $5, $5, NULLIF(t.join_id, '00000000-0000-0000-0000-000000000000') \
                 FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($6)) WITH ORDINALITY \
                     AS t (id, task_id, join_id, ordinal) \
                 ORDER BY t.ordinal \
                 RETURNING id"
                    .to_owned(),
                &[
                    pg_sys::UUIDOID,
                    pg_sys::UUIDARRAYOID,
                    pg_sys::TEXTARRAYOID,
                    pg_sys::INT4OID,
                    pg_sys::TIMESTAMPTZOID,
                    pg_sys::UUIDARRAYOID,
                ],
            );
        }
        let order = self.by_name();
        let ids = uuid_array(memory::collect(order.iter().map(|n| self.new[*n].as_datum())));
        let names = text_array(memory::collect(order.iter().map(|n| text_datum(&self.names[*n]))));
        let (max_tries, at) = (Datum::from(self.max_tries), Datum::from(self.creation.at));
        let values = [Some(self.run.as_datum()), Some(ids), Some(names), Some(max_tries), Some(at)];
        let mut inserted = if self.joins.is_empty() {
            INSERT.with(|plan| insert(self.creation, plan, &values))
        } else {
            let none = Uuid([0; 16]);
            let joins = order.iter().map(|n| self.joins[*n].as_ref().unwrap_or(&none).as_datum());
            let joins = uuid_array(memory::collect(joins));
            let values = [&values[..], &[Some(joins)]].concat();
            INSERT_JOINED.with(|plan| insert(self.creation, plan, &values))
        };
        self.queue_inserted(&inserted);
        if inserted.len() == order.len() {
            let by_name = memory::collect(inserted.iter().copied());
            order.iter().zip(by_name).for_each(|(n, id)| inserted[*n] = id);
        }
        inserted
    }

    /// Sets the columns of the queue, which the tables of 0.2.0 lack.
    fn queue_inserted(&self, inserted: &[Uuid]) {
        thread_local! {
            static SET: Plan = Plan::new(
                "UPDATE workflow.task_instances AS t \
                 SET queue_id = $2, priority = $3::pg_catalog.int2, not_before = $4, timeout = $5 \
                 WHERE t.id OPERATOR(pg_catalog.=) ANY ($1)"
                    .to_owned(),
                &[
                    pg_sys::UUIDARRAYOID,
                    pg_sys::INT4OID,
                    pg_sys::INT4OID,
                    pg_sys::TIMESTAMPTZOID,
                    pg_sys::INTERVALOID,
                ],
            );
        }
        let Some((queue_id, wanted)) = self.queued else { return };
        let values = [
            Some(uuid_array(memory::collect(inserted.iter().map(Uuid::as_datum)))),
            Some(Datum::from(queue_id)),
            Some(Datum::from(i32::from(wanted.priority))),
            wanted.not_before.map(Datum::from),
            wanted.timeout.and_then(IntoDatum::into_datum),
        ];
        rights::as_owner_of(self.creation.kind.relation(), || SET.with(|plan| plan.run(&values, |_| ())));
    }

    /// Inserts them by the direct path, and returns their IDs; `None` if that cannot.
    fn insert_directly(&self) -> Option<Vec<Uuid>> {
        let Entities { heap, columns, .. } = Entities::open_for_creation(self.creation.kind)?;
        let (task, max_tries) = (columns.task?, heap.column("max_tries"));
        let ids = memory::collect(self.new.iter().copied());
        let (queued, at) = (text_datum(State::Queued.as_str()), Datum::from(self.creation.at));
        let mut rows = NewRows::new(heap.width(), ids.len());
        let of_queue = self.queue_values(task.claim);
        for n in self.by_name() {
            rows.push(&of_queue);
            if let Some(Some(join)) = self.joins.get(n) {
                rows.set(&[(task.join_id?, join.as_datum())]);
            }
            rows.set(&[
                (columns.id, ids[n].as_datum()),
                (columns.parent, self.run.as_datum()),
                (task.task_id, text_datum(&self.names[n])),
                (columns.state, queued),
                (columns.version, Datum::from(1i64)),
                (task.try_number, Datum::from(0)),
                (max_tries, Datum::from(self.max_tries)),
                (columns.created_at, at),
                (columns.updated_at, at),
            ]);
        }
        let is_inserted = heap.insert(&mut rows);
        rows.free();
        heap.close();
        is_inserted.then_some(ids)
    }

    /// Returns the rows that say from when on the tasks can be claimed.
    fn ready(&self, ids: &[Uuid]) -> Vec<Ready> {
        let Some((queue_id, Wanted { priority, not_before, .. })) = self.queued else { return Vec::new() };
        let ready_at = ready::ready_at(not_before, self.creation.at);
        let is_ready = |n: &usize| self.joins.get(*n).is_none_or(Option::is_none);
        let tasks = (0..ids.len()).filter(is_ready).map(|n| ids[n]);
        memory::collect(tasks.enumerate().map(|(n, task)| {
            let ready_at = ready_at.saturating_add((n / ALIKE) as i64);
            Ready { queue_id, priority, ready_at, task, version: 1 }
        }))
    }

    /// Returns the values that the queue gives each row.
    fn queue_values(&self, claim: Option<ClaimColumns>) -> Vec<(usize, Datum)> {
        let Some((claim, (queue_id, wanted))) = claim.zip(self.queued) else { return Vec::new() };
        let mut values = vec![(claim.queue_id, Datum::from(queue_id)), (claim.priority, Datum::from(wanted.priority))];
        values.extend(wanted.not_before.map(|time| (claim.not_before, Datum::from(time))));
        values.extend(wanted.timeout.and_then(IntoDatum::into_datum).map(|timeout| (claim.timeout, timeout)));
        values
    }

    /// Returns the tasks' numbers in the order of their names, in which they are inserted. Of two calls that create tasks
    /// of the same names, one then waits for the other, and neither for each other.
    fn by_name(&self) -> Vec<usize> {
        let mut order = memory::collect(0..self.names.len());
        order.sort_unstable_by_key(|n| &self.names[*n]);
        order
    }
}

/// Checks a row of task_instances, for its CHECK constraint.
#[pgrx::pg_extern(sql = false)]
fn check_task_instance(task_id: &str, state: &str, max_tries: i32) -> bool {
    args::check_task_id("task_id", task_id);
    args::state("state", Some(state));
    args::check_max_tries(max_tries);
    true
}
