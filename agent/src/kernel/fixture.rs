//! Records as the kernel side writes them.

use agent_ebpf::wire::{RecordKind, Word};

/// The bytes of a stack of process `tgid`, 0 for the kernel's, with these flags.
pub(crate) fn stack(tgid: u32, hash: u64, flags: u32, words: &[Word]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((RecordKind::Stack as u32).to_ne_bytes());
    bytes.extend(tgid.to_ne_bytes());
    bytes.extend(hash.to_ne_bytes());
    bytes.extend((words.len() as u32).to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(9_u64.to_ne_bytes());
    bytes.extend(words.iter().flat_map(|word| word.0.to_ne_bytes()));
    bytes
}
