//! The command under the agent: started as the caller, watched, ended when asked.

use std::{
    ffi::{CString, OsString},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        atomic::{AtomicI32, Ordering},
        mpsc::{self, Sender},
    },
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, PidfdFlags, Resource, Rlimit, Signal, geteuid, kill_process, pidfd_open,
        setpriority_process, setrlimit,
    },
    thread::CapabilitySet,
};

use crate::process::rights;

/// Why the command could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// No such program.
    #[error("{0}: command not found. Is it spelled right and on PATH?")]
    NotFound(String),
    /// There, but not to be run.
    #[error("{0}: not executable: {1}. Try `chmod +x`, or name its interpreter")]
    NotExecutable(String, io::Error),
    /// Anything else.
    #[error("{0}: cannot be started: {1}")]
    Other(String, io::Error),
}

/// The last signal that asks us to end, and whether it came from the terminal; 0 for none.
static ASKED: AtomicI32 = AtomicI32::new(0);
const FROM_TERMINAL: i32 = 1 << 16;
/// Times the terminal's Ctrl-C is left to the command alone.
const PATIENCE: u32 = 3;
/// A command without a descriptor that says when it ends is looked at so often.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

extern "C" fn on_signal(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo to SA_SIGINFO handlers.
    let terminal = unsafe { (*info).si_code } == libc::SI_KERNEL;
    ASKED.store(signal | if terminal { FROM_TERMINAL } else { 0 }, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP end the command, not us.
pub(super) fn catch_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic; the struct is zeroed and filled.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// The thread that starts the command. It is made before rights are given up, so the command has its
/// caller's; with the command it gives them up too, but for that of sending signals: a command that changed
/// its user would not get any.
#[derive(Clone, Debug)]
pub(super) struct Starter(Sender<Task>);

/// What it is asked for, and how it answers.
enum Task {
    Start(Box<Command>, Sender<io::Result<Child>>),
    Signal(Pid, Signal, Sender<()>),
}

/// A running command.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    starter: Starter,
    /// Becomes readable when it ends.
    pidfd: Option<OwnedFd>,
    /// Times we were asked to end it.
    asked: u32,
}

// === impl Starter ===

impl Starter {
    /// Makes the thread, with the rights there are now.
    pub(super) fn new() -> io::Result<Self> {
        let (tasks, queue) = mpsc::channel();
        thread::Builder::new().name("hotspan-starter".into()).spawn(move || {
            for task in queue {
                // Whoever asked waits for the answer.
                match task {
                    Task::Start(mut command, answer) => {
                        let started = command.spawn();
                        let dropped = rights::keep_only(CapabilitySet::KILL);
                        let started = match (started, dropped) {
                            (Ok(mut child), Err(error)) => {
                                // It is not to run beside somebody with all rights.
                                let _ = child.kill();
                                let _ = child.wait();
                                Err(error.into())
                            }
                            (started, _) => started,
                        };
                        let _ = answer.send(started);
                    }
                    Task::Signal(pid, signal, answer) => {
                        let _ = kill_process(pid, signal);
                        let _ = answer.send(());
                    }
                }
            }
        })?;
        Ok(Self(tasks))
    }

    fn start(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the thread that starts commands is gone");
        let (answer, started) = mpsc::channel();
        self.0.send(Task::Start(Box::new(command), answer)).map_err(|_| gone())?;
        started.recv().map_err(|_| gone())?
    }

    fn signal(&self, pid: Pid, signal: Signal) {
        let (answer, sent) = mpsc::channel();
        if self.0.send(Task::Signal(pid, signal, answer)).is_ok() {
            let _ = sent.recv();
        }
    }
}

// === impl Running ===

impl Running {
    /// Starts `argv` at priority `nice` and with this limit of open files, the caller's own; its
    /// standard output goes to our standard error.
    pub(super) fn start(
        starter: &Starter,
        argv: &[OsString],
        nice: i32,
        files: Rlimit,
    ) -> Result<Self, CommandError> {
        let Some((program, arguments)) = argv.split_first() else {
            return Err(CommandError::NotFound("(nothing)".to_owned()));
        };
        let name = program.to_string_lossy().into_owned();
        let mut command = Command::new(program);
        command.args(arguments);
        match io::stderr().as_fd().try_clone_to_owned() {
            Ok(stderr) => command.stdout(Stdio::from(stderr)),
            Err(_) => command.stdout(Stdio::null()),
        };
        let caller = Caller::of_sudo();
        // SAFETY: only system calls, on values prepared before the fork.
        unsafe {
            command.pre_exec(move || {
                // Our own raised priority and limit are not the command's: programs that use select
                // break with descriptors above 1,023.
                let _ = setpriority_process(None, nice);
                let _ = setrlimit(Resource::Nofile, files);
                caller.as_ref().map_or(Ok(()), Caller::become_self)
            });
        }
        let child = starter.start(command).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CommandError::NotFound(name.clone()),
            io::ErrorKind::PermissionDenied => CommandError::NotExecutable(name.clone(), error),
            _ if error.raw_os_error() == Some(libc::ENOEXEC) => {
                CommandError::NotExecutable(name.clone(), error)
            }
            _ => CommandError::Other(name.clone(), error),
        })?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok();
        Ok(Self { child, starter: starter.clone(), pidfd, asked: 0 })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A descriptor that becomes readable when it ends.
    pub(super) fn end_fd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(|fd| fd.as_fd())
    }

    /// Its status, once it has ended. Passes a caught signal on: what the terminal sent has reached
    /// the command already, and a shell or a database has its own idea of Ctrl-C. Whoever insists
    /// gets it killed.
    pub(super) fn poll(&mut self) -> io::Result<Option<ExitStatus>> {
        let asked = ASKED.swap(0, Ordering::Relaxed);
        if asked != 0 {
            self.asked += 1;
            if asked & FROM_TERMINAL == 0 {
                self.signal(if self.asked > 1 { libc::SIGKILL } else { asked });
            } else if self.asked > PATIENCE {
                self.signal(libc::SIGKILL);
            }
        }
        self.child.try_wait()
    }

    /// Waits for its end without the agent.
    pub(super) fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.poll()? {
                return Ok(status);
            }
            let ended = self.end_fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            // A signal ends it early.
            let _ = poll(&mut Vec::from_iter(ended), Some(&LOOK_AGAIN));
        }
    }

    fn signal(&self, signal: libc::c_int) {
        if let Some(signal) = Signal::from_named_raw(signal) {
            // The child has not been waited for, so the number is still its own: we wait for the answer.
            self.starter.signal(Pid::from_child(&self.child), signal);
        }
    }
}

/// Who called sudo.
#[derive(Clone, Debug)]
struct Caller {
    uid: libc::uid_t,
    gid: libc::gid_t,
    user: CString,
}

impl Caller {
    fn of_sudo() -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
        let uid = number("SUDO_UID").filter(|&uid| uid != 0)?;
        let user = std::env::var_os("SUDO_USER")?;
        let user = CString::new(user.as_bytes()).ok()?;
        Some(Self { uid, gid: number("SUDO_GID")?, user })
    }

    fn become_self(&self) -> io::Result<()> {
        // SAFETY: plain system calls (initgroups reads the group file) on owned values.
        let failed = unsafe {
            libc::initgroups(self.user.as_ptr(), self.gid) != 0
                || libc::setgid(self.gid) != 0
                || libc::setuid(self.uid) != 0
        };
        if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
