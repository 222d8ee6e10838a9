//! Names of this very program, of the kernel, of C programs alive and dead, and of hostile files.

use std::{fs, process};

use DaemonCounter::{SymbolFilesAbsent, SymbolsLate, SymbolsUnanswered, SymbolsUnresolved};

use super::{fixture::*, *};
use crate::process::{
    elf::Header,
    fixture::{Directory, map_of},
};

fn own_map() -> Arc<ProcessMap> {
    Arc::new(ProcessMap::read(Pid(process::id())).unwrap())
}

fn symbols() -> Symbols {
    Symbols::spawn().unwrap()
}

/// Name, kind, and file name with line of every frame.
fn lines(frames: &[Frame]) -> Vec<String> {
    let file = |frame: &Frame| frame.file.rsplit('/').next().unwrap_or_default().to_owned();
    frames
        .iter()
        .map(|frame| format!("{} {} {}:{}", frame.name, frame.kind.key(), file(frame), frame.line))
        .collect()
}

#[inline(never)]
fn landmark() -> u32 {
    std::hint::black_box(line!())
}

#[test]
fn our_own_function_has_name_file_and_line() {
    let line = landmark();
    let map = own_map();
    let address = FrameAddress::Ip(landmark as fn() -> u32 as usize as u64);
    let found = symbols().resolve(vec![request(&map, &[address])]);
    // Its first instruction may belong to the inlined `black_box` already.
    let frame = found[0].last().unwrap();
    assert!(frame.name.ends_with("symbols::tests::landmark"), "{frame:?}");
    assert!(frame.file.ends_with("symbols/tests.rs"), "{frame:?}");
    assert!((line - 1..=line).contains(&frame.line), "{frame:?}");
    assert_eq!(frame.kind, FrameKind::Native);
}

#[test]
fn inlined_frames_come_innermost_first() {
    let directory = Directory::new("inlined");
    let running = Running::start(&directory.compile("fixture", "", &[]));
    let found =
        symbols().resolve(vec![request(&running.map(), &[running.in_inner, running.plain])]);
    assert_eq!(
        lines(&found[0]),
        ["inner inlined fixture.c:4", "outer native fixture.c:10", "plain native fixture.c:12",]
    );
    running.end();
}

#[test]
fn without_debug_information_names_remain() {
    let directory = Directory::new("nodebug");
    let running = Running::start(&directory.compile("fixture", "", &["-g0"]));
    let found = symbols().resolve(vec![request(&running.map(), &[running.in_inner])]);
    assert_eq!(lines(&found[0]), ["outer native :0"]);
    running.end();
}

/// The name of `plain` in a program without symbols, with `OFFSET` for its offset.
fn name_without_symbols(program: &std::path::Path) -> String {
    let running = Running::start(program);
    let map = running.map();
    let mapping = map.lookup(Address(running.plain.inside())).unwrap();
    let offset = mapping.file_offset(Address(running.plain.inside())).unwrap().0;
    let symbols = symbols();
    let found = symbols.resolve(vec![request(&map, &[running.plain, running.plain])]);
    assert_eq!(found[0][0], found[0][1]);
    assert_eq!(symbols.counters().iter().collect::<Vec<_>>(), [(SymbolsUnresolved, 2)]);
    running.end();
    lines(&found[0][..1])[0].replace(&format!("{offset:#x}"), "OFFSET")
}

#[test]
fn without_symbols_module_offset_and_build_remain() {
    let directory = Directory::new("stripped");
    let id = "-Wl,--build-id=0x00112233445566778899aabbccddeeff00112233";
    let program = directory.compile("fixture", "", &["-s", id]);
    assert_eq!(name_without_symbols(&program), "fixture+OFFSET [0011223344556677] native :0");
    // Without a table of sections the notes are still loaded.
    let mut bytes = fs::read(&program).unwrap();
    bytes[40..48].fill(0);
    bytes[60..64].fill(0);
    fs::write(&program, bytes).unwrap();
    assert_eq!(name_without_symbols(&program), "fixture+OFFSET [0011223344556677] native :0");
    let short = directory.compile("short", "", &["-s", "-Wl,--build-id=0x0011223344556677"]);
    assert_eq!(name_without_symbols(&short), "short+OFFSET [0011223344556677] native :0");
    let without = directory.compile("without", "", &["-s", "-Wl,--build-id=none"]);
    assert_eq!(name_without_symbols(&without), "without+OFFSET native :0");
}

