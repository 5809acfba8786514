//! Statistics of a noisy machine: ratios of neighboring runs.

use std::fmt::{self, Display, Formatter};

use anyhow::Result;
use serde::Serialize;

/// The ratios of several pairs of runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    #[serde(rename = "ratio")]
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
}

impl Ratio {
    /// The first of each pair, to the second.
    pub fn of(pairs: &[(f64, f64)]) -> Ratio {
        let ratios: Vec<f64> = pairs.iter().map(|(ours, theirs)| ours / theirs).collect();
        Ratio {
            median: median(ratios.clone()),
            lowest: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            highest: ratios.iter().copied().fold(0.0, f64::max),
        }
    }
}

impl Display for Ratio {
    fn fmt(&self, formatter: &mut Formatter) -> fmt::Result {
        let Ratio { median, lowest, highest } = self;
        formatter.pad(&format!("{median:.2} ({lowest:.2}-{highest:.2})"))
    }
}

/// Measures both by turns. Each comes first as often as the other.
pub fn pairs(
    rounds: u32,
    mut ours: impl FnMut() -> Result<f64>,
    mut theirs: impl FnMut() -> Result<f64>,
) -> Result<Vec<(f64, f64)>> {
    let pair = |round| {
        if round % 2 == 0 {
            let ours = ours()?;
            Ok((ours, theirs()?))
        } else {
            let theirs = theirs()?;
            Ok((ours()?, theirs))
        }
    };
    (0..rounds).map(pair).collect()
}

pub fn median(values: Vec<f64>) -> f64 {
    quantile(values, 2)
}

/// A quarter of the values are less: what other programs took is mostly left out.
pub fn lower_quartile(values: Vec<f64>) -> f64 {
    quantile(values, 4)
}

/// The value after the first of so many equal parts.
fn quantile(mut values: Vec<f64>, parts: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / parts]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_is_the_median_of_pairs_not_of_sides() {
        // The machine is half as fast during the second pair.
        let ratio = Ratio::of(&[(90.0, 100.0), (40.0, 50.0), (120.0, 100.0)]);
        assert_eq!(ratio, Ratio { median: 0.9, lowest: 0.8, highest: 1.2 });
        assert_eq!(ratio.to_string(), "0.90 (0.80-1.20)");
    }

    #[test]
    fn lower_quartile_leaves_out_disturbed_values() {
        assert_eq!(lower_quartile(vec![900.0, 210.0, 205.0, 230.0, 800.0]), 210.0);
        assert_eq!(lower_quartile(vec![7.0]), 7.0);
    }

    #[test]
    fn pairs_begin_with_each_side_in_turn() {
        let order = std::cell::RefCell::new(String::new());
        let run = |side, value| {
            order.borrow_mut().push(side);
            Ok(value)
        };
        assert_eq!(pairs(3, || run('o', 1.0), || run('t', 2.0)).unwrap(), [(1.0, 2.0); 3]);
        assert_eq!(order.into_inner(), "ottoot");
    }
}
