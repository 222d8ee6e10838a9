//! What comes later than it was asked for, on whatever thread.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Instant,
};

/// The place it will come to.
#[derive(Debug)]
pub struct Late<T> {
    answer: Mutex<Answer<T>>,
    changed: Condvar,
}

#[derive(Debug)]
enum Answer<T> {
    Awaited,
    Never,
    Known(T),
}

// === impl Late ===

impl<T> Default for Late<T> {
    fn default() -> Self {
        Self { answer: Mutex::new(Answer::Awaited), changed: Condvar::new() }
    }
}

impl<T: Clone> Late<T> {
    /// Gives it; `None` when it will never be known.
    pub fn set(&self, what: Option<T>) {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        *answer = what.map_or(Answer::Never, Answer::Known);
        self.changed.notify_all();
    }

    /// Whether it is still to come.
    pub fn is_awaited(&self) -> bool {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*answer, Answer::Awaited)
    }

    /// Waits for it until `deadline`.
    pub fn wait(&self, deadline: Instant) -> Option<T> {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*answer {
                Answer::Known(what) => return Some(what.clone()),
                Answer::Never => return None,
                Answer::Awaited => {}
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            answer =
                self.changed.wait_timeout(answer, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread, time::Duration};

    use super::*;

    #[test]
    fn it_is_waited_for_but_not_for_ever() {
        let soon = || Instant::now() + Duration::from_millis(10);
        let late = Arc::new(Late::default());
        assert_eq!((late.wait(soon()), late.is_awaited()), (None, true));
        let setter = thread::spawn({
            let late = Arc::clone(&late);
            move || late.set(Some(7))
        });
        assert_eq!(late.wait(Instant::now() + Duration::from_secs(20)), Some(7));
        setter.join().unwrap();
        late.set(None);
        assert_eq!(late.wait(Instant::now() + Duration::from_secs(20)), None);
        assert!(!late.is_awaited());
    }
}
