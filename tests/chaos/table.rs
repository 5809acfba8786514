//! The table that a run prints at its end.

use std::collections::BTreeMap;

use super::checker::Report;
use super::claims;
use super::cluster::Crowd;
use super::graphs;
use super::inject::Injected;
use super::run::{Options, Outcome};
use super::verdict::{Findings, Verdict};

pub fn print(options: &Options, outcome: &Outcome) {
    print_faults(outcome);
    print_statistics(outcome);
    print_verdicts(&outcome.report);
    claims::table::print(&outcome.report.claims);
    graphs::table::print(&outcome.report.graphs);
    print_findings(&outcome.report);
    if !outcome.report.is_clean() {
        let (seed, seconds, rate) = (options.seed, options.time.as_secs(), options.load.rate);
        let only = if options.only.is_empty() { String::new() } else { format!(" --only {:?}", options.only) };
        let Crowd { databases, idle } = options.crowd;
        println!(
            "\nSomething is wrong: cargo xtask chaos --seed {seed} --seconds {seconds} --rate {rate} \
             --databases {databases} --idle {idle}{only}"
        );
    }
    if let Some(logs) = &outcome.logs {
        println!("The servers' logs are in {}", logs.display());
    }
}

fn print_faults(outcome: &Outcome) {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for injection in &outcome.faults {
        let (injected, skipped) = counts.entry(injection.fault.kind()).or_default();
        *if injection.injected == Injected::Yes { injected } else { skipped } += 1;
    }
    println!("\n{:44} {:>9}", "faults", "injected");
    for (kind, (injected, skipped)) in &counts {
        let note = if *skipped > 0 { format!("  ({skipped} times without a target)") } else { String::new() };
        println!("  {kind:42} {injected:>9}{note}");
    }
    println!("  {:42} {:>9}", "in all", counts.values().map(|(injected, _)| injected).sum::<usize>());
}

fn print_statistics(outcome: &Outcome) {
    let statistics = &outcome.statistics;
    println!("\n  transitions per second                     {:>9.0}", statistics.transitions_per_second);
    println!("  statements and commits without a response  {:>9}", statistics.writers.unanswered);
    println!("  transactions rolled back by the writers    {:>9}", statistics.writers.rolled_back);
    println!("  transactions rolled back by a conflict     {:>9}", statistics.writers.conflicts);
    println!("  prepared transactions                      {:>9}", statistics.writers.prepared);
    println!("  transitions inside another one             {:>9}", statistics.writers.nested);
    println!("  seconds that the long transaction was open {:>9.1}", statistics.held.as_secs_f64());
    println!("  seconds until the stream had caught up     {:>9.1}", statistics.catching_up.as_secs_f64());
}

fn print_verdicts(report: &Report) {
    println!();
    print_titles();
    print_verdict("confirmed, in history", &report.acknowledged);
    println!("history, at each reader:");
    for (name, verdict) in &report.verdicts()[1..] {
        print_verdict(&format!("  {name}"), verdict);
    }
    println!("Missed at a reconnection, and repeated as promised:");
    for (name, verdict) in &report.verdicts()[2..] {
        if verdict.missed + verdict.repeated > 0 {
            println!("  {name:24} {:>8} missed {:>8} repeated", verdict.missed, verdict.repeated);
        }
    }
    println!("verify() on the database: {}", if report.problems.count == 0 { "clean" } else { "PROBLEMS" });
    if report.complaints.count > 0 {
        println!("complaints of the writers and workers: {}", report.complaints.count);
    }
}

pub(super) fn print_titles() {
    println!(
        "{:26} {:>8} {:>7} {:>10} {:>12} {:>8} {:>8} {:>7}",
        "", "checked", "lost", "duplicated", "out of order", "phantom", "altered", "errors"
    );
}

pub(super) fn print_verdict(name: &str, verdict: &Verdict) {
    let [lost, duplicated, disordered, phantom, altered, errors] =
        verdict.findings().map(|(_, findings)| findings.count);
    println!(
        "{name:26} {:>8} {lost:>7} {duplicated:>10} {disordered:>12} {phantom:>8} {altered:>8} {errors:>7}",
        verdict.checked
    );
}

fn print_findings(report: &Report) {
    for (place, verdict) in report.verdicts() {
        verdict.findings().iter().for_each(|(kind, findings)| print_some(&place, kind, findings));
    }
    claims::table::print_findings(&report.claims);
    graphs::table::print_findings(&report.graphs);
    print_some("verify()", "problems", &report.problems);
    print_some("the writers and workers", "complaints", &report.complaints);
}

/// Prints findings of one kind, if there are any.
pub(super) fn print_some(place: &str, kind: &str, findings: &Findings) {
    if findings.count > 0 {
        println!("\n{place}: {kind}, the first of {}:", findings.count);
        findings.first.iter().for_each(|finding| println!("  {finding}"));
    }
}
