//! Appending the events of a statement to the history, and notifying of them.

use crate::call::{self, Creation, Request};
use crate::dag_of::dag_of;
use crate::entity::EntityType;
use crate::errors;
use crate::event::Event;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::session;
use crate::ffi::uuid::Uuid;
use crate::history::{History, Origin};
use crate::notifications::Notifications;
use crate::{actor, endings, memory, parked};
use pg_workflow_state_machine::State;
use pgrx::pg_sys::Oid;

/// A transition that a statement made.
pub struct Transition {
    pub id: Uuid,
    /// The DAG of a run, the run of a task.
    pub parent: Uuid,
    pub task_id: Option<String>,
    pub from: State,
    pub to: State,
    pub version: i64,
    pub changed_at: i64,
}

/// The origin of a transition: all transitions of a statement have the same.
#[derive(Clone, Copy)]
pub struct Maker {
    pub role: Oid,
    /// The call whose statement it is; `None` for a statement of the user's.
    pub call: Option<u64>,
}

impl Maker {
    /// A statement of the current role.
    pub fn current(call: Option<u64>) -> Maker {
        let given = call.and_then(|call| call::request(call, |request| request.role)).flatten();
        Maker { role: given.unwrap_or_else(session::user), call }
    }
}

/// The words of a caller that a transition's event has.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    pub metadata: Jsonb,
    pub request_id: Option<&'a str>,
}

/// Appends an event for each entity that a statement created, moved or deleted. `event` builds it from its new ID.
pub fn append<'a, T>(entities: impl IntoIterator<Item = T>, origin: Origin, event: impl Fn(i64, T) -> Event<'a>) {
    /// Events that are written together, and bytes of their metadata.
    const MOST: usize = 1000;
    const MOST_BYTES: usize = 256 * 1024;
    let mut history = History::open();
    let (table, owner) = history.table();
    let notifications = Notifications::of_transaction(table, owner);
    let mut entities = entities.into_iter();
    loop {
        let (mut events, mut bytes) = (Vec::new(), 0);
        while events.len() < MOST && bytes < MOST_BYTES {
            let Some(entity) = entities.next() else { break };
            let event = event(history.next_id(), entity);
            bytes += event.metadata.size();
            memory::push(&mut events, event);
        }
        if events.is_empty() {
            break;
        }
        history.write(&events, origin);
        events.iter().for_each(|event| notifications.send(event));
    }
    history.close();
}

/// Appends transitions of one statement to the history.
pub fn append_transitions(kind: EntityType, transitions: &[Transition], maker: Maker) {
    let read = |request: &Request| (request.metadata, request.request_id.as_deref().map(memory::copy));
    let (metadata, request_id) = match maker.call {
        Some(call) => call::request(call, read).unwrap_or_else(|| errors::unrecorded(kind, transitions[0].id)),
        None => (Jsonb::empty_object(), None),
    };
    let words = Words { metadata, request_id: request_id.as_deref() };
    append_transitions_by(maker.role, kind, transitions, |_| words);
}

/// Lets the tasks of runs be claimed again that had ended.
fn bring_back(kind: EntityType, transitions: &[Transition]) {
    let is_revived = |made: &&Transition| kind == EntityType::DagRun && made.from.is_finished();
    parked::bring_back_runs(&memory::collect(transitions.iter().filter(is_revived).map(|made| made.id)));
}

/// Appends transitions that a role made to the history, each with its words.
pub fn append_transitions_by<'a>(
    role: Oid,
    kind: EntityType,
    transitions: &'a [Transition],
    words: impl Fn(usize) -> Words<'a>,
) {
    bring_back(kind, transitions);
    if kind == EntityType::TaskInstance {
        endings::note(transitions.iter().filter(|made| made.to.is_finished()).map(|made| made.id));
        let is_returned = |made: &&Transition| made.from.is_finished() && !made.to.is_finished();
        endings::note_returned(transitions.iter().filter(is_returned).map(|made| (made.id, made.parent)));
    }
    let (actor, acted_as) = actor::of(role);
    // Before the history is open: this may run a query.
    let dags = memory::collect(transitions.iter().map(|transition| transition.dag(kind)));
    let origin = Origin { acted_as: acted_as.as_deref() };
    append(transitions.iter().zip(dags).enumerate(), origin, |id, (n, (transition, dag_id))| {
        let Words { metadata, request_id } = words(n);
        Event {
            id,
            entity_type: kind.as_str(),
            entity_id: transition.id,
            dag_id,
            dag_run_id: if kind == EntityType::DagRun { transition.id } else { transition.parent },
            task_id: transition.task_id.as_deref(),
            old_state: Some(transition.from.as_str()),
            new_state: Some(transition.to.as_str()),
            version: transition.version,
            changed_at: transition.changed_at,
            actor: &actor,
            metadata,
            request_id,
        }
    });
}

impl Transition {
    fn dag(&self, kind: EntityType) -> Uuid {
        match kind {
            EntityType::DagRun => self.parent,
            EntityType::TaskInstance => dag_of(self.parent)
                .unwrap_or_else(|| errors::missing("dag_run", &self.parent.to_string(), "move a task of it")),
        }
    }
}

/// Appends the creation of entities of one parent to the history: runs of a DAG, or tasks of a run.
pub fn append_creations(creation: Creation, parent: Uuid, created: &[(Uuid, Option<&str>)]) {
    let dag_id = match creation.kind {
        EntityType::DagRun => parent,
        EntityType::TaskInstance => {
            dag_of(parent).unwrap_or_else(|| errors::missing("dag_run", &parent.to_string(), "create tasks in it"))
        }
    };
    append_creations_in(dag_id, creation, parent, created);
}

/// As above, with the DAG.
pub fn append_creations_in(dag_id: Uuid, creation: Creation, parent: Uuid, created: &[(Uuid, Option<&str>)]) {
    let Creation { kind, at, caller } = creation;
    let actor = session::session_user();
    let metadata = Jsonb::empty_object();
    let acted_as = session::acted_as(caller);
    let origin = Origin { acted_as: acted_as.as_deref() };
    append(created, origin, |id, (entity_id, task_id)| Event {
        id,
        entity_type: kind.as_str(),
        entity_id: *entity_id,
        dag_id,
        dag_run_id: if kind == EntityType::DagRun { *entity_id } else { parent },
        task_id: *task_id,
        old_state: None,
        new_state: Some(State::Queued.as_str()),
        version: 1,
        changed_at: at,
        actor: &actor,
        metadata,
        request_id: None,
    });
}
