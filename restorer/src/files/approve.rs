//! Which file a path of the images leads to, and whether the tasks may have it.
//!
//! A restore opens files with more rights than the tasks have, so it must not take whatever has the name
//! by now: that may be a link, or another's file, put there by whoever owns the directory. What is
//! given to the tasks is
//!
//! 1. found without following any link: the paths are the kernel's, which have none;
//! 2. the very file that was dumped, by device, inode and birth, or else one that those who hold it may
//!    open themselves, with their own ids, groups and capabilities;
//! 3. looked at by a handle (`O_PATH`) and opened through it, so that it cannot be exchanged between.
//!
//! Images of CRIU's do not say which file it was: there it is the tasks' rights that count. A daemon
//! that opened its log as root and then gave up root gets it back if it is the same file. Whoever knows
//! that the paths are right all the same (on another machine no file is the same) says so:
//! [`Trust::Paths`].

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use images::messages::{FileIdentity, RegFileEntry};
use kernel::credentials::Credentials;
use kernel::paths::{self, Attributes, Links, Moment};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::Error;
use super::holders::{Holder, Holders};
use super::reopen::shown;
use crate::places::{Roots, Start};

/// What is believed of the paths in the images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Nothing: a file is the one that was dumped, or one that the tasks may open.
    #[default]
    Files,
    /// That they lead, through links or not, to what the tasks shall have.
    Paths,
}

/// What a file is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be read and written, as the access mode of these flags has it.
    Access(u32),
    /// To be mapped from a descriptor with these flags.
    Map(u32),
    /// To be a program.
    Run,
    /// To be a working directory.
    Enter,
    /// To be a root directory.
    Root,
}

impl Purpose {
    /// What the tasks need to be allowed, as for access(2).
    fn needs(self) -> i32 {
        match self {
            Self::Access(flags) if flags & libc::O_PATH.cast_unsigned() != 0 => libc::F_OK,
            Self::Access(flags) | Self::Map(flags) => match flags.cast_signed() & libc::O_ACCMODE {
                libc::O_RDONLY => libc::R_OK,
                libc::O_WRONLY => libc::W_OK,
                _ => libc::R_OK | libc::W_OK,
            },
            Self::Run | Self::Enter | Self::Root => libc::X_OK,
        }
    }
}

/// A file that the tasks may have.
#[derive(Debug)]
pub(super) struct Approved {
    pub(super) handle: OwnedFd,
    pub(super) attributes: Attributes,
    /// It is the file that was dumped.
    pub(super) same: bool,
    /// With whose rights it is to be opened; `None` for our own.
    pub(super) rights: Option<Credentials>,
    /// Where it was found.
    path: PathBuf,
    /// The mount that it was on.
    mount: Option<i32>,
}

const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
const CAP_FOWNER: u64 = 1 << 3;
const CAP_SYS_CHROOT: u64 = 1 << 18;
pub(super) const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Whether credentials open all files that ours do.
fn opens_all(credentials: &Credentials) -> bool {
    let all = CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH | CAP_FOWNER;
    credentials.users[3] == 0 && credentials.effective & all == all
}

/// Finds and judges files below a root directory.
#[derive(Debug)]
pub(super) struct Approver {
    root: OwnedFd,
    /// Our descriptors (`/proc/self/fd`), by which a handle is opened. In a copy of this process they are
    /// still this one's: copies open nothing.
    descriptors: OwnedFd,
    /// The root directory is our own.
    whole: bool,
    /// Where paths begin in mount namespaces of the tree's own.
    roots: Arc<Roots>,
    holders: Holders,
    trust: Trust,
}

