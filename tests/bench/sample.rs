//! Medians, and the noise floor of a series against itself.

/// The median; NaN of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// What so many of all values are not above; NaN of nothing.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// How far every other value is from the rest: nothing differs, so this is noise.
pub(crate) fn apart(values: &[f64]) -> Option<f64> {
    apart_at(values, median)
}

/// The same for the 95th percentile.
pub(crate) fn tails_apart(values: &[f64]) -> Option<f64> {
    apart_at(values, |values| quantile(values, 0.95))
}

fn apart_at(values: &[f64], of: impl Fn(&[f64]) -> f64) -> Option<f64> {
    let every_other =
        |from: usize| -> Vec<f64> { values.iter().skip(from).step_by(2).copied().collect() };
    let (even, odd) = (every_other(0), every_other(1));
    (!odd.is_empty()).then(|| (of(&even) - of(&odd)).abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn parts_of_values() {
        let values: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!(quantile(&values, 0.95), 19.0);
        assert_eq!(quantile(&values, 1.0), 20.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_series_against_itself() {
        assert_eq!(apart(&[1.0, 2.0, 1.0, 2.0]), Some(1.0));
        assert_eq!(apart(&[1.0]), None);
    }
}
