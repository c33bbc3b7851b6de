//! Names of Unix sockets in file systems.
//!
//! A socket is bound by the name that the program gave it, for that is what it is asked for later. That
//! name may lead through links, and anybody who owns a directory on the way may have changed it since.
//! So the directory is found first, without following links, and must be the one of the dump or one in
//! which the tasks may make files; and the file that the kernel made must be in it.
//!
//! A name that had been removed may be another file's by now, or several sockets' in turn. So it is there
//! only while a socket is bound to it. Sockets are connected by a handle on the file, not by its name.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use images::messages::{PeerCredentials, UnixSkEntry};
use kernel::credentials::in_directory;
use kernel::paths::of_bytes;
use kernel::sockets::{self, Address, unix_file};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmodat, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use support::Refusal;

use super::Error;
use super::actors::act;
use super::approve::Approver;
use super::unix_hidden;
use super::unix_plan::{failed, what};

/// Where the file of a socket goes.
struct BindPoint {
    /// The root directory that an absolute name counts from, if it is not ours.
    root: Option<OwnedFd>,
    /// The directory that a relative name counts from.
    start: Option<Rc<OwnedFd>>,
    /// The directory of the file, and its name in there.
    directory: Rc<OwnedFd>,
    name: OsString,
    /// The name that it was given there since.
    renamed: Option<OsString>,
    /// The name that the program gave it, if no path leads there.
    hidden: Option<PathBuf>,
}

/// The files of sockets.
pub(super) struct Names<'a> {
    approver: &'a Approver,
    found: BTreeMap<(Option<i32>, PathBuf), Rc<OwnedFd>>,
    /// Directories that were made for names that were deleted with them, each before what is in it.
    directories: Vec<(Rc<OwnedFd>, OsString)>,
    /// The same by their mounts and paths: what is in them is nobody's to allow.
    made: BTreeMap<(Option<i32>, PathBuf), Rc<OwnedFd>>,
    /// Everything that was bound, to be taken away if not all goes well.
    bound: Vec<(Rc<OwnedFd>, OsString, FileStat)>,
}

/// Whether the name of a socket is a path.
fn is_path(entry: &UnixSkEntry) -> bool {
    entry.name.first().is_some_and(|&byte| byte != 0)
}

/// The name as connect(2) and bind(2) want it.
fn address(entry: &UnixSkEntry) -> Result<Address, Error> {
    let plain = entry.name.strip_suffix(&[0]).filter(|_| is_path(entry)).unwrap_or(&entry.name);
    Address::new(libc::AF_UNIX as u16, plain).map_err(failed("name", entry))
}

/// Has somebody connect a socket to one of ours with the name of an entry.
pub(super) fn connect(
    who: Option<&PeerCredentials>,
    socket: &OwnedFd,
    to: Option<&OwnedFd>,
    entry: &UnixSkEntry,
) -> Result<(), Error> {
    if entry.name.is_empty() {
        return Err(Error::image(what(entry), "it has no name to connect to"));
    }
    let (address, _file) = address_of(to, entry)?;
    act(who, || sockets::connect(socket, &address)).map_err(failed("connect to", entry))
}

/// An address that leads to the socket of an entry for as long as the descriptor beside it is open.
pub(super) fn address_of(
    to: Option<&OwnedFd>,
    entry: &UnixSkEntry,
) -> Result<(Address, Option<OwnedFd>), Error> {
    if !is_path(entry) {
        return Ok((address(entry)?, None));
    }
    let to = to.ok_or_else(|| Error::image(what(entry), "it was not made"))?;
    let file = unix_file(to).map_err(failed("find the file of", entry))?;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let address = Address::new(libc::AF_UNIX as u16, link.as_bytes());
    Ok((address.map_err(failed("name", entry))?, Some(file)))
}

impl<'a> Names<'a> {
    pub(super) fn new(approver: &'a Approver) -> Self {
        let (found, directories, made, bound) = Default::default();
        Self { approver, found, directories, made, bound }
    }

