//! The shortest sequence that still shows a difference.

use super::step::Step;

/// Leaves out steps as long as `differs` holds: first many at a time, then single ones.
pub fn shrink(mut steps: Vec<Step>, mut differs: impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    let mut size = steps.len() / 2;
    while size > 0 {
        let before = steps.len();
        let mut first = 0;
        while first < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(first..(first + size).min(steps.len()));
            match differs(&fewer) {
                true => steps = fewer,
                false => first += size,
            }
        }
        if size > 1 || steps.len() == before {
            size /= 2;
        }
    }
    steps
}
