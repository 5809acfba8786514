//! Two relays share a consumer by leases and write to a destination that can lose its latest entries.

use crate::check::{Model, Property};
use crate::database::{Database, Event};
use crate::rules::Rules;
use crate::writers::{Write, Writers};

/// What may happen at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounds {
    pub writers: Writers,
    pub leases: u8,
    pub windows: u8,
    pub checkpoints: u8,
    /// How often the destination loses its latest entries.
    pub losses: u8,
    pub crashes: u8,
    pub reads_parts: bool,
}

#[derive(Clone, Debug)]
pub struct Relays {
    pub bounds: Bounds,
    pub rules: Rules,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub database: Database,
    pub left: Bounds,
    pub relays: [Relay; 2],
    pub destination: Vec<Event>,
    pub was_refused: bool,
    pub was_late: bool,
}

/// The last entry: its number, and its event.
pub type End = (usize, Option<Event>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Relay {
    pub lease: u8,
    /// Read from the feed, and not acknowledged.
    pub batch: Vec<Event>,
    pub is_published: bool,
    /// Where the relay expects the destination to end; none: it must compare.
    pub expected: Option<End>,
    /// Entries after the checkpoint that the relay has not met in the feed.
    pub read_back: Vec<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Write(Write),
    Lease(usize),
    /// Goes back to the last checkpoint that is not beyond the destination's end, and reads the later entries.
    Compare(usize),
    Read {
        relay: usize,
        max: usize,
    },
    Publish(usize),
    Acknowledge(usize),
    SaveCheckpoint(usize),
    LoseEntries {
        kept: usize,
    },
    Crash {
        kept: usize,
    },
}

pub fn end(destination: &[Event]) -> End {
    (destination.len(), destination.last().copied())
}

impl Model for Relays {
    type State = State;
    type Action = Action;

    fn first_state(&self) -> State {
        State {
            database: Database::new(false),
            left: self.bounds,
            relays: [Relay::default(), Relay::default()],
            destination: Vec::new(),
            was_refused: false,
            was_late: false,
        }
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let mut writes = Vec::new();
        state.left.writers.actions(&state.database, &mut writes);
        actions.extend(writes.into_iter().map(Action::Write));
        // The relays are alike: the first one leads first.
        let relays = if state.relays[0] == Relay::default() { 1 } else { 2 };
        for (number, relay) in state.relays.iter().enumerate().take(relays) {
            self.actions_of(state, number, relay, actions);
        }
        if state.left.losses > 0 {
            actions.extend((0..state.destination.len()).map(|kept| Action::LoseEntries { kept }));
        }
        if state.left.crashes > 0 {
            actions.extend(state.database.kept_by_crash().map(|kept| Action::Crash { kept }));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Write(write) => state.left.writers.act(&mut state.database, write, &self.rules),
            Action::Lease(relay) => state.lease(relay, &self.rules),
            Action::Compare(relay) => state.compare(relay, &self.rules),
            Action::Read { relay, max } => state.read(relay, max, &self.rules),
            Action::Publish(relay) => state.publish(relay, &self.rules),
            Action::Acknowledge(relay) => state.acknowledge(relay, &self.rules),
            Action::SaveCheckpoint(relay) => state.save_checkpoint(relay, &self.rules),
            Action::LoseEntries { kept } => {
                state.left.losses -= 1;
                state.destination.truncate(kept);
                if self.rules.connection_ends {
                    state.end_connections();
                }
            }
            Action::Crash { kept } => {
                state.left.crashes -= 1;
                state.database.recover(kept);
                state.end_connections();
            }
        }
        if state.left.crashes == 0 {
            state.database.forget_log();
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Relays>> {
        let mut properties = vec![
            Property::<Relays>::always("no event is skipped", |_, state| state.skips_nothing()),
            Property::<Relays>::always("order within an entity", |_, state| state.is_in_order()),
            Property::<Relays>::always("no entry twice", |_, state| state.has_no_entry_twice()),
        ];
        if self.bounds.leases > 1 {
            properties.push(Property::<Relays>::sometimes("an old holder is refused", |_, state| state.was_refused));
            properties.push(Property::<Relays>::sometimes("an old holder publishes", |_, state| state.was_late));
        }
        properties
    }
}

impl Relays {
    fn actions_of(&self, state: &State, number: usize, relay: &Relay, actions: &mut Vec<Action>) {
        let has_lease = relay.lease != 0 && relay.lease == state.database.consumer.lease_number;
        if state.left.leases > 0 && !has_lease {
            actions.push(Action::Lease(number));
        }
        if relay.lease == 0 {
            return;
        }
        if relay.expected.is_none() {
            actions.push(Action::Compare(number));
        } else if relay.batch.is_empty() {
            actions.push(Action::Read { relay: number, max: 99 });
            if self.bounds.reads_parts {
                actions.push(Action::Read { relay: number, max: 1 });
            }
            let has_met_all = relay.read_back.is_empty() || !self.rules.checkpoint_when_met;
            if has_met_all && state.left.checkpoints > 0 {
                actions.push(Action::SaveCheckpoint(number));
            }
        } else if !relay.is_published {
            actions.push(Action::Publish(number));
        }
        if relay.is_published {
            actions.push(Action::Acknowledge(number));
        }
    }
}

impl State {
    /// While the leading relay finds the destination as it expects, all acknowledged events are there.
    fn skips_nothing(&self) -> bool {
        let leads = |relay: &&Relay| relay.lease != 0 && relay.lease == self.database.consumer.lease_number;
        let finds_what_it_expects = |relay: &Relay| relay.expected == Some(end(&self.destination));
        let position = &self.database.consumer.position;
        let is_acknowledged = |event: &&Event| position.is_acknowledged(event.id, event.transaction_id);
        !self.relays.iter().filter(leads).any(finds_what_it_expects)
            || self.database.history.iter().filter(is_acknowledged).all(|event| self.destination.contains(event))
    }

    fn is_in_order(&self) -> bool {
        let entries = self.destination.iter().enumerate();
        entries.clone().all(|(place, event)| {
            let earlier = &self.destination[..place];
            !earlier.iter().any(|other| other.entity == event.entity && other.version > event.version)
        })
    }

    fn has_no_entry_twice(&self) -> bool {
        self.destination.iter().enumerate().all(|(place, event)| !self.destination[..place].contains(event))
    }
}
