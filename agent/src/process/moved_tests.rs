//! Text that is moved in this process itself: a file mapped as a loader does it, and memory in the place of
//! its text.

use std::{fs, path::Path, ptr};

use super::*;
use crate::process::maps::{Address, ProcessMap};

/// Address space with a program's first segment mapped, and its text copied.
struct Loaded {
    start: u64,
    bytes: usize,
    text: Segment,
}

impl Loaded {
    fn new(program: &Path) -> Self {
        let file = File::open(program).unwrap();
        let segments = Header::read(&file).unwrap().segments(&file).unwrap();
        let loaded: Vec<&Segment> =
            segments.iter().filter(|segment| segment.kind == PT_LOAD).collect();
        let text = **loaded.iter().find(|segment| segment.code().is_some()).unwrap();
        let (first, last) = (loaded[0], loaded[loaded.len() - 1]);
        assert!(first.code().is_none() && first.offset == 0 && first.address == 0);
        let bytes = (last.address + last.bytes + PAGE) as usize;
        let none = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY:
        // - the kernel chooses the place.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, none, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        let fixed = libc::MAP_PRIVATE | libc::MAP_FIXED;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY:
        // - the range is part of what was just reserved, and nobody uses it.
        let mapped =
            unsafe { libc::mmap(start, first.bytes as usize, libc::PROT_READ, fixed, fd, 0) };
        assert_eq!(mapped, start);
        let loaded = Self { start: start as u64, bytes, text };
        loaded.protect(libc::PROT_READ | libc::PROT_WRITE);
        let mut content = vec![0; text.bytes as usize];
        file.read_exact_at(&mut content, text.offset).unwrap();
        loaded.write(&content);
        loaded
    }

    fn protect(&self, protection: i32) {
        let from = (self.start + self.text.address) & !(PAGE - 1);
        let bytes = (self.text.bytes + PAGE) & !(PAGE - 1);
        // SAFETY:
        // - the range is part of what was reserved, and no reference leads there.
        let done = unsafe { libc::mprotect(from as *mut _, bytes as usize, protection) };
        assert_eq!(done, 0);
    }

    fn write(&self, content: &[u8]) {
        self.protect(libc::PROT_READ | libc::PROT_WRITE);
        let to = (self.start + self.text.address) as *mut u8;
        // SAFETY:
        // - the memory is reserved, writable, long enough, and nobody else's.
        unsafe { ptr::copy_nonoverlapping(content.as_ptr(), to, content.len()) };
        self.protect(libc::PROT_READ | libc::PROT_EXEC);
    }

    /// What the map says of the middle of the text.
    fn found(&self) -> (Mapping, Option<FileOffset>) {
        let map = ProcessMap::read(Pid(std::process::id())).unwrap();
        map.restore();
        let address = Address(self.start + self.text.address + self.text.bytes / 2);
        let mapping = map.lookup(address).unwrap().clone();
        let offset = mapping.file_offset(address);
        (mapping, offset)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY:
        // - it was reserved as a whole, and no reference leads there.
        unsafe { libc::munmap(self.start as *mut _, self.bytes) };
    }
}

#[test]
fn text_in_memory_without_a_file_is_that_of_the_file_around_it_if_it_has_its_bytes() {
    let program = ["/usr/bin/env", "/bin/env"].map(Path::new).into_iter().find(|p| p.exists());
    let program = fs::canonicalize(program.expect("every system has it")).unwrap();
    let loaded = Loaded::new(&program);
    let (mapping, offset) = loaded.found();
    let Backing::File { path, .. } = &mapping.backing else { panic!("{mapping:?}") };
    assert_eq!(**path, *program);
    assert_eq!(offset, Some(FileOffset(loaded.text.offset + loaded.text.bytes / 2)));
    // It is opened through what is left of the file, whose name may mean another file by now.
    assert_eq!(mapping.beside.map(|beside| beside.0.0), Some(loaded.start));
    // A patched instruction changes nothing.
    let mut content = vec![0; loaded.text.bytes as usize];
    File::open(&program).unwrap().read_exact_at(&mut content, loaded.text.offset).unwrap();
    let patched = content.len() / 2;
    content[patched..patched + 5].fill(0x90);
    loaded.write(&content);
    assert!(matches!(loaded.found().0.backing, Backing::File { .. }));
    // Other code at this place is not the file's, nor is the file's elsewhere.
    for other in [
        content.iter().map(|byte| byte ^ 1).collect(),
        vec![0; content.len()],
        [&content[64..], &content[..64]].concat(),
    ] {
        let other: Vec<u8> = other;
        loaded.write(&other);
        let (mapping, _) = loaded.found();
        assert_eq!((mapping.backing, mapping.beside), (Backing::Anonymous, None));
    }
}

#[test]
fn large_pages_are_memory_without_a_file() {
    let line = b"7f0000000000-7f0000200000 r-xp 00000000 00:0f 77  /anon_hugepage (deleted)\n";
    let map = ProcessMap::parse(Pid(1), line);
    assert_eq!(map.mappings()[0].backing, Backing::Anonymous);
}
