//! Files on their way: descriptors that messages in Unix sockets bring (`SCM_RIGHTS`), and those messages.
//!
//! They are files of the tree although no process has them yet. [`super::sent_files`] finds them.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::os::fd::OwnedFd;

use collector::{OpenFile, Process};
use ids::HostPid;
use kernel::queues::Sender;

use super::problem::Problem;

/// A message with the files that travel with it, as places among all that do.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) bytes: Vec<u8>,
    pub(super) name: Vec<u8>,
    pub(super) sender: Option<Sender>,
    pub(super) files: Range<usize>,
}

/// Where the socket is held that a file is on its way to: a process and its descriptor.
pub(super) type Receiver = (HostPid, i32);

/// What waits in the Unix sockets of a tree.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// By the inode of the socket.
    pub(super) queues: HashMap<u64, Result<Vec<Queued>, Problem>>,
    /// The files on their way, with who receives them.
    pub(super) files: Vec<(OpenFile, Receiver)>,
    pub(super) held: Vec<OwnedFd>,
    /// The sockets among them, by inode.
    pub(super) sockets: HashSet<u32>,
    /// There are more than have been seen.
    pub(super) is_partial: bool,
}

impl InFlight {
    /// What is queued in a socket, which is told once.
    pub(super) fn take(&mut self, inode: u64) -> Result<Vec<Queued>, Problem> {
        self.queues.remove(&inode).unwrap_or_else(|| Ok(Vec::new()))
    }

    /// The files on their way, which this process has for the moment.
    pub(super) fn files(&self) -> impl Iterator<Item = &OpenFile> {
        self.files.iter().map(|(file, _)| file)
    }

    /// A process that has them, as far as a look at files needs one.
    pub(super) fn as_process(&self) -> (Process, Vec<Receiver>) {
        let own = HostPid::own();
        let process = Process::with_files(own, self.files().cloned().collect());
        (process, self.files.iter().map(|(_, receiver)| *receiver).collect())
    }
}
