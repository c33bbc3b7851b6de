//! Unix sockets: names, peers, and what is queued.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use images::messages::{
    FileIdentity, FilePermsEntry, FownEntry, SHUTDOWN_BOTH, SHUTDOWN_NONE, SK_CLOSE,
    SK_ESTABLISHED, SK_LISTEN, UnixSkEntry,
};
use kernel::sock_diag::{UnixLookup, UnixSocket};
use kernel::sockets::{
    has_urgent_byte, local_address, option, peek, peer_address, set_option, unix_file,
};
use kernel::tty::bytes_waiting;
use libc::{SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET};
use nix::fcntl::OFlag;

use super::identity::FileSystems;
use super::problem::{Doing, Problem};
use super::socket_options;

/// Longest message that a queue is read with at first; longer ones are read again.
const MESSAGE: usize = 256 << 10;

/// The Unix sockets of the network namespace, and which of them the tree holds.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    held: HashSet<u32>,
    /// Known once they have been asked for: that takes a while.
    known: Option<Known>,
    /// Those that were asked for one by one.
    single: HashMap<u32, UnixSocket>,
    lookup: Option<UnixLookup>,
    /// UDP sockets that have been shut down, and how far.
    shut_down: Option<HashMap<u32, u8>>,
    /// Multicast groups of the network namespace.
    pub(super) groups: super::multicast::Groups,
}

/// How many are asked for one by one before all are: the kernel looks through all of them for each.
const SINGLE: usize = 64;

#[derive(Debug, Default)]
struct Known {
    sockets: HashMap<u32, UnixSocket>,
    /// The listening socket that each connection waits at.
    waits_at: HashMap<u32, u32>,
}

impl Known {
    fn of(sockets: Vec<UnixSocket>) -> Self {
        let waits_at = sockets
            .iter()
            .flat_map(|socket| socket.waiting.iter().map(|client| (*client, socket.inode)))
            .collect();
        let sockets = sockets.into_iter().map(|socket| (socket.inode, socket)).collect();
        Self { sockets, waits_at }
    }
}

impl Neighbours {
    /// Those of a tree that holds the sockets with these inodes.
    pub(super) fn new(held: HashSet<u32>) -> Self {
        Self { held, ..Self::default() }
    }

    /// The sockets that the tree holds.
    pub(super) fn into_held(self) -> HashSet<u32> {
        self.held
    }

    /// Whether the tree holds the socket with this inode.
    pub(super) fn holds(&self, inode: u32) -> bool {
        self.held.contains(&inode)
    }

    /// Asks for all of them, if that has not been done.
    pub(super) fn load(&mut self) -> Result<(), Problem> {
        if self.known.is_none() {
            let sockets =
                kernel::sock_diag::unix_sockets().doing("list the Unix sockets beside")?;
            self.known = Some(Known::of(sockets));
        }
        Ok(())
    }

    /// Asks for what is to be known of one socket: itself and its peer, as long as few are asked
    /// for, and as it is not one that waits at another.
    pub(super) fn load_one(&mut self, inode: u32) -> Result<(), Problem> {
        if self.known.is_some() || self.single.len() >= SINGLE {
            return self.load();
        }
        let Some(socket) = self.look_up(inode)? else { return Ok(()) };
        let (peer, state, kind) = (socket.peer, socket.state, socket.kind);
        self.single.insert(inode, socket);
        match peer {
            Some(peer) => {
                let peer = self.look_up(peer)?;
                self.single.extend(peer.map(|peer| (peer.inode, peer)));
                Ok(())
            }
            None if i32::from(kind) != SOCK_DGRAM && u32::from(state) == SK_ESTABLISHED => {
                self.load()
            }
            None => Ok(()),
        }
    }

    /// How far a UDP socket has been shut down, in the images' numbers.
    pub(super) fn udp_shutdown(&mut self, inode: u32) -> Result<u32, Problem> {
        let shut_down = match &mut self.shut_down {
            Some(shut_down) => shut_down,
            none => {
                let listed = kernel::sock_diag::udp_shutdowns();
                none.insert(listed.doing("list the UDP sockets beside")?)
            }
        };
        Ok(shut_down.get(&inode).copied().unwrap_or(0).into())
    }

    fn look_up(&mut self, inode: u32) -> Result<Option<UnixSocket>, Problem> {
        let doing = "look up the Unix socket of";
        let lookup = match &mut self.lookup {
            Some(lookup) => lookup,
            none => none.insert(UnixLookup::new().doing(doing)?),
        };
        lookup.find(inode).doing(doing)
    }