#[test]
fn compressed_debug_information_is_read() {
    for kind in ["zlib", "zstd"] {
        let directory = Directory::new(kind);
        let program =
            directory.compile("fixture", "", &[&format!("-Wl,--compress-debug-sections={kind}")]);
        let file = fs::File::open(&program).unwrap();
        let sections = Header::read(&file).unwrap().sections(&file).unwrap();
        assert!(sections.all.iter().any(expand::is_compressed));
        let running = Running::start(&program);
        let found = symbols().resolve(vec![request(&running.map(), &[running.in_inner])]);
        assert_eq!(
            lines(&found[0]),
            ["inner inlined fixture.c:4", "outer native fixture.c:10"],
            "{kind}"
        );
        running.end();
    }
}

#[test]
fn functions_of_the_vdso_are_named() {
    let map = own_map();
    let vdso = map.mappings().iter().find(|mapping| mapping.backing == Backing::Vdso).unwrap();
    let frames: Vec<_> = (vdso.start.0..vdso.end.0).step_by(16).map(FrameAddress::Ip).collect();
    let symbols = symbols();
    let found = symbols.resolve(vec![request(&map, &frames)]);
    let names: Vec<_> = found[0].iter().map(|frame| &*frame.name).collect();
    let expected = if cfg!(target_arch = "x86_64") {
        "__vdso_clock_gettime"
    } else {
        "__kernel_clock_gettime"
    };
    assert!(names.contains(&expected), "{names:?}");
    assert_eq!(symbols.counters().iter().count(), 0);
}

#[test]
fn dead_processes_are_resolved_from_their_map() {
    let directory = Directory::new("dead");
    let running = Running::start(&directory.compile("fixture", "", &[]));
    let (map, plain) = (running.map(), running.plain);
    running.end();
    let found = symbols().resolve(vec![request(&map, &[plain])]);
    assert_eq!(lines(&found[0]), ["plain native fixture.c:12"]);
}

#[test]
fn deleted_files_are_resolved_if_opened_in_time() {
    if fs::metadata(map_file_of_ours()).is_err() {
        println!("skipped: only root (CAP_CHECKPOINT_RESTORE) can open /proc/PID/map_files");
        return;
    }
    let directory = Directory::new("deleted");
    let program = directory.compile("fixture", "", &[]);
    let running = Running::start(&program);
    fs::remove_file(&program).unwrap();
    let (map, plain) = (running.map(), running.plain);
    let (prepared, unprepared) = (symbols(), symbols());
    assert!(prepared.open_files(Arc::clone(&map)));
    // Jobs are done in order: after this one the files are open.
    assert_eq!(prepared.resolve(vec![]), [[]; 0]);
    running.end();
    let frames = || vec![request(&map, &[plain])];
    assert_eq!(lines(&prepared.resolve(frames())[0]), ["plain native fixture.c:12"]);
    let late = unprepared.resolve(frames());
    assert!(late[0][0].name.starts_with("fixture+0x"), "{late:?}");
}

#[test]
fn another_file_in_its_place_is_not_used() {
    let directory = Directory::new("replaced");
    let program = directory.compile("fixture", "", &[]);
    let running = Running::start(&program);
    let (map, plain) = (running.map(), running.plain);
    running.end();
    // A new inode while the old one still exists.
    fs::rename(&program, directory.path("old")).unwrap();
    fs::copy(directory.path("old"), &program).unwrap();
    let found = symbols().resolve(vec![request(&map, &[plain])]);
    let name = &found[0][0].name;
    assert!(name.starts_with("fixture+0x") && !name.contains('['), "{found:?}");
}

