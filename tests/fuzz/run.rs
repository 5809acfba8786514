//! Plays random sequences until the time is up, or until the databases differ.

use super::generate::generate;
use super::pair::{Pair, Stage};
use super::shrink::shrink;
use super::side::Calls;
use super::step::Step;
use std::time::{Duration, Instant};

/// Sequences of one pair of databases: verify() reads all of them.
const SEQUENCES: usize = 40;

/// What was played.
#[derive(Debug, Clone, Copy, Default)]
pub struct Played {
    pub sequences: usize,
    pub steps: usize,
    /// Calls of triggers of UPDATE and of INSERT by each side.
    pub calls: [Calls; 2],
}

/// Names the seed of a sequence that ends the server.
struct Playing(u64);

impl Drop for Playing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

/// Plays the sequences of this seed and the following ones. Returns the report of the first one with a difference.
pub fn run(stage: &Stage, seed: u64, time: Duration) -> Result<Played, String> {
    let (mut played, begin, mut seed) = (Played::default(), Instant::now(), seed);
    while begin.elapsed() < time {
        let mut pair = stage.pair();
        for _ in 0..SEQUENCES {
            let steps = generate(seed);
            let playing = Playing(seed);
            let difference = pair.play(&steps).difference();
            if !difference.is_empty() {
                return Err(report(stage, seed, steps, &difference));
            }
            drop(playing);
            (played.sequences, played.steps, seed) = (played.sequences + 1, played.steps + steps.len(), seed + 1);
            if pair.is_spoiled() || begin.elapsed() >= time {
                break;
            }
        }
        let calls = pair.calls();
        (0..2).for_each(|side| (0..2).for_each(|event| played.calls[side][event] += calls[side][event]));
    }
    Ok(played)
}

/// Shortens the sequence, and shows it with its difference.
fn report(stage: &Stage, seed: u64, steps: Vec<Step>, difference: &[String]) -> String {
    let mut pair: Option<Pair<'_>> = None;
    let mut play = |steps: &[Step]| {
        let difference = pair.get_or_insert_with(|| stage.pair()).play(steps).difference();
        // All sequences after a difference would differ, too.
        pair.take_if(|pair| pair.is_spoiled() || !difference.is_empty());
        difference
    };
    let again = play(&steps);
    let (steps, difference, note) = if again.is_empty() {
        (steps, difference.to_vec(), " (not in new databases: the sequences before matter)")
    } else {
        let steps = shrink(steps, |steps| !play(steps).is_empty());
        let difference = play(&steps);
        (steps, difference, "")
    };
    let steps: Vec<String> =
        steps.iter().enumerate().map(|(number, step)| format!("  {number}, session {step}")).collect();
    format!("seed {seed}{note}:\n{}\n{}", steps.join("\n"), difference.join("\n"))
}