    fn socket(&self, inode: u32) -> Option<&UnixSocket> {
        match &self.known {
            Some(known) => known.sockets.get(&inode),
            None => self.single.get(&inode),
        }
    }

    /// The name that messages for a datagram socket can have as their sender's and get again: that of
    /// the socket that it is connected to, if that one is connected to it.
    pub(super) fn sender(&self, socket: BorrowedFd<'_>, inode: u32) -> Vec<u8> {
        let peer = self.socket(inode).and_then(|socket| socket.peer);
        let back = peer.and_then(|peer| self.socket(peer)).and_then(|peer| peer.peer);
        let name = (back == Some(inode)).then(|| peer_address(socket).ok()).flatten();
        name.map_or_else(Vec::new, |name| name.data().to_vec())
    }

    fn waits_at(&self, inode: u32) -> Option<&u32> {
        self.known.as_ref()?.waits_at.get(&inode)
    }

    /// The inode of the socket that `socket` is to be connected to, 0 for none. `frozen` says
    /// whether what changes by the moment counts.
    fn peer(&self, socket: &UnixSocket, frozen: bool) -> Result<u32, Problem> {
        let stream = i32::from(socket.kind) != SOCK_DGRAM;
        match socket.peer {
            Some(peer) if self.held.contains(&peer) => self.reachable(socket, peer),
            Some(_) => Err(Problem::refused(
                "it is connected to a process outside the tree",
                "close the connection, or dump a tree that holds both ends",
            )),
            None if stream && u32::from(socket.state) == SK_ESTABLISHED => {
                self.waiting(socket, frozen)
            }
            None => {
                self.accepts_only_ours(socket, frozen)?;
                Ok(0)
            }
        }
    }

    /// A socket that is connected one way only is connected again by its peer's name.
    fn reachable(&self, socket: &UnixSocket, peer: u32) -> Result<u32, Problem> {
        let back = self.socket(peer).and_then(|peer| peer.peer);
        if i32::from(socket.kind) != SOCK_DGRAM && back != Some(socket.inode) {
            return Err(Problem::refused(
                "its peer is not connected to it",
                "close the connection before the checkpoint",
            ));
        }
        Ok(peer)
    }

    /// A connection that nobody has accepted yet, or whose other end has been closed.
    fn waiting(&self, socket: &UnixSocket, frozen: bool) -> Result<u32, Problem> {
        let Some(listener) = self.waits_at(socket.inode) else {
            let closed = u32::from(socket.shutdown) == SHUTDOWN_BOTH;
            return if closed || !frozen {
                Ok(0)
            } else {
                Err(Problem::refused("its other end cannot be found", "try again"))
            };
        };
        if !self.held.contains(listener) {
            return Err(Problem::refused(
                "it waits to be accepted by a process outside the tree",
                "close the connection, or dump a tree that holds both ends",
            ));
        }
        if frozen && socket.send_queue > 0 {
            return Err(Problem::refused(
                "it has sent data over a connection that is not accepted yet",
                "try again when the connection has been accepted",
            ));
        }
        Ok(*listener)
    }

    fn accepts_only_ours(&self, socket: &UnixSocket, frozen: bool) -> Result<(), Problem> {
        let strange = socket.waiting.iter().any(|client| !self.held.contains(client));
        if frozen && strange {
            return Err(Problem::refused(
                "a connection from outside the tree waits to be accepted",
                "try again when it has been accepted and closed",
            ));
        }
        Ok(())
    }
}

/// The entry of a Unix socket, without its id, flags and owner.
pub(super) fn entry(
    socket: BorrowedFd<'_>,
    inode: u64,
    neighbours: &Neighbours,
    frozen: bool,
) -> Result<UnixSkEntry, Problem> {
    let inode = inode as u32;
    let known = neighbours.socket(inode).ok_or(Problem::Gone)?;
    let kind = i32::from(known.kind);
    if !matches!(kind, SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET) {
        return Err(Problem::refused(
            format!("Unix sockets of type {kind} are not supported"),
            "close it before the checkpoint",
        ));
    }
    let state = u32::from(known.state);
    if !matches!(state, SK_ESTABLISHED | SK_CLOSE | SK_LISTEN) {
        return Err(Problem::refused(
            format!("its state {state} is not known"),
            "close it before the checkpoint",
        ));
    }
    let shutdown = u32::from(known.shutdown);
    let mut entry = UnixSkEntry {
        id: 0,
        ino: inode,
        r#type: kind.cast_unsigned(),
        state,
        flags: 0,
        uflags: 0,
        backlog: known.send_queue,
        peer: neighbours.peer(known, frozen)?,
        fown: FownEntry::default(),
        opts: socket_options::options(socket, true)?,
        name: local_address(socket).doing("get the name of")?.data().to_vec(),
        shutdown: Some(shutdown).filter(|state| *state != SHUTDOWN_NONE),
        file_perms: None,
        name_dir: None,
        deleted: None,
        ns_id: None,
        mnt_id: None,
        file: None,
        directory: None,
        path: None,
    };
    if is_path(&entry.name) {
        locate(socket, &mut entry)?;
    }
    Ok(entry)
}

