//! Bytes from a ring or the iterator into typed records. The only place that trusts the layouts of
//! `agent_ebpf::wire`; everything after it is data.

use agent_ebpf::{
    unwind::Stop,
    wire::{
        Exec, Exit, Fork, FrameAddress, Interval, LaneSeen, MAX_FRAMES, Name, RawFrame, RecordKind,
        Remapped, Sample, Snapshot, Tail, Word,
        stack::{
            COPY_HEADER_LEN, COPY_PAGES, COPY_REGISTERS, PAGE, STACK_COPIED, STACK_EXACT_TOP,
            STACK_HEADER_LEN, STACK_STOP_SHIFT,
        },
        word::{Frames, Incomplete},
    },
};

/// A stack definition: the used prefix of `wire::Stack`.
#[derive(Clone, Debug)]
pub struct StackDefinition {
    /// Process, 0 for the kernel's.
    pub tgid: u32,
    /// Name of the stack in samples and intervals.
    pub hash: u64,
    /// When, ktime.
    pub at: u64,
    /// Why there are no more frames.
    pub stop: Stop,
    /// Innermost first.
    pub frames: Vec<RawFrame>,
    /// The tables were not there yet, but a copy of the stack came before.
    pub copied: bool,
}

/// Registers and stack of a thread whose tables were not there yet: the used prefix of
/// `wire::StackCopy`.
#[derive(Clone, Debug)]
pub struct StackCopy {
    /// Process.
    pub tgid: u32,
    /// Name of the stack.
    pub hash: u64,
    /// When, ktime.
    pub at: u64,
    /// The instruction pointer is exact.
    pub exact: bool,
    /// x86-64 `struct pt_regs`, in words.
    pub registers: [u64; COPY_REGISTERS],
    /// Memory from the page on in which the stack pointer lies.
    pub bytes: Vec<u8>,
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
    /// New code in a known process.
    Remapped(Remapped),
    /// A stack to be walked here.
    StackCopy(Box<StackCopy>),
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
impl Plain for Remapped {}
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
        } else if is(RecordKind::Remapped) {
            read(bytes).map(Self::Remapped)
        } else if is(RecordKind::StackCopy) {
            copy(bytes).map(|copy| Self::StackCopy(Box::new(copy)))
        } else {
            None
        }
    }

    /// When it was made, ktime.
    pub fn at(&self) -> u64 {
        match self {
            Self::Sample(r) => r.at,
            Self::Interval(r) => r.in_at,
            Self::Stack(r) => r.at,
            Self::StackCopy(r) => r.at,
            Self::Remapped(r) => r.at,
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
    let words = bytes.get(STACK_HEADER_LEN..STACK_HEADER_LEN + len * 8)?;
    let flags = word(bytes, 20)?;
    let words = words.as_chunks::<8>().0.iter().map(|bytes| Word(u64::from_ne_bytes(*bytes)));
    let stop = (flags >> STACK_STOP_SHIFT) as usize & 0xff;
    let mut stop = Stop::ALL.get(stop).copied()?;
    let mut frames = Vec::with_capacity(len);
    for frame in Frames::of(words) {
        match frame {
            Ok(frame) => frames.push(frame),
            // Only the end of the room cuts a frame in two: there are more.
            Err(Incomplete) if stop == Stop::Bottom => stop = Stop::Depth,
            Err(Incomplete) => {}
        }
    }
    if flags & STACK_EXACT_TOP != 0
        && let Some(RawFrame::Native(top)) = frames.first_mut()
    {
        *top = FrameAddress::Ip(top.get());
    }
    Some(StackDefinition {
        tgid: word(bytes, 4)?,
        hash: long(8)?,
        at: long(24)?,
        stop,
        frames,
        copied: flags & STACK_COPIED != 0,
    })
}

fn copy(bytes: &[u8]) -> Option<StackCopy> {
    let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let pages = (word(bytes, 24)? as usize).min(COPY_PAGES);
    let mut registers = [0; COPY_REGISTERS];
    for (number, register) in registers.iter_mut().enumerate() {
        *register = long(32 + number * 8)?;
    }
    Some(StackCopy {
        tgid: word(bytes, 4)?,
        hash: long(8)?,
        at: long(16)?,
        exact: word(bytes, 28)? != 0,
        registers,
        bytes: bytes.get(COPY_HEADER_LEN..COPY_HEADER_LEN + pages * PAGE)?.to_vec(),
    })
}

/// Decodes the iterator's output: whole snapshots, a cut last one is dropped.
pub fn snapshots(bytes: &[u8]) -> Vec<Snapshot> {
    bytes.chunks_exact(size_of::<Snapshot>()).filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use agent_ebpf::wire::{Runtime, RuntimeFrame, stack::STACK_KERNEL};
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::fixture;

    fn stack_of(flags: u32, words: &[Word]) -> Option<StackDefinition> {
        match Record::decode(&fixture::stack(7, 8, flags, words))? {
            Record::Stack(stack) => Some(stack),
            other => panic!("{other:?}"),
        }
    }

    const fn stopped(stop: Stop) -> u32 {
        (stop as u32) << STACK_STOP_SHIFT
    }

    const fn ip(address: u64) -> RawFrame {
        RawFrame::Native(FrameAddress::Ip(address))
    }

    const fn back(address: u64) -> RawFrame {
        RawFrame::Native(FrameAddress::ReturnAddress(address))
    }

    fn script() -> RuntimeFrame {
        RuntimeFrame { runtime: Runtime::new(3).unwrap(), check: 5, code: 1 << 63, position: 0 }
    }

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

    #[test]
    fn the_top_is_exact_as_the_flags_say_and_the_rest_as_its_words_say() {
        let user = [Word(0x10), Word(0x20), Word::native(0x30, true)];
        let found = stack_of(STACK_EXACT_TOP, &user).unwrap();
        assert_eq!(found.frames, [ip(0x10), back(0x20), ip(0x30)]);
        assert_eq!((found.tgid, found.hash, found.at, found.stop), (7, 8, 9, Stop::Bottom));
        assert_eq!(stack_of(0, &user).unwrap().frames, [back(0x10), back(0x20), ip(0x30)]);
        // The kernel's half, as the helper writes it.
        let kernel = [0xffff_ffff_8100_0010, 0xffff_8880_0000_0020];
        for (flags, top) in [(0, back(kernel[0])), (STACK_EXACT_TOP, ip(kernel[0]))] {
            let found = stack_of(STACK_KERNEL | flags, &kernel.map(Word)).unwrap();
            assert_eq!(found.frames, [top, back(kernel[1])]);
        }
    }

    #[test]
    fn a_frame_that_is_cut_ends_the_stack_with_its_mark() {
        let whole: Vec<Word> =
            [Word(0x10)].into_iter().chain(script().words()).chain([Word(0x20)]).collect();
        let frames = [ip(0x10), RawFrame::Runtime(script()), back(0x20)];
        let found = stack_of(STACK_EXACT_TOP, &whole).unwrap();
        assert_eq!((&found.frames[..], found.stop), (&frames[..], Stop::Bottom));
        for cut in [2, 3] {
            let found = stack_of(STACK_EXACT_TOP, &whole[..cut]).unwrap();
            assert_eq!((&found.frames[..], found.stop), (&frames[..1], Stop::Depth));
            // It says already that there are more.
            let memory = stopped(Stop::Memory);
            assert_eq!(stack_of(memory, &whole[..cut]).unwrap().stop, Stop::Memory);
        }
    }

    proptest! {
        #[test]
        fn any_words_are_a_stack(
            words in prop::collection::vec(any::<u64>().prop_map(Word), 0..=MAX_FRAMES),
            flags in 0..=u8::MAX,
            stop in 0..Stop::ALL.len(),
        ) {
            let stop = Stop::ALL[stop];
            let found = stack_of(u32::from(flags) | stopped(stop), &words).unwrap();
            prop_assert!(found.frames.len() <= words.len());
            prop_assert!(found.stop == stop || stop == Stop::Bottom && found.stop == Stop::Depth);
        }

        #[test]
        fn any_bytes_are_a_record_or_none(
            kind in 0..16_u32,
            bytes in prop::collection::vec(any::<u8>(), 0..4096),
        ) {
            let bytes = [&kind.to_ne_bytes()[..], &bytes].concat();
            let _ = Record::decode(&bytes).map(|record| record.at());
        }
    }
}
