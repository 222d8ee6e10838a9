//! The vDSO: the kernel's code in every process, one image for all 64-bit ones of a host. It has no
//! file, so a copy of ours stands for it.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use super::{
    file,
    maps::{Backing, ProcessMap},
};
use crate::model::id::Pid;

/// No vDSO is larger.
const MAX_BYTES: u64 = 1 << 20;

/// A nameless file that holds the image.
pub fn image() -> io::Result<File> {
    let absent = || io::Error::from(io::ErrorKind::NotFound);
    let map = ProcessMap::read(Pid(std::process::id())).map_err(io::Error::other)?;
    let mapping = map.mappings().iter().find(|mapping| mapping.backing == Backing::Vdso);
    let mapping = mapping.ok_or_else(absent)?;
    let bytes = mapping.end.0 - mapping.start.0;
    if bytes > MAX_BYTES {
        return Err(absent());
    }
    let mut image = vec![0; bytes as usize];
    File::open("/proc/self/mem")?.read_exact_at(&mut image, mapping.start.0)?;
    let copy = file::nameless()?;
    copy.write_all_at(&image, 0)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::elf::Header;

    #[test]
    fn it_is_an_elf_with_code() {
        let image = image().unwrap();
        let segments = Header::read(&image).unwrap().segments(&image).unwrap();
        assert!(segments.iter().any(|segment| segment.code().is_some()));
    }
}
