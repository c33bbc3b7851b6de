//! Unix sockets: names, peers, and what is queued.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::DirEntry;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use std::sync::Arc;

use collector::{OpenFile, Process};
use ids::HostPid;
use images::messages::{
    FileEntry, FileIdentity, FilePermsEntry, FownEntry, PacketSender, PeerCredentials,
    SHUTDOWN_NONE, SK_CLOSE, SK_ESTABLISHED, SK_LISTEN, ScmEntry, SkPacketEntry, UNIX_CLIENT,
    UNIX_OUTSIDE, UnixSkEntry, fd_type,
};
use images::{ImageWriter, names};
use kernel::procfs::{Dir, ProcFile, Status};
use kernel::sockets::{local_address, unix_file};
use libc::{SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM};
use nix::sys::stat::FileStat;

use super::beside::{Beside, Part};
use super::file_cache::Keeping;
use super::file_kind::FileKind;
use super::held::with_socket;
use super::identity::FileSystems;
use super::in_flight::Queued;
use super::neighbours::Neighbours;
use super::problem::{Doing, Problem};
use super::queues::empty_message;
use super::survey::Survey;
use super::unix_order;
use super::{Captured, socket_options};
use crate::mounts::{Place, Views};
use crate::numbers::Numbers;

/// A Unix socket.
#[derive(Debug)]
pub(super) struct UnixSocket;

/// What is queued in sockets: each message with its bytes, and the places of its files among all that are on
/// their way.
#[derive(Debug, Default)]
struct Queues(Vec<(SkPacketEntry, Vec<u8>, Range<usize>)>);

impl Part for Queues {}

impl FileKind for UnixSocket {
    fn types(&self) -> &'static [u32] {
        &[fd_type::UNIXSK]
    }

    fn families(&self) -> &'static [i32] {
        &[libc::AF_UNIX]
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let (pid, id) = (process.pid, entry.id);
        let fown = survey.owner(pid, file)?;
        let common = survey.common(pid, file)?;
        let (frozen, strict) = (survey.frozen, survey.is_strict());
        if frozen {
            survey.neighbours.load_one(file.inode as u32)?;
        } else {
            survey.neighbours.load()?;
        }
        let (neighbours, numbers) = (&survey.neighbours, survey.numbers);
        let mut socket = with_socket(survey.held, pid, file, |socket| {
            self::entry(socket, file.inode, neighbours, numbers, strict)
        })?;
        if survey.context.client.is_some_and(|client| client == socket.peer) {
            socket = UnixSkEntry { peer: 0, state: SK_CLOSE, uflags: UNIX_CLIENT, ..socket };
        }
        let is_outside = survey.is_outside(socket.peer);
        if is_outside {
            survey.note_outside(pid, file, &socket)?;
        }
        let is_stream = socket.r#type.cast_signed() != SOCK_DGRAM;
        if survey.neighbours.is_waiting(file.inode as u32) || is_outside && is_stream {
            socket.connector = Some(connector(&*survey.dir(pid)?, pid, survey.numbers)?);
        }
        if frozen {
            survey.unix_queue(pid, file, id, &socket)?;
        }
        if is_path(&socket.name) {
            let views = Arc::clone(&survey.context.views);
            let found =
                with_socket(survey.held, pid, file, |file| locate(file, &mut socket, &views));
            found?;
        }
        socket.opts.others = common.others;
        let usk = UnixSkEntry { id, flags: file.flags, fown, ..socket };
        Ok(FileEntry { r#type: fd_type::UNIXSK, usk: Some(Box::new(usk)), ..entry })
    }

    fn peer(&self, entry: &FileEntry) -> Option<u32> {
        Some(entry.usk.as_ref()?.peer).filter(|peer| *peer != 0)
    }

    /// CRIU looks for the socket that one is connected to when it reads the entry.
    fn comes_last(&self, entry: &FileEntry) -> bool {
        self.peer(entry).is_some()
    }

    fn in_order(&self, entries: Vec<FileEntry>) -> Vec<FileEntry> {
        unix_order::in_order(entries)
    }

    /// What surrounds a socket that has not changed itself has to be as it was; what is queued in it, and
    /// where the file is that it is bound to, is found anew.
    fn holds(
        &self,
        survey: &mut Survey<'_>,
        pid: HostPid,
        file: &OpenFile,
        keeping: &mut Keeping,
    ) -> Result<bool, Problem> {
        let mut entries = survey.cache.files[keeping.entries.clone()].iter_mut();
        let Some((id, entry)) = entries.find_map(|file| Some((file.id, file.usk.as_mut()?))) else {
            return Ok(false);
        };
        let waiting = keeping.size != Some(0);
        let is_alone = entry.peer != 0
            && !survey.neighbours.holds(entry.peer)
            && !survey.cache.outside.contains_key(&entry.peer);
        if is_alone || entry.state == SK_LISTEN && waiting {
            return Ok(false);
        }
        if is_path(&entry.name) {
            let views = &survey.context.views;
            with_socket(survey.held, pid, file, |socket| locate(socket, entry, views))?;
        }
        if waiting {
            let entry = entry.clone();
            if entry.r#type.cast_signed() == SOCK_DGRAM {
                survey.neighbours.load_one(file.inode as u32)?;
            }
            survey.unix_queue(pid, file, id, &entry)?;
        }
        Ok(true)
    }

    fn is_steady(&self, entry: &FileEntry, size: Option<u64>) -> bool {
        let bound = entry.usk.as_ref().is_none_or(|socket| is_path(&socket.name));
        !bound && size == Some(0)
    }

    fn update(&self, entry: &mut FileEntry, keeping: &Keeping) {
        if let Some(socket) = &mut entry.usk {
            socket.flags = keeping.flags;
        }
    }

    fn encode(&self, captured: &Captured, writer: &ImageWriter) -> Result<(), images::Error> {
        let Some(Queues(queues)) =
            captured.beside.get().filter(|queues: &&Queues| !queues.0.is_empty())
        else {
            return Ok(());
        };
        let mut sink = writer.image(&names::sk_queues())?;
        for (entry, bytes, _) in queues {
            let mut entry = entry.clone();
            captured.ids.enter(&mut entry);
            sink.put(&entry)?;
            sink.payload(bytes)?;
        }
        sink.finish()
    }
}

