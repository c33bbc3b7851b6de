//! Unix sockets: made, named, connected and filled in the order that [`super::unix_plan`] says.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use images::messages::{SK_LISTEN, UnixSkEntry};
use kernel::descriptors::set_status_flags;
use kernel::sockets::{self, Address};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};

use super::regular::Opener;
use super::socket_options::{self, Buffers};
use super::unix_plan::{Name, Step, name, plan};
use super::{Error, kernel};

const O_NONBLOCK: u32 = libc::O_NONBLOCK.cast_unsigned();
const O_ASYNC: u32 = libc::O_ASYNC.cast_unsigned();

/// What is queued in sockets, by file id.
pub(super) type Queues = BTreeMap<u32, Vec<Vec<u8>>>;

/// Makes all Unix sockets; what is returned is in the order of `entries`.
pub(super) fn open(
    entries: &[&UnixSkEntry],
    queues: &Queues,
    opener: &Opener,
) -> Result<Vec<OwnedFd>, Error> {
    let steps = plan(entries)?;
    let mut names = Names::new(opener);
    let Some(first) = entries.first() else { return Ok(Vec::new()) };
    let fresh = sockets::create(libc::AF_UNIX, libc::SOCK_STREAM, 0)
        .and_then(|socket| Buffers::of(&socket))
        .map_err(failed("ask for the buffers of a socket like", first))?;
    let mut maker = Maker {
        entries,
        made: entries.iter().map(|_| None).collect(),
        buffers: vec![Some(fresh); entries.len()],
        others: BTreeMap::new(),
        stands: BTreeMap::new(),
        names: &mut names,
    };
    for step in &steps {
        maker.take(*step)?;
    }
    maker.fill(&steps, queues)?;
    let sockets = maker.finish(&steps)?;
    names.settle()?;
    Ok(sockets)
}

fn what(entry: &UnixSkEntry) -> String {
    let name = entry.name.strip_suffix(&[0]).unwrap_or(&entry.name);
    match name.first() {
        None => format!("Unix socket {}", entry.id),
        Some(0) => {
            format!("Unix socket {} (@{})", entry.id, String::from_utf8_lossy(&name[1..]))
        }
        Some(_) => format!("Unix socket {} ({})", entry.id, String::from_utf8_lossy(name)),
    }
}

fn failed(doing: &str, entry: &UnixSkEntry) -> impl FnOnce(io::Error) -> Error {
    let operation = format!("{doing} {}", what(entry));
    move |source| Error::Kernel { operation, source }
}

struct Maker<'a, 'b> {
    entries: &'a [&'a UnixSkEntry],
    made: Vec<Option<OwnedFd>>,
    /// The buffers that each has from its birth; nothing where they have been changed.
    buffers: Vec<Option<Buffers>>,
    /// The other ends of sockets whose peers have been closed.
    others: BTreeMap<usize, OwnedFd>,
    /// Listeners that stand in for closed ones, by name.
    stands: BTreeMap<Name<'a>, OwnedFd>,
    names: &'a mut Names<'b>,
}

impl Maker<'_, '_> {
    fn take(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Single(index) => {
                let socket = self.new_socket(index)?;
                self.name(index, &socket)?;
                let entry = self.entries[index];
                if entry.state == SK_LISTEN {
                    sockets::listen(&socket, entry.backlog).map_err(failed("listen on", entry))?;
                }
                self.made[index] = Some(socket);
            }
            Step::Pair(first, second) => {
                let entry = self.entries[first];
                let (a, b) = sockets::create_pair(entry.r#type.cast_signed())
                    .map_err(failed("make", entry))?;
                self.name(first, &a)?;
                self.made[first] = Some(a);
                match second {
                    Some(second) => {
                        self.name(second, &b)?;
                        self.made[second] = Some(b);
                    }
                    None => drop(self.others.insert(first, b)),
                }
            }
            Step::Accepted { server, client, listener } => self.accept(server, client, listener)?,
            Step::Waiting { client, listener } => {
                let socket = self.new_socket(client)?;
                self.name(client, &socket)?;
                self.names.connect(&socket, self.entries[listener])?;
                self.made[client] = Some(socket);
            }
            // When it is filled: from then on only its peer could send to it.
            Step::Aimed { .. } => {}
        }
        Ok(())
    }

