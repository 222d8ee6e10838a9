//! Tests on processes that make code: a C program, node, and what may lie in the place of their files.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::symlink,
    process::{Child, Command, Stdio},
};

use super::*;
use crate::process::fixture::Directory;
use crate::symbols::{FrameAddress, Symbols, fixture::*};

/// Code at a fixed place, before `main`, listed in a perf map.
const WITH_CODE: &str = r#"
#include <sys/mman.h>
#include <unistd.h>
int memfd_create(const char *, unsigned);
__attribute__((constructor)) static void code(void) {
    char path[64];
    unsigned char *at = mmap((void *)0x200000000000, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                             MAP_PRIVATE | MAP_ANONYMOUS | 0x100000, -1, 0);
    int shared = memfd_create("code", 0);
    if (ftruncate(shared, 4096) < 0) return;
    mmap((void *)0x200000010000, 4096, PROT_READ | PROT_EXEC, MAP_SHARED | 0x100000, shared, 0);
    at[0] = 0xc3;
    sprintf(path, "/tmp/perf-%d.map", getpid());
    FILE *file = fopen(path, "w");
    fprintf(file, "200000000000 100 made::first\n200000000100 40 made::second\n"
                  "200000010000 40 made::twice_mapped\n");
    fclose(file);
}
"#;
const FIRST: FrameAddress = FrameAddress::Ip(0x2000_0000_0000);
const BEHIND: FrameAddress = FrameAddress::ReturnAddress(0x2000_0000_0100);
const SECOND: FrameAddress = FrameAddress::Ip(0x2000_0000_0100);
const SHARED: FrameAddress = FrameAddress::Ip(0x2000_0001_0010);
const NOWHERE: FrameAddress = FrameAddress::Ip(0x2000_0000_0200);

/// Removed at the end.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn perf_map(pid: Pid) -> Removed {
    Removed(PathBuf::from(format!("/tmp/perf-{pid}.map")))
}

fn names(symbols: &Symbols, map: &Arc<ProcessMap>, frames: &[FrameAddress]) -> Vec<String> {
    let found = symbols.resolve(vec![request(map, frames)]);
    found[0].iter().map(|frame| format!("{} {}", frame.name, frame.kind.key())).collect()
}

#[test]
fn code_made_by_a_process_has_the_names_it_reports() {
    let directory = Directory::new("jit");
    let running = Running::start(&directory.compile("fixture", WITH_CODE, &[]));
    let map = running.map();
    let path = perf_map(map.pid());
    let symbols = Symbols::spawn().unwrap();
    assert_eq!(
        names(&symbols, &map, &[FIRST, BEHIND, SECOND, SHARED, NOWHERE]),
        [
            "made::first native",
            "made::first native",
            "made::second native",
            "made::twice_mapped native",
            "[anonymous]+0x200 native"
        ]
    );
    // More code, listed later; the next batch sees it, and so does one after its end.
    let mut file = fs::OpenOptions::new().append(true).open(&path.0).unwrap();
    file.write_all(b"200000000200 10 made::third\n").unwrap();
    assert_eq!(names(&symbols, &map, &[NOWHERE]), ["made::third native"]);
    file.write_all(b"200000000200 10 made::last\n").unwrap();
    running.end();
    assert_eq!(names(&symbols, &map, &[NOWHERE]), ["made::last native"]);
    // Who did not look in time has no name for it: whose file it was is not known any more.
    let late = Symbols::spawn().unwrap();
    assert_eq!(names(&late, &map, &[FIRST]), ["[anonymous]+0x0 native"]);
}

#[test]
fn what_was_opened_in_time_is_read_after_the_end() {
    let directory = Directory::new("jitopen");
    let running = Running::start(&directory.compile("fixture", WITH_CODE, &[]));
    let map = running.map();
    let path = perf_map(map.pid());
    let symbols = Symbols::spawn().unwrap();
    assert!(symbols.open_files(Arc::clone(&map)));
    assert_eq!(symbols.resolve(vec![]), [[]; 0]);
    running.end();
    drop(path);
    assert_eq!(names(&symbols, &map, &[SECOND]), ["made::second native"]);
}

