//! The lines about dependencies in the table that a run prints.

use super::checker::Report;
use crate::chaos::table::print_some;

pub fn print(report: &Report) {
    println!("\ntasks that depend on others");
    let counts = [
        ("runs", report.runs),
        ("tasks", report.tasks),
        ("failed or skipped by their parents", report.decided),
        ("claims", report.claims),
        ("dependencies added later", report.added),
        ("prepared transactions", report.prepared),
        ("rolled back by workers", report.rolled_back),
        ("rolled back by a conflict", report.conflicts),
        ("workers killed in a transaction", report.killed),
        ("statements without an answer", report.unanswered),
    ];
    counts.iter().for_each(|(name, count)| println!("  {name:42} {count:>9}"));
    report.findings().iter().for_each(|(name, findings)| println!("  {name:42} {:>9}", findings.count));
}

pub fn print_findings(report: &Report) {
    report.findings().iter().for_each(|(kind, findings)| print_some("dependencies", kind, findings));
}