/// Whether a socket's name is a path (and neither none nor an abstract one).
pub(super) fn is_path(name: &[u8]) -> bool {
    name.first().is_some_and(|&byte| byte != 0)
}

/// What the file that a socket is bound to adds: permissions, directory, whether it is deleted.
pub(super) fn locate(socket: BorrowedFd<'_>, entry: &mut UnixSkEntry) -> Result<(), Problem> {
    let file = unix_file(socket).doing("get the file of")?;
    let stat = nix::sys::stat::fstat(&file).doing("stat the file of")?;
    entry.file_perms =
        Some(FilePermsEntry { mode: stat.st_mode, uid: stat.st_uid, gid: stat.st_gid });
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = nix::fcntl::readlink(link.as_str()).doing("read the path of")?.into_vec();
    let (path, deleted) = match path.strip_suffix(b" (deleted)") {
        Some(path) if stat.st_nlink == 0 => (path, true),
        _ => (&path[..], false),
    };
    entry.deleted = deleted.then_some(true);
    let is_same =
        entry.file.is_some_and(|was| (was.device, was.inode) == (stat.st_dev, stat.st_ino));
    if !is_same || entry.path.as_deref() != Some(path) {
        let mut file_systems = FileSystems::default();
        entry.file = file_systems.identity(&file, &stat).filter(|_| !deleted);
        entry.directory = directory_of(path, &mut file_systems);
        entry.path = Some(path.to_vec());
    }
    let name = entry.name.strip_suffix(&[0]).unwrap_or(&entry.name);
    if !name.starts_with(b"/") {
        // A file may have been renamed before its last name was removed: a restore does so.
        let last = std::path::Path::new(std::ffi::OsStr::from_bytes(name)).file_name();
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
        let path = match last.filter(|_| deleted) {
            Some(last) => path.with_file_name(last),
            None => path.to_owned(),
        };
        entry.name_dir = Some(directory(path.as_os_str().as_bytes(), name)?);
    }
    Ok(())
}

/// Which directory a file is in; `None` if that is not there any more.
fn directory_of(path: &[u8], file_systems: &mut FileSystems) -> Option<FileIdentity> {
    let parent = std::path::Path::new(std::ffi::OsStr::from_bytes(path)).parent()?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let handle = nix::fcntl::open(parent, flags, nix::sys::stat::Mode::empty()).ok()?;
    file_systems.identity(&handle, &nix::sys::stat::fstat(&handle).ok()?)
}

/// What stands before a relative name in the path that it led to.
fn directory(path: &[u8], name: &[u8]) -> Result<Vec<u8>, Problem> {
    let shown = std::path::Path::new(std::ffi::OsStr::from_bytes(name));
    let plain: std::path::PathBuf =
        shown.components().filter(|part| *part != std::path::Component::CurDir).collect();
    path.strip_suffix(plain.as_os_str().as_bytes())
        .and_then(|rest| rest.strip_suffix(b"/"))
        .map(|rest| if rest.is_empty() { b"/".to_vec() } else { rest.to_vec() })
        .ok_or_else(|| {
            Problem::refused(
                format!("its relative name {} does not end its path", shown.display()),
                "bind it to an absolute path",
            )
        })
}

/// What is queued in a socket of a kind (`SOCK_*`) and a state: one element a message, of a stream
/// all of it in one or more. `sender` is the only name that a sender may have.
pub(super) fn queue(
    socket: BorrowedFd<'_>,
    kind: i32,
    state: u32,
    sender: &[u8],
) -> Result<Vec<Vec<u8>>, Problem> {
    if state == SK_LISTEN {
        return Ok(Vec::new());
    }
    let messages = read_queue(socket, kind, sender)?;
    // A message says who sent it to whoever asked for that.
    for (name, what) in [(libc::SO_PASSCRED, "SO_PASSCRED"), (SO_PASSPIDFD, "SO_PASSPIDFD")] {
        if !messages.is_empty() && option(socket, SOL_SOCKET, name).is_ok_and(|set| set != 0) {
            return Err(Problem::refused(
                format!("messages wait in it with the credentials of their senders ({what})"),
                "try again when they have been received",
            ));
        }
    }
    Ok(messages)
}