/// A process of another pid namespace with a `/tmp` of its own.
#[test]
fn containers_are_asked_by_their_own_ids_and_paths() {
    let directory = Directory::new("jitns");
    let program = directory.compile("fixture", WITH_CODE, &[]);
    let tmp = directory.path("tmp");
    fs::create_dir(&tmp).unwrap();
    let script = format!(
        "exec 3<{} && mount --bind {} /tmp && exec /proc/self/fd/3",
        program.display(),
        tmp.display()
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script]);
    let mut outer = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(outer.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.is_empty() {
        println!("skipped: only root can make namespaces");
        let _ = outer.wait();
        return;
    }
    let id = outer.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let inner = Pid(children.trim().parse().unwrap());
    assert!(tmp.join("perf-1.map").exists());
    let map = Arc::new(ProcessMap::read(inner).unwrap());
    let symbols = Symbols::spawn().unwrap();
    assert_eq!(names(&symbols, &map, &[FIRST]), ["made::first native"]);
    outer.stdin.take().unwrap().write_all(b"\n").unwrap();
    outer.wait().unwrap();
}

/// What a process that began long ago, or now, accepts below a root of our making.
fn opened(test: &str, make: impl Fn(&Path, &Path), change: impl Fn(&mut Owner)) -> bool {
    let directory = Directory::new(test);
    let root = directory.path("root");
    fs::create_dir_all(root.join("tmp")).unwrap();
    make(&root.join("tmp/perf-7.map"), &directory.path(""));
    let us = Pid(std::process::id());
    let mut owner = Owner::of(us, Stat::read(us).unwrap().started).unwrap();
    owner.inner = 7;
    change(&mut owner);
    let mut process = Process::new(owner, 0, 0);
    process.open_map(&file::open_root(&root).unwrap());
    process.read();
    process.mapped.at(0x1000).is_some()
}

#[test]
fn only_a_file_of_the_process_is_its_perf_map() {
    let text = "1000 10 name\n";
    let write = |path: &Path, _: &Path| fs::write(path, text).unwrap();
    assert!(opened("plain", write, |_| ()));
    assert!(!opened("old", write, |owner| owner.since += Duration::from_secs(3600)));
    let us = fs::metadata("/proc/self").unwrap().uid();
    // Root's as little as another's: what root writes is for root.
    assert!(!opened("others", write, |owner| owner.user = 12_345));
    if us == 0 {
        let chown = |path: &Path, _: &Path| {
            fs::write(path, text).unwrap();
            std::os::unix::fs::chown(path, Some(12_345), None).unwrap();
        };
        assert!(!opened("stranger", chown, |_| ()));
        assert!(opened("its", chown, |owner| owner.user = 12_345));
    }
    let fifo = |path: &Path, _: &Path| {
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    assert!(!opened("jitfifo", fifo, |_| ()));
    let outside = |path: &Path, outside: &Path| {
        fs::write(outside.join("outside"), text).unwrap();
        symlink("../../outside", path).unwrap();
    };
    assert!(!opened("jitout", outside, |_| ()));
    let absolute = |path: &Path, outside: &Path| {
        fs::write(outside.join("outside"), text).unwrap();
        symlink(outside.join("outside"), path).unwrap();
    };
    assert!(!opened("jitabs", absolute, |_| ()));
    // Not even to what is its own, in its own root.
    let inside = |path: &Path, _: &Path| {
        fs::write(path.with_file_name("inside"), text).unwrap();
        symlink("inside", path).unwrap();
    };
    assert!(!opened("jitlink", inside, |_| ()));
    assert!(!opened("jitdir", |path, _| fs::create_dir(path).unwrap(), |_| ()));
}

#[test]
fn dumps_are_known_by_their_names() {
    assert!(is_dump(Path::new("/a/jit-1.dump")) && is_dump(Path::new("/jit-123456.dump")));
    for other in ["/jit-.dump", "/jit-1.dumps", "/xjit-1.dump", "/jit-1a.dump", "/jit-+1.dump", "/"]
    {
        assert!(!is_dump(Path::new(other)), "{other}");
    }
}

/// Ended at the end.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has `work` compiled, then says so and waits.
const SCRIPT: &str = "function work(n) {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += Math.sqrt(i) * i;
  return sum;
}
%PrepareFunctionForOptimization(work);
work(1000);
%OptimizeFunctionOnNextCall(work);
console.log(work(1000) > 0);
process.stdin.on('data', () => process.exit());
";