#[test]
fn a_rebuilt_file_is_read_again() {
    let directory = Directory::new("rebuilt");
    let program = directory.compile("fixture", "", &["-g0"]);
    let running = Running::start(&program);
    let address = in_file(&running.map(), running.plain);
    running.end();
    let map = map_of(&program);
    let symbols = symbols();
    let before = symbols.resolve(vec![request(&map, &[address])]);
    assert_eq!(lines(&before[0]), ["plain native :0"]);
    // The same inode with other content; both are laid out alike.
    let rebuilt = directory.compile("rebuilt", "", &[]);
    fs::write(&program, fs::read(rebuilt).unwrap()).unwrap();
    let after = symbols.resolve(vec![request(&map, &[address])]);
    assert_eq!(lines(&after[0]), ["plain native fixture.c:12"]);
}

#[test]
fn rust_and_cpp_names_are_demangled() {
    let directory = Directory::new("mangled");
    let text = "__attribute__((noipa)) int mangled(void) __asm__(\"_ZN4shop4Cart5totalEv\");\n\
                int mangled(void) { return 1; }\n";
    let program = directory.compile("fixture", text, &["-g0"]);
    let nm = process::Command::new("nm").arg(&program).output().unwrap();
    let nm = String::from_utf8(nm.stdout).unwrap();
    let line = nm.lines().find(|line| line.contains("_ZN4shop")).unwrap();
    let address = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
    // cc lays code out at equal file offsets and addresses.
    let found =
        symbols().resolve(vec![request(&map_of(&program), &[FrameAddress::Ip(0x10000 + address)])]);
    assert_eq!(lines(&found[0]), ["shop::Cart::total() native :0"]);
}

/// Each of these is a type of C++ to a demangler.
#[test]
fn short_names_of_c_are_no_types() {
    let names = ["f", "b", "i", "v", "St", "Ss", "PKc"];
    let inlined = "static inline __attribute__((always_inline)) int d(volatile int *x) { return *x + *x; }\n\
                   __attribute__((noipa)) int g(volatile int *x) { return d(x); }\n";
    let functions = names
        .map(|name| format!("__attribute__((noipa)) int {name}(int x) {{ return x * 5; }}\n"))
        .concat();
    for option in ["-g0", "-g"] {
        let directory = Directory::new(&format!("short{option}"));
        let program =
            directory.compile("fixture", &format!("{functions}{inlined}"), &[option, "-O2"]);
        let nm = process::Command::new("nm").arg(&program).output().unwrap();
        let nm = String::from_utf8(nm.stdout).unwrap();
        let map = map_of(&program);
        let symbols = symbols();
        for name in names.iter().chain(&["g"]) {
            let is_it = |line: &&str| line.ends_with(&format!(" T {name}"));
            let line = nm.lines().find(is_it).unwrap();
            let address = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
            let asked = [FrameAddress::Ip(0x10000 + address)];
            let found = symbols.resolve(vec![request(&map, &asked)]);
            let found: Vec<_> = found[0].iter().map(|frame| &*frame.name).collect();
            let is_inlined = *name == "g" && option == "-g";
            assert_eq!(found, if is_inlined { vec!["d", "g"] } else { vec![*name] }, "{option}");
        }
    }
}

#[test]
fn kernel_functions_are_named() {
    let kallsyms = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let Some((address, name)) = kallsyms.lines().find_map(|line| {
        let mut words = line.split(' ');
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        let name = words.nth(1)?;
        (name == "schedule" && address != 0).then_some((address, name))
    }) else {
        println!("skipped: this user cannot read addresses in /proc/kallsyms");
        return;
    };
    let frames = vec![
        FrameAddress::Ip(address),
        FrameAddress::ReturnAddress(address + 4),
        FrameAddress::Ip(0x1000),
    ];
    let frames = frames.into_iter().map(RawFrame::Native).collect();
    let request = Request { map: None, pid: Pid(0), frames, space: Space::Kernel };
    let found = symbols().resolve(vec![request]);
    let name = format!("{name} kernel :0");
    assert_eq!(lines(&found[0]), [name.clone(), name, "[kernel] kernel :0".into()]);
}