/// `SO_PASSPIDFD`.
const SO_PASSPIDFD: i32 = 76;

fn read_queue(socket: BorrowedFd<'_>, kind: i32, sender: &[u8]) -> Result<Vec<Vec<u8>>, Problem> {
    let stream = kind == SOCK_STREAM;
    let waiting = bytes_waiting(socket).doing("get queue of")? as usize;
    if stream && waiting == 0 {
        return Ok(Vec::new());
    }
    if waiting == 0 {
        // Only datagrams can be queued and be of no bytes.
        let empty = kind == SOCK_DGRAM && look(socket, &mut [0], None)?.is_some();
        return if empty { Err(empty_message()) } else { Ok(Vec::new()) };
    }
    if stream && has_urgent_byte(socket).doing("look for an urgent byte in")? {
        return Err(Problem::refused(
            "an urgent byte is queued in it (MSG_OOB), which cannot be put back as one",
            "try again when it has been received",
        ));
    }
    let mut buffer = vec![0; if stream { waiting } else { MESSAGE.max(waiting) }];
    // One look without a peek offset is enough for nearly every queue, and changes nothing.
    let sender = (kind == SOCK_DGRAM).then_some(sender);
    let Some(first) = look(socket, &mut buffer, sender)? else { return Ok(Vec::new()) };
    if first == waiting && (stream || kind == SOCK_SEQPACKET) {
        buffer.truncate(first);
        return Ok(vec![buffer]);
    }
    walk(socket, &mut buffer, waiting, sender)
}

/// Reads a queue message by message. The peek offset is the target's own: it is put back.
fn walk(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    waiting: usize,
    sender: Option<&[u8]>,
) -> Result<Vec<Vec<u8>>, Problem> {
    let before = option(socket, SOL_SOCKET, libc::SO_PEEK_OFF).doing("get peek offset of")?;
    set_option(socket, SOL_SOCKET, libc::SO_PEEK_OFF, 0).doing("set peek offset of")?;
    let messages = messages(socket, buffer, waiting, sender);
    set_option(socket, SOL_SOCKET, libc::SO_PEEK_OFF, before).doing("restore peek offset of")?;
    messages
}

fn messages(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    waiting: usize,
    sender: Option<&[u8]>,
) -> Result<Vec<Vec<u8>>, Problem> {
    let mut messages = Vec::new();
    let mut total = 0;
    while let Some(count) = look(socket, buffer, sender)? {
        // Empty messages do not move the peek offset: they cannot be told apart. The end of a
        // connection, which looks the same, comes after all that waits.
        if count == 0 {
            return Err(empty_message());
        }
        messages.push(buffer[..count].to_vec());
        total += count;
        if sender.is_none() && total >= waiting {
            break;
        }
    }
    Ok(messages)
}

/// The kernel shows an empty message to one look only, so it counts as well how many there are.
pub(super) fn empty_message() -> Problem {
    Problem::refused("an empty message is queued in it", "try again when it has been received")
}

/// Looks at the next message. With a `sender`, which datagrams have, one from another name is refused:
/// a restore has nobody to send it.
fn look(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    sender: Option<&[u8]>,
) -> Result<Option<usize>, Problem> {
    let other = |name: &[u8]| sender.is_some_and(|sender| !name.is_empty() && name != sender);
    match peek(socket, buffer).doing("look into the queue of")? {
        None => Ok(None),
        Some(found) if found.descriptors => Err(Problem::refused(
            "descriptors are queued in it (SCM_RIGHTS), which is not supported yet",
            "try again when they have been received",
        )),
        Some(found) if found.truncated => Err(Problem::refused(
            format!("a message of more than {} bytes is queued in it", buffer.len()),
            "try again when it has been received",
        )),
        Some(found) if other(&found.sender) => Err(Problem::refused(
            format!(
                "a datagram from {} is queued in it, to whom an answer would go",
                String::from_utf8_lossy(&found.sender).trim_matches('\0')
            ),
            "try again when it has been received",
        )),
        Some(found) => Ok(Some(found.bytes)),
    }
}

#[cfg(test)]
#[path = "unix_sockets_tests.rs"]
mod tests;
