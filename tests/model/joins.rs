//! A model of a join: a group of tasks that waits for the same parents, and watches one parent that has not ended. The
//! transaction that ends the watched parent looks for another, and decides if there is none. Claims look again if the last
//! look found only parents that were being ended.
//!
//! The checker tries every order of the steps of transactions that end parents, of those that roll back, and of claims.
//! Without any one of the rules, the join is never decided, or too early, or transactions wait for each other for ever.

use crate::check::{Model, Property, assert_fails, assert_holds};

const LOST: &str = "the join is decided in the end";
const EARLY: &str = "it is decided only after all parents have ended";
const DEADLOCK: &str = "no transactions wait for each other";

/// A task that is no parent of the join, and has a row that transactions lock.
const OTHER: u8 = 7;

#[derive(Clone, Copy)]
struct Rules {
    /// A transaction looks once, at its end, when it has all row locks that it will wait for.
    looks_at_commit: bool,
    /// The look sees what was committed until now, also where the transaction's own snapshot is older.
    fresh_snapshot: bool,
    /// The look watches only a parent whose row it can lock, until it commits.
    locks_watched: bool,
    /// Claims look where the last look could lock no parent.
    claims_look_again: bool,
    /// The next look begins at the highest parent that has not ended, also if that one was being ended.
    begins_above_running: bool,
}

const DESIGN: Rules = Rules {
    looks_at_commit: true,
    fresh_snapshot: true,
    locks_watched: true,
    claims_look_again: true,
    begins_above_running: true,
};

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Watch {
    Parent(u8),
    /// All parents that have not ended were being ended.
    Nobody,
    Decided,
}

/// The row of the join.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Wait {
    watch: Watch,
    /// Parents from here on had ended at the last look.
    bound: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Waits,
    /// Has asked whether the join watches one of its parents.
    HasAsked,
    HasLooked,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Transaction {
    /// Parents as bits, and the row: at its begin. None before.
    snapshot: Option<(u8, Wait)>,
    /// How many of its parents it has ended.
    ended: usize,
    /// How many it had ended at its last look.
    looked_at: usize,
    step: Step,
    /// The join watches what it has ended: it holds the row's lock.
    holds_wait: bool,
    written: Option<Wait>,
    is_committed: bool,
    rollbacks_left: u8,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    ended: u8,
    wait: Wait,
    transactions: Vec<Transaction>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Begin(usize),
    EndParent(usize),
    Ask(usize),
    Look(usize),
    Commit(usize),
    RollBack(usize),
}

struct Join {
    /// The tasks that each transaction ends, in this order. A claim ends none.
    ends: &'static [&'static [u8]],
    /// A bit for each transaction that rolls back once before it commits.
    roll_back: u8,
    rules: Rules,
}

impl Join {
    fn parents(&self) -> u8 {
        self.ends.iter().flat_map(|parents| parents.iter()).filter(|parent| **parent != OTHER).count() as u8
    }

    fn is_claim(&self, transaction: usize) -> bool {
        self.ends[transaction].is_empty()
    }

    fn own(&self, state: &State, transaction: usize) -> u8 {
        self.ends[transaction][..state.transactions[transaction].ended].iter().map(|parent| 1 << parent).sum()
    }

    fn others(&self, transaction: usize) -> impl Iterator<Item = usize> {
        (0..self.ends.len()).filter(move |other| *other != transaction)
    }

    /// Whether another transaction has ended it and not committed yet.
    fn is_being_ended(&self, state: &State, parent: u8, by_other_than: usize) -> bool {
        self.others(by_other_than).any(|other| self.own(state, other) >> parent & 1 == 1)
    }

    fn is_watched(&self, state: &State, parent: u8, by_other_than: usize) -> bool {
        let watches =
            |other: usize| state.transactions[other].written.is_some_and(|wait| wait.watch == Watch::Parent(parent));
        self.rules.locks_watched && self.others(by_other_than).any(watches)
    }

    fn is_wait_locked(&self, state: &State, by_other_than: usize) -> bool {
        self.others(by_other_than).any(|other| state.transactions[other].holds_wait)
    }

    /// The ended parents and the row of the join that a look of this transaction sees.
    fn view(&self, state: &State, transaction: usize) -> (u8, Wait) {
        let own = &state.transactions[transaction];
        let (ended, wait) =
            if self.rules.fresh_snapshot { (state.ended, state.wait) } else { own.snapshot.expect("it has begun") };
        (ended | self.own(state, transaction), own.written.unwrap_or(wait))
    }

    fn must_look(&self, state: &State, transaction: usize) -> bool {
        let (own, all) = (&state.transactions[transaction], self.ends[transaction].len());
        let is_time = if self.rules.looks_at_commit || all == 0 { own.ended == all } else { own.looked_at < own.ended };
        own.step == Step::Waits && is_time
    }

    fn finds(&self, state: &State, transaction: usize) -> bool {
        match self.view(state, transaction).1.watch {
            Watch::Parent(parent) => self.own(state, transaction) >> parent & 1 == 1,
            Watch::Nobody => self.is_claim(transaction),
            Watch::Decided => false,
        }
    }

    fn look(&self, state: &State, transaction: usize) -> Wait {
        let (ended, wait) = self.view(state, transaction);
        let running: Vec<u8> = (0..wait.bound).rev().filter(|parent| ended >> parent & 1 == 0).collect();
        let Some(highest) = running.first() else { return Wait { watch: Watch::Decided, bound: 0 } };
        let can_watch = |parent: &&u8| !self.rules.locks_watched || !self.is_being_ended(state, **parent, transaction);
        match running.iter().find(can_watch) {
            Some(parent) => {
                let bound = if self.rules.begins_above_running { *highest } else { *parent } + 1;
                Wait { watch: Watch::Parent(*parent), bound }
            }
            None => Wait { watch: Watch::Nobody, bound: highest + 1 },
        }
    }
}

