//! Words and the frames they make: every address in both forms, frames of runtimes among them, and
//! whatever else stands there.
extern crate std;

use proptest::prelude::*;
use std::vec::Vec;

use super::*;

/// Any canonical address.
fn address() -> impl Strategy<Value = u64> {
    const EDGES: [u64; 7] =
        [0, 1, (1 << 47) - 1, (1 << 56) - 1, u64::MAX, u64::MAX << 56, u64::MAX << 47];
    prop_oneof![
        (0..1u64 << 47),
        (0..1u64 << 56),
        (0..1u64 << 56).prop_map(|bits| !bits),
        prop::sample::select(&EDGES[..]),
    ]
}

fn runtime() -> impl Strategy<Value = Runtime> {
    any::<u8>().prop_filter_map("a tag of native words", Runtime::new)
}

fn frame() -> impl Strategy<Value = RawFrame> {
    prop_oneof![
        address().prop_map(|address| RawFrame::Native(FrameAddress::Ip(address))),
        address().prop_map(|address| RawFrame::Native(FrameAddress::ReturnAddress(address))),
        (runtime(), any::<(u32, u64, u64)>()).prop_map(|(runtime, (check, code, position))| {
            RawFrame::Runtime(RuntimeFrame { runtime, check, code, position })
        }),
    ]
}

fn words(frames: &[RawFrame]) -> Vec<Word> {
    let words = frames.iter().flat_map(|&frame| match frame {
        RawFrame::Native(address) => {
            Vec::from([Word::native(address.get(), matches!(address, FrameAddress::Ip(_)))])
        }
        RawFrame::Runtime(frame) => Vec::from(frame.words()),
    });
    words.collect()
}

fn read(words: &[Word]) -> Vec<Result<RawFrame, Incomplete>> {
    Frames::of(words.iter().copied()).collect()
}

proptest! {
    #[test]
    fn frames_come_back(frames in prop::collection::vec(frame(), 0..50)) {
        let expected: Vec<_> = frames.iter().copied().map(Ok).collect();
        prop_assert_eq!(read(&words(&frames)), expected);
    }

    /// A list that is cut anywhere has the frames before the cut, and says whether it is in a frame.
    #[test]
    fn a_cut_list_has_what_was_before(
        frames in prop::collection::vec(frame(), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let all = words(&frames);
        let cut = cut.index(all.len());
        let mut found = read(&all[..cut]);
        let is_within = found.last() == Some(&Err(Incomplete));
        if is_within {
            found.pop();
        }
        let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
        prop_assert_eq!(&found[..], &frames[..found.len()]);
        prop_assert_eq!(is_within, words(&found).len() < cut);
    }

    /// Nothing panics, nothing is read twice, and only the last can be incomplete.
    #[test]
    fn any_words_are_frames(words in prop::collection::vec(any::<u64>().prop_map(Word), 0..300)) {
        let found = read(&words);
        prop_assert!(found.len() <= words.len());
        let complete = found.iter().take_while(|frame| frame.is_ok()).count();
        prop_assert!(complete + 1 >= found.len());
        for frame in found.into_iter().flatten() {
            if let RawFrame::Native(address) = frame {
                let address = address.get();
                prop_assert_eq!(Word::untrusted(address), Word(address), "canonical");
            }
        }
    }

    /// What anybody made up is native, and is itself where it could be an address.
    #[test]
    fn an_untrusted_word_is_native(made_up: u64, address in address()) {
        let found = Frames::of([Word::untrusted(made_up)].into_iter()).next();
        prop_assert!(matches!(
            found, Some(Ok(RawFrame::Native(FrameAddress::ReturnAddress(found))))
                if found << 7 == made_up << 7
        ));
        prop_assert_eq!(Word::untrusted(address), Word::native(address, false));
    }
}

#[test]
fn words_look_like_this() {
    assert_eq!(Word::native(0x7fff_0000_1234, false).0, 0x0000_7fff_0000_1234);
    assert_eq!(Word::native(0x7fff_0000_1234, true).0, 0x8000_7fff_0000_1234);
    assert_eq!(Word::native(0xffff_ffff_8100_0000, false).0, 0xffff_ffff_8100_0000);
    assert_eq!(Word::native(0xffff_ffff_8100_0000, true).0, 0x7fff_ffff_8100_0000);
    let runtime = Runtime::new(5).unwrap();
    let frame = RuntimeFrame { runtime, check: 0xc0de, code: 11, position: 22 };
    assert_eq!(frame.words().map(|word| word.0), [0x0502_0000_0000_c0de, 11, 22]);
    for native in [0, 0x7f, 0x80, 0xff] {
        assert_eq!(Runtime::new(native), None);
    }
}

#[test]
fn a_frame_of_another_build_is_skipped() {
    let next = Word::native(0x1000, false);
    let frame = |code, position| {
        RawFrame::Runtime(RuntimeFrame { runtime: Runtime(9), check: 7, code, position })
    };
    for (count, expected) in [(0u64, frame(0, 0)), (1, frame(1, 0)), (5, frame(1, 2))] {
        let head = Word(9 << 56 | count << 48 | 0xabcd << 32 | 7);
        let list: Vec<Word> =
            [head].into_iter().chain((1..=count).map(Word)).chain([next]).collect();
        let native = RawFrame::Native(FrameAddress::ReturnAddress(0x1000));
        assert_eq!(read(&list), [Ok(expected), Ok(native)]);
    }
}
