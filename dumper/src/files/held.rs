//! What is learned of the target while it runs and still holds when it is frozen.
//!
//! Holding a descriptor of the target's file keeps the file open for the time of the dump: only
//! sockets, pipes and memfds are held, whose contents are read in the frozen moment.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use collector::OpenFile;
use ids::HostPid;
use kernel::pidfd::PidFd;

use super::beside::Beside;
use super::networks::Networks;
use super::other_options::Usual;
use super::paths::{Key, Paths};
use super::problem::{Doing, Problem};
use super::taps::Tap;
use super::watched::Watched;

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub(super) struct HeldFiles {
    pub(super) paths: Paths,
    pidfds: HashMap<HostPid, PidFd>,
    sockets: HashMap<u64, OwnedFd>,
    taps: HashMap<(u64, u64), Tap>,
    /// What single kinds hold.
    pub(super) beside: Beside,
    pub(super) usual: Usual,
    pub(super) watched: Watched,
    pub(super) networks: Networks,
}

/// What names the file of a descriptor to us.
pub(super) fn key(namespace: u64, mount: i32, file: &OpenFile) -> Key {
    let (device, inode, target) = (file.device, file.inode, file.target.clone());
    Key { namespace, mount, device, inode, target }
}

impl HeldFiles {
    /// A descriptor of ours for the open file that `pid` has as `fd`.
    pub(super) fn borrow(&mut self, pid: HostPid, fd: i32) -> Result<OwnedFd, Problem> {
        let pidfd = match self.pidfds.entry(pid) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(PidFd::open(pid).doing("open the process of")?),
        };
        pidfd.get(fd).doing("get")
    }

    /// A descriptor of ours for the socket that `pid` has as `file`.
    pub(super) fn socket(&mut self, pid: HostPid, file: &OpenFile) -> Result<&OwnedFd, Problem> {
        if !self.sockets.contains_key(&file.inode) {
            let socket = self.borrow(pid, file.fd)?;
            let stat = nix::sys::stat::fstat(&socket).doing("stat")?;
            // The target runs: the number may be another file's by now.
            if stat.st_ino != file.inode {
                return Err(Problem::Gone);
            }
            self.sockets.insert(file.inode, socket);
        }
        self.sockets.get(&file.inode).ok_or(Problem::Gone)
    }

    /// The socket with this inode, which is held, and what is known of namespaces.
    pub(super) fn socket_and_networks(
        &mut self,
        inode: u64,
    ) -> Result<(BorrowedFd<'_>, &mut Networks), Problem> {
        let socket = self.sockets.get(&inode).ok_or(Problem::Gone)?;
        Ok((socket.as_fd(), &mut self.networks))
    }

    /// The socket with this inode, if it is held.
    pub(super) fn held_socket(&self, inode: u64) -> Option<&OwnedFd> {
        self.sockets.get(&inode)
    }

    /// Hands over the socket with this inode, if it is held.
    pub(super) fn take_socket(&mut self, inode: u64) -> Option<OwnedFd> {
        self.sockets.remove(&inode)
    }

    /// A way to look into the pipe or fifo that `pid` has as `file`, which reads.
    pub(super) fn tap(&mut self, pid: HostPid, file: &OpenFile) -> Result<&Tap, Problem> {
        let name = (file.device, file.inode);
        if !self.taps.contains_key(&name) {
            let end = self.borrow(pid, file.fd)?;
            if nix::sys::stat::fstat(&end).doing("stat")?.st_ino != file.inode {
                return Err(Problem::Gone);
            }
            self.taps.insert(name, Tap(end));
        }
        self.taps.get(&name).ok_or(Problem::Gone)
    }
}

/// Runs `work` with the socket of `file`.
pub(super) fn with_socket<T>(
    memory: &mut HeldFiles,
    pid: HostPid,
    file: &OpenFile,
    work: impl FnOnce(BorrowedFd<'_>) -> Result<T, Problem>,
) -> Result<T, Problem> {
    work(memory.socket(pid, file)?.as_fd())
}
