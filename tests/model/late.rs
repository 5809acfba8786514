//! A model of the end of a run while tasks are created in it (`extension/src/dependencies/late.rs`): every order of the steps
//! of transactions that create a task each, of those that end one each, and of claims, which look again.
//!
//! The run has a join, which does not list the new tasks. Without any one of the rules, the run ends without a task.

use crate::check::{Model, Property, assert_fails, assert_holds};

const ORPHAN: &str = "an ended run has no task that has not ended";
const LOST: &str = "the run ends in the end";

/// Task 0 exists from the beginning.
const TASKS: usize = 3;

#[derive(Clone, Copy)]
struct Rules {
    /// The end of the run fails if a creation has locked the key of the run, and lets later ones wait.
    excludes_creations: bool,
    /// After that it reads the tasks again.
    reads_again: bool,
    /// A creation that has locked the key looks whether the run has ended.
    refuses_in_ended_run: bool,
    /// A claim looks where a creation, or another look, was in the way.
    claims_look_again: bool,
    /// How many tasks the run watches before a creation adds none.
    enough: u32,
}

const DESIGN: Rules = Rules {
    excludes_creations: true,
    reads_again: true,
    refuses_in_ended_run: true,
    claims_look_again: true,
    enough: 2,
};

/// The rows of the run in `waits`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Waits {
    /// Tasks as bits.
    watched: u8,
    /// Those that watch no task, as bits: the looks that have left them.
    again: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Creation {
    Idle,
    /// Has locked the key of the run.
    Locks,
    /// Whether the run watches the task, too.
    HasWritten(bool),
    Over,
}

/// The end of a task, and its look; or a claim, which only looks.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Look {
    Idle,
    HasEnded,
    /// Holds the join. Has read which tasks have not ended.
    HasRead {
        has_unended: bool,
    },
    /// Holds the run, too.
    Excludes,
    /// Holds nothing, because it finds nothing to look at, or another look. Whether the commit leaves a row for the next one.
    Leaves {
        again: bool,
    },
    /// What the commit writes: rows to delete, rows to add, and whether the run ends. It holds the task that it watches.
    Decided {
        old: Waits,
        new: Waits,
        ends_run: bool,
    },
    Over,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    created: u8,
    ended: u8,
    waits: Waits,
    has_run_ended: bool,
    creations: [Creation; TASKS - 1],
    /// One for each task, and a claim.
    looks: [Look; TASKS + 1],
    rollbacks_left: u8,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Create(usize),
    Refuse(usize),
    RollBack(usize),
    Look(usize),
}

struct Run(Rules);

impl Look {
    fn holds_join(self) -> bool {
        matches!(self, Look::HasRead { .. } | Look::Excludes | Look::Decided { .. })
    }

    fn is_open(self) -> bool {
        !matches!(self, Look::Idle | Look::Over)
    }
}

impl Run {
    fn is_excluded(state: &State) -> bool {
        let excludes = |look: &Look| matches!(look, Look::Excludes | Look::Decided { ends_run: true, .. });
        state.looks.iter().any(excludes)
    }

    fn is_creating(state: &State) -> bool {
        state.creations.iter().any(|one| matches!(one, Creation::Locks | Creation::HasWritten(_)))
    }

    /// Tasks that others are about to end.
    fn being_ended(state: &State, by_other_than: usize) -> u8 {
        let others = (0..TASKS).filter(|other| *other != by_other_than && state.looks[*other].is_open());
        others.map(|other| 1 << other).sum()
    }

    /// Whether a look that has not committed watches it, and so holds its lock.
    fn is_held(state: &State, task: usize) -> bool {
        let holds = |look: &Look| matches!(look, Look::Decided { new, .. } if new.watched >> task & 1 == 1);
        state.looks.iter().any(holds)
    }

    fn unended(state: &State, look: usize) -> u8 {
        state.created & !state.ended & !if look < TASKS { 1 << look } else { 0 }
    }

    /// What a look writes that may end no run.
    fn watch(state: &State, look: usize) -> Look {
        let (old, unended) = (state.waits, Run::unended(state, look));
        if old.watched & unended != 0 {
            let old = Waits { watched: old.watched & !unended, ..old };
            return Look::Decided { old, new: Waits::default(), ends_run: false };
        }
        let free = unended & !Run::being_ended(state, look);
        let new = if free == 0 {
            Waits { watched: 0, again: 1 << look }
        } else {
            Waits { watched: 1 << free.trailing_zeros(), again: 0 }
        };
        Look::Decided { old, new, ends_run: false }
    }