impl Approver {
    pub(super) fn new(
        root: Option<&Path>,
        roots: Arc<Roots>,
        holders: Holders,
        trust: Trust,
    ) -> Result<Self, Error> {
        let path = root.unwrap_or_else(|| "/".as_ref());
        // Whoever gives a root directory knows by which links.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path, flags, Mode::empty()).map_err(|errno| {
            Error::kernel(format!("open the root directory {}", path.display()), errno)
        })?;
        let descriptors = nix::fcntl::open("/proc/self/fd", flags, Mode::empty())
            .map_err(|errno| Error::kernel("open /proc/self/fd".to_owned(), errno))?;
        let whole = path == Path::new("/");
        Ok(Self { root, descriptors, whole, roots, holders, trust })
    }

    /// Does `work` with the least rights that anybody has who holds a file; with our own where nobody holds it,
    /// and where we could not take on others'.
    pub(super) fn as_holder<T: Send>(
        &self,
        file: u32,
        work: impl FnOnce() -> T + Send,
    ) -> io::Result<T> {
        let all = self.holders.of(file).flat_map(|holder| &holder.credentials);
        match all.min_by_key(|own| own.effective.count_ones()) {
            Some(own)
                if geteuid().is_root()
                    && !(opens_all(own) && own.effective & CAP_SYS_ADMIN != 0) =>
            {
                own.during(work)
            }
            _ => Ok(work()),
        }
    }

    /// Whether paths of what is on a mount count from our own root directory.
    pub(super) fn is_whole(&self, mount: Option<i32>) -> bool {
        self.whole || self.roots.holds(mount)
    }

    /// Where the path of what is on a mount begins.
    pub(super) fn start(&self, mount: Option<i32>, path: &Path) -> Start<'_> {
        self.roots.start(mount, path).unwrap_or_else(|| {
            let root = self.root.as_fd();
            Start { from: root, path: path.to_owned(), hidden: None, root, is_made: false }
        })
    }

    /// Who holds which file.
    pub(super) const fn holders(&self) -> &Holders {
        &self.holders
    }

    /// Where paths begin in mount namespaces of the tree's own.
    pub(super) fn roots(&self) -> Arc<Roots> {
        Arc::clone(&self.roots)
    }

    /// Whether a mount is in one of the tree's own namespaces.
    pub(super) fn is_inside(&self, mount: Option<i32>) -> bool {
        self.roots.holds(mount)
    }

    /// The root of the namespace that a mount is in, if that is one of the tree's own.
    pub(super) fn root_of(&self, mount: Option<i32>) -> Option<BorrowedFd<'_>> {
        Some(self.roots.start(mount, Path::new("/"))?.root)
    }

    fn find(&self, mount: Option<i32>, path: &Path, links: Links) -> io::Result<OwnedFd> {
        self.start(mount, path).find(links)
    }

    /// The file of an entry, if the tasks may have it for this purpose.
    pub(super) fn approve(
        &self,
        entry: &RegFileEntry,
        purpose: Purpose,
    ) -> Result<Approved, Error> {
        let (path, what) = (path_of(&entry.name, &shown(entry))?, shown(entry));
        let is_link = entry.mode.is_some_and(|mode| mode & libc::S_IFMT == libc::S_IFLNK);
        let links = if is_link { Links::Refused } else { self.links() };
        let start = self.start(entry.mnt_id, path);
        let lost = |source| self.lost(path, &what, source).of(entry.id);
        let handle = start.find(links).map_err(lost)?;
        let attributes = attributes_of(&handle, &what)?;
        if !is_link && attributes.mode & libc::S_IFMT == libc::S_IFLNK {
            return Err(link_in(path, &what).of(entry.id));
        }
        // What the images have made is what was dumped.
        let same = start.is_made || is_same(entry.identity.as_ref(), &attributes);
        let (path, mount) = (path.to_owned(), entry.mnt_id);
        let mut approved = Approved { handle, attributes, same, rights: None, path, mount };
        let is_our_root = purpose == Purpose::Root && approved.path == Path::new("/");
        if same || is_our_root || self.trust == Trust::Paths {
            return Ok(approved);
        }
        for holder in self.holders.of(entry.id) {
            approved.rights = self.check_rights(holder, entry, purpose, &approved)?;
        }
        Ok(approved)
    }

    fn links(&self) -> Links {
        match self.trust {
            Trust::Files => Links::Refused,
            Trust::Paths => Links::Followed,
        }
    }

    fn lost(&self, path: &Path, what: &str, source: io::Error) -> Error {
        match source.raw_os_error() {
            Some(libc::ELOOP) if self.trust == Trust::Files => link_in(path, what),
            _ => Error::Kernel { operation: format!("open {what}"), source },
        }
    }

    /// A directory.
    pub(super) fn directory(
        &self,
        mount: Option<i32>,
        path: &Path,
        what: &str,
    ) -> Result<OwnedFd, Error> {
        let lost = |source| self.lost(path, what, source);
        let found = self.find(mount, path, self.links()).map_err(lost)?;
        match attributes_of(&found, what)?.mode & libc::S_IFMT {
            libc::S_IFDIR => Ok(found),
            libc::S_IFLNK => Err(link_in(path, what)),
            _ => Err(lost(Errno::ENOTDIR.into())),
        }
    }

    /// The directory of a path, or the nearest one above that is there.
    pub(super) fn nearest_directory(
        &self,
        mount: Option<i32>,
        path: &Path,
    ) -> io::Result<(OwnedFd, PathBuf)> {
        for directory in path.ancestors().skip(1) {
            if let Ok(found) = self.directory(mount, directory, "") {
                return Ok((found, directory.to_owned()));
            }
        }
        Err(Errno::ENOENT.into())
    }

    /// The same directory by a mount that can be written to, if its own is read-only; or, where the images have mounts, by one
    /// that is `common` to all of its file system.
    pub(super) fn writable(
        &self,
        mount: Option<i32>,
        (directory, path): (&OwnedFd, &Path),
        common: bool,
    ) -> io::Result<Option<OwnedFd>> {
        let holds = self.roots.holds(mount);
        let is_wanted = common && holds;
        if !is_wanted && !kernel::mounts::is_read_only(directory)? {
            return Ok(None);
        }
        let found = match holds {
            true => self.roots.writable(mount, path)?,
            false => kernel::mounts::writable_copy(directory)?,
        };
        let (is, was) = (paths::attributes(&found)?, paths::attributes(directory)?);
        match (is.device, is.inode) == (was.device, was.inode) {
            true => Ok(Some(found)),
            false => Err(Errno::ESTALE.into()),
        }
    }

    /// Whether each of those who hold a file has a capability.
    pub(super) fn all_can(&self, file: u32, capability: u64) -> bool {
        self.holders.of(file).all(|holder| holder.can(capability))
    }

    /// The credentials with which a holder may open a file, and with which it is to be opened. `None` if the restore may open it with its
    /// own: the holder's open as much (root's with all capabilities for files), or the file is only run.
    ///
    /// # Errors
    /// If none of the holder's credentials may open it.
    fn check_rights(
        &self,
        holder: &Holder,
        entry: &RegFileEntry,
        purpose: Purpose,
        approved: &Approved,
    ) -> Result<Option<Credentials>, Error> {
        let may_change_root = purpose != Purpose::Root || holder.can(CAP_SYS_CHROOT);
        if may_change_root && holder.credentials.iter().any(opens_all) {
            return Ok(None);
        }
        // Who may run a program has it mapped, readable or not.
        let runs = self.holders.is_program(entry.id)
            && matches!(purpose, Purpose::Map(_))
            && purpose.needs() == libc::R_OK;
        let needs = if runs { libc::X_OK } else { purpose.needs() };
        for credentials in holder.credentials.iter().filter(|_| may_change_root) {
            let tried = credentials.during(|| {
                // Found anew: the directories on the way ask for rights too.
                let found = self.find(approved.mount, &approved.path, Links::Refused)?;
                if !approved.is(&paths::attributes(&found)?) {
                    return Err(Errno::ESTALE.into());
                }
                paths::may(&found, needs)
            });
            let tried = tried.map_err(|source| Error::Kernel {
                operation: format!("take on the credentials of process {}", holder.pid),
                source,
            })?;
            if tried.is_ok() {
                return Ok((needs != libc::X_OK).then(|| credentials.clone()));
            }
        }
        Err(refused(holder, entry, purpose, &approved.attributes))
    }

    /// Removes a name in a directory on a mount, if it is that of the file that the images mean, or those who hold
    /// the file `id` may remove it themselves. What the images have made is what they mean.
    pub(super) fn remove(
        &self,
        (mount, directory): (Option<i32>, &OwnedFd),
        name: &OsStr,
        was: Option<&FileIdentity>,
        id: u32,
    ) -> io::Result<()> {
        let ours = || unlinkat(directory, name, UnlinkatFlags::NoRemoveDir);
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let handle = openat(directory, name, flags, Mode::empty())?;
        let is_made = self.start(mount, Path::new("/")).is_made;
        if is_made || self.trust == Trust::Paths || is_same(was, &paths::attributes(&handle)?) {
            return Ok(ours()?);
        }
        let mut removed = if self.holders.of(id).next().is_none() { ours() } else { Ok(()) };
        for own in self.holders.of(id).flat_map(|holder| &holder.credentials) {
            removed = if opens_all(own) { ours() } else { own.during(ours)? };
            if removed.is_ok() {
                break;
            }
        }
        Ok(removed?)
    }

    /// A handle on a socket outside of the tree, if all that hold the file `id` may connect to it.
    pub(super) fn outside(&self, path: &Path, id: u32) -> io::Result<OwnedFd> {
        let root = self.roots.first().unwrap_or(self.root.as_fd());
        let found = paths::find(root, path, self.links())?;
        if self.trust == Trust::Paths {
            return Ok(found);
        }
        let is = paths::attributes(&found)?;
        let may = || {
            let found = paths::find(root, path, Links::Refused)?;
            let now = paths::attributes(&found)?;
            match (now.device, now.inode) == (is.device, is.inode) {
                true => paths::may(&found, libc::W_OK),
                false => Err(Errno::ESTALE.into()),
            }
        };
        for holder in self.holders.of(id) {
            let mut allowed = Err(Errno::EACCES.into());
            for own in &holder.credentials {
                allowed = if opens_all(own) { Ok(()) } else { own.during(may)? };
                if allowed.is_ok() {
                    break;
                }
            }
            allowed?;
        }
        Ok(found)
    }

    /// Whether all that hold a file may make and remove names in a directory on a mount, as they did. What the images have made is
    /// the directory that they mean.
    pub(super) fn check_directory(
        &self,
        (mount, directory): (Option<i32>, &OwnedFd),
        was: Option<&FileIdentity>,
        file: u32,
        what: &str,
    ) -> Result<(), Error> {
        let attributes = attributes_of(directory, what)?;
        let is_made = self.start(mount, Path::new("/")).is_made;
        if is_made || self.trust == Trust::Paths || is_same(was, &attributes) {
            return Ok(());
        }
        for holder in self.holders.of(file) {
            let may = |own: &Credentials| {
                let tried = || paths::may(directory, libc::W_OK | libc::X_OK).is_ok();
                opens_all(own) || own.during(tried).unwrap_or(false)
            };
            if !holder.credentials.iter().any(may) {
                let refusal = support::changed::directory_taken(holder.pid);
                return Err(Error::refused(file, refusal, what));
            }
        }
        Ok(())
    }
}

