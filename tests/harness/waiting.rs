//! Waiting for conditions that send no event.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The longest that a test waits for a condition.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
pub fn wait_until(goal: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {goal}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends the threads that wait for these flags, also if the test panics.
pub struct SetOnDrop<'a>(pub &'a [&'a AtomicBool]);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|flag| flag.store(true, Ordering::Release));
    }
}
