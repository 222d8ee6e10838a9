//! The byte forms everything in a part is written in: LEB128 numbers, counted strings, and a CRC
//! before each record. Reading never panics and never allocates more than the input could fill.

use super::error::Damage;

/// Appends.
#[derive(Debug, Default)]
pub(super) struct Writer(pub Vec<u8>);

/// Takes from the front.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a>(pub &'a [u8]);

const CRC_BYTES: usize = 4;

// === impl Writer ===

impl Writer {
    pub(super) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Small magnitudes of either sign are short.
    pub(super) fn signed(&mut self, value: i64) {
        self.number(((value << 1) ^ (value >> 63)) as u64);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn counted(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.bytes(bytes);
    }
}

// === impl Cursor ===

impl<'a> Cursor<'a> {
    pub(super) fn number(&mut self) -> Result<u64, Damage> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Damage("a number is too long"))
    }

    pub(super) fn signed(&mut self) -> Result<i64, Damage> {
        let value = self.number()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(super) fn narrow(&mut self) -> Result<u32, Damage> {
        u32::try_from(self.number()?).map_err(|_| Damage("a number is too large"))
    }

    /// Id of a row of the part.
    pub(super) fn row(&mut self) -> Result<i64, Damage> {
        i64::try_from(self.number()?).map_err(|_| Damage("a row id is too large"))
    }

    /// Number of things that follow, each of at least one byte.
    pub(super) fn count(&mut self) -> Result<usize, Damage> {
        match usize::try_from(self.number()?) {
            Ok(count) if count <= self.0.len() => Ok(count),
            _ => Err(Damage("a count exceeds what follows")),
        }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or(Damage("a record ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        self.take(N)?.try_into().map_err(|_| Damage("a record ends too early"))
    }

    pub(super) fn counted(&mut self) -> Result<&'a [u8], Damage> {
        let count = self.count()?;
        self.take(count)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Damage> {
        std::str::from_utf8(self.counted()?).map_err(|_| Damage("a string is not UTF-8"))
    }

    pub(super) fn end(&self) -> Result<(), Damage> {
        if self.0.is_empty() { Ok(()) } else { Err(Damage("a record is too long")) }
    }
}

/// `body` behind a CRC over it and over `columns`: the other columns of its row, so that a row whose
/// columns or place changed shows too.
pub(super) fn seal(columns: &[i64], body: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(body.len() + CRC_BYTES);
    sealed.extend_from_slice(&crc(columns, body).to_le_bytes());
    sealed.extend_from_slice(body);
    sealed
}

/// What [`seal`] was given.
pub(super) fn unseal<'a>(columns: &[i64], sealed: &'a [u8]) -> Result<&'a [u8], Damage> {
    let (found, body) =
        sealed.split_first_chunk::<CRC_BYTES>().ok_or(Damage("a record is too short"))?;
    if u32::from_le_bytes(*found) == crc(columns, body) {
        Ok(body)
    } else {
        Err(Damage("a checksum does not match"))
    }
}

fn crc(columns: &[i64], body: &[u8]) -> u32 {
    let of_body = crc32c::crc32c(body);
    columns.iter().fold(of_body, |crc, column| crc32c::crc32c_append(crc, &column.to_le_bytes()))
}

/// A hash for index columns. Salted per part: ids and names come from processes that may craft
/// collisions, and each would cost every later look-up a row.
pub(super) fn salted(salt: u64, bytes: &[u8]) -> i64 {
    let mut hash = salt ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        // MurmurHash3's finaliser, a bijection: what differs before differs after.
        hash ^= u64::from_le_bytes(word);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash = (hash ^ (hash >> 33)).wrapping_add(salt);
    }
    // 32 bits: SQLite then stores four bytes. Rows found by it are compared in full.
    i64::from((hash >> 32) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive() {
        for value in [0, 1, 127, 128, 1 << 35, u64::MAX >> 1, u64::MAX] {
            let mut writer = Writer::default();
            writer.number(value);
            writer.signed(value as i64);
            let mut cursor = Cursor(&writer.0);
            assert_eq!(cursor.number(), Ok(value));
            assert_eq!(cursor.signed(), Ok(value as i64));
            assert_eq!(cursor.end(), Ok(()));
            assert!(cursor.number().is_err());
        }
        assert!(Cursor(&[0xff; 11]).number().is_err());
    }

    #[test]
    fn a_seal_covers_body_and_columns() {
        let sealed = seal(&[1, 2], b"body");
        assert_eq!(unseal(&[1, 2], &sealed), Ok(b"body".as_slice()));
        assert!(unseal(&[1, 3], &sealed).is_err());
        for at in 0..sealed.len() {
            let mut broken = sealed.clone();
            broken[at] ^= 4;
            assert!(unseal(&[1, 2], &broken).is_err());
        }
    }
}
