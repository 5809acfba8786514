//! The lines about claims in the table that a run prints.

use super::checker::Report;
use crate::chaos::table::print_some;

pub fn print(report: &Report) {
    println!("\nclaims of tasks");
    let counts = [
        ("statements without an answer", report.unanswered),
        ("claims", report.claims),
        ("expired", report.expired),
        ("refused words of the dead", report.refused),
        ("confirmed words lost with their commit", report.undone),
    ];
    counts.iter().for_each(|(name, count)| println!("  {name:42} {count:>9}"));
    report.findings().iter().for_each(|(name, findings)| println!("  {name:42} {:>9}", findings.count));
}

pub fn print_findings(report: &Report) {
    report.findings().iter().for_each(|(kind, findings)| print_some("claims", kind, findings));
}
