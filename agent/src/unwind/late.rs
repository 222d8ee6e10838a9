//! A stack that is told later than it was taken: its process or a file of it was new.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Instant,
};

use agent_ebpf::unwind::Stop;

/// The frames of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Addresses, innermost first.
    pub frames: Vec<u64>,
    /// Positions of those that are instructions themselves.
    pub exact: Vec<usize>,
    /// Why there are no more.
    pub stop: Stop,
}

/// The place such a stack will be told in.
#[derive(Debug, Default)]
pub struct Late {
    walked: Mutex<Answer>,
    told: Condvar,
}

#[derive(Debug, Default)]
enum Answer {
    #[default]
    Awaited,
    Never,
    Told(Walked),
}

// === impl Late ===

impl Late {
    /// Tells it; `None` when it cannot be walked.
    pub fn tell(&self, walked: Option<Walked>) {
        let mut answer = self.walked.lock().unwrap_or_else(PoisonError::into_inner);
        *answer = walked.map_or(Answer::Never, Answer::Told);
        self.told.notify_all();
    }

    /// Waits for it until `deadline`.
    pub fn wait(&self, deadline: Instant) -> Option<Walked> {
        let mut answer = self.walked.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*answer {
                Answer::Told(walked) => return Some(walked.clone()),
                Answer::Never => return None,
                Answer::Awaited => {}
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            answer = self.told.wait_timeout(answer, left).unwrap_or_else(PoisonError::into_inner).0;
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
        assert_eq!(late.wait(soon()), None);
        let walked = Walked { frames: vec![1, 2], exact: vec![0], stop: Stop::Bottom };
        let teller = thread::spawn({
            let (late, walked) = (Arc::clone(&late), walked.clone());
            move || late.tell(Some(walked))
        });
        assert_eq!(late.wait(Instant::now() + Duration::from_secs(20)), Some(walked));
        teller.join().unwrap();
        late.tell(None);
        assert_eq!(late.wait(Instant::now() + Duration::from_secs(20)), None);
    }
}
