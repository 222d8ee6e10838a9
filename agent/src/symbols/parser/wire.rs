//! What is said between the daemon and the child that parses: packets of bounded size.
//!
//! ```text
//! question = kind, its numbers     with it up to two descriptors: the file, and room for a copy of it
//! answer   = kind, its content     to a question for names: one for each address, in order
//! ```
//! The daemon believes nothing of an answer: lengths and counts are checked against what is there, text
//! is text, and names are made fit to be shown once more.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

use crate::{
    model::frame::FrameKind,
    process::{debug_file::DebugLink, maps::FileOffset},
};

/// Bytes of a packet; below what a socket takes at once (`net.core.wmem_default`, 208 KiB).
pub(super) const MAX_PACKET: usize = 128 << 10;
/// Addresses in one question.
pub(in crate::symbols) const MAX_OFFSETS: usize = 1024;
/// Bytes of a name or path, of a build id, and of the name of a debug file.
const MAX_TEXT: usize = 4 * crate::symbols::names::MAX_TEXT;
const MAX_ID: usize = 128;
const MAX_LINK: usize = 255;
/// Of a frame besides its texts.
const FRAME: usize = 16;

/// What the daemon asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Which build is the file?
    Identify,
    /// Make the copy of the file in the room given, unpacked to no more than that many bytes, and read it.
    Read { key: u32, room: u64 },
    /// The same of the separate file with its debug information.
    Debug { key: u32, room: u64 },
    /// The functions at these places.
    Name { key: u32, offsets: Vec<FileOffset> },
    /// Forget the file.
    Close { key: u32 },
}

/// What the child answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// What the file says of itself.
    Identity { build_id: Option<Vec<u8>>, link: Option<DebugLink> },
    /// The fence is up: files may be handed over.
    Ready,
    /// It was read.
    Read,
    /// It cannot be read.
    Refused,
    /// The functions at one place, innermost first; none when it has no name.
    Frames(Vec<Named>),
}

/// A frame as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::symbols) struct Named {
    pub(in crate::symbols) name: String,
    pub(in crate::symbols) file: String,
    pub(in crate::symbols) line: u32,
    pub(super) is_inlined: bool,
}

/// What is left of a packet.
struct Rest<'a>(&'a [u8]);

// === impl Question ===

impl Question {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut packet = Vec::new();
        match self {
            Self::Identify => packet.push(0),
            Self::Read { key, room } | Self::Debug { key, room } => {
                packet.push(if matches!(self, Self::Read { .. }) { 1 } else { 2 });
                packet.extend(key.to_le_bytes());
                packet.extend(room.to_le_bytes());
            }
            Self::Name { key, offsets } => {
                packet.push(3);
                packet.extend(key.to_le_bytes());
                let offsets = offsets.iter().take(MAX_OFFSETS);
                packet.extend(offsets.flat_map(|offset| offset.0.to_le_bytes()));
            }
            Self::Close { key } => {
                packet.push(4);
                packet.extend(key.to_le_bytes());
            }
        }
        packet
    }

    pub(super) fn decode(packet: &[u8]) -> Option<Self> {
        let mut rest = Rest(packet);
        Some(match rest.u8()? {
            0 => Self::Identify,
            1 => Self::Read { key: rest.u32()?, room: rest.u64()? },
            2 => Self::Debug { key: rest.u32()?, room: rest.u64()? },
            3 => {
                let key = rest.u32()?;
                let offsets = rest.0.as_chunks::<8>().0.iter().take(MAX_OFFSETS);
                let offsets = offsets.map(|bytes| FileOffset(u64::from_le_bytes(*bytes)));
                Self::Name { key, offsets: offsets.collect() }
            }
            4 => Self::Close { key: rest.u32()? },
            _ => return None,
        })
    }
}

// === impl Answer ===

