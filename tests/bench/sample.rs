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

/// How far every other value is from the rest: nothing differs, so this is noise.
pub(crate) fn apart(values: &[f64]) -> Option<f64> {
    let every_other =
        |from: usize| -> Vec<f64> { values.iter().skip(from).step_by(2).copied().collect() };
    let (even, odd) = (every_other(0), every_other(1));
    (!odd.is_empty()).then(|| (median(&even) - median(&odd)).abs())
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
    fn a_series_against_itself() {
        assert_eq!(apart(&[1.0, 2.0, 1.0, 2.0]), Some(1.0));
        assert_eq!(apart(&[1.0]), None);
    }
}
