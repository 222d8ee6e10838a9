//! The words of a stack. Each frame is a native address in one word, or a frame of a runtime (an
//! interpreter) in several:
//!
//! ```text
//!        63     56 55     48 47        32 31                            0
//! native| 00000000 |                user address                        |  where a call returns to
//!       | 10000000 |                user address                        |  where it is, exactly
//!       | 11111111 |               kernel address                       |  where a call returns to
//!       | 01111111 |               kernel address                       |  where it is, exactly
//! head  |   tag    |  count  |      0     |            check            |  of a runtime's frame
//!       |                 code object or method                         |  its words: `count` of them
//!       |                       position in it                          |
//! ```
//! Native addresses are canonical: of at most 57 bits, the upper ones copies of bit 56 (x86-64 with five
//! levels of page tables; with four, and on AArch64, there are more copies). So bits 62 to 56 of an
//! address are all the same, bit 63 is free to say that it is exact, and every other value of the
//! uppermost byte is the tag of a runtime: its number. What lacks the words its head counts ends the
//! list; a reader that does not know a tag skips `count` words and knows whose they were.

/// Of the tag in a word.
const TAG_SHIFT: u32 = 56;
/// Of the count in a head.
const COUNT_SHIFT: u32 = 48;
/// Bit of a native address that is the instruction itself.
const EXACT: u64 = 1 << 63;

/// A word of a stack (the module has the drawing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Word(pub u64);

/// A runtime, by its number. None has one yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Runtime(u8);

/// A frame of a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuntimeFrame {
    /// Whose.
    pub runtime: Runtime,
    /// What the walker saw in the code object: who reads names from it later finds by this whether it
    /// is still the same.
    pub check: u32,
    /// Code object or method, as the runtime names it.
    pub code: u64,
    /// Where in it, as the runtime counts.
    pub position: u64,
}

/// An address of machine code in a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameAddress {
    /// The instruction that ran, or was about to: it is exact.
    Ip(u64),
    /// Where a call returns to: the call is just before it, possibly in another function or line.
    ReturnAddress(u64),
}

/// A frame as it is walked, without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RawFrame {
    /// Machine code, of a program or of the kernel.
    Native(FrameAddress),
    /// Code that a runtime runs.
    Runtime(RuntimeFrame),
}

/// The list ended within a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incomplete;

/// Reads frames from words; nothing comes after an incomplete one.
#[derive(Clone, Debug)]
pub struct Frames<I> {
    words: I,
}

// === impl Word ===

impl Word {
    /// The word of a canonical address.
    #[inline(always)]
    #[must_use]
    pub const fn native(address: u64, exact: bool) -> Self {
        Self(address ^ if exact { EXACT } else { 0 })
    }

    /// The word of an address that anybody may have made up, exact or not as another word says: what
    /// is not canonical becomes so.
    #[inline(always)]
    #[must_use]
    pub const fn untrusted(address: u64) -> Self {
        Self((((address << 7) as i64) >> 7) as u64)
    }

    /// The address, if it is a native one.
    const fn as_native(self) -> Option<FrameAddress> {
        let copies = (self.0 >> TAG_SHIFT) as u8 & 0x7f;
        if copies != 0 && copies != 0x7f {
            return None;
        }
        let is_exact = self.0 >> 63 != self.0 >> 62 & 1;
        Some(if is_exact {
            FrameAddress::Ip(self.0 ^ EXACT)
        } else {
            FrameAddress::ReturnAddress(self.0)
        })
    }
}

// === impl Runtime ===

impl Runtime {
    /// The runtime of a number; none of those that native words have for a tag.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        match number & 0x7f {
            0 | 0x7f => None,
            _ => Some(Self(number)),
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

// === impl RuntimeFrame ===

impl RuntimeFrame {
    /// Words after the head.
    const COUNT: u64 = 2;

    /// As it stands in a stack.
    #[must_use]
    pub const fn words(self) -> [Word; 1 + Self::COUNT as usize] {
        let head =
            (self.runtime.0 as u64) << TAG_SHIFT | Self::COUNT << COUNT_SHIFT | self.check as u64;
        [Word(head), Word(self.code), Word(self.position)]
    }
}

// === impl FrameAddress ===

impl FrameAddress {
    /// The address itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        match self {
            Self::Ip(address) | Self::ReturnAddress(address) => address,
        }
    }

    /// An address inside the instruction that the frame is at.
    #[must_use]
    pub const fn inside(self) -> u64 {
        match self {
            Self::Ip(address) => address,
            Self::ReturnAddress(address) => address.saturating_sub(1),
        }
    }
}

// === impl RawFrame ===

impl RawFrame {
    /// The address of machine code.
    #[must_use]
    pub const fn native(self) -> Option<FrameAddress> {
        match self {
            Self::Native(address) => Some(address),
            Self::Runtime(_) => None,
        }
    }
}

// === impl Frames ===

impl<I: Iterator<Item = Word>> Frames<I> {
    /// The frames of a list of words.
    pub const fn of(words: I) -> Self {
        Self { words }
    }
}

impl<I: Iterator<Item = Word>> Iterator for Frames<I> {
    type Item = Result<RawFrame, Incomplete>;

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.words.next()?;
        if let Some(native) = head.as_native() {
            return Some(Ok(RawFrame::Native(native)));
        }
        let count = (head.0 >> COUNT_SHIFT) as u8;
        let mut frame = RuntimeFrame {
            runtime: Runtime((head.0 >> TAG_SHIFT) as u8),
            check: head.0 as u32,
            code: 0,
            position: 0,
        };
        // Another build may have more or fewer of them: what it lacks is zero, the rest is its own.
        for place in 0..count {
            let Some(Word(word)) = self.words.next() else {
                return Some(Err(Incomplete));
            };
            match place {
                0 => frame.code = word,
                1 => frame.position = word,
                _ => {}
            }
        }
        Some(Ok(RawFrame::Runtime(frame)))
    }
}

#[cfg(test)]
#[path = "word_tests.rs"]
mod tests;