impl Answer {
    /// Of too many frames the innermost are left out.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut packet = Vec::new();
        match self {
            Self::Identity { build_id, link } => {
                packet.push(0);
                text(&mut packet, build_id.as_deref().unwrap_or_default(), MAX_ID);
                let name = link.as_ref().map(|link| link.name.as_encoded_bytes());
                text(&mut packet, name.unwrap_or_default(), MAX_LINK);
                packet.extend(link.as_ref().map_or(0, |link| link.crc).to_le_bytes());
            }
            Self::Read => packet.push(1),
            Self::Refused => packet.push(2),
            Self::Ready => packet.push(4),
            Self::Frames(frames) => {
                packet.push(3);
                let bytes = |frame: &Named| FRAME + frame.name.len() + frame.file.len();
                let mut left = MAX_PACKET - FRAME;
                let fits = frames.iter().rev().take_while(|frame| {
                    let fits = bytes(frame) <= left;
                    left = left.saturating_sub(bytes(frame));
                    fits
                });
                let first = frames.len() - fits.count();
                for frame in frames.iter().skip(first) {
                    packet.push(u8::from(frame.is_inlined));
                    packet.extend(frame.line.to_le_bytes());
                    text(&mut packet, frame.name.as_bytes(), MAX_TEXT);
                    text(&mut packet, frame.file.as_bytes(), MAX_TEXT);
                }
            }
        }
        packet
    }

    /// None when it is not what a child of ours would say.
    pub(super) fn decode(packet: &[u8]) -> Option<Self> {
        let mut rest = Rest(packet);
        let answer = match rest.u8()? {
            0 => {
                let id = rest.text(MAX_ID)?.to_vec();
                let name = rest.text(MAX_LINK)?.to_vec();
                let crc = rest.u32()?;
                let is_name = !name.is_empty() && !name.contains(&b'/') && name != b"..";
                let link = is_name.then(|| DebugLink { name: OsString::from_vec(name), crc });
                Self::Identity { build_id: Some(id).filter(|id| !id.is_empty()), link }
            }
            1 => Self::Read,
            2 => Self::Refused,
            3 => {
                let mut frames = Vec::new();
                while !rest.0.is_empty() {
                    let (is_inlined, line) = (rest.u8()? == 1, rest.u32()?);
                    let mut string = || Some(str::from_utf8(rest.text(MAX_TEXT)?).ok()?.to_owned());
                    let (name, file) = (string()?, string()?);
                    frames.push(Named { name, file, line, is_inlined });
                }
                Self::Frames(frames)
            }
            4 => Self::Ready,
            _ => return None,
        };
        rest.0.is_empty().then_some(answer)
    }
}

// === impl Named ===

impl Named {
    pub(in crate::symbols) fn kind(&self) -> FrameKind {
        if self.is_inlined { FrameKind::Inlined } else { FrameKind::Native }
    }
}

// === impl Rest ===

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn text(&mut self, most: usize) -> Option<&'a [u8]> {
        let bytes = usize::try_from(self.u32()?).ok().filter(|&bytes| bytes <= most)?;
        let (text, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(text)
    }
}

fn text(packet: &mut Vec<u8>, text: &[u8], most: usize) {
    let text = text.get(..most).unwrap_or(text);
    packet.extend(u32::try_from(text.len()).unwrap_or_default().to_le_bytes());
    packet.extend(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(name: &str, is_inlined: bool) -> Named {
        Named { name: name.into(), file: "/a/b.c".into(), line: 7, is_inlined }
    }

    #[test]
    fn what_is_said_is_understood() {
        let offsets = vec![FileOffset(1), FileOffset(u64::MAX)];
        for question in [
            Question::Identify,
            Question::Read { key: 7, room: 1 << 40 },
            Question::Debug { key: u32::MAX, room: 0 },
            Question::Name { key: 1, offsets },
            Question::Close { key: 0 },
        ] {
            assert_eq!(Question::decode(&question.encode()), Some(question));
        }
        let link = DebugLink { name: "a.debug".into(), crc: 5 };
        for answer in [
            Answer::Identity { build_id: Some(vec![1; 20]), link: Some(link) },
            Answer::Identity { build_id: None, link: None },
            Answer::Ready,
            Answer::Read,
            Answer::Refused,
            Answer::Frames(vec![]),
            Answer::Frames(vec![named("inner", true), named("outer", false)]),
        ] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn of_too_many_frames_the_function_itself_stays() {
        let mut frames = vec![named(&"x".repeat(4000), true); 100];
        frames.push(named("outer", false));
        let packet = Answer::Frames(frames).encode();
        assert!(packet.len() <= MAX_PACKET, "{}", packet.len());
        let Some(Answer::Frames(frames)) = Answer::decode(&packet) else { panic!("no frames") };
        assert!(frames.len() > 20 && frames.last().unwrap().name == "outer");
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic_and_no_path(packet: Vec<u8>, kind in 0_u8..5) {
            let packet = [&[kind][..], &packet].concat();
            Question::decode(&packet);
            if let Some(Answer::Identity { link: Some(link), .. }) = Answer::decode(&packet) {
                prop_assert!(!link.name.as_encoded_bytes().contains(&b'/'));
            }
        }
    }
}