#[test]
fn every_address_gets_a_frame() {
    let map = own_map();
    let vdso = map.mappings().iter().find(|mapping| mapping.backing == Backing::Vdso).unwrap();
    let local = 1_u8;
    let frames = [
        FrameAddress::Ip(vdso.start.0 + 16),
        FrameAddress::Ip(&raw const local as u64),
        FrameAddress::Ip(0),
        FrameAddress::ReturnAddress(0),
        FrameAddress::Ip(u64::MAX),
    ];
    let mut without_map = request(&map, &frames[2..3]);
    without_map.map = None;
    let found = symbols().resolve(vec![request(&map, &frames), without_map]);
    let names: Vec<_> = found[0].iter().map(|frame| &*frame.name).collect();
    let at = Address(&raw const local as u64);
    let stack = map.lookup(at).map(|mapping| format!("[anonymous]+{:#x}", at.0 - mapping.start.0));
    let stack = stack.unwrap_or("[unresolved]".into());
    assert_eq!(names, ["[vdso]+0x10", &stack, "[unresolved]", "[unresolved]", "[unresolved]"]);
    assert_eq!(&*found[1][0].name, "[unresolved]");
}

#[test]
fn a_fifo_in_place_of_a_file_does_not_block() {
    let directory = Directory::new("fifo");
    let map = map_of(&directory.fifo("lib.so"));
    let symbols = symbols();
    let found = symbols.resolve(vec![request(&map, &[FrameAddress::Ip(0x10010)])]);
    assert_eq!(&*found[0][0].name, "lib.so+0x10");
    let losses: Vec<_> = symbols.counters().iter().collect();
    assert_eq!(losses, [(SymbolsUnresolved, 1), (SymbolFilesAbsent, 1)]);
}

#[test]
fn a_debug_link_to_a_fifo_is_not_followed() {
    let directory = Directory::new("debuglink");
    let fifo = directory.fifo("trap");
    let program = directory.compile("fixture", "", &["-g0"]);
    let mut link = fifo.to_str().unwrap().as_bytes().to_vec();
    // The name with its NUL, padded to a word, and a checksum.
    link.resize((link.len() + 1).next_multiple_of(4) + 4, 0);
    directory.add_section(&program, ".gnu_debuglink", &link);
    let running = Running::start(&program);
    let symbols = symbols();
    let found = symbols.resolve(vec![request(&running.map(), &[running.plain])]);
    assert_eq!(lines(&found[0]), ["plain native :0"]);
    assert_eq!(symbols.counters().iter().count(), 0);
    running.end();
}

/// An entry of our own map_files.
fn map_file_of_ours() -> std::path::PathBuf {
    fs::read_dir("/proc/self/map_files").unwrap().next().unwrap().unwrap().path()
}

#[test]
fn a_batch_out_of_time_keeps_its_addresses() {
    let bounds = Bounds { batch: Duration::ZERO, ..Bounds::default() };
    let symbols = Symbols::spawn_within(bounds, NoRuntimes).unwrap();
    let map = own_map();
    let address = FrameAddress::Ip(landmark as fn() -> u32 as usize as u64);
    let found = symbols.resolve(vec![request(&map, &[address])]);
    assert!(found[0][0].name.contains("+0x"), "{found:?}");
    let losses: Vec<_> = symbols.counters().iter().collect();
    assert_eq!(losses, [(SymbolsUnresolved, 1), (SymbolsLate, 1)]);
}

#[test]
fn a_caller_does_not_wait_for_ever() {
    let directory = Directory::new("patience");
    let program = directory.compile("fixture", "", &[]);
    let bounds = Bounds { patience: Duration::ZERO, ..Bounds::default() };
    let symbols = Symbols::spawn_within(bounds, NoRuntimes).unwrap();
    let requests = || vec![request(&map_of(&program), &[FrameAddress::Ip(0x10010)]); 3];
    // The thread is not that fast, but it may be: what is certain is that there is an answer.
    let found = symbols.resolve(requests());
    assert!(found.len() == 3 && found.iter().all(|frames| &*frames[0].name == "fixture+0x10"));
    // More callers in a row than the queue holds, while it is busy or not.
    for _ in 0..QUEUE * 4 {
        assert_eq!(symbols.resolve(requests()).len(), 3);
    }
    let unanswered = symbols.counters().get(SymbolsUnanswered);
    assert!(unanswered > 0 && unanswered.is_multiple_of(3), "{unanswered}");
}