    fn step(&self, state: &mut State, look: usize) {
        let again = Waits { watched: 0, again: 1 << look };
        let ends = Look::Decided { old: state.waits, new: Waits::default(), ends_run: true };
        state.looks[look] = match state.looks[look] {
            Look::Idle if look < TASKS => Look::HasEnded,
            Look::Idle | Look::HasEnded => {
                let is_own = look < TASKS && state.waits.watched >> look & 1 == 1;
                let is_found = is_own || state.waits.again != 0;
                let is_busy = state.looks.iter().any(|other| other.holds_join());
                match (is_found, is_busy) {
                    (true, false) => Look::HasRead { has_unended: Run::unended(state, look) != 0 },
                    _ => Look::Leaves { again: is_own },
                }
            }
            Look::HasRead { has_unended: true } => Run::watch(state, look),
            Look::HasRead { .. } if !self.0.excludes_creations => ends,
            Look::HasRead { .. } if Run::is_creating(state) => {
                Look::Decided { old: state.waits, new: again, ends_run: false }
            }
            Look::HasRead { .. } => Look::Excludes,
            Look::Excludes if self.0.reads_again && Run::unended(state, look) != 0 => Run::watch(state, look),
            Look::Excludes => ends,
            Look::Leaves { again } => {
                state.waits.again |= u8::from(again) << look;
                state.ended |= if look < TASKS { 1 << look } else { 0 };
                if look < TASKS { Look::Over } else { Look::Idle }
            }
            Look::Decided { old, new, ends_run } => {
                state.waits.watched = state.waits.watched & !old.watched | new.watched;
                state.waits.again = state.waits.again & !old.again | new.again;
                state.ended |= if look < TASKS { 1 << look } else { 0 };
                state.has_run_ended |= ends_run;
                if look < TASKS { Look::Over } else { Look::Idle }
            }
            Look::Over => Look::Over,
        };
    }
}

impl Model for Run {
    type State = State;
    type Action = Action;

    fn first_state(&self) -> State {
        State {
            created: 1,
            ended: 0,
            waits: Waits { watched: 1, again: 0 },
            has_run_ended: false,
            creations: [Creation::Idle; TASKS - 1],
            looks: [Look::Idle; TASKS + 1],
            rollbacks_left: 1,
        }
    }

    /// A transaction that waits for a lock has no action.
    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (n, creation) in state.creations.iter().enumerate() {
            match creation {
                Creation::Idle if Run::is_excluded(state) && self.0.excludes_creations => {}
                Creation::Locks if state.has_run_ended && self.0.refuses_in_ended_run => {
                    actions.push(Action::Refuse(n))
                }
                Creation::Over => {}
                _ => actions.push(Action::Create(n)),
            }
            let is_open = matches!(creation, Creation::Locks | Creation::HasWritten(_));
            actions.extend((is_open && state.rollbacks_left > 0).then_some(Action::RollBack(n)));
        }
        for (n, look) in state.looks.iter().enumerate() {
            let can_begin = if n < TASKS {
                state.created >> n & 1 == 1 && !Run::is_held(state, n)
            } else {
                self.0.claims_look_again && state.waits.again != 0
            };
            actions.extend((look.is_open() || (*look == Look::Idle && can_begin)).then_some(Action::Look(n)));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Create(n) => {
                state.creations[n] = match state.creations[n] {
                    Creation::Idle => Creation::Locks,
                    Creation::Locks => Creation::HasWritten(state.waits.watched.count_ones() < self.0.enough),
                    Creation::HasWritten(is_watched) => {
                        state.created |= 1 << (n + 1);
                        state.waits.watched |= u8::from(is_watched) << (n + 1);
                        Creation::Over
                    }
                    Creation::Over => Creation::Over,
                };
            }
            Action::Refuse(n) => state.creations[n] = Creation::Over,
            Action::RollBack(n) => {
                state.rollbacks_left -= 1;
                state.creations[n] = Creation::Over;
            }
            Action::Look(n) => self.step(&mut state, n),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Run>> {
        vec![
            Property::always(ORPHAN, |_, state: &State| !state.has_run_ended || state.created & !state.ended == 0),
            Property::always(LOST, |run, state: &State| {
                let mut actions = Vec::new();
                run.actions(state, &mut actions);
                !actions.is_empty() || state.has_run_ended
            }),
            Property::sometimes("a creation comes too late", |_, state: &State| {
                state.has_run_ended && state.creations.contains(&Creation::Locks)
            }),
            Property::sometimes("the run ends with all tasks", |_, state: &State| {
                state.has_run_ended && state.created.count_ones() == TASKS as u32
            }),
            Property::sometimes("a creation is in the way of the end", |_, state: &State| {
                state.waits.watched == 0 && state.waits.again != 0 && state.created & !state.ended == 0
            }),
        ]
    }
}

#[test]
fn run_ends_once_all_its_tasks_have_ended() {
    for enough in 0..=2 {
        assert_holds(Run(Rules { enough, ..DESIGN }));
    }
}

macro_rules! breaks {
    ($($name:ident: $property:ident without $rule:ident;)*) => {
        $(#[test]
        fn $name() {
            assert_fails(Run(Rules { $rule: false, ..DESIGN }), $property);
        })*
    };
}

breaks! {
    end_of_a_run_must_exclude_creations: ORPHAN without excludes_creations;
    tasks_must_be_read_after_the_exclusion: ORPHAN without reads_again;
    creation_must_refuse_an_ended_run: ORPHAN without refuses_in_ended_run;
    claims_must_look_after_a_creation_in_the_way: LOST without claims_look_again;
}