impl Survey<'_> {
    /// Takes down what is queued in a Unix socket.
    fn unix_queue(
        &mut self,
        pid: HostPid,
        file: &OpenFile,
        id_for: u32,
        entry: &UnixSkEntry,
    ) -> Result<(), Problem> {
        let (kind, state) = (entry.r#type.cast_signed(), entry.state);
        let queue = self.in_flight.take(file.inode)?;
        // What its peer has sent comes from there again.
        let mut peer = None;
        if kind == SOCK_DGRAM && queue.iter().any(|message| !message.name.is_empty()) {
            let neighbours = &self.neighbours;
            peer = with_socket(self.held, pid, file, |socket| {
                Ok(Some(neighbours.sender(socket, file.inode as u32)))
            })?;
        }
        let is_named = |name: &&Vec<u8>| !name.is_empty() && Some(*name) != peer.as_ref();
        let is_relative = |name: &&Vec<u8>| !matches!(name.first(), Some(0 | b'/'));
        let names = || queue.iter().map(|message| &message.name).filter(is_named);
        if kind == SOCK_DGRAM
            && let Some(name) = names().find(is_relative)
        {
            let name = support::sockets::unix_name(name);
            return Err(Problem::Refused(support::sockets::relative_sender(&name)));
        }
        let allowed = &self.context.external_unix;
        let is_handed = allowed.is_handed && allowed.sockets.contains(&entry.ino);
        if (kind != SOCK_DGRAM || is_handed) && !queue.is_empty() && self.is_outside(entry.peer) {
            return Err(Problem::Refused(support::sockets::OUTSIDE_SENT));
        }
        let counted = file.mark.and_then(|mark| mark.size);
        let has_messages = kind != SOCK_STREAM && state != SK_LISTEN;
        if has_messages && counted.is_some_and(|counted| counted != queue.len() as u64) {
            return Err(empty_message());
        }
        let numbers = self.numbers;
        self.out.beside.of::<Queues>().0.extend(queue.into_iter().map(|message| {
            let Queued { bytes, sender, files, name } = message;
            let entry = SkPacketEntry {
                id_for,
                length: bytes.len() as u32,
                scm: Vec::new(),
                sender: sender.map(|sender| PacketSender {
                    pid: numbers.message(HostPid::new(sender.pid)),
                    uid: sender.uid,
                    gid: sender.gid,
                }),
                from: Some(name).filter(|name| kind == SOCK_DGRAM && is_named(&name)),
            };
            (entry, bytes, files)
        }));
        Ok(())
    }
}

