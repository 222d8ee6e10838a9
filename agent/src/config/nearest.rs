//! The right name that a wrong one was probably meant to be.

/// The nearest of `names`, if it is near: a third of the letters may differ.
pub fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong: Vec<char> = wrong.to_ascii_lowercase().replace('-', "_").chars().take(64).collect();
    names
        .map(|name| (distance(&wrong, &name.chars().collect::<Vec<_>>()), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Letters to insert, remove, replace, or swap with their neighbour, to make `b` of `a`.
fn distance(a: &[char], b: &[char]) -> usize {
    // rows[i][j]: from the first i letters of a to the first j of b.
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn only_near_names_are_offered() {
        let of = |wrong| nearest(wrong, ["data_dir", "hz", "web", "no_web"].into_iter());
        assert_eq!(of("data-dir"), Some("data_dir"));
        assert_eq!(of("datadir"), Some("data_dir"));
        assert_eq!(of("dtaa_dir"), Some("data_dir"));
        assert_eq!(of("DATA_DIR"), Some("data_dir"));
        assert_eq!(of("zh"), Some("hz"));
        assert_eq!(of("noweb"), Some("no_web"));
        assert_eq!(of("colour"), None);
        assert_eq!(of(""), None);
    }
}
