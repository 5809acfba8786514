//! A destination that ends elsewhere than expected, again and again: Redis evicts the stream, or another program writes.

use std::time::{Duration, Instant};

/// A destination that ends as expected for this time is at rest.
const REST: Duration = Duration::from_secs(10);
/// From this number of other ends on, the operator is told.
const MANY: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Counts how often a destination ended elsewhere since it was last at rest.
#[derive(Debug, Default)]
pub struct Unrest {
    times: u32,
    last: Option<Instant>,
}

impl Unrest {
    /// Counts another end; returns the pause before the comparison.
    pub fn count(&mut self) -> Duration {
        self.times = if self.is_over() { 1 } else { self.times.saturating_add(1) };
        self.last = Some(Instant::now());
        (FIRST_PAUSE * 2_u32.saturating_pow(self.times - 1)).min(LAST_PAUSE)
    }

    /// Returns whether it happens again and again.
    pub fn is_on(&self) -> bool {
        self.times >= MANY && !self.is_over()
    }

    fn is_over(&self) -> bool {
        self.last.is_none_or(|last| last.elapsed() >= REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_grows_each_time() {
        let mut unrest = Unrest::default();
        let pauses: Vec<u128> = (0..9).map(|_| unrest.count().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert!(unrest.is_on());
        unrest.last = Instant::now().checked_sub(REST);
        assert!(!unrest.is_on());
        assert_eq!(unrest.count(), FIRST_PAUSE);
    }
}
