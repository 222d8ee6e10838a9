//! How to get from a frame to its caller, in one word.
//!
//! ```text
//! bit  0..4   CfaRule
//!      4..8   its argument: a register, the threshold of a PLT, or what is added after a load, in words
//!      8..10  FrameRule
//!     10..12  ReturnRule
//!     12..16  its argument: a register, or signed words from the slot of the frame pointer
//!     16..40  offset of the CFA, signed
//!     40..64  offset of the saved frame pointer, signed
//! ```
//! Registers are DWARF's numbers (x86-64 psABI 3.6.2, AArch64 aadwarf64 4.1). The stack pointer is
//! x86-64's rsp and AArch64's sp, the frame pointer rbp and x29.

/// Whose registers and stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86-64.
    X86_64,
    /// AArch64.
    Aarch64,
}

/// Where the canonical frame address is: the stack pointer before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CfaRule {
    /// No table says anything of this address.
    None = 0,
    /// Stack pointer + offset.
    Sp = 1,
    /// Frame pointer + offset.
    Fp = 2,
    /// Another register (the argument) + offset: known in the innermost frame only.
    Register = 3,
    /// rsp + 8, and 8 more when `rip & 15` is at least the argument (the lazy PLT of x86-64).
    Plt = 4,
    /// Word at stack pointer + offset, plus the argument in words.
    DerefSp = 5,
    /// Word at frame pointer + offset, plus the argument in words.
    DerefFp = 6,
    /// The frame of a signal: the kernel saved all registers (`rt_sigframe`).
    Signal = 7,
    /// No caller: the outermost frame.
    Stop = 8,
    /// The table says something that cannot be followed.
    Bad = 9,
    /// The function goes on on another stack: only the frame pointer leads back, to wherever that is.
    Switch = 10,
}

/// What became of the caller's frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameRule {
    /// It is still in its register.
    Same = 0,
    /// Saved at CFA + offset.
    AtCfa = 1,
    /// Saved at frame pointer + offset.
    AtFp = 2,
    /// Nobody knows.
    Lost = 3,
}

/// Where the return address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReturnRule {
    /// At CFA - 8, where x86-64's `call` puts it.
    BelowCfa = 0,
    /// In a register (the argument): known in the innermost frame only.
    Register = 1,
    /// At CFA + offset of the frame pointer + the argument in words.
    BesideFrame = 2,
    /// In AArch64's link register: known in the innermost frame only.
    Link = 3,
}

/// The packed rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Rule(pub u64);

/// Largest offset, both ways.
pub const MAX_OFFSET: i64 = (1 << 23) - 1;

const fn signed24(bits: u64) -> i64 {
    ((bits << 40) as i64) >> 40
}

impl Rule {
    /// No table says anything.
    pub const NONE: Self = Self(CfaRule::None as u64);
    /// The outermost frame.
    pub const STOP: Self = Self(CfaRule::Stop as u64);
    /// A signal frame.
    pub const SIGNAL: Self = Self(CfaRule::Signal as u64);
    /// Said, but not to be followed.
    pub const BAD: Self = Self(CfaRule::Bad as u64);
    /// A function that goes on on another stack.
    pub const SWITCH: Self = Self(CfaRule::Switch as u64);

    /// Packs a rule; `None` when an offset or argument does not fit.
    #[must_use]
    pub fn new(
        (cfa, cfa_argument, cfa_offset): (CfaRule, u8, i64),
        (frame, frame_offset): (FrameRule, i64),
        (ret, ret_argument): (ReturnRule, i8),
    ) -> Option<Self> {
        let fits = |offset: i64| (-MAX_OFFSET..=MAX_OFFSET).contains(&offset);
        let argument = match ret {
            ReturnRule::Register => (0..16).contains(&ret_argument),
            _ => (-8..8).contains(&ret_argument),
        };
        if cfa_argument > 15 || !argument || !fits(cfa_offset) || !fits(frame_offset) {
            return None;
        }
        Some(Self(
            cfa as u64
                | u64::from(cfa_argument) << 4
                | (frame as u64) << 8
                | (ret as u64) << 10
                | ((ret_argument as u8 & 15) as u64) << 12
                | (cfa_offset as u64 & 0xff_ffff) << 16
                | (frame_offset as u64 & 0xff_ffff) << 40,
        ))
    }

    /// Where the CFA is.
    #[inline(always)]
    pub const fn cfa(self) -> u8 {
        (self.0 & 15) as u8
    }

    /// The argument of the CFA's rule.
    #[inline(always)]
    pub const fn cfa_argument(self) -> u8 {
        ((self.0 >> 4) & 15) as u8
    }

    /// The offset of the CFA's rule.
    #[inline(always)]
    pub const fn cfa_offset(self) -> i64 {
        signed24(self.0 >> 16)
    }

    /// What became of the frame pointer: a [`FrameRule`].
    #[inline(always)]
    pub const fn frame(self) -> u8 {
        ((self.0 >> 8) & 3) as u8
    }

    /// The offset of the frame pointer's rule.
    #[inline(always)]
    pub const fn frame_offset(self) -> i64 {
        (self.0 as i64) >> 40
    }

    /// Where the return address is: a [`ReturnRule`].
    #[inline(always)]
    pub const fn ret(self) -> u8 {
        ((self.0 >> 10) & 3) as u8
    }

    /// The register of a return address.
    #[inline(always)]
    pub const fn ret_register(self) -> u8 {
        ((self.0 >> 12) & 15) as u8
    }

    /// Bytes from the slot of the frame pointer to that of the return address.
    #[inline(always)]
    pub const fn ret_distance(self) -> i64 {
        (((self.0 >> 12) << 60) as i64 >> 60) * 8
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_is_read(
            argument in 0..16u8, cfa in -MAX_OFFSET..=MAX_OFFSET, frame in -MAX_OFFSET..=MAX_OFFSET,
            words in -8..8i8,
        ) {
            let rule = Rule::new(
                (CfaRule::DerefFp, argument, cfa),
                (FrameRule::AtFp, frame),
                (ReturnRule::BesideFrame, words),
            ).unwrap();
            prop_assert_eq!(rule.cfa(), CfaRule::DerefFp as u8);
            prop_assert_eq!((rule.cfa_argument(), rule.cfa_offset()), (argument, cfa));
            prop_assert_eq!((rule.frame(), rule.frame_offset()), (FrameRule::AtFp as u8, frame));
            prop_assert_eq!(rule.ret(), ReturnRule::BesideFrame as u8);
            prop_assert_eq!(rule.ret_distance(), i64::from(words) * 8);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let rule = |cfa, argument| {
            Rule::new(
                (CfaRule::Sp, 0, cfa),
                (FrameRule::Same, 0),
                (ReturnRule::BesideFrame, argument),
            )
        };
        assert!(rule(MAX_OFFSET, 7).is_some());
        assert!(rule(MAX_OFFSET + 1, 0).is_none());
        assert!(rule(0, 8).is_none());
    }
}
