//! A model of the place at which claims begin (`extension/src/places.rs`): every order of the steps of transactions
//! that add tasks, and of claims that take them, commit and roll back.
//!
//! Without any one of its rules, a task is lost: it can be claimed, and no claim looks there.

use crate::check::{Model, Property, assert_fails, assert_holds};

const LOST: &str = "no task is before the place";
/// A lane without a task.
const END: u8 = 9;
/// Reports that shared memory remembers.
const REMEMBERED: usize = 2;

#[derive(Clone, Copy)]
struct Rules {
    /// The place is read before the snapshot is taken.
    place_before_snapshot: bool,
    /// The place rises to the first row that is visible, also if another transaction takes it.
    first_visible: bool,
    /// It stays at the lowest row that was reported since it was read.
    reports_since: bool,
    /// It stays as it is if more was reported than is remembered.
    all_reports: bool,
    /// Only the first claim of a transaction moves it: its own deletions are visible to others.
    once_a_transaction: bool,
}

const DESIGN: Rules = Rules {
    place_before_snapshot: true,
    first_visible: true,
    reports_since: true,
    all_reports: true,
    once_a_transaction: true,
};

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Row {
    Absent,
    Written,
    Claimable,
    /// By a claimer that can still roll back.
    Taken(u8),
    Gone,
}

/// A transaction that adds the task of a row.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Adder {
    Begins,
    HasWritten,
    HasCommitted,
    HasReported,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Begins,
    /// Has read the place, or the snapshot, according to the rules.
    HasFirst,
    HasBoth,
    HasTaken,
    HasStored,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Claimer {
    step: Step,
    place: u8,
    reports: usize,
    /// Bits of the rows that it sees.
    snapshot: u8,
    first_visible: u8,
    claims: u8,
    transactions_left: u8,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    rows: Vec<Row>,
    place: u8,
    reports: Vec<u8>,
    adders: Vec<Adder>,
    claimers: Vec<Claimer>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Add(usize),
    Claim(usize),
    /// The transaction of a claimer continues with another claim.
    ClaimAgain(usize),
    RollBack(usize),
}

struct Places {
    /// The rows that are added later; the others are there.
    added: &'static [u8],
    claimers: usize,
    rules: Rules,
}

impl Places {
    fn add(&self, state: &mut State, adder: usize) {
        let key = self.added[adder];
        let row = &mut state.rows[usize::from(key)];
        match state.adders[adder] {
            Adder::Begins => (state.adders[adder], *row) = (Adder::HasWritten, Row::Written),
            Adder::HasWritten => (state.adders[adder], *row) = (Adder::HasCommitted, Row::Claimable),
            Adder::HasCommitted => {
                state.adders[adder] = Adder::HasReported;
                state.reports.push(key);
                state.place = state.place.min(key);
            }
            Adder::HasReported => {}
        }
    }

    fn claim(&self, state: &mut State, claimer: usize) {
        let own = state.claimers[claimer].clone();
        let is_place = match own.step {
            Step::Begins => self.rules.place_before_snapshot,
            Step::HasFirst => !self.rules.place_before_snapshot,
            Step::HasBoth => return take(state, claimer),
            Step::HasTaken => return self.store(state, claimer),
            Step::HasStored => return end(state, claimer, Row::Gone),
        };
        let visible =
            |row: &Row| *row == Row::Claimable || matches!(row, Row::Taken(by) if usize::from(*by) != claimer);
        let snapshot = state.rows.iter().enumerate().filter(|(_, row)| visible(row)).map(|(key, _)| 1 << key).sum();
        let (place, reports) = (state.place, state.reports.len());
        let next = &mut state.claimers[claimer];
        next.step = if own.step == Step::Begins { Step::HasFirst } else { Step::HasBoth };
        if is_place {
            (next.place, next.reports) = (place, reports);
        } else {
            next.snapshot = snapshot;
        }
    }

    fn store(&self, state: &mut State, claimer: usize) {
        let own = &state.claimers[claimer];
        let taken = state.rows.iter().position(|row| *row == Row::Taken(claimer as u8));
        let first = if self.rules.first_visible { own.first_visible } else { taken.map_or(END, |key| key as u8) };
        let since = &state.reports[own.reports..];
        let remembered = &since[since.len().saturating_sub(REMEMBERED)..];
        let lowest = remembered.iter().copied().filter(|_| self.rules.reports_since).min().unwrap_or(END);
        let may_move = (own.claims == 0 || !self.rules.once_a_transaction)
            && (since.len() <= REMEMBERED || !self.rules.all_reports || !self.rules.reports_since);
        if may_move {
            state.place = first.min(lowest);
        }
        state.claimers[claimer].step = Step::HasStored;
    }
}

