//! Tasks per second, beside the same tasks by other work.

use std::fmt::Write as _;

use serde::Serialize;

use super::ratio::{Ratio, median};

/// A figure to reach: ours at least so many times as fast as theirs.
#[derive(Serialize)]
pub struct Throughput {
    name: &'static str,
    clients: u32,
    #[serde(flatten)]
    ratio: Ratio,
    goal: f64,
    reached: bool,
    /// Medians, in tasks per second.
    ours: f64,
    theirs: f64,
}

impl Throughput {
    /// Of pairs of runs, in tasks per second.
    pub fn of(name: &'static str, clients: u32, goal: f64, pairs: &[(f64, f64)]) -> Throughput {
        let ratio = Ratio::of(pairs);
        let ours = median(pairs.iter().map(|pair| pair.0).collect());
        let theirs = median(pairs.iter().map(|pair| pair.1).collect());
        Throughput { name, clients, ratio, goal, reached: ratio.median >= goal, ours, theirs }
    }
}

pub fn table(figures: &[Throughput]) -> String {
    let mut table = String::new();
    for Throughput { name, clients, ratio, goal, reached, ours, theirs } in figures {
        let verdict = if *reached { "" } else { "  below target" };
        let _ = writeln!(
            table,
            "{name:66} {clients:>7} {ratio:>22} {goal:>6.2}  {ours:>7.0} {theirs:>7.0} tasks/s{verdict}"
        );
    }
    table
}
