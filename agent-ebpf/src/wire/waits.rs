//! The kernel's functions that block, by address: what the loader injects so that a thread's own
//! kernel stack can tell what it waits for. Which functions these are, `agent/src/kernel/waits.rs` says.

use super::state::State;

/// Slots for functions, a power of two.
pub const WAIT_FUNCTIONS: usize = 256;
const _: () = assert!(WAIT_FUNCTIONS.is_power_of_two());

/// How much a function on the stack says about the wait: the innermost `STRONG` one decides, else the
/// innermost of the greatest other weight.
pub const STRONG: u32 = 3 << 8;
/// Storage: but a page fault further out makes it a wait for memory.
pub const STORAGE: u32 = 2 << 8;
/// Something in the kernel's own work has to end.
pub const WEAK: u32 = 1 << 8;
/// The bits of the weight.
pub const WEIGHT: u32 = 3 << 8;
/// In place of a state's index: a futex, whose arguments tell lock and notification apart.
pub const FUTEX: u32 = 0x40;
/// In place of a state's index: poll or select, a sleep when there is nothing to look at.
pub const POLL: u32 = 0x41;

/// One function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WaitFunction {
    /// Address of its first instruction; `u64::MAX` in an unused slot.
    pub start: u64,
    /// Its bytes.
    pub len: u32,
    /// A weight, and a state or what else it stands for.
    pub meaning: u32,
}
const _: () = assert!(size_of::<WaitFunction>() == 16);

/// All of them, by `start`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WaitFunctions {
    /// Used slots first.
    pub functions: [WaitFunction; WAIT_FUNCTIONS],
}

/// The meaning of a function whose wait is of a state.
pub const fn meaning(weight: u32, state: State) -> u32 {
    weight | state as u32
}

// === impl WaitFunctions ===

impl WaitFunctions {
    /// None known: what the programs are built with, and what a kernel without symbols leaves.
    pub const NONE: Self =
        Self { functions: [WaitFunction { start: u64::MAX, len: 0, meaning: 0 }; WAIT_FUNCTIONS] };
}

/// The meaning of the function around `address`, 0 for none of them; `function` gives a slot. The same
/// steps for every address: a search with branches multiplies what the verifier has to look at.
#[inline(always)]
pub fn find(address: u64, function: impl Fn(usize) -> WaitFunction) -> u32 {
    let mut at = 0;
    let mut step = WAIT_FUNCTIONS / 2;
    while step > 0 {
        if function(at + step).start <= address {
            at += step;
        }
        step /= 2;
    }
    let found = function(at);
    if address.wrapping_sub(found.start) < u64::from(found.len) { found.meaning } else { 0 }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    fn some(starts: &[u64]) -> WaitFunctions {
        let mut all = WaitFunctions::NONE;
        for (slot, &start) in all.functions.iter_mut().zip(starts) {
            *slot = WaitFunction { start, len: 16, meaning: meaning(STRONG, State::Lock) };
        }
        all
    }

    #[test]
    fn finds_what_is_inside_and_nothing_else() {
        let starts: Vec<u64> = (0..WAIT_FUNCTIONS as u64).map(|i| 0x1000 + i * 0x40).collect();
        for used in [0, 1, 2, 3, 127, 128, 255, 256] {
            let all = some(&starts[..used]);
            let look = |address| find(address, |i| all.functions[i]);
            for (i, &start) in starts.iter().enumerate() {
                let there = if i < used { STRONG | State::Lock as u32 } else { 0 };
                assert_eq!(look(start - 1), 0, "{used} used, before {i}");
                assert_eq!(look(start), there, "{used} used, at {i}");
                assert_eq!(look(start + 15), there, "{used} used, last of {i}");
                assert_eq!(look(start + 16), 0, "{used} used, behind {i}");
            }
            assert_eq!(look(0), 0);
            assert_eq!(look(u64::MAX), 0);
        }
    }
}
