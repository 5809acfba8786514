//! Trigger rules: whether a task may run, by how its parents have ended.

use crate::State;
use std::fmt;
use std::str::FromStr;

/// When a task runs that depends on others.
///
/// A rule parses from its name, with [`UnknownRule`] for any other text, and displays as its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum TriggerRule {
    /// All parents have succeeded.
    #[default]
    AllSuccess,
    /// All parents have ended, in whatever state.
    AllDone,
    /// No parent has failed.
    NoneFailed,
    /// No parent has failed, and at least one has succeeded.
    NoneFailedMinOneSuccess,
    /// One parent has succeeded. Known before the others have ended.
    OneSuccess,
    /// One parent has failed. Known before the others have ended.
    OneFailed,
    /// One parent has succeeded or failed. Known before the others have ended.
    OneDone,
    /// All parents have failed.
    AllFailed,
    /// All parents were skipped.
    AllSkipped,
    /// No parent was skipped.
    NoneSkipped,
    /// No parent was skipped, and at least one has succeeded.
    AllDoneMinOneSuccess,
}

use TriggerRule::{
    AllDone, AllDoneMinOneSuccess, AllFailed, AllSkipped, AllSuccess, NoneFailed, NoneFailedMinOneSuccess, NoneSkipped,
    OneDone, OneFailed, OneSuccess,
};

/// How many parents a task has, and how many of them have ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parents {
    /// All of them.
    pub total: usize,
    /// In state success.
    pub succeeded: usize,
    /// In state failed or upstream_failed.
    pub failed: usize,
    /// In state skipped.
    pub skipped: usize,
}

impl Parents {
    /// Counts one more parent, in this state.
    pub fn add(&mut self, state: State) {
        self.total += 1;
        match state {
            State::Success => self.succeeded += 1,
            State::Failed | State::UpstreamFailed => self.failed += 1,
            State::Skipped => self.skipped += 1,
            State::Queued | State::Running | State::Retrying => {}
        }
    }

    /// Returns whether all of them have ended.
    pub const fn have_ended(&self) -> bool {
        self.succeeded + self.failed + self.skipped == self.total
    }
}

/// What becomes of a task that depends on others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It waits for parents that have not ended.
    Undecided,
    /// It may run.
    Run,
    /// It fails without an attempt, because parents have failed.
    Fail,
    /// It is skipped.
    Skip,
}

impl TriggerRule {
    /// All rules, in the order of the documentation.
    pub const ALL: [TriggerRule; 11] = [
        AllSuccess,
        AllDone,
        NoneFailed,
        NoneFailedMinOneSuccess,
        OneSuccess,
        OneFailed,
        OneDone,
        AllFailed,
        AllSkipped,
        NoneSkipped,
        AllDoneMinOneSuccess,
    ];

    /// Returns the name used in SQL and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            AllSuccess => "all_success",
            AllDone => "all_done",
            NoneFailed => "none_failed",
            NoneFailedMinOneSuccess => "none_failed_min_one_success",
            OneSuccess => "one_success",
            OneFailed => "one_failed",
            OneDone => "one_done",
            AllFailed => "all_failed",
            AllSkipped => "all_skipped",
            NoneSkipped => "none_skipped",
            AllDoneMinOneSuccess => "all_done_min_one_success",
        }
    }

    /// Returns whether one parent can decide before the others have ended.
    pub const fn is_early(self) -> bool {
        matches!(self, OneSuccess | OneFailed | OneDone)
    }

    /// Returns the fate of a task by how its parents have ended.
    ///
    /// It never depends on the order in which they end: except for the rules that one parent decides, and those only to
    /// run, a task is undecided until all have ended.
    ///
    /// ```
    /// use pg_workflow_state_machine::{Fate, Parents, State, TriggerRule};
    ///
    /// let mut parents = Parents::default();
    /// [State::Success, State::Failed].into_iter().for_each(|state| parents.add(state));
    /// assert_eq!(TriggerRule::AllSuccess.fate(parents), Fate::Fail);
    /// assert_eq!(TriggerRule::AllDone.fate(parents), Fate::Run);
    /// parents.add(State::Running);
    /// assert_eq!(TriggerRule::AllSuccess.fate(parents), Fate::Undecided);
    /// assert_eq!(TriggerRule::OneSuccess.fate(parents), Fate::Run);
    /// ```
    pub const fn fate(self, parents: Parents) -> Fate {
        let Parents { total, succeeded, failed, skipped } = parents;
        let is_early_run = match self {
            OneSuccess => succeeded > 0,
            OneFailed => failed > 0,
            OneDone => succeeded + failed > 0,
            _ => false,
        };
        if is_early_run {
            return Fate::Run;
        }
        if !parents.have_ended() {
            return Fate::Undecided;
        }
        let runs = match self {
            AllSuccess => succeeded == total,
            AllDone => true,
            NoneFailed => failed == 0,
            NoneFailedMinOneSuccess => failed == 0 && succeeded > 0,
            OneSuccess | OneFailed | OneDone => false,
            AllFailed => failed == total,
            AllSkipped => skipped == total,
            NoneSkipped => skipped == 0,
            AllDoneMinOneSuccess => succeeded > 0 && skipped == 0,
        };
        let fails = match self {
            AllSuccess | NoneFailed | NoneFailedMinOneSuccess | OneSuccess => failed > 0,
            AllDoneMinOneSuccess => failed > 0 && skipped == 0,
            AllDone | OneFailed | OneDone | AllFailed | AllSkipped | NoneSkipped => false,
        };
        if runs {
            Fate::Run
        } else if fails {
            Fate::Fail
        } else {
            Fate::Skip
        }
    }
}

