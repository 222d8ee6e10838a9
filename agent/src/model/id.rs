//! Ids as types: one kind of id never lands where another is meant. Ids of processes and threads are
//! those of the initial pid namespace (design 7).

use std::{fmt, str::FromStr};

/// A process (the kernel's tgid).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub u32);

/// A thread (the kernel's pid).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(pub u32);

/// A user, in the initial user namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub u32);

impl Uid {
    /// Nobody knows whose: `(uid_t)-1`, which no user has.
    pub const UNKNOWN: Self = Self(u32::MAX);
}

/// Text that is no such id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be {digits} hex digits")]
pub struct IdError {
    /// How many there must be.
    pub digits: usize,
}

/// Declares ids of bytes: shown as lower-case hex, read from hex of either case.
macro_rules! byte_ids {
    ($($(#[$doc:meta])* $name:ident[$bytes:literal],)+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $name(pub [u8; $bytes]);

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.pad(&hex(&self.0))
                }
            }

            impl fmt::Debug for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    write!(f, "{}({self})", stringify!($name))
                }
            }

            impl FromStr for $name {
                type Err = IdError;

                fn from_str(text: &str) -> Result<Self, IdError> {
                    from_hex(text).map(Self)
                }
            }
        )+
    };
}

byte_ids! {
    /// A trace, as W3C has it.
    TraceId[16],
    /// A span within its trace, as W3C has it.
    SpanId[8],
    /// A run of an agent: random.
    RunId[16],
}

/// Declares the ids of which W3C calls one invalid, all zero: it stands for none.
macro_rules! w3c_ids {
    ($($name:ident,)+) => {
        $(
            impl $name {
                /// The one that stands for none.
                pub const NONE: Self = Self([0; _]);

                /// Whether it is that one.
                pub fn is_none(self) -> bool {
                    self == Self::NONE
                }

                /// As documents show it: in hex, "" for none.
                pub fn text(self) -> String {
                    if self.is_none() { String::new() } else { self.to_string() }
                }
            }
        )+
    };
}

w3c_ids! { TraceId, SpanId, }

// === impl Pid ===

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Tid ===

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl SpanId ===

impl SpanId {
    /// As one number of the wire: the first byte is the highest.
    pub fn number(self) -> u64 {
        u64::from_be_bytes(self.0)
    }

    /// The id of such a number.
    pub fn from_number(number: u64) -> Self {
        Self(number.to_be_bytes())
    }
}

/// Bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('?'));
        }
        text
    })
}

fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], IdError> {
    let error = IdError { digits: 2 * N };
    if text.len() != 2 * N {
        return Err(error);
    }
    let digit = |at: usize| (text.as_bytes()[at] as char).to_digit(16).ok_or(error);
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = (digit(2 * i)? << 4 | digit(2 * i + 1)?) as u8;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_lower_case_hex() {
        assert_eq!(hex(&[0x0a, 0xff]), "0aff");
        let id = SpanId([0, 1, 0x0a, 0xff, 0x80, 0, 0, 0x10]);
        assert_eq!(id.to_string(), "00010aff80000010");
        assert_eq!(id.text(), id.to_string());
        assert_eq!(format!("{id:?}"), "SpanId(00010aff80000010)");
        assert_eq!(TraceId([0xab; 16]).to_string(), "ab".repeat(16));
        assert_eq!(RunId::default().to_string(), "0".repeat(32), "a run's id has no none");
    }

    #[test]
    fn ids_come_back_from_either_case_of_hex() {
        let id = TraceId([0, 1, 2, 3, 0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 8, 9, 10, 11, 12, 0xff]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        // Too short, too long, a sign, a blank, a letter beyond f, and characters of two bytes.
        for text in [
            "",
            "0a",
            &"0".repeat(17),
            "+00000000000000a",
            " 00000000000000a",
            "000000000000000g",
            "üüüüüüüü",
        ] {
            let error = text.parse::<SpanId>().unwrap_err();
            assert_eq!(error.to_string(), "must be 16 hex digits", "{text:?}");
        }
        assert_eq!("00".repeat(8).parse::<TraceId>(), Err(IdError { digits: 32 }));
    }

    #[test]
    fn only_zero_is_none() {
        assert!(TraceId::NONE.is_none() && SpanId::NONE.is_none());
        assert_eq!((TraceId::NONE.text(), SpanId::NONE.text()), (String::new(), String::new()));
        for bit in 0..64 {
            assert!(!SpanId::from_number(1 << bit).is_none());
            assert!(!TraceId((1_u128 << (2 * bit)).to_be_bytes()).is_none());
        }
    }

    #[test]
    fn numbers_of_the_wire_are_big_endian() {
        let id = SpanId([1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(id.number(), 0x0102_0304_0506_0708);
        assert_eq!(SpanId::from_number(id.number()), id);
    }
}