    fn new_socket(&self, index: usize) -> Result<OwnedFd, Error> {
        let entry = self.entries[index];
        let socket = sockets::create(libc::AF_UNIX, entry.r#type.cast_signed(), 0)
            .map_err(failed("make", entry))?;
        // Nothing here may wait: it is an error then. Its own flags come later.
        set_status_flags(&socket, O_NONBLOCK).map_err(failed("make", entry))?;
        Ok(socket)
    }

    fn name(&mut self, index: usize, socket: &OwnedFd) -> Result<(), Error> {
        let entry = self.entries[index];
        if entry.name.is_empty() { Ok(()) } else { self.names.bind(socket, entry) }
    }

    fn accept(
        &mut self,
        server: usize,
        client: Option<usize>,
        listener: Option<usize>,
    ) -> Result<(), Error> {
        let entry = self.entries[server];
        let key = name(entry);
        if listener.is_none() && !self.stands.contains_key(&key) {
            let stand = self.new_socket(server)?;
            self.names.bind(&stand, entry)?;
            sockets::listen(&stand, 1).map_err(failed("listen in place of", entry))?;
            self.stands.insert(key, stand);
        }
        let socket = self.new_socket(client.unwrap_or(server))?;
        if let Some(client) = client {
            self.name(client, &socket)?;
        }
        self.names.connect(&socket, entry)?;
        let from = match listener {
            Some(listener) => self.made[listener].as_ref(),
            None => self.stands.get(&key),
        };
        let missing = || Error::image(what(entry), "its listener was not made");
        let accepted =
            sockets::accept(from.ok_or_else(missing)?).map_err(failed("accept", entry))?;
        self.made[server] = Some(accepted);
        match client {
            Some(client) => self.made[client] = Some(socket),
            None => drop(self.others.insert(server, socket)),
        }
        Ok(())
    }

    /// Puts back what was queued, each message from the socket that can have sent it.
    fn fill(&mut self, steps: &[Step], queues: &Queues) -> Result<(), Error> {
        let mut peers: BTreeMap<usize, usize> = BTreeMap::new();
        for step in steps {
            match *step {
                Step::Pair(a, Some(b)) | Step::Accepted { server: a, client: Some(b), .. } => {
                    peers.insert(a, b);
                    peers.insert(b, a);
                }
                _ => {}
            }
        }
        for (index, entry) in self.entries.iter().enumerate() {
            let Some(messages) = queues.get(&entry.id).filter(|it| !it.is_empty()) else {
                continue;
            };
            let passing;
            let peer = peers.get(&index).and_then(|&peer| {
                self.buffers[peer] = None;
                self.made[peer].as_ref()
            });
            let sender = match peer.or_else(|| self.others.get(&index)) {
                Some(sender) => sender,
                None => {
                    passing = self.new_socket(index)?;
                    self.names.connect(&passing, entry)?;
                    &passing
                }
            };
            deliver(sender, messages, entry)?;
        }
        Ok(())
    }

    /// Aims, shuts down, options and flags.
    fn finish(mut self, steps: &[Step]) -> Result<Vec<OwnedFd>, Error> {
        for step in steps {
            if let Step::Aimed { from, to } = *step
                && let Some(socket) = &self.made[from]
            {
                self.names.connect(socket, self.entries[to])?;
            }
        }
        // What the other end of a closed connection leaves behind is a shutdown of both ways.
        self.others.clear();
        let made = std::mem::take(&mut self.made);
        made.into_iter()
            .zip(self.entries)
            .zip(self.buffers)
            .map(|((socket, entry), buffers)| {
                let socket = socket.ok_or_else(|| Error::image(what(entry), "it was not made"))?;
                if let Some(shutdown) = entry.shutdown.filter(|it| (1..=3).contains(it)) {
                    // `SHUT_RD` is 0, and so on: one less than in the images.
                    match sockets::shutdown(&socket, shutdown.cast_signed() - 1) {
                        Err(error) if error.raw_os_error() != Some(libc::ENOTCONN) => {
                            return Err(failed("shut down", entry)(error));
                        }
                        _ => {}
                    }
                }
                socket_options::all(&socket, &entry.opts, buffers, &what(entry))?;
                socket_options::others(&socket, &entry.opts, &what(entry))?;
                set_status_flags(&socket, entry.flags & !O_ASYNC)
                    .map_err(failed("set flags of", entry))?;
                Ok(socket)
            })
            .collect()
    }
}

fn deliver(sender: &OwnedFd, messages: &[Vec<u8>], entry: &UnixSkEntry) -> Result<(), Error> {
    let to = what(entry);
    socket_options::make_room(sender, messages.iter().map(Vec::len).sum(), &to)?;
    let stream = entry.r#type.cast_signed() == libc::SOCK_STREAM;
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    for message in messages {
        let mut rest = &message[..];
        loop {
            let count = send(sender.as_raw_fd(), rest, flags)
                .map_err(|errno| kernel(format!("fill the queue of {to}"), errno))?;
            rest = &rest[count..];
            if rest.is_empty() || !stream {
                break;
            }
        }
    }
    Ok(())
}

/// Names in file systems: made, and taken away again where they had been.
///
/// A name that had been unlinked may be another file's by now, or several sockets' in turn. So it
/// is there only while a socket is bound to it; from then until all is connected the socket's file
/// has a name of ours.
struct Names<'a> {
    opener: &'a Opener,
    /// Where the files of sockets are whose names had been unlinked, by id: the directory, and the
    /// name in it.
    renamed: BTreeMap<u32, (PathBuf, String)>,
    /// The first of them that had a name, by the directory that it counts from and itself.
    first: BTreeMap<(Vec<u8>, Vec<u8>), u32>,
    /// Directories that were made for names that were deleted with them, each before what is in it.
    directories: Vec<PathBuf>,
    /// Everything that was bound, to be taken away if not all goes well.
    bound: Vec<PathBuf>,
}

