//! Connections that are open: how many, whose, and which one goes when there is no room.
//!
//! Invariants: at most `most` are open, at most `unproven` of them have shown no token, at most
//! `share` of those are one peer's; a newcomer takes the place of the one that was idle for longest of
//! whoever holds the most; one that has shown a valid token goes for nobody, one of root for root
//! only. Root, and whoever hotspan runs as, has no share: it always finds a place.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Context,
};

use tokio::sync::oneshot;

use super::Peer;

/// How many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableLimits {
    /// Connections.
    pub most: usize,
    /// Of those, without a valid token.
    pub unproven: usize,
    /// Of those, of one peer.
    pub share: usize,
}

/// What a connection has done, in the order in which they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Was told that it may not ask.
    Refused,
    /// Asks nothing.
    Idle,
    /// A request is under way.
    Busy,
    /// Has shown a valid token.
    Proven,
}

/// The open connections of one port.
#[derive(Debug)]
pub(crate) struct Table {
    limits: TableLimits,
    state: Mutex<State>,
}

/// A place in it, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    table: Arc<Table>,
    number: u64,
    evicted: oneshot::Receiver<()>,
    is_evicted: bool,
}

/// Says of a connection how it stands.
#[derive(Clone, Debug)]
pub(crate) struct PlaceHandle {
    table: Arc<Table>,
    number: u64,
}

#[derive(Debug, Default)]
struct State {
    /// By number: those that came first are first.
    places: BTreeMap<u64, Held>,
    /// Unproven ones, by peer.
    unproven: HashMap<Peer, usize>,
    next: u64,
    evictions: u64,
}

#[derive(Debug)]
struct Held {
    peer: Peer,
    standing: Standing,
    /// The number of the event since which it stands so.
    since: u64,
    evict: Option<oneshot::Sender<()>>,
}

// === impl Table ===

impl Table {
    pub(crate) fn new(limits: TableLimits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default() })
    }

    /// A place for a new connection; none when nobody has to go for it.
    pub(crate) fn admit(self: &Arc<Self>, peer: Peer) -> Option<Place> {
        let mut state = self.state();
        let limits = self.limits;
        let own = state.unproven.get(&peer).copied().unwrap_or(0);
        let is_ours = peer.is_ours();
        if own >= limits.share && !is_ours {
            state.evict(|held| held.peer == peer && held.standing < Standing::Busy)?;
        }
        let all: usize = state.unproven.values().sum();
        if state.places.len() >= limits.most || all >= limits.unproven {
            state.make_room(peer, is_ours)?;
        }
        state.next += 1;
        let number = state.next;
        let (evict, evicted) = oneshot::channel();
        let standing = Standing::Idle;
        state.places.insert(number, Held { peer, standing, since: number, evict: Some(evict) });
        *state.unproven.entry(peer).or_default() += 1;
        Some(Place { table: self.clone(), number, evicted, is_evicted: false })
    }

    /// Connections closed to make room for others.
    pub(crate) fn evictions(&self) -> u64 {
        self.state().evictions
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// Takes a place from whoever holds the most, the newcomer included.
    fn make_room(&mut self, newcomer: Peer, is_ours: bool) -> Option<()> {
        let own = self.unproven.get(&newcomer).copied().unwrap_or(0);
        let may_lose = |peer: Peer, held: usize| match (is_ours, peer.is_ours()) {
            (true, false) => true,
            (false, true) => false,
            _ => held > own,
        };
        let mut holders: Vec<(Peer, usize)> = (self.unproven.iter())
            .filter(|&(&peer, &held)| peer == newcomer || may_lose(peer, held))
            .map(|(&peer, &held)| (peer, held))
            .collect();
        // Ours never give way to strangers, nor, while there are strangers, to ours.
        holders.sort_by_key(|&(peer, held)| (peer.is_ours(), Reverse(held), peer == newcomer));
        for &(peer, _) in &holders {
            let idle = |held: &Held| held.peer == peer && held.standing < Standing::Busy;
            if self.evict(idle).is_some() {
                return Some(());
            }
        }
        // Nobody is idle: whoever holds more than the newcomer then would gives a busy one.
        let greedy = holders.into_iter().find(|&(peer, held)| {
            peer != newcomer && (held > own + 1 || is_ours && !peer.is_ours())
        });
        let (peer, _) = greedy?;
        self.evict(|held| held.peer == peer && held.standing < Standing::Proven)
    }

    /// Closes the first one to go of those that may.
    fn evict(&mut self, may_go: impl Fn(&Held) -> bool) -> Option<()> {
        let candidates = self.places.iter().filter(|(_, held)| may_go(held));
        let (&number, _) = candidates.min_by_key(|(_, held)| (held.standing, held.since))?;
        let mut gone = self.remove(number)?;
        self.evictions += 1;
        if let Some(evict) = gone.evict.take() {
            // One that ends by itself just now has gone too.
            let _ = evict.send(());
        }
        Some(())
    }

    fn remove(&mut self, number: u64) -> Option<Held> {
        let held = self.places.remove(&number)?;
        if held.standing < Standing::Proven {
            self.forget_unproven(held.peer);
        }
        Some(held)
    }

    fn forget_unproven(&mut self, peer: Peer) {
        if let Some(held) = self.unproven.get_mut(&peer) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.unproven.remove(&peer);
            }
        }
    }
}

// === impl Place ===

impl Place {
    pub(crate) fn handle(&self) -> PlaceHandle {
        PlaceHandle { table: self.table.clone(), number: self.number }
    }

    /// Whether the connection has to go; else whoever polls is woken when it has to.
    pub(crate) fn poll_evicted(&mut self, context: &mut Context<'_>) -> bool {
        self.is_evicted |= !self.is_evicted && Pin::new(&mut self.evicted).poll(context).is_ready();
        self.is_evicted
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.state().remove(self.number);
    }
}

// === impl PlaceHandle ===

impl PlaceHandle {
    /// Notes how the connection stands now. One that has shown its token has shown it.
    pub(crate) fn stands(&self, standing: Standing) {
        let mut state = self.table.state();
        state.next += 1;
        let since = state.next;
        let Some(held) = state.places.get_mut(&self.number) else { return };
        let stays = match held.standing {
            Standing::Proven => true,
            // Having read that it may not ask is no better.
            Standing::Refused => standing == Standing::Idle,
            other => other == standing,
        };
        if stays {
            return;
        }
        (held.standing, held.since) = (standing, since);
        let peer = held.peer;
        if standing == Standing::Proven {
            state.forget_unproven(peer);
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