impl Approved {
    /// A file that has been made for the tasks.
    pub(super) fn own(handle: OwnedFd, entry: &RegFileEntry) -> Result<Self, Error> {
        let attributes = attributes_of(&handle, &shown(entry))?;
        Ok(Self { handle, attributes, same: true, rights: None, path: PathBuf::new(), mount: None })
    }

    /// Whether these are the attributes of the same file.
    fn is(&self, other: &Attributes) -> bool {
        (self.attributes.device, self.attributes.inode) == (other.device, other.inode)
    }

    /// Opens the file with these flags.
    pub(super) fn open(&self, root: &Approver, flags: OFlag) -> io::Result<OwnedFd> {
        let open = || self.open_here(root, flags);
        match &self.rights {
            None => open(),
            Some(rights) => rights.during(open)?,
        }
    }

    fn open_here(&self, root: &Approver, flags: OFlag) -> io::Result<OwnedFd> {
        let start = root.start(self.mount, &self.path);
        // What is hidden has no way that could be a link.
        let by_handle = root.trust == Trust::Paths || start.hidden.is_some();
        if !flags.contains(OFlag::O_NOFOLLOW) || by_handle {
            let flags = flags.difference(OFlag::O_NOFOLLOW);
            let number = self.handle.as_raw_fd().to_string();
            return Ok(openat(&root.descriptors, &*number, flags, Mode::empty())?);
        }
        // The way through a handle is a link, and the flag is to be seen afterwards: by the name, then,
        // and what has been opened must be what was looked at.
        let below = start.path.strip_prefix("/").unwrap_or(&start.path);
        // The root has no name.
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        let waiting = flags | OFlag::O_NONBLOCK;
        let opened = openat(start.from, below, waiting, Mode::empty())?;
        if !self.is(&paths::attributes(&opened)?) {
            return Err(Errno::ESTALE.into());
        }
        if !flags.intersects(OFlag::O_NONBLOCK | OFlag::O_PATH) {
            ::kernel::descriptors::set_status_flags(&opened, flags.bits().cast_unsigned())?;
        }
        Ok(opened)
    }
}

