//! The life of the child: it answers one question after the other about files it was handed, until the
//! daemon is gone. Whatever a file makes it do ends here.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
    process::ExitCode,
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags,
        recvmsg, sendmsg,
    },
};

use super::{
    fence,
    wire::{Answer, MAX_PACKET, Named, Question},
};
use crate::{
    model::frame::{Frame, FrameKind},
    process::maps::FileOffset,
    symbols::{debug::DebugFile, elf::identity, image::Image, names::Names},
};

/// What is parsed goes when it was not needed for so long, at first.
const IDLE: Duration = Duration::from_secs(10);
/// Debug information is walked recursively.
const STACK: usize = 16 << 20;

/// What it has read.
struct Files {
    names: Names,
    images: HashMap<u32, Image>,
}

/// All of it: the socket is standard input.
pub(super) fn live() -> ExitCode {
    // As the host's administrator sees it; it was started as "exe".
    let _ = rustix::thread::set_name(c"hotspan-parse");
    let life = || -> io::Result<()> {
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        // Before the first answer, which the daemon waits for: it parses behind the fence or not at all.
        fence::enclose()?;
        send(&socket, &Answer::Ready)?;
        serve(&socket)
    };
    let worker =
        fence::give_up().and_then(|()| thread::Builder::new().stack_size(STACK).spawn(life));
    match worker.map(thread::JoinHandle::join) {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn serve(socket: &OwnedFd) -> io::Result<()> {
    let mut files = Files { names: Names::new(), images: HashMap::new() };
    let mut packet = vec![0; MAX_PACKET];
    loop {
        let mut ready = [PollFd::new(socket, PollFlags::IN)];
        let idle = Timespec::try_from(IDLE).ok();
        if poll(&mut ready, idle.as_ref())? == 0 {
            files.evict_idle();
            continue;
        }
        let (bytes, handed) = receive(socket, &mut packet)?;
        if bytes == 0 {
            return Ok(());
        }
        fence::renew_time();
        files.evict_idle();
        let question = Question::decode(packet.get(..bytes).unwrap_or_default());
        let question = question.ok_or(io::ErrorKind::InvalidData)?;
        files.answer(question, handed, |answer| send(socket, &answer))?;
    }
}

fn receive(socket: &OwnedFd, packet: &mut [u8]) -> io::Result<(usize, Vec<File>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let bytes = recvmsg(socket, &mut [IoSliceMut::new(packet)], &mut control, flags)?.bytes;
    let messages = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => files.map(File::from).collect(),
        _ => Vec::new(),
    });
    Ok((bytes, messages.collect()))
}

fn send(socket: &OwnedFd, answer: &Answer) -> io::Result<()> {
    let packet = answer.encode();
    let mut control = SendAncillaryBuffer::new(&mut []);
    sendmsg(socket, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

// === impl Files ===

impl Files {
    fn answer(
        &mut self,
        question: Question,
        handed: Vec<File>,
        mut send: impl FnMut(Answer) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut handed = handed.into_iter();
        let mut next = || handed.next().ok_or(io::Error::from(io::ErrorKind::InvalidData));
        match question {
            Question::Identify => {
                let (build_id, link) = identity(&next()?);
                send(Answer::Identity { build_id, link })
            }
            Question::Read { key, room } => {
                let (original, copy) = (next()?, next()?);
                let image = Image::read(&original, copy, room);
                let is_read = image.map(|image| self.images.insert(key, image)).is_some();
                send(if is_read { Answer::Read } else { Answer::Refused })
            }
            Question::Debug { key, room } => {
                let (installed, copy) = (next()?, next()?);
                if let Some(image) = self.images.get_mut(&key) {
                    image.set_debug(DebugFile::open(installed, copy, room));
                }
                send(Answer::Read)
            }
            Question::Name { key, offsets } => {
                for offset in offsets {
                    send(self.name(key, offset))?;
                }
                Ok(())
            }
            Question::Close { key } => {
                if let Some(image) = self.images.remove(&key) {
                    image.evict(&mut self.names);
                }
                Ok(())
            }
        }
    }

    fn name(&mut self, key: u32, offset: FileOffset) -> Answer {
        let Some(image) = self.images.get_mut(&key) else { return Answer::Refused };
        match image.frames(&mut self.names, offset) {
            Ok(frames) => Answer::Frames(frames.into_iter().map(named).collect()),
            Err(_) => Answer::Refused,
        }
    }

    fn evict_idle(&mut self) {
        for image in self.images.values_mut() {
            image.evict_idle(&mut self.names, IDLE);
        }
    }
}

fn named(frame: Frame) -> Named {
    Named {
        name: frame.name.as_ref().to_owned(),
        file: frame.file.as_ref().to_owned(),
        line: frame.line,
        is_inlined: frame.kind == FrameKind::Inlined,
    }
}
