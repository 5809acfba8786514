//! The sequence of faults and their parameters, which the seed determines.

use fastrand::Rng;
use std::time::Duration;

use super::fault::{Fault, KINDS};

/// One step: a quiet time, then a fault, perhaps with a second fault that begins a little later.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub quiet: Duration,
    pub fault: Fault,
    pub meanwhile: Option<(Duration, Fault)>,
}

/// An endless sequence of steps. As with a deck of cards, every kind is drawn once before any kind is drawn again.
#[derive(Debug)]
pub struct Plan {
    random: Rng,
    kinds: Vec<fn(&mut Rng) -> Fault>,
    deck: Vec<usize>,
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        Plan { random: Rng::with_seed(seed), kinds: KINDS.to_vec(), deck: Vec::new() }
    }

    /// Restricts the plan to faults whose name contains this; the plan is empty if there are none.
    pub fn only(seed: u64, name: &str) -> Plan {
        let matches = |kind: &fn(&mut Rng) -> Fault| kind(&mut Rng::with_seed(0)).kind().contains(name);
        Plan { kinds: KINDS.iter().copied().filter(matches).collect(), ..Plan::new(seed) }
    }

    /// Draws the next card that `fits`; shuffles a new deck once it is empty.
    fn draw(&mut self, fits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        if self.deck.is_empty() {
            self.deck = (0..self.kinds.len()).collect();
            self.random.shuffle(&mut self.deck);
        }
        let (random, kinds) = (&mut self.random, &self.kinds);
        let mut drawn = None;
        let position = self.deck.iter().rposition(|&kind| {
            drawn = Some(kinds[kind](random)).filter(&fits);
            drawn.is_some()
        })?;
        self.deck.remove(position);
        drawn
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let quiet = Duration::from_millis(self.random.u64(500..2500));
        let fault = self.draw(|_| true)?;
        let meanwhile = match self.random.u32(0..3) {
            0 => self.draw(|other| other.subject() != fault.subject()),
            _ => None,
        };
        let delay = Duration::from_millis(self.random.u64(0..1500));
        Some(Step { quiet, fault, meanwhile: meanwhile.map(|other| (delay, other)) })
    }
}
