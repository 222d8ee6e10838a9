//! Who gives way to whom.

use super::*;

const NOBODY: Peer = Peer::User(4_000_000_001);
const OTHER: Peer = Peer::User(4_000_000_002);
const ROOT: Peer = Peer::User(0);

fn table(most: usize, unproven: usize, share: usize) -> Arc<Table> {
    Table::new(TableLimits { most, unproven, share })
}

fn is_open(place: &mut Place) -> bool {
    place.is_evicted |= place.evicted.try_recv().is_ok();
    !place.is_evicted
}

fn open(places: &mut [Place]) -> usize {
    places.iter_mut().map(|place| usize::from(is_open(place))).sum()
}

fn full_of_busy(table: &Arc<Table>, peer: Peer) -> Vec<Place> {
    let places: Vec<Place> = std::iter::from_fn(|| {
        let place = table.admit(peer)?;
        place.handle().stands(Standing::Busy);
        Some(place)
    })
    .collect();
    assert!(!places.is_empty());
    places
}

#[test]
fn a_peer_has_its_share_and_root_has_none() {
    let table = table(8, 8, 2);
    let mut nobody = full_of_busy(&table, NOBODY);
    assert_eq!(nobody.len(), 2);
    let mut others = full_of_busy(&table, OTHER);
    assert_eq!(others.len(), 2);
    let mut root = full_of_busy(&table, ROOT);
    assert_eq!(root.len(), 8, "nobody outlasts root, itself included");
    assert_eq!((open(&mut nobody), open(&mut others)), (0, 0));
    assert_eq!(open(&mut root), 8);
    assert!(table.admit(NOBODY).is_none());
    drop(root);
    assert!(table.admit(NOBODY).is_some());
}

#[test]
fn ones_own_idle_connection_gives_way_first() {
    let table = table(8, 8, 2);
    let mut first = table.admit(NOBODY).unwrap();
    let mut second = table.admit(NOBODY).unwrap();
    first.handle().stands(Standing::Busy);
    let mut third = table.admit(NOBODY).unwrap();
    assert_eq!(
        [is_open(&mut first), is_open(&mut second), is_open(&mut third)],
        [true, false, true]
    );
    // Of two that are idle the one that was told to go, then the one for longer.
    first.handle().stands(Standing::Refused);
    let mut fourth = table.admit(NOBODY).unwrap();
    assert!(!is_open(&mut first) && is_open(&mut third) && is_open(&mut fourth));
    assert_eq!(table.evictions(), 2);
}

#[test]
fn whoever_holds_the_most_gives_way() {
    let table = table(5, 5, 4);
    let mut nobody = full_of_busy(&table, NOBODY);
    assert_eq!(nobody.len(), 4);
    let mut other = table.admit(OTHER).unwrap();
    other.handle().stands(Standing::Busy);
    let mut another = table.admit(OTHER).unwrap();
    assert_eq!(open(&mut nobody), 3, "a busy one of four for the second of the other");
    assert!(is_open(&mut other) && is_open(&mut another));
    // Three against two: the third would only turn it round. Its own idle one goes.
    assert!(table.admit(OTHER).is_some() && is_open(&mut other) && !is_open(&mut another));
    assert_eq!(open(&mut nobody), 3);
}

#[test]
fn a_valid_token_is_never_closed() {
    let table = table(6, 3, 3);
    let mut proven = Vec::new();
    for _ in 0..4 {
        let place = table.admit(NOBODY).unwrap();
        place.handle().stands(Standing::Proven);
        place.handle().stands(Standing::Idle);
        proven.push(place);
    }
    // The two places left, whoever wants them.
    let mut strangers: Vec<Place> = (0..50).filter_map(|_| table.admit(OTHER)).collect();
    let mut root: Vec<Place> = (0..50).filter_map(|_| table.admit(ROOT)).collect();
    assert_eq!(open(&mut proven), 4);
    assert_eq!((open(&mut strangers), open(&mut root)), (0, 2));
    for place in &mut proven {
        assert!(is_open(place));
    }
}

#[test]
fn without_a_token_there_is_no_more_than_their_part() {
    let table = table(100, 3, 2);
    let _three = [NOBODY, NOBODY, OTHER].map(|peer| {
        let place = table.admit(peer).unwrap();
        place.handle().stands(Standing::Busy);
        place
    });
    assert!(table.admit(OTHER).is_none(), "two each would be more than three");
    let mut host = table.admit(Peer::Host([192, 0, 2, 1].into()));
    assert!(host.as_mut().is_none_or(is_open));
    assert!(table.state().places.len() <= 3);
}