fn path_of<'a>(name: &'a [u8], what: &str) -> Result<&'a Path, Error> {
    paths::of_bytes(name).ok_or_else(|| Error::image(what, "its name is no path"))
}

fn attributes_of(handle: &OwnedFd, what: &str) -> Result<Attributes, Error> {
    paths::attributes(handle)
        .map_err(|source| Error::Kernel { operation: format!("stat {what}"), source })
}

/// Whether a file is the one that the images mean.
pub(super) fn is_same(was: Option<&FileIdentity>, now: &Attributes) -> bool {
    // Where nobody knows when it was born, nobody knows whether it is the same.
    let (Some(was), Some(born)) = (was, now.born) else { return false };
    (was.device, was.inode, was.birth) == (now.device, now.inode, nanoseconds(born))
}

/// A time in nanoseconds, as the images have it.
pub(super) fn nanoseconds((seconds, nanoseconds): Moment) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.into())
}

fn link_in(path: &Path, what: &str) -> Error {
    // Which link it is, is for the message only.
    let mut parts: Vec<_> = path.ancestors().collect();
    parts.reverse();
    let link = parts.into_iter().find(|part| part.is_symlink()).unwrap_or(path);
    Error::refused_of_none(support::changed::link_in_the_way(link), what)
}

fn refused(holder: &Holder, entry: &RegFileEntry, purpose: Purpose, now: &Attributes) -> Error {
    let owners = entry.identity.map(|was| (was.uid, now.uid));
    let doing = match purpose {
        Purpose::Access(_) | Purpose::Map(_) => "open it so",
        Purpose::Run => "run it",
        Purpose::Enter => "enter it",
        Purpose::Root => "make it its root directory",
    };
    let users: Vec<_> = holder.credentials.iter().map(|own| own.users[3]).collect();
    let refusal = support::changed::other_file(owners, holder.pid, &users, doing);
    Error::refused(entry.id, refusal, shown(entry))
}

#[cfg(test)]
#[path = "approve_tests.rs"]
mod tests;