impl Transaction {
    fn idle(rollbacks_left: u8) -> Transaction {
        Transaction {
            snapshot: None,
            ended: 0,
            looked_at: 0,
            step: Step::Waits,
            holds_wait: false,
            written: None,
            is_committed: false,
            rollbacks_left,
        }
    }
}

impl Model for Join {
    type State = State;
    type Action = Action;

    fn first_state(&self) -> State {
        let parents = self.parents();
        State {
            ended: 0,
            wait: Wait { watch: Watch::Parent(parents - 1), bound: parents },
            transactions: (0..self.ends.len()).map(|n| Transaction::idle(self.roll_back >> n & 1)).collect(),
        }
    }

    /// A transaction that waits for a lock has no action.
    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (n, own) in state.transactions.iter().enumerate().filter(|(_, own)| !own.is_committed) {
            let is_idle_claim =
                self.is_claim(n) && (state.wait.watch != Watch::Nobody || !self.rules.claims_look_again);
            match (&own.snapshot, own.step) {
                (None, _) => {
                    actions.extend((!is_idle_claim).then_some(Action::Begin(n)));
                    continue;
                }
                (_, Step::HasAsked) => actions.push(Action::Look(n)),
                (_, Step::HasLooked) => actions.push(Action::Commit(n)),
                _ if self.must_look(state, n) => {
                    let waits = self.finds(state, n) && self.is_wait_locked(state, n);
                    actions.extend((!waits).then_some(Action::Ask(n)));
                }
                _ => {
                    let parent = self.ends[n][own.ended];
                    let waits = self.is_being_ended(state, parent, n) || self.is_watched(state, parent, n);
                    actions.extend((!waits).then_some(Action::EndParent(n)));
                }
            }
            actions.extend((own.rollbacks_left > 0).then_some(Action::RollBack(n)));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let (Action::Begin(n)
        | Action::EndParent(n)
        | Action::Ask(n)
        | Action::Look(n)
        | Action::Commit(n)
        | Action::RollBack(n)) = action;
        let own = &mut state.transactions[n];
        match action {
            Action::Begin(_) => own.snapshot = Some((last.ended, last.wait)),
            Action::EndParent(_) => own.ended += 1,
            Action::Ask(_) => {
                (own.step, own.looked_at) = (Step::HasAsked, own.ended);
                own.holds_wait |= self.finds(last, n);
            }
            Action::Look(_) => {
                own.written = if self.finds(last, n) { Some(self.look(last, n)) } else { own.written };
                let is_last = own.ended == self.ends[n].len();
                own.step = if is_last { Step::HasLooked } else { Step::Waits };
            }
            Action::Commit(_) => {
                state.wait = own.written.unwrap_or(state.wait);
                state.ended |= self.own(last, n) & !(1 << OTHER);
                let is_committed = !self.is_claim(n);
                // Its locks go; what it has ended stays so.
                *own = Transaction { is_committed, ..Transaction::idle(0) };
            }
            Action::RollBack(_) => *own = Transaction::idle(own.rollbacks_left - 1),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Join>> {
        vec![
            Property::always(LOST, |join, state: &State| {
                let mut actions = Vec::new();
                join.actions(state, &mut actions);
                let has_ended = state.ended.count_ones() == u32::from(join.parents());
                !(has_ended && actions.is_empty()) || state.wait.watch == Watch::Decided
            }),
            Property::always(EARLY, |join, state: &State| {
                state.wait.watch != Watch::Decided || state.ended.count_ones() == u32::from(join.parents())
            }),
            Property::always(DEADLOCK, |join, state: &State| {
                let mut actions = Vec::new();
                join.actions(state, &mut actions);
                !actions.is_empty() || state.ended.count_ones() == u32::from(join.parents())
            }),
            Property::sometimes("a look finds only parents that are being ended", |_, state: &State| {
                state.wait.watch == Watch::Nobody
            }),
            Property::sometimes("the join is decided", |_, state: &State| state.wait.watch == Watch::Decided),
        ]
    }
}

const SINGLE: Join = Join { ends: &[&[0], &[1], &[2], &[]], roll_back: 0b1111, rules: DESIGN };
/// Transactions that end two tasks each.
const MANY: Join = Join { ends: &[&[0, 3], &[2, 1], &[4], &[]], roll_back: 0b0001, rules: DESIGN };
const SHARED: Join = Join { ends: &[&[2, OTHER], &[OTHER, 1], &[0], &[]], roll_back: 0b0010, rules: DESIGN };

#[test]
fn join_is_decided_once_all_parents_have_ended() {
    assert_holds(SINGLE);
    assert_holds(MANY);
    assert_holds(SHARED);
}

macro_rules! breaks {
    ($($name:ident: $property:ident of $model:ident, without $rule:ident;)*) => {
        $(#[test]
        fn $name() {
            assert_fails(Join { rules: Rules { $rule: false, ..DESIGN }, ..$model }, $property);
        })*
    };
}

breaks! {
    look_must_be_the_last_step: DEADLOCK of SHARED, without looks_at_commit;
    look_needs_a_snapshot_of_its_moment: LOST of SINGLE, without fresh_snapshot;
    watched_parent_must_be_locked: LOST of SINGLE, without locks_watched;
    claims_must_look_where_nobody_is_watched: LOST of SINGLE, without claims_look_again;
    next_look_begins_above_running_parents: EARLY of SINGLE, without begins_above_running;
}