impl<'a> Names<'a> {
    fn new(opener: &'a Opener) -> Self {
        let (renamed, first, directories, bound) = Default::default();
        Self { opener, renamed, first, directories, bound }
    }

    /// The address of a socket, the directory it counts from, and the path it leads to.
    fn place(&self, entry: &UnixSkEntry) -> Result<(Address, Option<(PathBuf, PathBuf)>), Error> {
        let plain = entry.name.strip_suffix(&[0]).unwrap_or(&entry.name);
        let in_files = entry.name.first().is_some_and(|&byte| byte != 0);
        let data = if in_files { plain } else { &entry.name };
        let address = Address::new(libc::AF_UNIX as u16, data).map_err(failed("name", entry))?;
        if !in_files {
            return Ok((address, None));
        }
        if plain.contains(&0) {
            return Err(Error::image(what(entry), "its name is no path"));
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(plain));
        let rooted = self.opener.locate(b"/") != Path::new("/");
        if path.is_absolute() && rooted {
            return Err(Error::refused(
                what(entry),
                "an absolute name cannot be given to a socket below another root directory",
                "restore without a root directory",
            ));
        }
        let directory = match &entry.name_dir {
            Some(directory) if path.is_relative() => self.opener.locate(directory),
            _ => PathBuf::from("/"),
        };
        let full = directory.join(path);
        Ok((address, Some((directory, full))))
    }

    fn bind(&mut self, socket: &OwnedFd, entry: &UnixSkEntry) -> Result<(), Error> {
        let (address, place) = self.place(entry)?;
        let Some((directory, path)) = place else {
            return sockets::bind(socket, &address).map_err(failed("bind", entry));
        };
        let aside = self.make_way(&path, entry)?;
        let bound = within(&directory, || sockets::bind(socket, &address));
        let renamed = match (&bound, entry.deleted) {
            (Ok(()), Some(true)) => self.rename(&path, entry),
            (Ok(()), _) => {
                self.bound.push(path.clone());
                Ok(path.clone())
            }
            (Err(_), _) => Ok(path.clone()),
        };
        if let Some(aside) = aside {
            std::fs::rename(aside, &path)
                .map_err(failed("put back what was in the way of", entry))?;
        }
        bound.map_err(failed("bind", entry))?;
        let path = renamed.map_err(failed("rename the file of", entry))?;
        let Some(perms) = &entry.file_perms else { return Ok(()) };
        std::os::unix::fs::lchown(&path, Some(perms.uid), Some(perms.gid))
            .map_err(failed("set owner of the file of", entry))?;
        // Whoever owns the directory may have put a link there meanwhile.
        let mode = Mode::from_bits_truncate(perms.mode & 0o7777);
        fchmodat(AT_FDCWD, &path, mode, FchmodatFlags::NoFollowSymlink)
            .map_err(|errno| failed("set mode of the file of", entry)(errno.into()))
    }

    /// Gives the file of a socket whose name had been unlinked a name of ours.
    fn rename(&mut self, path: &Path, entry: &UnixSkEntry) -> io::Result<PathBuf> {
        let ours = format!(".stasis-{}-{}", std::process::id(), entry.id);
        let directory = path.parent().unwrap_or(Path::new("/"));
        let to = directory.join(&ours);
        let flags = RenameFlags::RENAME_NOREPLACE;
        match renameat2(AT_FDCWD, path, AT_FDCWD, &to, flags) {
            Ok(()) => self.bound.push(to.clone()),
            Err(errno) => {
                self.bound.push(path.to_owned());
                return Err(errno.into());
            }
        }
        let Name { directory: from, name, .. } = name(entry);
        self.first.entry((from.to_vec(), name.to_vec())).or_insert(entry.id);
        self.renamed.insert(entry.id, (directory.to_owned(), ours));
        Ok(to)
    }