    /// Binds a socket to the name of its entry.
    pub(super) fn bind(&mut self, socket: &OwnedFd, entry: &UnixSkEntry) -> Result<(), Error> {
        let address = address(entry)?;
        if !is_path(entry) {
            return sockets::bind(socket, &address).map_err(failed("bind", entry));
        }
        let place = self.place(entry)?;
        let aside = self.make_way(&place, entry)?;
        let directory = &*place.directory;
        let bind = || in_directory(directory, || sockets::bind(socket, &address));
        let bound = match &place.hidden {
            Some(name) => unix_hidden::led(name, directory, bind),
            None => rooted(place.root.as_ref(), || within(place.start.as_deref(), bind)),
        }
        .map_err(failed("bind", entry))
        .and_then(|()| self.settle_file(socket, &place, entry));
        if let Some(aside) = aside {
            let (directory, flags) = (&*place.directory, RenameFlags::RENAME_NOREPLACE);
            renameat2(directory, &*aside, directory, &*place.name, flags)
                .map_err(|errno| failed("put back what was in the way of", entry)(errno.into()))?;
        }
        bound
    }

    /// What becomes of the file that a socket has just been bound to.
    fn settle_file(
        &mut self,
        socket: &OwnedFd,
        place: &BindPoint,
        entry: &UnixSkEntry,
    ) -> Result<(), Error> {
        let directory = &*place.directory;
        let file = unix_file(socket).map_err(failed("find the file of", entry))?;
        let stat = fstat(&file).map_err(|errno| failed("stat the file of", entry)(errno.into()))?;
        if !is_there(&place.directory, &place.name, &stat) {
            withdraw_strayed(&file, &stat);
            return Err(Error::refused(entry.id, support::changed::SOCKET_STRAYED, what(entry)));
        }
        if entry.deleted == Some(true) {
            unlinkat(&*place.directory, &*place.name, UnlinkatFlags::NoRemoveDir)
                .map_err(|errno| failed("remove the name of", entry)(errno.into()))?;
        } else {
            let name = place.renamed.as_ref().unwrap_or(&place.name);
            if *name != place.name {
                let flags = RenameFlags::RENAME_NOREPLACE;
                if let Err(errno) = renameat2(directory, &*place.name, directory, &**name, flags) {
                    unlinkat(directory, &*place.name, UnlinkatFlags::NoRemoveDir)
                        .unwrap_or_default();
                    return Err(failed("rename the file of", entry)(errno.into()));
                }
            }
            self.bound.push((Rc::clone(&place.directory), name.clone(), stat));
        }
        let Some(perms) = &entry.file_perms else { return Ok(()) };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        std::os::unix::fs::chown(&path, Some(perms.uid), Some(perms.gid))
            .map_err(failed("set owner of the file of", entry))?;
        let mode = Mode::from_bits_truncate(perms.mode & 0o7777);
        fchmodat(AT_FDCWD, &*path, mode, FchmodatFlags::FollowSymlink)
            .map_err(|errno| failed("set mode of the file of", entry)(errno.into()))
    }

