//! Figures that are not compared with other work: times, bytes, and ratios to ourselves.

use std::fmt::Write as _;

use serde::Serialize;

#[derive(Serialize)]
pub struct Absolute {
    name: &'static str,
    value: f64,
    unit: &'static str,
    goal: f64,
    reached: bool,
}

pub fn at_most(name: &'static str, value: f64, unit: &'static str, goal: f64) -> Absolute {
    Absolute { name, value, unit, goal, reached: value <= goal }
}

pub fn at_least(name: &'static str, value: f64, unit: &'static str, goal: f64) -> Absolute {
    Absolute { name, value, unit, goal, reached: value >= goal }
}

pub fn table(figures: &[Absolute]) -> String {
    let mut table = String::new();
    for Absolute { name, value, unit, goal, reached } in figures {
        let verdict = if *reached { "" } else { "  below target" };
        let _ = writeln!(table, "{name:66} {value:>15.2} {unit:<4} goal {goal:>8}{verdict}");
    }
    table
}