fn take(state: &mut State, claimer: usize) {
    let own = &mut state.claimers[claimer];
    let mut visible = (own.place..4).filter(|key| own.snapshot >> key & 1 == 1);
    own.first_visible = visible.clone().next().unwrap_or(END);
    own.step = Step::HasTaken;
    if let Some(key) = visible.find(|key| state.rows[usize::from(*key)] == Row::Claimable) {
        state.rows[usize::from(key)] = Row::Taken(claimer as u8);
    }
}

fn end(state: &mut State, claimer: usize, taken: Row) {
    state.rows.iter_mut().filter(|row| **row == Row::Taken(claimer as u8)).for_each(|row| *row = taken);
    let left = state.claimers[claimer].transactions_left - 1;
    state.claimers[claimer] = Claimer::idle(left);
}

impl Claimer {
    fn idle(transactions_left: u8) -> Claimer {
        let step = Step::Begins;
        Claimer { step, place: 0, reports: 0, snapshot: 0, first_visible: 0, claims: 0, transactions_left }
    }
}

impl Model for Places {
    type State = State;
    type Action = Action;

    fn first_state(&self) -> State {
        let absent = |key| if self.added.contains(&key) { Row::Absent } else { Row::Claimable };
        State {
            rows: (0..4).map(absent).collect(),
            place: 0,
            reports: Vec::new(),
            adders: vec![Adder::Begins; self.added.len()],
            claimers: vec![Claimer::idle(1); self.claimers],
        }
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let adders = state.adders.iter().enumerate().filter(|(_, adder)| **adder != Adder::HasReported);
        actions.extend(adders.map(|(n, _)| Action::Add(n)));
        for (n, claimer) in state.claimers.iter().enumerate().filter(|(_, claimer)| claimer.transactions_left > 0) {
            actions.push(Action::Claim(n));
            if claimer.step == Step::HasStored {
                actions.push(Action::RollBack(n));
                actions.extend((claimer.claims == 0).then_some(Action::ClaimAgain(n)));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Add(adder) => self.add(&mut state, adder),
            Action::Claim(claimer) => self.claim(&mut state, claimer),
            Action::ClaimAgain(claimer) => {
                let own = &mut state.claimers[claimer];
                (own.step, own.claims) = (Step::Begins, own.claims + 1);
            }
            Action::RollBack(claimer) => end(&mut state, claimer, Row::Claimable),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Places>> {
        vec![
            Property::always(LOST, |_, state: &State| {
                let is_quiet = !state.adders.contains(&Adder::HasCommitted)
                    && state.claimers.iter().all(|claimer| claimer.step == Step::Begins && claimer.claims == 0);
                let is_lost = |key: usize| state.rows[key] == Row::Claimable && key < usize::from(state.place);
                !is_quiet || !(0..state.rows.len()).any(is_lost)
            }),
            Property::sometimes("the place rises", |_, state: &State| state.place > 1),
            Property::sometimes("the place falls", |_, state: &State| !state.reports.is_empty() && state.place == 0),
        ]
    }
}

/// Late commits before and between the tasks that are there.
const EARLIER: Places = Places { added: &[1], claimers: 2, rules: DESIGN };
const BOTH: Places = Places { added: &[0, 2], claimers: 2, rules: DESIGN };
/// More than are remembered.
const MANY: Places = Places { added: &[0, 1, 3], claimers: 1, rules: DESIGN };

#[test]
fn no_task_is_lost() {
    assert_holds(BOTH);
    assert_holds(MANY);
}

macro_rules! loses {
    ($($name:ident: $model:ident, without $rule:ident;)*) => {
        $(#[test]
        fn $name() {
            assert_fails(Places { rules: Rules { $rule: false, ..DESIGN }, ..$model }, LOST);
        })*
    };
}

loses! {
    place_must_be_read_before_snapshot: BOTH, without place_before_snapshot;
    place_rises_to_visible_rows_only: EARLIER, without first_visible;
    place_needs_reports_since_it_was_read: EARLIER, without reports_since;
    forgotten_reports_keep_the_place: MANY, without all_reports;
    second_claim_of_a_transaction_moves_no_place: EARLIER, without once_a_transaction;
}