fn node(directory: &Directory, option: &str) -> Option<Node> {
    let script = directory.path("script.js");
    fs::write(&script, SCRIPT).unwrap();
    let mut command = Command::new("node");
    command.args([option, "--allow-natives-syntax"]).arg(&script).current_dir(directory.path(""));
    let Ok(mut child) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        println!("skipped: no node");
        return None;
    };
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "true\n");
    Some(Node(child))
}

#[test]
fn javascript_functions_are_named_by_the_perf_map_of_node() {
    let directory = Directory::new("nodemap");
    let Some(node) = node(&directory, "--perf-basic-prof") else { return };
    let pid = Pid(node.0.id());
    let path = perf_map(pid);
    let text = fs::read_to_string(&path.0).unwrap();
    let line = text.lines().rfind(|line| line.contains("*work")).unwrap();
    let (start, name) = (line.split(' ').next().unwrap(), line.splitn(3, ' ').nth(2).unwrap());
    let address = FrameAddress::Ip(u64::from_str_radix(start, 16).unwrap() + 8);
    let map = Arc::new(ProcessMap::read(pid).unwrap());
    let symbols = Symbols::spawn().unwrap();
    assert_eq!(names(&symbols, &map, &[address]), [format!("{name} native")]);
    assert!(name.contains("work") && name.contains("script.js"), "{name}");
}

#[test]
fn javascript_lines_are_those_of_the_jitdump_of_node() {
    let directory = Directory::new("nodedump");
    let Some(mut node) = node(&directory, "--perf-prof") else { return };
    let pid = Pid(node.0.id());
    let map = Arc::new(ProcessMap::read(pid).unwrap());
    let (mut jits, symbols) = (Jits::new(Arc::default()), Symbols::spawn().unwrap());
    jits.begin_batch();
    jits.note(&map);
    assert!(symbols.open_files(Arc::clone(&map)));
    assert_eq!(symbols.resolve(vec![]), [[]; 0]);
    // node writes through a buffer of two megabytes: the end of it as it ends.
    node.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    node.0.wait().unwrap();
    jits.begin_batch();
    jits.note(&map);
    let process = &jits.processes[&pid];
    assert_eq!(process.dumps.len(), 1, "node maps its dump");
    // Code of the first compiler has nothing inlined: all lines are of the function that the name
    // says, `JS:^name file:line:column`.
    let mut lines = 0;
    for (_, code) in process.dumped.all().filter(|(_, code)| code.name.starts_with("JS:^")) {
        let place = code.name.split(' ').next_back().unwrap();
        let (place, _) = place.rsplit_once(':').unwrap();
        let (file, first) = place.rsplit_once(':').unwrap();
        let first: u32 = first.parse().unwrap();
        // Where node wrote no name there is no line.
        for line in code.lines.iter().filter(|line| !line.file.is_empty()) {
            assert!(*line.file == *file && line.line >= first, "{code:?}");
            assert!(line.line < first + 400, "{code:?}");
            lines += 1;
        }
    }
    assert!(lines > 20, "{lines}");
    let work = process.dumped.all().find(|(_, code)| code.name.contains("*work")).unwrap();
    let frames = [FrameAddress::Ip(work.0.start + 4)];
    let found = names(&symbols, &map, &frames);
    assert_eq!(found, [format!("{} native", work.1.name)]);
}
