//! Query parameters. A misspelt one is refused by name: a filter that silently does nothing shows
//! spans nobody asked for.

use std::{collections::BTreeMap, str::FromStr};

use axum::{extract::Query, http::Uri};

use super::error::ApiError;

/// The token may stand beside the parameters of any route.
pub(super) const TOKEN: &str = "token";

/// The parameters of one request. An empty value is an absent one.
pub(super) struct Parameters(BTreeMap<String, String>);

// === impl Parameters ===

impl Parameters {
    /// Those of `uri`, which may be any of `known`, each once.
    pub(super) fn of(uri: &Uri, known: &[&'static str]) -> Result<Self, ApiError> {
        let mut parameters = BTreeMap::new();
        for (name, value) in pairs(uri)? {
            if name != TOKEN && !known.contains(&name.as_str()) {
                return Err(ApiError::bad_parameter(
                    format!("there is no parameter {name:?} here"),
                    suggestion(&name, known),
                ));
            }
            if parameters.contains_key(&name) {
                return Err(ApiError::bad_parameter(
                    format!("{name} is given more than once"),
                    format!("give {name} once"),
                ));
            }
            parameters.insert(name, value);
        }
        parameters.retain(|_, value| !value.is_empty());
        Ok(Self(parameters))
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// An integer without sign.
    pub(super) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            ApiError::bad_parameter(
                format!("{name}={text:?} is no number"),
                format!("{name} is an integer from 0; times are in nanoseconds"),
            )
        })
    }

    /// A word of a closed list, found by `of`.
    pub(super) fn word<T>(
        &self,
        name: &str,
        all: &[&'static str],
        of: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        of(text).map(Some).ok_or_else(|| {
            ApiError::bad_parameter(format!("{name}={text:?} is not known"), suggestion(text, all))
        })
    }
}

/// The names and values of a query, decoded.
pub(super) fn pairs(uri: &Uri) -> Result<Vec<(String, String)>, ApiError> {
    let hint = "write it as ?name=value&name=value, in UTF-8";
    let Query(pairs): Query<Vec<(String, String)>> = Query::try_from_uri(uri)
        .map_err(|error| ApiError::bad_parameter(error.to_string(), hint))?;
    // Bytes that are no UTF-8 come out as replacements: a filter that matches nothing.
    let torn = |text: &str| text.contains(char::REPLACEMENT_CHARACTER);
    match pairs.iter().find(|(name, value)| torn(name) || torn(value)) {
        Some((name, _)) => Err(ApiError::bad_parameter(format!("{name:?} is not UTF-8"), hint)),
        None => Ok(pairs),
    }
}

/// "Did you mean ...", and what else there is.
fn suggestion(given: &str, all: &[&'static str]) -> String {
    let list = || match all {
        [] => "it takes none".to_owned(),
        all => format!("there are {}", all.join(", ")),
    };
    // Words are as often cut short as misspelt.
    let cut_short = all.iter().find(|known| given.len() > 1 && known.starts_with(given));
    let misspelt = || {
        let nearest = all.iter().min_by_key(|known| distance(given, known));
        nearest.filter(|known| distance(given, known) <= known.len().div_ceil(2))
    };
    match cut_short.or_else(misspelt) {
        Some(known) => format!("did you mean {known}? {}", list()),
        None => list(),
    }
}

/// Edits from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    // What comes from outside may be long; what is compared with it is not.
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_named() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert!(suggestion("servce", &["name", "service"]).starts_with("did you mean service?"));
        assert!(suggestion("min", &["pid", "min_ns"]).starts_with("did you mean min_ns?"));
        assert_eq!(suggestion("xyzzy", &["name"]), "there are name");
        assert_eq!(suggestion("xyzzy", &[]), "it takes none");
    }
}