    fn place(&mut self, entry: &UnixSkEntry) -> Result<BindPoint, Error> {
        let plain = entry.name.strip_suffix(&[0]).unwrap_or(&entry.name);
        let no_path = || Error::image(what(entry), "its name is no path");
        let given = of_bytes(plain).ok_or_else(no_path)?;
        if given.is_absolute() && !self.approver.is_whole(entry.mnt_id) {
            return Err(Error::refused(entry.id, support::host::ABSOLUTE_NAME, what(entry)));
        }
        let name = given.file_name().ok_or_else(no_path)?.to_owned();
        let start = match &entry.name_dir {
            Some(directory) if given.is_relative() => of_bytes(directory).ok_or_else(no_path)?,
            _ => Path::new("/"),
        };
        // The kernel's path has no links; of no use is that of a file that was renamed before it was removed.
        let is_deleted = entry.deleted == Some(true);
        let real = entry.path.as_deref().and_then(of_bytes);
        let real = real.filter(|path| !is_deleted || path.file_name() == Some(&name));
        let renamed = real.and_then(Path::file_name).filter(|it| *it != name).map(OsStr::to_owned);
        let parent = real
            .and_then(Path::parent)
            .map_or_else(|| plain_parent(&start.join(given)), Path::to_owned);
        // What is made here for those that have lost their names is not what the others were in.
        let made = self.made.get(&(entry.mnt_id, parent.clone()));
        let made = made.filter(|_| is_deleted).map(Rc::clone);
        let is_made = made.is_some();
        let directory = match made.map_or_else(|| self.directory(&parent, entry), Ok) {
            Ok(directory) if is_made => directory,
            Ok(directory) => {
                let was = entry.directory.as_ref();
                self.approver.check_directory(
                    (entry.mnt_id, &directory),
                    was,
                    entry.id,
                    &what(entry),
                )?;
                directory
            }
            Err(Error::Kernel { source, .. })
                if is_deleted && source.kind() == io::ErrorKind::NotFound =>
            {
                self.make_directory(&parent, entry.mnt_id)
                    .map_err(failed("make the directory of", entry))?
            }
            Err(error) => return Err(error),
        };
        // A name alone is found in the directory itself.
        let is_led = given.is_absolute() || given.parent().is_some_and(support::paths::has_parts);
        let is_hidden = self.approver.start(entry.mnt_id, &parent).hidden.is_some();
        let root = self.approver.root_of(entry.mnt_id).map(|root| root.try_clone_to_owned());
        let root = root.transpose().map_err(failed("find the root directory of", entry))?;
        // Its directory may have been renamed as well.
        let is_hidden = is_hidden
            || given.is_absolute() && !is_deleted && !leads(root.as_ref(), given, &directory);
        let hidden = (is_led && is_hidden).then(|| given.to_owned());
        let is_from = given.is_relative() && hidden.is_none();
        let start = is_from.then(|| self.directory(start, entry)).transpose()?;
        Ok(BindPoint { root, start, directory, name, renamed, hidden })
    }

    fn directory(&mut self, path: &Path, entry: &UnixSkEntry) -> Result<Rc<OwnedFd>, Error> {
        let key = (entry.mnt_id, path.to_owned());
        if let Some(found) = self.found.get(&key) {
            return Ok(Rc::clone(found));
        }
        let found = self.approver.directory(entry.mnt_id, path, &what(entry));
        let found = Rc::new(found.map_err(|error| error.of(entry.id))?);
        self.found.insert(key, Rc::clone(&found));
        Ok(found)
    }

    /// Makes a directory that is not there, for as long as it takes to bind a socket in it.
    fn make_directory(&mut self, path: &Path, mount: Option<i32>) -> io::Result<Rc<OwnedFd>> {
        // A path that ends in a name, so that the directory itself is looked for too.
        let (nearest, above) = self.approver.nearest_directory(mount, &path.join("name"))?;
        let mut at = Rc::new(nearest);
        let missing = path.strip_prefix(&above).map_err(io::Error::other)?;
        let mut shown = above.clone();
        for name in missing.iter() {
            let directory = &*at;
            let mode = Mode::from_bits_truncate(0o755);
            in_directory(directory, || Ok(mkdirat(directory, name, mode)?))?;
            self.directories.push((Rc::clone(&at), name.to_owned()));
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            at = Rc::new(openat(&*at, name, flags, Mode::empty())?);
            shown.push(name);
            self.made.insert((mount, shown.clone()), Rc::clone(&at));
        }
        Ok(at)
    }

    /// A stale socket goes; what is in the way of a name that was removed, or changed, steps aside (where to, is
    /// returned); anything else stays.
    fn make_way(&self, place: &BindPoint, entry: &UnixSkEntry) -> Result<Option<OsString>, Error> {
        let BindPoint { directory, name, renamed, .. } = place;
        if entry.deleted == Some(true) {
            return self.move_aside(directory, name, entry);
        }
        self.remove_stale((directory, renamed.as_ref().unwrap_or(name)), entry)?;
        renamed.as_ref().map_or(Ok(None), |_| self.move_aside(directory, name, entry))
    }

