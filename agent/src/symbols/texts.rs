//! The strings of names, each of them kept once: a function has many addresses, a file many functions.

use std::{collections::HashSet, sync::Arc};

use super::names::sanitize;

/// Strings looked through for those that nobody refers to any more, at least so many at a time.
const FEWEST: usize = 4_096;

/// Every string that something refers to, and some that nothing does any more.
#[derive(Debug)]
pub(super) struct Texts {
    known: HashSet<Arc<str>>,
    /// Look through them at this number.
    most: usize,
}

impl Texts {
    pub(super) fn new() -> Self {
        Self { known: HashSet::new(), most: FEWEST }
    }

    /// `text`, made fit for terminals and logs.
    pub(super) fn sanitize(&mut self, text: &str) -> Arc<str> {
        let text = sanitize(text);
        if text.is_empty() {
            return Arc::default();
        }
        if let Some(known) = self.known.get(&*text) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.most {
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.known.shrink_to_fit();
            self.most = FEWEST.max(2 * self.known.len());
        }
        let text: Arc<str> = text.into();
        self.known.insert(Arc::clone(&text));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_kept_once() {
        let mut texts = Texts::new();
        let (a, b, c) = (texts.sanitize("main"), texts.sanitize("main"), texts.sanitize("other"));
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &c));
        assert_eq!((&*a, &*c), ("main", "other"));
        assert_eq!(&*texts.sanitize("a\nb"), "a\u{fffd}b");
    }

    #[test]
    fn what_nobody_refers_to_goes() {
        let mut texts = Texts::new();
        let kept: Vec<_> = (0..10).map(|n| texts.sanitize(&format!("kept {n}"))).collect();
        for n in 0..3 * FEWEST {
            texts.sanitize(&format!("dropped {n}"));
        }
        assert!(texts.known.len() <= FEWEST, "{} are kept", texts.known.len());
        for text in kept {
            assert!(Arc::ptr_eq(&text, &texts.sanitize(&text)), "{text} was dropped");
        }
    }
}