    /// Where the file of a socket is whose name had been unlinked; of one that has not been bound, as
    /// it was accepted, that of its listener.
    fn renamed(&self, entry: &UnixSkEntry) -> Option<&(PathBuf, String)> {
        let Name { directory, name, deleted } = name(entry);
        let first = || self.first.get(&(directory.to_vec(), name.to_vec()));
        let own = self.renamed.get(&entry.id);
        own.or_else(|| self.renamed.get(deleted.then(first)??))
    }

    /// A stale socket goes; what is in the way of a name that was deleted steps aside (where to, is
    /// returned); anything else stays.
    fn make_way(&mut self, path: &Path, entry: &UnixSkEntry) -> Result<Option<PathBuf>, Error> {
        use std::os::unix::fs::FileTypeExt;
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let (Some(true), Some(parent)) = (entry.deleted, path.parent()) {
                    self.make_directory(parent, entry)?;
                }
                return Ok(None);
            }
            Err(error) => return Err(failed("look for the file of", entry)(error)),
        };
        if entry.deleted == Some(true) {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".stasis-{}", std::process::id()));
            let aside = PathBuf::from(name);
            if aside.symlink_metadata().is_ok() {
                return Err(Error::refused(
                    aside.display().to_string(),
                    "it is in the way of the restore",
                    "remove it",
                ));
            }
            std::fs::rename(path, &aside).map_err(failed("move aside the file of", entry))?;
            return Ok(Some(aside));
        }
        if metadata.file_type().is_socket() {
            std::fs::remove_file(path).map_err(failed("remove the old file of", entry))?;
            return Ok(None);
        }
        Err(Error::refused(
            path.display().to_string(),
            "it is in the way of a socket of this name, and is none itself",
            "move it away",
        ))
    }

    /// Makes a directory that is not there, for as long as it takes to bind a socket in it.
    fn make_directory(&mut self, path: &Path, entry: &UnixSkEntry) -> Result<(), Error> {
        let missing: Vec<_> = path.ancestors().take_while(|path| !path.exists()).collect();
        for directory in missing.into_iter().rev() {
            std::fs::create_dir(directory).map_err(failed("make the directory of", entry))?;
            self.directories.push(directory.to_owned());
        }
        Ok(())
    }

    fn connect(&self, socket: &OwnedFd, to: &UnixSkEntry) -> Result<(), Error> {
        if to.name.is_empty() {
            return Err(Error::image(what(to), "it has no name to connect to"));
        }
        if let Some((directory, ours)) = self.renamed(to) {
            let address = Address::new(libc::AF_UNIX as u16, ours.as_bytes());
            let address = address.map_err(failed("name", to))?;
            return within(directory, || sockets::connect(socket, &address))
                .map_err(failed("connect to", to));
        }
        let (address, place) = self.place(to)?;
        match place {
            None => sockets::connect(socket, &address),
            Some((directory, _)) => within(&directory, || sockets::connect(socket, &address)),
        }
        .map_err(failed("connect to", to))
    }

    /// Takes away the names that had been deleted.
    fn settle(mut self) -> Result<(), Error> {
        self.bound.clear();
        self.withdraw().map_err(|source| Error::Kernel {
            operation: "take away the files of sockets whose names had been removed".to_owned(),
            source,
        })
    }

    fn withdraw(&mut self) -> io::Result<()> {
        while let Some((_, (directory, ours))) = self.renamed.pop_first() {
            std::fs::remove_file(directory.join(ours))?;
        }
        for directory in self.directories.drain(..).rev() {
            std::fs::remove_dir(directory)?;
        }
        Ok(())
    }
}

impl Drop for Names<'_> {
    fn drop(&mut self) {
        // Only when the restore has failed is there anything left; its error is the one to tell.
        self.renamed.clear();
        for path in self.bound.drain(..) {
            std::fs::remove_file(&path).unwrap_or_default();
        }
        self.withdraw().unwrap_or_default();
    }
}

/// Does something in another working directory. The caller has one thread.
fn within<T>(directory: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let here = nix::fcntl::open(
        ".",
        nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    std::env::set_current_dir(directory)?;
    let done = work();
    nix::unistd::fchdir(&here)?;
    done
}

#[cfg(test)]
#[path = "unix_sockets_tests.rs"]
mod tests;
