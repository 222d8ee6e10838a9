//! Runs the actor (`actor.c`) in a process of its own and reads what it publishes.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hotspan_lanes::abi::Event;
use hotspan_lanes::{NameId, Span};

/// Which publisher the actor uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    Rust,
    C,
    /// The C header in the shared object, after the Rust crate has published.
    RustThenC,
    /// The Rust crate, after the C header has published.
    CThenRust,
}

/// The publishers that every behaviour is tested with.
pub(crate) const EACH: [Via; 2] = [Via::Rust, Via::C];

/// The actor, killed when the test ends.
pub(crate) struct Actor {
    child: Child,
    output: BufReader<ChildStdout>,
    said: Vec<String>,
}

#[repr(C)]
struct Lanes {
    name: extern "C" fn(*const c_char) -> u32,
    set: extern "C" fn(*const u8, *const u8, *const u8, *const u8, u32, u8) -> c_int,
    clear: extern "C" fn(),
    refused: extern "C" fn() -> u64,
}

/// Compiles C with warnings as errors, once per output.
pub(crate) fn compile(output: &str, arguments: &[&str]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(output);
    // Tests of several binaries may compile at once: each makes its own and renames it.
    let fresh = target.with_extension(std::process::id().to_string());
    let compiler = if arguments.contains(&"-std=c++17") { "c++" } else { "cc" };
    let status = Command::new(compiler)
        .args(["-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread"])
        .arg("-I")
        .arg(root.join("../c"))
        .arg("-o")
        .arg(&fresh)
        .args(arguments)
        .current_dir(root)
        .status()
        .unwrap();
    assert!(status.success(), "compiling {output}");
    std::fs::rename(&fresh, &target).unwrap();
    target
}

pub(crate) fn actor_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        compile("actor.so", &["-std=gnu11", "-fPIC", "-shared", "tests/lanes/actor.c"])
    })
}

/// The body of the ignored test `actor_process`, which is the actor's main function.
pub(crate) fn be_the_actor() {
    let setting = |name: &str| std::env::var(name).unwrap_or_default();
    let verb = CString::new(setting("ACTOR_VERB")).unwrap();
    let library = CString::new(setting("ACTOR_LIBRARY")).unwrap();
    let table = Lanes { name, set, clear, refused };
    let via = setting("ACTOR_VIA");
    if via == "RustThenC" {
        hotspan_lanes::span_set(&Span { span_id: [9; 8], ..Span::default() }).unwrap();
        assert_eq!(hotspan_lanes::name("from Rust"), NameId(1));
    }
    // SAFETY: the library was compiled from `actor.c`, whose types are repeated here.
    let status = unsafe {
        let handle = libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        assert!(!handle.is_null(), "{library:?}");
        let actor = libc::dlsym(handle, c"actor".as_ptr());
        let actor: extern "C" fn(*const c_char, u64, *const Lanes) -> c_int =
            std::mem::transmute::<*mut c_void, _>(actor);
        if via == "CThenRust" {
            let first = libc::dlsym(handle, c"actor_publishes_first".as_ptr());
            let first = std::mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(first);
            assert_eq!((first(), hotspan_lanes::name("from Rust")), (0, NameId(2)));
        }
        let given =
            if via == "Rust" || via == "CThenRust" { &raw const table } else { std::ptr::null() };
        actor(verb.as_ptr(), setting("ACTOR_AMOUNT").parse().unwrap_or(0), given)
    };
    std::process::exit(status);
}

extern "C" fn name(operation: *const c_char) -> u32 {
    // SAFETY: the actor passes a NUL-terminated string.
    let operation = unsafe { std::ffi::CStr::from_ptr(operation) };
    hotspan_lanes::name(operation.to_str().unwrap()).0
}

extern "C" fn set(
    trace_id: *const u8,
    span_id: *const u8,
    parent: *const u8,
    root: *const u8,
    name: u32,
    trace_flags: u8,
) -> c_int {
    // SAFETY: the actor passes 16 and 8 bytes.
    let (trace_id, span_id) = unsafe { (*trace_id.cast(), *span_id.cast()) };
    // SAFETY: the actor passes 8 bytes or null.
    let optional = |id: *const u8| unsafe { id.cast::<[u8; 8]>().as_ref() }.copied();
    let (parent_span_id, local_root_span_id) = (optional(parent), optional(root));
    let name = NameId(name);
    let span = Span { trace_id, span_id, parent_span_id, local_root_span_id, name, trace_flags };
    if hotspan_lanes::span_set(&span).is_ok() { 0 } else { -1 }
}

extern "C" fn clear() {
    hotspan_lanes::span_clear();
}

extern "C" fn refused() -> u64 {
    hotspan_lanes::stats().publishes_refused
}

impl Actor {
    pub(crate) fn start(via: Via, verb: &str, amount: u64, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "actor_process", "--ignored", "--nocapture", "--test-threads=1"])
            .env("ACTOR_VERB", verb)
            .env("ACTOR_AMOUNT", amount.to_string())
            .env("ACTOR_VIA", format!("{via:?}"))
            .env("ACTOR_LIBRARY", actor_library())
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, said: Vec::new() }
    }

    /// Starts it and waits until it has done its work.
    pub(crate) fn ready(via: Via, verb: &str, amount: u64, environment: &[(&str, &str)]) -> Self {
        let mut actor = Self::start(via, verb, amount, environment);
        actor.wait_until_ready();
        actor
    }

    pub(crate) fn wait_until_ready(&mut self) -> u32 {
        self.heard("ready")
    }

    /// The number the actor says after this word; reads on until it does.
    pub(crate) fn heard(&mut self, word: &str) -> u32 {
        let spoken = |line: &String| line.strip_prefix(word)?.trim().parse().ok();
        loop {
            // What a forked child says also counts as said once.
            if let Some(place) = self.said.iter().position(|line| spoken(line).is_some()) {
                let line = self.said.remove(place);
                return spoken(&line).unwrap();
            }
            let mut line = String::new();
            let read = self.output.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "the actor ended: {:?}", self.child.wait());
            // The test harness's own first line has no end before the actor speaks.
            let line = line.trim_end();
            let line = line.rsplit("... ").next().unwrap_or(line);
            self.said.push(line.to_owned());
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The thread the actor runs on: the harness may give its test a thread of its own.
    pub(crate) fn pid_of_actor_thread(&self) -> u32 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        tasks
            .map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .max()
            .unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets it go and checks that it ended well.
    pub(crate) fn finish(mut self) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "the actor ended with {status}");
                return;
            }
            assert!(Instant::now() < deadline, "the actor hangs");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number an event of the actor was made from; panics if its fields disagree.
pub(crate) fn number_of(event: &Event) -> u64 {
    let number = u64::from_le_bytes(event.span_id);
    let mut trace_id = [0; 16];
    trace_id[..8].copy_from_slice(&number.to_le_bytes());
    trace_id[8..].copy_from_slice(&(!number).to_le_bytes());
    assert_eq!(event.trace_id, trace_id);
    assert_eq!(event.parent_span_id, number.wrapping_mul(3).to_le_bytes());
    assert_eq!(event.local_root_span_id, number.wrapping_mul(5).to_le_bytes());
    assert_eq!((event.name_id, event.trace_flags), ((number % 1000) as u32, number as u8));
    number
}
