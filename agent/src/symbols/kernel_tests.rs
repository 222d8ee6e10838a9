//! Tests on a kernel program that is loaded after the list was read.

use std::{
    fs,
    os::fd::{FromRawFd as _, OwnedFd},
};

use super::*;

/// More than `return 0` takes on any machine.
const PROGRAM_BYTES: u64 = 256;

/// Loads `return 0` under a name, or says why it cannot.
fn load(name: &[u8; 12]) -> std::io::Result<OwnedFd> {
    // mov r0, 0; exit.
    let code: [u64; 2] = [0xb7, 0x95];
    let license = c"GPL";
    // The beginning of `union bpf_attr` for BPF_PROG_LOAD (linux/bpf.h).
    let mut attributes = [0_u8; 72];
    attributes[0..4].copy_from_slice(&1_u32.to_le_bytes());
    attributes[4..8].copy_from_slice(&2_u32.to_le_bytes());
    attributes[8..16].copy_from_slice(&(code.as_ptr() as u64).to_le_bytes());
    attributes[16..24].copy_from_slice(&(license.as_ptr() as u64).to_le_bytes());
    attributes[48..60].copy_from_slice(name);
    // SAFETY:
    // - the attributes are as long as is said, and point to code and licence, all of which outlive
    //   the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, 5, attributes.as_ptr(), attributes.len() as libc::c_uint)
    };
    let fd = i32::try_from(fd).unwrap();
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY:
    // - the kernel just returned this descriptor to us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Where the list has a symbol that ends in `name`.
fn listed(name: &str) -> Option<(Address, String)> {
    let list = fs::read_to_string("/proc/kallsyms").ok()?;
    list.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        let symbol = words.nth(1)?;
        (symbol.ends_with(name) && address != 0).then(|| (Address(address), symbol.to_owned()))
    })
}

fn name(names: &mut KernelNames, address: Address) -> Option<String> {
    names.at(address).map(|frames| frames[0].name.to_string())
}

#[test]
fn programs_loaded_later_get_their_names() {
    let mut names = KernelNames::new();
    names.pause = Duration::ZERO;
    // The list is read before the program is there.
    names.at(Address(u64::MAX - 4096));
    let Ok(_program) = load(b"hotspan_late") else {
        println!("skipped: only root (CAP_BPF) can load programs");
        return;
    };
    let Some((address, symbol)) = listed("_hotspan_late") else {
        println!("skipped: this host does not list programs (net.core.bpf_jit_kallsyms)");
        return;
    };
    assert!(symbol.starts_with("bpf_prog_"), "{symbol}");
    assert_eq!(name(&mut names, address), Some(symbol.clone()));
    assert_eq!(name(&mut names, Address(address.0 + 4)), Some(symbol));
}

#[test]
fn a_program_ends_where_its_code_ends() {
    let mut names = KernelNames::new();
    names.pause = Duration::ZERO;
    let Ok(_program) = load(b"hotspan_ends") else {
        println!("skipped: only root (CAP_BPF) can load programs");
        return;
    };
    let Some((address, symbol)) = listed("_hotspan_ends") else {
        println!("skipped: this host does not list programs (net.core.bpf_jit_kallsyms)");
        return;
    };
    let bytes = programs::lengths().unwrap()[&address.0];
    assert!((1..PROGRAM_BYTES).contains(&bytes), "{bytes}");
    assert_eq!(name(&mut names, Address(address.0 + bytes - 1)), Some(symbol.clone()));
    assert_ne!(name(&mut names, Address(address.0 + bytes)), Some(symbol));
}

#[test]
fn code_of_the_image_ends_with_it() {
    let Some((end, _)) = listed("_etext") else {
        println!("skipped: this user cannot read addresses in /proc/kallsyms");
        return;
    };
    let mut names = KernelNames::new();
    assert!(name(&mut names, Address(end.0 - 1)).is_some());
    for behind in [0, 1, 0x100, 0x1000, 0x10_0000] {
        assert_eq!(name(&mut names, Address(end.0 + behind)), None, "{behind:#x}");
    }
}

#[test]
fn the_list_is_not_read_all_the_time() {
    let mut names = KernelNames::new();
    let new = |at: u64| Address(u64::MAX - (1 << 20) - at);
    names.at(new(0));
    let first = names.read.unwrap();
    for at in 1..100 {
        names.at(new(at));
    }
    assert_eq!(names.read, Some(first), "within the pause");
    names.pause = Duration::ZERO;
    names.at(new(0));
    let second = names.read.unwrap();
    assert!(second > first, "asked for since the list was read");
    for at in 0..100 {
        names.at(new(at));
    }
    assert_eq!(names.read, Some(second), "all of them were known by then");
    if let Some((schedule, _)) = listed("schedule") {
        names.at(schedule);
        assert_eq!(names.read, Some(second), "code of the image does not change");
    }
}
