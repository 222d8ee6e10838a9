//! The right name that a wrong one was probably meant to be.

use strsim::osa_distance;

/// Letters looked at of a name that may be anything.
const MAX_LETTERS: usize = 64;

/// The nearest of `names`, if it is near: a third of the letters may be inserted, removed, replaced,
/// or swapped with their neighbour.
pub(super) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong: String =
        wrong.to_ascii_lowercase().replace('-', "_").chars().take(MAX_LETTERS).collect();
    names
        .map(|name| (osa_distance(&wrong, name), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
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
