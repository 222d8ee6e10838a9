//! Bytes from a ring or the iterator into typed records. The only place that trusts the layouts of
//! `agent_ebpf::wire`; everything after it is data.

use agent_ebpf::wire::{
    Exec, Exit, Fork, Interval, LaneSeen, MAX_FRAMES, Name, RecordKind, Sample, Snapshot, Tail,
    record::STACK_HEADER_LEN,
};

/// A stack definition: the used prefix of `wire::Stack`.
#[derive(Clone, Debug)]
pub struct StackDefinition {
    /// Process, 0 for the kernel's.
    pub tgid: u32,
    /// Name of the stack in samples and intervals.
    pub hash: u64,
    /// `wire::record::STACK_*`
    pub flags: u32,
    /// Addresses, innermost first.
    pub frames: Vec<u64>,
}

/// Anything a ring delivers.
#[derive(Clone, Debug)]
pub enum Record {
    /// Timer sample.
    Sample(Sample),
    /// Off-CPU interval.
    Interval(Interval),
    /// Stack definition.
    Stack(StackDefinition),
    /// New process.
    Fork(Fork),
    /// exec.
    Exec(Exec),
    /// End of a thread.
    Exit(Exit),
    /// New lane.
    LaneSeen(LaneSeen),
    /// Markers of a process that died before it was attached.
    Tail(Box<Tail>),
    /// A name those markers refer to.
    Name(Box<Name>),
}

/// Plain records: any bytes are a valid value.
trait Plain: Copy {}
impl Plain for Sample {}
impl Plain for Interval {}
impl Plain for Fork {}
impl Plain for Exec {}
impl Plain for Exit {}
impl Plain for LaneSeen {}
impl Plain for Tail {}
impl Plain for Name {}
impl Plain for Snapshot {}

fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY:
    // - at least size_of::<T>() bytes are readable;
    // - read_unaligned needs no alignment;
    // - T is a repr(C) struct of integers without padding, valid for any bytes (`Plain`).
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

impl Record {
    /// Decodes one ring record; `None` for a kind or length this build does not know.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let kind = word(bytes, 0)?;
        let is = |k: RecordKind| kind == k as u32;
        if is(RecordKind::Sample) {
            read(bytes).map(Self::Sample)
        } else if is(RecordKind::Interval) {
            read(bytes).map(Self::Interval)
        } else if is(RecordKind::Stack) {
            stack(bytes).map(Self::Stack)
        } else if is(RecordKind::Fork) {
            read(bytes).map(Self::Fork)
        } else if is(RecordKind::Exec) {
            read(bytes).map(Self::Exec)
        } else if is(RecordKind::Exit) {
            read(bytes).map(Self::Exit)
        } else if is(RecordKind::LaneSeen) {
            read(bytes).map(Self::LaneSeen)
        } else if is(RecordKind::Tail) {
            read(bytes).map(|tail| Self::Tail(Box::new(tail)))
        } else if is(RecordKind::Name) {
            read(bytes).map(|name| Self::Name(Box::new(name)))
        } else {
            None
        }
    }

    /// When it was made, ktime.
    pub fn at(&self) -> u64 {
        match self {
            Self::Sample(r) => r.at,
            Self::Interval(r) => r.in_at,
            // A definition comes before whatever refers to it.
            Self::Stack(_) => 0,
            Self::Tail(r) => r.at,
            Self::Name(r) => r.at,
            Self::Fork(r) => r.at,
            Self::Exec(r) => r.at,
            Self::Exit(r) => r.at,
            Self::LaneSeen(r) => r.at,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn stack(bytes: &[u8]) -> Option<StackDefinition> {
    let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let len = (word(bytes, 16)? as usize).min(MAX_FRAMES);
    let frames = bytes.get(STACK_HEADER_LEN..STACK_HEADER_LEN + len * 8)?;
    Some(StackDefinition {
        tgid: word(bytes, 4)?,
        hash: long(8)?,
        flags: word(bytes, 20)?,
        frames: frames.as_chunks::<8>().0.iter().map(|b| u64::from_ne_bytes(*b)).collect(),
    })
}

/// Decodes the iterator's output: whole snapshots, a cut last one is dropped.
pub fn snapshots(bytes: &[u8]) -> Vec<Snapshot> {
    bytes.chunks_exact(size_of::<Snapshot>()).filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_or_unknown_bytes_are_refused() {
        assert!(Record::decode(&[]).is_none());
        assert!(Record::decode(&[1, 0, 0, 0, 9]).is_none());
        assert!(Record::decode(&[99, 0, 0, 0].repeat(100)).is_none());
        // A stack that claims more frames than it brings.
        let mut stack = vec![0u8; 40];
        stack[0] = RecordKind::Stack as u8;
        stack[16] = 2;
        assert!(Record::decode(&stack).is_none());
        stack.extend_from_slice(&[0; 8]);
        assert!(matches!(Record::decode(&stack), Some(Record::Stack(s)) if s.frames.len() == 2));
    }
}
