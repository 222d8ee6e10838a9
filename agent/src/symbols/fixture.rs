//! What the tests of this module resolve: a C program that prints where its functions are, and maps
//! of processes that never were.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
};

use agent_ebpf::wire::{FrameAddress, RawFrame};

use super::{Request, Space};
use crate::{
    model::id::Pid,
    process::maps::{Address, Backing, ProcessMap},
};

/// The C program, running.
pub(crate) struct Running {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    /// Where a call in `inner`, inlined into `outer`, returns to.
    pub(crate) in_inner: FrameAddress,
    /// The start of `plain`.
    pub(crate) plain: FrameAddress,
}

impl Running {
    pub(crate) fn start(program: &Path) -> Self {
        let mut command = Command::new(program);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let mut addresses = line
            .split_whitespace()
            .map(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap());
        Self {
            in_inner: FrameAddress::ReturnAddress(addresses.next().unwrap()),
            plain: FrameAddress::Ip(addresses.next().unwrap()),
            child,
            _stdout: stdout,
        }
    }

    pub(crate) fn map(&self) -> Arc<ProcessMap> {
        Arc::new(ProcessMap::read(Pid(self.child.id())).unwrap())
    }

    /// Lets it exit and waits until it has.
    pub(crate) fn end(mut self) {
        self.child.stdin.take().unwrap().write_all(b"\n").unwrap();
        self.child.wait().unwrap();
    }
}

/// A user request.
pub(crate) fn request(map: &Arc<ProcessMap>, frames: &[FrameAddress]) -> Request {
    let (map, pid) = (Arc::clone(map), map.pid());
    let frames = frames.iter().copied().map(RawFrame::Native).collect();
    Request { map: Some(map), pid, frames, space: Space::User }
}

/// Where in the file `address` of a living process is, as an address of [`map_of`] that file.
pub(crate) fn in_file(map: &ProcessMap, address: FrameAddress) -> FrameAddress {
    let address = Address(address.inside());
    let mapping = map.lookup(address).unwrap();
    assert!(matches!(mapping.backing, Backing::File { .. }));
    FrameAddress::Ip(0x10000 + mapping.file_offset(address).unwrap().0)
}
