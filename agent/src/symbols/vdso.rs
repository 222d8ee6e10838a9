//! The kernel's code in every process: one image for all 64-bit processes of the host, so ours is
//! read.

use std::{fs::File, io::Write as _, os::unix::fs::FileExt as _};

use super::image::Image;
use crate::process::{
    file,
    id::Pid,
    maps::{Backing, ProcessMap},
};

/// It is a few pages.
const MAX_BYTES: usize = 1 << 20;

/// Ours, if there is one.
pub(super) fn read() -> Option<Image> {
    let map = ProcessMap::read(Pid(std::process::id())).ok()?;
    let mapping = map.mappings().iter().find(|mapping| mapping.backing == Backing::Vdso)?;
    let bytes = usize::try_from(mapping.end.0 - mapping.start.0).ok()?;
    if bytes > MAX_BYTES {
        return None;
    }
    let mut image = vec![0; bytes];
    // A read that the kernel can refuse, where a pointer could not.
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut image, mapping.start.0).ok()?;
    let mut copy = file::nameless().ok()?;
    copy.write_all(&image).ok()?;
    Image::of_own(copy)
}
