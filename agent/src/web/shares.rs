//! What callers have of the API while they are served: questions under way, and bytes of answers that
//! they have not read yet. Strangers together never have all of it, nor one of them all of theirs, so
//! that whoever owns this host is always answered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::peers::Peer;

/// Questions of strangers, waiting ones included, and those of one of them.
const QUESTIONS: usize = 48;
const QUESTIONS_OF_ONE: usize = 16;
/// Bytes of answers to strangers, and to one of them.
const BYTES: usize = 64 << 20;
const BYTES_OF_ONE: usize = 16 << 20;

/// Who has how much.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<HashMap<Peer, Amount>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    questions: usize,
    bytes: usize,
}

/// A part of it, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    shares: Arc<Shares>,
    peer: Peer,
    amount: Amount,
}

/// An answer and its share.
struct Held {
    text: Vec<u8>,
    _share: Share,
}

// === impl Shares ===

impl Shares {
    /// A place for a question; none when strangers, or this one, have too many.
    pub(super) fn question(self: &Arc<Self>, peer: Peer) -> Option<Share> {
        self.take(peer, Amount { questions: 1, bytes: 0 })
    }

    /// An answer as a body that counts until it was sent.
    pub(super) fn answer(self: &Arc<Self>, peer: Peer, text: Vec<u8>) -> Option<bytes::Bytes> {
        // One alone may be as long as it is.
        let bytes = text.len().min(BYTES_OF_ONE);
        let share = self.take(peer, Amount { questions: 0, bytes })?;
        Some(bytes::Bytes::from_owner(Held { text, _share: share }))
    }

    fn take(self: &Arc<Self>, peer: Peer, amount: Amount) -> Option<Share> {
        let mut held = self.held();
        if !peer.is_ours() {
            let own = held.get(&peer).copied().unwrap_or_default().with(amount);
            let strangers = held.iter().filter(|(peer, _)| !peer.is_ours());
            let all = strangers.fold(amount, |sum, (_, amount)| sum.with(*amount));
            let fits = |amount: Amount, questions, bytes| {
                amount.questions <= questions && amount.bytes <= bytes
            };
            if !fits(own, QUESTIONS_OF_ONE, BYTES_OF_ONE) || !fits(all, QUESTIONS, BYTES) {
                return None;
            }
        }
        let of_peer = held.entry(peer).or_default();
        *of_peer = of_peer.with(amount);
        Some(Share { shares: self.clone(), peer, amount })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Peer, Amount>> {
        // Nothing in here panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Amount ===

impl Amount {
    fn with(self, other: Self) -> Self {
        Self { questions: self.questions + other.questions, bytes: self.bytes + other.bytes }
    }
}

// === impl Share ===

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.held();
        if let Some(of_peer) = held.get_mut(&self.peer) {
            of_peer.questions -= self.amount.questions;
            of_peer.bytes -= self.amount.bytes;
            if *of_peer == Amount::default() {
                held.remove(&self.peer);
            }
        }
    }
}

// === impl Held ===

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Peer = Peer::User(4_000_000_001);

    fn stranger(number: u32) -> Peer {
        Peer::User(4_000_000_002 + number)
    }

    #[test]
    fn strangers_leave_room_for_root_and_for_each_other() {
        let shares = Arc::new(Shares::default());
        let mut all: Vec<Share> = (0..100).filter_map(|_| shares.question(NOBODY)).collect();
        assert_eq!(all.len(), QUESTIONS_OF_ONE);
        all.extend((0..100).filter_map(|number| shares.question(stranger(number))));
        assert_eq!(all.len(), QUESTIONS);
        all.extend((0..100).filter_map(|_| shares.question(Peer::User(0))));
        assert_eq!(all.len(), QUESTIONS + 100);
        drop(all);
        assert!(shares.held().is_empty());
    }

    #[test]
    fn answers_that_nobody_reads_are_bounded() {
        let shares = Arc::new(Shares::default());
        let answer = |peer, bytes| shares.answer(peer, vec![0; bytes]);
        let first = answer(NOBODY, BYTES_OF_ONE + 1).unwrap();
        assert!(answer(NOBODY, 1).is_none());
        let others: Vec<_> = (0..9).filter_map(|n| answer(stranger(n), BYTES_OF_ONE)).collect();
        assert_eq!(others.len(), BYTES / BYTES_OF_ONE - 1);
        assert!(answer(stranger(100), 1).is_none() && answer(Peer::User(0), 1).is_some());
        // A part of it holds all of it.
        let rest = first.slice(..1);
        drop(first);
        assert!(answer(NOBODY, 1).is_none());
        drop(rest);
        assert!(answer(NOBODY, 1).is_some());
    }
}
