//! What a dump does to TCP connections that the kernel would keep: the lock of the network, and repair mode.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use ids::HostPid;
use kernel::namespaces::{find_network, within_network};
use kernel::netfilter::Lock;
use kernel::pidfd::PidFd;
use kernel::procfs::{Dir, ProcFile, Stat};
use kernel::tcp;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Whom a lock, or a name of a file, is for, and until when: a tree that has ended is away for as long as its
/// checkpoint is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedTree {
    /// Its root.
    pub root: HostPid,
    /// When that was started, in clock ticks.
    pub start_time: u64,
    /// Where its checkpoint is to be.
    pub images: PathBuf,
}

impl LockedTree {
    /// Whether the tree has ended and left a checkpoint, for whose restore the lock stays.
    pub(crate) fn is_away(&self) -> bool {
        let stat = Dir::open(self.root).and_then(|dir| Stat::read(&dir));
        let lives = stat.is_ok_and(|stat| stat.start_time == self.start_time && !stat.is_dead());
        // It is there whole when it has an inventory.
        !lives && self.images.join("inventory.img").exists()
    }
}

/// A lock of connections, or of everything, in the network namespace that it was set in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedNetwork {
    /// The number of the network namespace.
    namespace: u64,
    lock: Lock,
    tree: LockedTree,
}

/// The number of the network namespace that this thread is in.
fn namespace() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

impl LockedNetwork {
    /// A lock that is about to be set here.
    ///
    /// # Errors
    /// If it cannot be told where that is.
    pub fn here(lock: Lock, tree: LockedTree) -> io::Result<Self> {
        Ok(Self { namespace: namespace()?, lock, tree })
    }

    /// Takes it away, but for a tree whose dumper was killed when all was done; whether it was there.
    pub(crate) fn undo(&self) -> Result<bool, Error> {
        if self.tree.is_away() {
            return Ok(false);
        }
        let failed = |source| Error::Locked { what: self.to_string(), source };
        if namespace().map_err(failed)? == self.namespace {
            return self.lock.take_away().map_err(failed);
        }
        match find_network(self.namespace).map_err(failed)? {
            Some(namespace) => {
                let taken = within_network(namespace, || self.lock.take_away());
                taken.flatten().map_err(failed)
            }
            // It went with the last who was in it.
            None => Ok(false),
        }
    }
}

impl fmt::Display for LockedNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lock.connections() {
            _ if self.lock.is_whole() => write!(f, "lock of a network namespace")?,
            connections => write!(f, "lock of {connections} TCP connections")?,
        }
        write!(f, " ({})", self.lock.name())
    }
}

/// A socket of a target that may be in repair mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairedSocket {
    /// Who has it.
    pub pid: HostPid,
    /// When that process was started, in clock ticks: no other with its number was.
    pub start_time: u64,
    /// As which descriptor.
    pub fd: i32,
    /// Its number.
    pub inode: u64,
    /// Its `SO_REUSEADDR`, which repair mode loses.
    pub reuse: bool,
}

impl RepairedSocket {
    /// Takes it out of repair mode; whether it was in it.
    ///
    /// # Errors
    /// When this process may not: somebody else has to. That it has gone is none.
    pub(crate) fn undo(&self) -> io::Result<bool> {
        let Some(process) = there(PidFd::open(self.pid))? else { return Ok(false) };
        // If it has its number now, it had it when that was opened.
        let stat = Dir::open(self.pid).and_then(|dir| Stat::read(&dir));
        if !stat.is_ok_and(|stat| stat.start_time == self.start_time) {
            return Ok(false);
        }
        let Some(socket) = there(process.get(self.fd))? else { return Ok(false) };
        let is_it = nix::sys::stat::fstat(&socket).is_ok_and(|stat| stat.st_ino == self.inode);
        if !is_it || !tcp::is_repaired(&socket)? {
            return Ok(false);
        }
        tcp::end_repair(&socket, self.reuse)?;
        Ok(true)
    }
}

/// `None` of a process or descriptor that has gone.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EBADF)) => Ok(None),
        found => found.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_tree_is_away_when_it_has_ended_and_left_a_checkpoint() {
        let images = tempfile::tempdir().unwrap();
        let root = HostPid::own();
        let start_time = Dir::open(root).and_then(|dir| Stat::read(&dir)).unwrap().start_time;
        let here = LockedTree { root, start_time, images: images.path().to_owned() };
        let ended = LockedTree { start_time: start_time + 1, ..here.clone() };
        assert!(!here.is_away() && !ended.is_away());
        std::fs::write(images.path().join("inventory.img"), "").unwrap();
        assert!(!here.is_away() && ended.is_away());
    }

    /// Needs root.
    #[test]
    fn a_socket_is_taken_out_of_repair_once_and_by_its_process_alone() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let pid = HostPid::own();
        let start_time =
            Dir::open(HostPid::own()).and_then(|dir| Stat::read(&dir)).unwrap().start_time;
        let inode = nix::sys::stat::fstat(&socket).unwrap().st_ino;
        let fd = socket.as_raw_fd();
        let deed = RepairedSocket { pid, start_time, fd, inode, reuse: true };
        assert!(!deed.undo().unwrap());
        tcp::repair(&socket).unwrap();
        assert!(!RepairedSocket { start_time: 1, ..deed }.undo().unwrap());
        assert!(!RepairedSocket { inode: 1, ..deed }.undo().unwrap());
        assert!(tcp::is_repaired(&socket).unwrap());
        assert!(deed.undo().unwrap() && !deed.undo().unwrap());
        assert!(!tcp::is_repaired(&socket).unwrap());
    }
}
