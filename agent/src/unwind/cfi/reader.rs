//! A cursor over bytes that anybody may have written. Every read says `None` at the end, and no number
//! takes more bytes than 64 bits need.

/// Most bytes of a LEB128 number: 9 of 7 bits and one with the last.
const MAX_LEB: usize = 10;

/// A position in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads from `at`, which may be anywhere, to the end of `bytes`.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at: at.min(bytes.len()) }
    }

    /// Bytes from the start to here.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    /// What comes before the next zero, which is read too.
    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        let text = rest.get(..rest.iter().position(|&byte| byte == 0)?)?;
        self.at += text.len() + 1;
        Some(text)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.bytes.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(array)
    }

    /// One byte.
    #[inline]
    pub(super) fn u8(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// Two bytes.
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// An unsigned number of variable length.
    #[inline]
    pub(super) fn uleb(&mut self) -> Option<u64> {
        let first = self.u8()?;
        if first < 0x80 {
            return Some(u64::from(first));
        }
        let mut value = u64::from(first & 0x7f);
        for index in 1..MAX_LEB {
            let byte = self.u8()?;
            if index == MAX_LEB - 1 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A signed number of variable length.
    #[inline]
    pub(super) fn sleb(&mut self) -> Option<i64> {
        let mut value = 0;
        for index in 0..MAX_LEB {
            let byte = self.u8()?;
            // Only the sign has room in the last one.
            if index == MAX_LEB - 1 && byte != 0 && byte != 0x7f {
                return None;
            }
            value |= i64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                let unused = 64_usize.saturating_sub(7 * (index + 1));
                return Some(value << unused >> unused);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_those_of_gimli(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let ours = Reader::new(&bytes, 0).uleb();
            let mut theirs = gimli::EndianSlice::new(&bytes, gimli::LittleEndian);
            prop_assert_eq!(ours, gimli::Reader::read_uleb128(&mut theirs).ok());
            let ours = Reader::new(&bytes, 0).sleb();
            let mut theirs = gimli::EndianSlice::new(&bytes, gimli::LittleEndian);
            prop_assert_eq!(ours, gimli::Reader::read_sleb128(&mut theirs).ok());
        }

        #[test]
        fn long_numbers_are_those_of_gimli(
            mut bytes in prop::collection::vec(0x80..=0xffu8, 7..11), last in any::<u8>(),
        ) {
            bytes.push(last);
            let ours = Reader::new(&bytes, 0).sleb();
            let mut theirs = gimli::EndianSlice::new(&bytes, gimli::LittleEndian);
            prop_assert_eq!(ours, gimli::Reader::read_sleb128(&mut theirs).ok());
        }
    }

    #[test]
    fn nothing_is_read_past_the_end() {
        assert_eq!(Reader::new(&[1, 2, 3], 0).u32(), None);
        assert_eq!(Reader::new(&[1, 2, 3], 9).u8(), None);
        assert_eq!(Reader::new(&[1, 2, 3], 1).take(u64::MAX), None);
        assert_eq!(Reader::new(b"zR", 0).text(), None);
        assert_eq!(Reader::new(&[0xff; 64], 0).uleb(), None);
    }
}
