//! A consumer and a follower read while writers write and servers fail.

use std::collections::BTreeSet;

use crate::check::{Model, Property};
use crate::database::{Database, Event, Id, TransactionId};
use crate::position::{HeldPosition, Opening};
use crate::rules::Rules;
use crate::writers::{Write, Writers};

/// What may happen at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounds {
    pub writers: Writers,
    /// Windows that the consumer opens; 0: there is no consumer.
    pub windows: u8,
    /// Windows that the follower opens, and its first position; 0: there is no follower.
    pub follower_windows: u8,
    /// Whether a reader can read one event at a time.
    pub reads_parts: bool,
    /// Whether the follower also reads in transactions that write.
    pub reads_in_transactions: bool,
    /// Whether the numbers of a place are taken at different times.
    pub reads_slowly: bool,
    pub crashes: u8,
    pub promotions: u8,
    pub has_synchronous_standby: bool,
    /// Starts of an older copy of the cluster's files, on the same timeline.
    pub copies: u8,
}

impl Bounds {
    fn goes_back(&self) -> bool {
        self.crashes + self.promotions + self.copies > 0
    }
}

#[derive(Clone, Debug)]
pub struct Feed {
    pub bounds: Bounds,
    pub rules: Rules,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub database: Database,
    pub left: Bounds,
    pub consumer: Reader,
    pub follower: Reader,
    pub held: Option<HeldPosition>,
    pub seen: Seen,
}

/// What properties need to know of the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    /// An entity's version was returned after a later one.
    pub disorder: bool,
    /// A window ended without an event that had committed before it.
    pub stall: bool,
    pub late_event: bool,
    pub refused_acknowledgment: bool,
    pub refused_position: bool,
    pub other_timeline: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reader {
    pub opening: Option<Opening>,
    /// All that had committed at the end of the window.
    pub due: Vec<Event>,
    /// All that was ever returned.
    pub returned: BTreeSet<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Write(Write),
    Read {
        max: usize,
    },
    /// The next number of the place at which the consumer's window ends.
    TakeNumber,
    Acknowledge {
        id: Id,
    },
    /// `current_position()` at first, then `follow_events()`; within this transaction.
    Follow {
        max: usize,
        own: Option<TransactionId>,
    },
    TakeFollowersNumber,
    Crash {
        kept: usize,
    },
    Promote {
        kept: usize,
    },
    StartCopy {
        kept: usize,
    },
}

/// As many events as there are.
const ALL: usize = 99;

impl Model for Feed {
    type State = State;
    type Action = Action;