/// Says which entries the files have that travel with messages: `ids` by their places among all that do.
pub(super) fn address(beside: &mut Beside, ids: &[u32]) {
    for (entry, _, files) in &mut beside.of::<Queues>().0 {
        let rights = ids.get(files.clone()).unwrap_or_default().to_vec();
        if !rights.is_empty() {
            entry.scm.push(ScmEntry { r#type: libc::SCM_RIGHTS.cast_unsigned(), rights });
        }
    }
}

/// The entry of a Unix socket, without its id, flags and owner.
fn entry(
    socket: BorrowedFd<'_>,
    inode: u64,
    neighbours: &Neighbours,
    numbers: &Numbers,
    frozen: bool,
) -> Result<UnixSkEntry, Problem> {
    let inode = inode as u32;
    let known = neighbours.socket(inode).ok_or(Problem::Gone)?;
    let kind = i32::from(known.kind);
    if !matches!(kind, SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET) {
        return Err(Problem::Refused(support::sockets::unknown_unix_socket(kind)));
    }
    let state = u32::from(known.state);
    if !matches!(state, SK_ESTABLISHED | SK_CLOSE | SK_LISTEN) {
        return Err(Problem::Refused(support::sockets::unknown_state(state)));
    }
    let shutdown = u32::from(known.shutdown);
    let entry = UnixSkEntry {
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
        peer_credentials: kernel::sockets::peer_credentials(socket)
            .doing("get the credentials of the peer of")?
            .map(|peer| PeerCredentials {
                pid: numbers.message(peer.pid),
                uid: peer.uid,
                gid: peer.gid,
                groups: peer.groups,
            }),
        connector: None,
    };
    Ok(entry)
}

/// Those sockets of the tree, by inode, that are connected to the one with the inode `peer`.
pub(super) fn connected_to<'f>(
    peer: u32,
    files: impl Iterator<Item = &'f FileEntry>,
) -> BTreeSet<u32> {
    let sockets = files.filter_map(|file| file.usk.as_ref());
    sockets.filter(|socket| socket.peer == peer).map(|socket| socket.ino).collect()
}

/// The entry of a socket outside of the tree, of a type (`SOCK_*`), that others are connected to.
pub(super) fn outside(id: u32, ino: u32, kind: i32, name: Vec<u8>) -> FileEntry {
    let usk = UnixSkEntry {
        id,
        ino,
        r#type: kind.cast_unsigned(),
        state: SK_LISTEN,
        uflags: UNIX_OUTSIDE,
        name,
        ..UnixSkEntry::default()
    };
    FileEntry { r#type: fd_type::UNIXSK, id, usk: Some(Box::new(usk)), ..FileEntry::default() }
}

/// Whom a socket says that it is connected to if this process connects now.
fn connector(dir: &Dir, pid: HostPid, numbers: &Numbers) -> Result<PeerCredentials, Problem> {
    let status = Status::read(dir).doing("read the status of the process of")?;
    let (uid, gid) = (status.uid.effective, status.gid.effective);
    Ok(PeerCredentials { pid: numbers.message(Some(pid)), uid, gid, groups: status.groups })
}

/// Whether a socket's name is a path (and neither none nor an abstract one).
fn is_path(name: &[u8]) -> bool {
    name.first().is_some_and(|&byte| byte != 0)
}

/// What the file that a socket is bound to adds: permissions, directory, whether it is deleted.
fn locate(socket: BorrowedFd<'_>, entry: &mut UnixSkEntry, views: &Views) -> Result<(), Problem> {
    let file = match unix_file(socket) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            return Err(Problem::Refused(support::sockets::FILE_NOT_TOLD));
        }
        file => file.doing("get the file of")?,
    };
    let stat = nix::sys::stat::fstat(&file).doing("stat the file of")?;
    entry.file_perms =
        Some(FilePermsEntry { mode: stat.st_mode, uid: stat.st_uid, gid: stat.st_gid });
    let place = views.place(&file).doing("find the mount of the file of")?;
    if !place.is_known {
        return Err(Problem::Refused(support::mounts::UNMOUNTED));
    }
    if kernel::mounts::is_read_only(&file).doing("find the mount of the file of")? {
        return Err(Problem::Refused(support::sockets::ON_READ_ONLY));
    }
    entry.mnt_id = place.mount;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = nix::fcntl::readlink(link.as_str()).doing("read the path of")?.into_vec();
    if stat.st_nlink > 1 {
        return Err(Problem::Refused(support::sockets::LINKED));
    }
    let (path, deleted) = match path.strip_suffix(b" (deleted)") {
        Some(path) if stat.st_nlink == 0 => (Cow::Borrowed(path), true),
        Some(before) => (other_name(&place, (&path, before), &stat)?, false),
        _ => (Cow::Borrowed(&path[..]), false),
    };
    let path = &*path;
    entry.deleted = deleted.then_some(true);
    let is_same =
        entry.file.is_some_and(|was| (was.device, was.inode) == (stat.st_dev, stat.st_ino));
    if !is_same || entry.path.as_deref() != Some(path) {
        let hidden = check_path(&place, path, &entry.name, &stat)?;
        let mut file_systems = FileSystems::default();
        entry.file = file_systems.identity(&file, &stat).filter(|_| !deleted);
        let directory = if hidden { None } else { directory_of(&place, path, &mut file_systems) };
        let name =
            Path::new(OsStr::from_bytes(entry.name.strip_suffix(&[0]).unwrap_or(&entry.name)));
        let mut of_name = || directory_of(&place, name.as_os_str().as_bytes(), &mut file_systems);
        // A restore leads what it can to the directory that the file is in now.
        let may_stray = name.is_absolute() && !hidden && !deleted;
        if may_stray && !support::paths::can_be_led(name) && of_name() != directory {
            return Err(Problem::Refused(support::paths::LEADS_ELSEWHERE));
        }
        entry.directory = directory;
        entry.path = Some(path.to_vec());
    }
    let name = entry.name.strip_suffix(&[0]).unwrap_or(&entry.name);
    if !name.starts_with(b"/") {
        // A file may have been renamed before its last name was removed: a restore does so.
        let last = Path::new(OsStr::from_bytes(name)).file_name();
        let path = Path::new(OsStr::from_bytes(path));
        let path = match last.filter(|_| deleted) {
            Some(last) => path.with_file_name(last),
            None => path.to_owned(),
        };
        entry.name_dir = Some(directory(path.as_os_str().as_bytes(), name)?);
    }
    Ok(())
}

