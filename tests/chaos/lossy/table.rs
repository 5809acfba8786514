//! The table that a run prints at its end.

use super::checker::{Compared, Report};
use super::run::Outcome;
use crate::chaos::claims;
use crate::chaos::run::Options;
use crate::chaos::table::{print_some, print_titles, print_verdict};
use crate::chaos::verdict::Verdict;

pub fn print(options: &Options, outcome: &Outcome) {
    let (report, evidence) = (&outcome.report, &outcome.evidence);
    println!("\n{:66} {:>14}", "losses", "confirmed, lost");
    for (loss, lost) in evidence.losses.iter().zip(&report.lost) {
        println!("  {:64} {lost:>15}", loss.fault);
    }
    println!("\n  other faults                               {:>9}", outcome.faults.len() - evidence.losses.len());
    println!("  statements and commits without a response  {:>9}", evidence.written.unanswered);
    println!();
    print_titles();
    print_verdict("confirmed, in history", &report.confirmed);
    for (name, Compared { verdict, of_lost, told }) in report.verdicts() {
        print_verdict(&format!("history, at {name}"), verdict);
        println!("    told to begin again {told}, received again {}, of lost timelines {of_lost}", verdict.repeated);
    }
    claims::table::print(&report.claims);
    println!("verify() on the database: {}", if report.problems.count == 0 { "clean" } else { "PROBLEMS" });
    print_findings(report);
    if !report.is_clean() {
        let (seed, seconds, rate) = (options.seed, options.time.as_secs(), options.load.rate);
        let only = if options.only.is_empty() { String::new() } else { format!(" --only {:?}", options.only) };
        println!(
            "\nSomething is wrong: cargo xtask chaos --lossy --seed {seed} --seconds {seconds} --rate {rate}{only}"
        );
    }
    if let Some(logs) = &outcome.logs {
        println!("The servers' logs are in {}", logs.display());
    }
}

fn print_findings(report: &Report) {
    let print = |place: &str, verdict: &Verdict| {
        verdict.findings().iter().for_each(|(kind, findings)| print_some(place, kind, findings));
    };
    print("history", &report.confirmed);
    report.verdicts().iter().for_each(|(name, one)| print(name, &one.verdict));
    claims::table::print_findings(&report.claims);
    print_some("verify()", "problems", &report.problems);
    print_some("all", "complaints", &report.complaints);
}