    fn first_state(&self) -> State {
        State {
            database: Database::new(self.bounds.has_synchronous_standby),
            left: self.bounds,
            consumer: Reader::default(),
            follower: Reader::default(),
            held: None,
            seen: Seen::default(),
        }
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let mut writes = Vec::new();
        state.left.writers.actions(&state.database, &mut writes);
        actions.extend(writes.into_iter().map(Action::Write));
        let parts: &[usize] = if self.bounds.reads_parts { &[ALL, 1] } else { &[ALL] };
        self.consumer_actions(state, parts, actions);
        self.follower_actions(state, parts, actions);
        if state.left.crashes > 0 {
            actions.extend(state.database.kept_by_crash().map(|kept| Action::Crash { kept }));
        }
        if state.left.promotions > 0 {
            actions.extend(state.database.kept_by_promotion().map(|kept| Action::Promote { kept }));
        }
        if state.left.copies > 0 {
            actions.extend((0..=state.database.lsn()).map(|kept| Action::StartCopy { kept }));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let (mut state, rules) = (last.clone(), &self.rules);
        match action {
            Action::Write(write) => state.left.writers.act(&mut state.database, write, rules),
            Action::Read { max } => state.read(max, self.bounds.reads_slowly, rules),
            Action::TakeNumber => state.take_number(rules),
            Action::Acknowledge { id } => state.acknowledge(id, rules),
            Action::Follow { max, own } => state.follow(max, own, self.bounds.reads_slowly, rules),
            Action::TakeFollowersNumber => state.take_followers_number(rules),
            Action::Crash { kept } => {
                state.left.crashes -= 1;
                state.database.recover(kept);
                state.end_sessions();
            }
            Action::Promote { kept } => {
                state.left.promotions -= 1;
                state.database.promote(kept);
                state.end_sessions();
            }
            Action::StartCopy { kept } => {
                state.left.copies -= 1;
                state.database.recover(kept);
                state.end_sessions();
            }
        }
        if !state.left.goes_back() {
            state.database.forget_log();
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Feed>> {
        let mut properties = vec![
            Property::<Feed>::always("no event is skipped", |feed, state| feed.skips_nothing(state)),
            Property::<Feed>::always("order within an entity", |_, state| !state.seen.disorder),
            Property::<Feed>::always("a window has all that had committed", |_, state| !state.seen.stall),
        ];
        // An asynchronous standby, or a copy, lacks what it lacks.
        let loses_nothing =
            self.bounds.copies == 0 && (self.bounds.promotions == 0 || self.bounds.has_synchronous_standby);
        if loses_nothing {
            properties.push(Property::<Feed>::always("returned events stay", |_, state| state.keeps_returned()));
            properties.push(Property::<Feed>::always("no position is refused needlessly", |feed, state| {
                state.held.as_ref().is_none_or(|held| held.parse(&state.database, &feed.rules).is_some())
            }));
        }
        properties.extend(self.reachable());
        properties
    }
}

impl Feed {
    /// What must happen somewhere, or the properties above would say little.
    fn reachable(&self) -> Vec<Property<Feed>> {
        let bounds = &self.bounds;
        let mut properties =
            vec![Property::<Feed>::sometimes("an event below the floor is returned", |_, state| state.seen.late_event)];
        if bounds.windows > 0 && bounds.reads_parts && !bounds.goes_back() {
            properties.push(Property::<Feed>::sometimes("an acknowledgment is refused", |_, state| {
                state.seen.refused_acknowledgment
            }));
        }
        if bounds.follower_windows > 0 && bounds.promotions > 0 {
            properties.push(Property::<Feed>::sometimes("a position goes to another timeline", |_, state| {
                state.seen.other_timeline
            }));
        }
        if bounds.follower_windows > 0 && bounds.promotions + bounds.copies > 0 && !bounds.has_synchronous_standby {
            properties
                .push(Property::<Feed>::sometimes("a position is refused", |_, state| state.seen.refused_position));
        }
        properties
    }

    /// Each event that counts as acknowledged, or will if its transaction commits, has been returned.
    fn skips_nothing(&self, state: &State) -> bool {
        let database = &state.database;
        let consumed = &state.consumer.returned;
        let position = &database.consumer.position;
        let consumer_skips_nothing = database
            .events()
            .all(|event| !position.is_acknowledged(event.id, event.transaction_id) || consumed.contains(event));
        consumer_skips_nothing && state.held.as_ref().is_none_or(|held| self.follower_skips_nothing(state, held))
    }

    fn follower_skips_nothing(&self, state: &State, held: &HeldPosition) -> bool {
        let Some(position) = held.parse(&state.database, &self.rules) else { return true };
        let is_acknowledged = |event: &Event| position.is_acknowledged(event.id, event.transaction_id);
        state.database.events().all(|event| !is_acknowledged(event) || state.follower.returned.contains(event))
    }

    fn consumer_actions(&self, state: &State, parts: &[usize], actions: &mut Vec<Action>) {
        if self.bounds.windows == 0 {
            return;
        }
        if state.consumer.opening.is_some() {
            actions.push(Action::TakeNumber);
            return;
        }
        if state.database.consumer.position.window.is_some() || state.left.windows > 0 {
            actions.extend(parts.iter().map(|max| Action::Read { max: *max }));
        }
        if state.database.consumer.position.window.is_some() {
            actions.extend(state.database.history.iter().map(|event| Action::Acknowledge { id: event.id }));
        }
    }

    fn follower_actions(&self, state: &State, parts: &[usize], actions: &mut Vec<Action>) {
        if self.bounds.follower_windows == 0 || (state.held.is_none() && state.seen.refused_position) {
            return;
        }
        if state.follower.opening.is_some() {
            actions.push(Action::TakeFollowersNumber);
            return;
        }
        let has_window = state.held.as_ref().is_some_and(|held| held.position.window.is_some());
        if !has_window && state.left.follower_windows == 0 {
            return;
        }
        let sessions = state.database.in_progress.iter().filter(|transaction| !transaction.is_prepared);
        let sessions = sessions.filter(|_| self.bounds.reads_in_transactions);
        let sessions: Vec<_> = sessions.map(|transaction| Some(transaction.id)).collect();
        for max in parts {
            actions.push(Action::Follow { max: *max, own: None });
            actions.extend(sessions.iter().map(|own| Action::Follow { max: *max, own: *own }));
        }
    }
}