/// Whether a file is hidden by a mount.
fn check_path(
    place: &Place<'_>,
    path: &[u8],
    name: &[u8],
    stat: &FileStat,
) -> Result<bool, Problem> {
    let path = Path::new(OsStr::from_bytes(path));
    let hidden = || match place.is_hidden(path.parent().unwrap_or(path)) {
        true if !support::paths::can_be_led(Path::new(OsStr::from_bytes(name))) => {
            Err(Problem::Refused(support::paths::LEADS_ELSEWHERE))
        }
        is_hidden => Ok(is_hidden),
    };
    if stat.st_nlink == 0 {
        return hidden();
    }
    let found = place.find(path);
    let is_it = |found: FileStat| (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino);
    let is_there = match found {
        // Who may not look there sees nothing that is in the way either.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => true,
        Err(_) => false,
        Ok(found) => nix::sys::stat::fstat(found).is_ok_and(is_it),
    };
    match is_there || hidden()? {
        true => Ok(!is_there),
        false => Err(Problem::Refused(support::paths::LEADS_ELSEWHERE)),
    }
}

/// The path of a file that may have lost the name by which it was opened (`before`), as programs do that bind a socket by a name of
/// its own, and have it take the place of an older one by link(2): it is looked for in the same directory.
fn other_name<'p>(
    place: &Place<'_>,
    (path, before): (&'p [u8], &[u8]),
    stat: &FileStat,
) -> Result<Cow<'p, [u8]>, Problem> {
    let is_it = |path: &Path| {
        let found = place.find(path).and_then(|found| Ok(nix::sys::stat::fstat(found)?));
        found.is_ok_and(|found| (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino))
    };
    if is_it(Path::new(OsStr::from_bytes(path))) {
        return Ok(Cow::Borrowed(path));
    }
    let directory = Path::new(OsStr::from_bytes(before)).parent().unwrap_or(Path::new("/"));
    let names = place.find(directory).and_then(|directory| {
        let names = std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
        let is_socket = |it: &DirEntry| it.file_type().is_ok_and(|kind| kind.is_socket());
        let sockets = names.filter_map(Result::ok).filter(is_socket);
        Ok(sockets.map(|entry| entry.file_name()).collect())
    });
    let names: Vec<OsString> = names.unwrap_or_default();
    let found = names.into_iter().map(|name| directory.join(name)).find(|path| is_it(path));
    let found = found.ok_or(Problem::Refused(support::sockets::NAME_LOST))?;
    Ok(Cow::Owned(found.into_os_string().into_vec()))
}

/// Which directory a file is in; `None` if that is not there any more.
fn directory_of(
    place: &Place<'_>,
    path: &[u8],
    file_systems: &mut FileSystems,
) -> Option<FileIdentity> {
    let parent = Path::new(OsStr::from_bytes(path)).parent()?;
    let handle = place.find(parent).ok()?;
    let stat = nix::sys::stat::fstat(&handle).ok()?;
    file_systems.identity(&handle, &stat).filter(|_| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// What stands before a relative name in the path that it led to.
fn directory(path: &[u8], name: &[u8]) -> Result<Vec<u8>, Problem> {
    let shown = Path::new(OsStr::from_bytes(name));
    let plain: PathBuf = shown.components().filter(|part| *part != Component::CurDir).collect();
    path.strip_suffix(plain.as_os_str().as_bytes())
        .and_then(|rest| rest.strip_suffix(b"/"))
        .map(|rest| if rest.is_empty() { b"/".to_vec() } else { rest.to_vec() })
        .ok_or_else(|| Problem::Refused(support::sockets::relative_name(shown)))
}

#[cfg(test)]
#[path = "unix_sockets_tests.rs"]
mod tests;
