//! The filter, in a process of its own: this test program is started again for one ignored test.

use std::{
    env, fs,
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
    thread,
};

use super::*;
use crate::{model::id::Pid, process::rights::Rights};

/// What a thread of a filtered process can still do, and what it cannot.
fn look() {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
    assert!(status.lines().any(|line| line == "NoNewPrivs:\t1"));
    // SAFETY: integers only; each of them would change this process, and must fail.
    let denied = unsafe {
        [
            libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER),
            libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0),
            libc::syscall(libc::SYS_setuid, 0),
            libc::syscall(libc::SYS_umount2, c"/nowhere".as_ptr(), 0),
            libc::syscall(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0),
            libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0),
        ]
    };
    assert_eq!(denied, [-1; 6]);
    assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EPERM));
    // Threads, sockets, programs, files.
    assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let child = Command::new("/proc/self/exe").arg("--list").output().unwrap();
    assert!(child.status.success());
    let path = env::temp_dir().join(format!("hotspan-calls-{:?}", thread::current().id()));
    fs::write(&path, "x").unwrap();
    fs::remove_file(path).unwrap();
}

#[test]
#[ignore = "run by the test below in a process of its own"]
fn filtered() {
    let (go, wait) = mpsc::channel::<()>();
    let earlier = thread::spawn(move || {
        wait.recv().unwrap();
        look();
    });
    filter().unwrap();
    go.send(()).unwrap();
    earlier.join().unwrap();
    look();
    assert!(Rights::of(Pid(std::process::id())).unwrap().is_filtered);
}

#[test]
fn an_honest_run_goes_on_and_the_rest_fails_in_every_thread() {
    let test = "process::calls::tests::filtered";
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
}

#[test]
fn the_filter_fits_every_architecture_we_build_for() {
    for machine in [TargetArch::x86_64, TargetArch::aarch64] {
        let rules = BTreeMap::from([(libc::SYS_read, Vec::new())]);
        let made = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Trap, machine);
        assert!(BpfProgram::try_from(made.unwrap()).is_ok());
    }
    // The kernel takes 4,096 instructions.
    assert!(allowed().unwrap().len() < 4096);
}