impl fmt::Display for TriggerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error of parsing a text that is not the name of a rule. Names are lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownRule(
    /// The text.
    pub String,
);

impl fmt::Display for UnknownRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown trigger rule \"{}\"", self.0)
    }
}

impl std::error::Error for UnknownRule {}

impl FromStr for TriggerRule {
    type Err = UnknownRule;

    fn from_str(name: &str) -> Result<TriggerRule, UnknownRule> {
        let rule = TriggerRule::ALL.into_iter().find(|rule| rule.as_str() == name);
        rule.ok_or_else(|| UnknownRule(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of the table: the rule, and its fate by the numbers of parents that succeeded, failed and were skipped.
    type Expected = (TriggerRule, fn(usize, usize, usize) -> Fate);

    /// The table of the documentation, written once more.
    const TABLE: [Expected; 11] = [
        (AllSuccess, |_, f, k| {
            if f > 0 {
                Fate::Fail
            } else if k > 0 {
                Fate::Skip
            } else {
                Fate::Run
            }
        }),
        (AllDone, |_, _, _| Fate::Run),
        (NoneFailed, |_, f, _| if f > 0 { Fate::Fail } else { Fate::Run }),
        (NoneFailedMinOneSuccess, |s, f, _| match (s, f) {
            (_, 1..) => Fate::Fail,
            (0, 0) => Fate::Skip,
            _ => Fate::Run,
        }),
        (OneSuccess, |s, f, _| match (s, f) {
            (1.., _) => Fate::Run,
            (0, 1..) => Fate::Fail,
            _ => Fate::Skip,
        }),
        (OneFailed, |_, f, _| if f > 0 { Fate::Run } else { Fate::Skip }),
        (OneDone, |s, f, _| if s + f > 0 { Fate::Run } else { Fate::Skip }),
        (AllFailed, |s, _, k| if s + k == 0 { Fate::Run } else { Fate::Skip }),
        (AllSkipped, |s, f, _| if s + f == 0 { Fate::Run } else { Fate::Skip }),
        (NoneSkipped, |_, _, k| if k == 0 { Fate::Run } else { Fate::Skip }),
        (AllDoneMinOneSuccess, |s, _, k| match (s, k) {
            (_, 1..) => Fate::Skip,
            (0, 0) => Fate::Fail,
            _ => Fate::Run,
        }),
    ];

    /// All numbers of up to four parents, of each kind and unended.
    fn all_parents() -> impl Iterator<Item = (Parents, usize)> {
        (1usize..=4).flat_map(|total| {
            (0..=total).flat_map(move |succeeded| {
                (0..=total - succeeded).flat_map(move |failed| {
                    (0..=total - succeeded - failed).map(move |skipped| {
                        let unended = total - succeeded - failed - skipped;
                        (Parents { total, succeeded, failed, skipped }, unended)
                    })
                })
            })
        })
    }

    #[test]
    fn fates_of_ended_parents_are_those_of_table() {
        assert_eq!(TABLE.map(|(rule, _)| rule), TriggerRule::ALL);
        for (parents, _) in all_parents().filter(|(_, unended)| *unended == 0) {
            for (rule, expected) in TABLE {
                let Parents { succeeded, failed, skipped, .. } = parents;
                assert_eq!(rule.fate(parents), expected(succeeded, failed, skipped), "{rule} {parents:?}");
            }
        }
    }

    #[test]
    fn early_fates_are_those_of_any_ends_of_the_others() {
        for (parents, unended) in all_parents().filter(|(_, unended)| *unended > 0) {
            for rule in TriggerRule::ALL {
                let fate = rule.fate(parents);
                let later = [State::Success, State::Failed, State::Skipped].map(|state| {
                    let mut parents = Parents { total: parents.total - unended, ..parents };
                    (0..unended).for_each(|_| parents.add(state));
                    rule.fate(parents)
                });
                let is_certain = later.iter().all(|one| *one == Fate::Run);
                let expected = if rule.is_early() && is_certain { Fate::Run } else { Fate::Undecided };
                // A rule that is not early waits, also if no end can change its fate.
                assert_eq!(fate, expected, "{rule} {parents:?}");
            }
        }
    }

    #[test]
    fn rules_parse_from_their_names() {
        for rule in TriggerRule::ALL {
            assert_eq!(rule.as_str().parse(), Ok(rule));
        }
        assert_eq!("always".parse::<TriggerRule>(), Err(UnknownRule("always".into())));
    }
}