    fn move_aside(
        &self,
        directory: &OwnedFd,
        name: &OsStr,
        entry: &UnixSkEntry,
    ) -> Result<Option<OsString>, Error> {
        let mut aside = name.to_owned();
        aside.push(format!(".stasis-{}", std::process::id()));
        match renameat2(directory, name, directory, &*aside, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(Some(aside)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(failed("move aside the file of", entry)(errno.into())),
        }
    }

    fn remove_stale(
        &self,
        (directory, name): (&OwnedFd, &OsStr),
        entry: &UnixSkEntry,
    ) -> Result<(), Error> {
        let stat = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(failed("look for the file of", entry)(errno.into())),
        };
        let in_the_way = |refusal: Refusal| Error::refused(entry.id, refusal, what(entry));
        if stat.st_mode & libc::S_IFMT != libc::S_IFSOCK {
            return Err(in_the_way(support::changed::NO_SOCKET));
        }
        self.approver
            .remove((entry.mnt_id, directory), name, entry.file.as_ref(), entry.id)
            .map_err(|source| in_the_way(support::changed::other_socket(&source.to_string())))
    }

    /// All are connected: what has a name keeps it.
    pub(super) fn settle(mut self) {
        self.bound.clear();
    }
}

impl Drop for Names<'_> {
    fn drop(&mut self) {
        // Only when the restore has failed is there anything left; its error is the one to tell.
        for (directory, name, stat) in self.bound.drain(..) {
            if is_there(&directory, &name, &stat) {
                unlinkat(&*directory, &*name, UnlinkatFlags::NoRemoveDir).unwrap_or_default();
            }
        }
        for (directory, name) in self.directories.drain(..).rev() {
            unlinkat(&*directory, &*name, UnlinkatFlags::RemoveDir).unwrap_or_default();
        }
    }
}

/// The directory of a path, without the `.` that there may be in what a program calls its socket.
fn plain_parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).components().collect()
}

/// Whether the name of a file leads to a directory.
fn leads(root: Option<&OwnedFd>, name: &Path, directory: &OwnedFd) -> bool {
    let parent = plain_parent(name);
    let found = rooted(root, || Ok(nix::sys::stat::stat(&parent)?));
    let is_it = |one: FileStat, two: FileStat| (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino);
    found.ok().zip(fstat(directory).ok()).is_some_and(|(found, own)| is_it(found, own))
}

/// Whether a name is that of a file.
fn is_there(directory: &OwnedFd, name: &OsStr, file: &FileStat) -> bool {
    let there = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    there.is_ok_and(|there| (there.st_dev, there.st_ino) == (file.st_dev, file.st_ino))
}

/// Takes away a file that was made where it does not belong, wherever that is.
fn withdraw_strayed(file: &OwnedFd, stat: &FileStat) {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let Ok(path) = nix::fcntl::readlink(link.as_str()) else { return };
    let there = nix::sys::stat::lstat(path.as_os_str());
    if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)) {
        // An empty socket that nobody listens to does no harm if it stays.
        std::fs::remove_file(path).unwrap_or_default();
    }
}

/// Does something with another root directory. The caller has one thread.
fn rooted<T>(root: Option<&OwnedFd>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(root) = root else { return work() };
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let here = nix::fcntl::open("/", flags, Mode::empty())?;
    within(Some(root), || {
        nix::unistd::chroot(".")?;
        let done = work();
        nix::unistd::fchdir(&here)?;
        nix::unistd::chroot(".")?;
        done
    })
}

/// Does something in another working directory. The caller has one thread.
fn within<T>(directory: Option<&OwnedFd>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(directory) = directory else { return work() };
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let here = nix::fcntl::open(".", flags, Mode::empty())?;
    nix::unistd::fchdir(directory)?;
    let done = work();
    nix::unistd::fchdir(&here)?;
    done
}
