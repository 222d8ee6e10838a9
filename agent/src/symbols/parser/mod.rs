//! Parsing where it may die: ELF symbols, debug information, what is packed and what is mangled, all of
//! it other people's, is read by children of the same program that may do nothing but that.
//!
//! ```text
//! hotspan-symbols ── lines (one per owner of files) ──► Parser ══ socket ══► child: fence, life
//!                    who is waited for, refused, shed            packets: wire
//! ```
//! Invariants:
//! - what a file makes its child do (die, hang, take all it may) costs that file its names, and the other
//!   files of the same user a moment; files of root and of other users have children of their own;
//! - the daemon holds no more of a file than the names that it asked for, each of bounded size;
//! - a child gets descriptors, never paths, and parses nothing before its fence is up.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};

use wire::{Answer, MAX_PACKET, Question};

mod fence;
mod life;
pub(super) mod lines;
mod wire;

pub(super) use wire::MAX_OFFSETS;

/// The one argument of a child.
const ARGUMENT: &str = "parse-for-hotspan";

/// A child, from the daemon's side.
#[derive(Debug)]
struct Parser {
    child: Child,
    socket: OwnedFd,
    packet: Vec<u8>,
    /// Its fence is up.
    is_ready: bool,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// It did not come in time.
    Late,
    /// The child ended, or says what no child of ours says.
    Dead,
}

/// The life of a child, if this process is one.
pub(crate) fn main() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let is_it = arguments.next().is_some_and(|argument| argument == ARGUMENT);
    (is_it && arguments.next().is_none()).then(life::live)
}

/// What makes this program a child. A program of tests has arguments of its own.
fn arguments() -> Vec<OsString> {
    #[cfg(not(test))]
    let arguments = [ARGUMENT];
    #[cfg(test)]
    let arguments = [
        "symbols::parser::tests::the_life_of_a_child",
        "--exact",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ];
    arguments.into_iter().map(OsString::from).collect()
}

// === impl Parser ===

impl Parser {
    fn start() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (socket, its) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // Nothing of ours in its environment, and signals to our group are not for it.
        let mut command = Command::new("/proc/self/exe");
        command.args(arguments()).env_clear().current_dir("/").process_group(0);
        command.stdin(Stdio::from(its)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        Ok(Self { child, socket, packet: vec![0; MAX_PACKET], is_ready: false })
    }

    /// Waits until it may be handed files.
    fn prepare(&mut self, deadline: Instant) -> Result<(), Silence> {
        if !self.is_ready {
            self.is_ready = self.answer(deadline)? == Answer::Ready;
        }
        if self.is_ready { Ok(()) } else { Err(Silence::Dead) }
    }

    /// Sends a question, which does not wait.
    fn ask(&self, question: &Question, files: &[&File]) -> Result<(), Silence> {
        let packet = question.encode();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(Silence::Dead);
        }
        // Only a child that is gone takes none: it is never asked twice before it answers.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = sendmsg(&self.socket, &[IoSlice::new(&packet)], &mut control, flags);
        sent.map(|_| ()).map_err(|_| Silence::Dead)
    }

    /// Waits for the next answer.
    fn answer(&mut self, deadline: Instant) -> Result<Answer, Silence> {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
        let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut ready, left.as_ref()) {
            // A signal is for somebody else; whoever asks comes again.
            Ok(0) | Err(rustix::io::Errno::INTR) => return Err(Silence::Late),
            Ok(_) => {}
            Err(_) => return Err(Silence::Dead),
        }
        // Descriptors that it sends are not taken.
        let mut control = RecvAncillaryBuffer::new(&mut []);
        let parts = &mut [IoSliceMut::new(&mut self.packet)];
        let received = recvmsg(&self.socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC);
        let bytes = received.map_or(0, |received| received.bytes);
        self.packet.get(..bytes).and_then(Answer::decode).ok_or(Silence::Dead)
    }

    /// CPU time that it has used, in steps of 10 ms.
    fn used(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        // utime and stime, 14 and 15 of proc_pid_stat(5); the name before them may hold anything.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether it computes, or would if it had a CPU.
    fn is_running(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R'))
    }

    /// Its memory in bytes.
    fn memory(&self) -> u64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.child.id()));
        let statm = statm.unwrap_or_default();
        let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
        pages.unwrap_or(0) * 4096
    }
}

impl Drop for Parser {
    fn drop(&mut self) {
        // It may hang, and has nothing to tidy up. It ends at once but for a read of a file system that
        // hangs itself: whoever is left then is a zombie of init's when we are gone.
        let _ = self.child.kill();
        let until = Instant::now() + Duration::from_millis(100);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests;
