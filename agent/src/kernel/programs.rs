//! Where the kernel has put programs of eBPF, and how long each of their functions is: its list of
//! symbols does not say.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// Commands of bpf(2) (linux/bpf.h, `enum bpf_cmd`).
const PROG_GET_NEXT_ID: libc::c_int = 11;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// `struct bpf_prog_info` up to `jited_func_lens`, and these fields of it.
const INFO_BYTES: usize = 128;
const FUNCTIONS: usize = 104;
const LENGTHS: usize = 108;
const ADDRESSES_AT: usize = 112;
const LENGTHS_AT: usize = 120;
/// Programs asked about: hosts have hundreds; and functions of one (`BPF_MAX_SUBPROGS`).
const MAX_PROGRAMS: usize = 16_384;
const MAX_FUNCTIONS: usize = 256;

/// Begin and bytes of the functions of every program. Only root (CAP_SYS_ADMIN) may ask, and where the
/// kernel hides its addresses there are none.
pub fn lengths() -> io::Result<HashMap<u64, u64>> {
    let mut lengths = HashMap::new();
    let mut id = 0_u32;
    for _ in 0..MAX_PROGRAMS {
        let mut next = [0_u8; 12];
        put(&mut next, 0, &id.to_le_bytes());
        match bpf(PROG_GET_NEXT_ID, &mut next) {
            Ok(_) => id = number(&next, 4),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
            Err(error) => return Err(error),
        }
        // It may be gone by now.
        let _ = functions(id, &mut lengths);
    }
    Ok(lengths)
}

fn functions(id: u32, lengths: &mut HashMap<u64, u64>) -> io::Result<()> {
    let mut by_id = [0_u8; 12];
    put(&mut by_id, 0, &id.to_le_bytes());
    let fd = bpf(PROG_GET_FD_BY_ID, &mut by_id)?;
    // SAFETY:
    // - the kernel just returned this descriptor to us, nobody else owns it.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    // The kernel fills in what there is room for.
    let (mut addresses, mut bytes) = ([0_u64; MAX_FUNCTIONS], [0_u32; MAX_FUNCTIONS]);
    let mut info = [0_u8; INFO_BYTES];
    let most = (MAX_FUNCTIONS as u32).to_le_bytes();
    put(&mut info, FUNCTIONS, &most);
    put(&mut info, LENGTHS, &most);
    put(&mut info, ADDRESSES_AT, &(addresses.as_mut_ptr() as u64).to_le_bytes());
    put(&mut info, LENGTHS_AT, &(bytes.as_mut_ptr() as u64).to_le_bytes());
    let mut by_fd = [0_u8; 16];
    put(&mut by_fd, 0, &program.as_raw_fd().to_le_bytes());
    put(&mut by_fd, 4, &(INFO_BYTES as u32).to_le_bytes());
    put(&mut by_fd, 8, &(info.as_mut_ptr() as u64).to_le_bytes());
    bpf(OBJ_GET_INFO_BY_FD, &mut by_fd)?;
    let count = number(&info, FUNCTIONS).min(number(&info, LENGTHS)) as usize;
    let functions = addresses.iter().zip(&bytes).take(count);
    let known = functions.filter(|&(&address, &bytes)| address != 0 && bytes != 0);
    lengths.extend(known.map(|(&address, &bytes)| (address, u64::from(bytes))));
    Ok(())
}

fn bpf(command: libc::c_int, attributes: &mut [u8]) -> io::Result<i32> {
    let bytes = attributes.len() as libc::c_uint;
    // SAFETY:
    // - the attributes are as long as is said, and are ours for the length of the call;
    // - whatever they point to outlives the call in its only user, with the lengths said beside it.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), bytes) };
    match i32::try_from(done) {
        Ok(done) if done >= 0 => Ok(done),
        _ => Err(io::Error::last_os_error()),
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u32::from_le_bytes)
}
