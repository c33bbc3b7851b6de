//! Open files of every kind: opened once, handed to each task that shares them.
//!
//! The coordinator opens every file description of the images at descriptors that no task wants
//! (at and above [`OpenFiles::base`]). Its children inherit them; each puts its own into place
//! ([`OpenFiles::install`]) and, when its mappings are made, closes everything from the base on.

mod actors;
mod approve;
mod beside;
mod bpfmap;
pub(crate) mod changed;
mod connections;
mod content;
mod datagrams;
mod epoll;
mod eventfd;
mod fanotify;
mod fifos;
mod file_kind;
mod ghosts;
mod holders;
mod images;
mod inet_common;
mod inet_sockets;
mod inherited;
mod inotify;
mod install;
mod io_uring;
mod ipc;
mod keep;
mod keepers;
mod leases;
mod links;
mod load;
mod makers;
mod memfd;
mod mqueue;
mod netlink_sockets;
mod networks;
mod nsfs;
mod open;
mod opener;
mod opening;
mod packet_sockets;
mod pidfd;
mod ping;
mod pipes;
mod proc_files;
mod regular;
mod reopen;
mod signalfd;
mod socket_options;
mod table;
mod terminals;
mod timerfd;
mod tun;
mod unix_clients;
mod unix_hidden;
mod unix_names;
mod unix_outside;
mod unix_plan;
mod unix_queues;
mod unix_sockets;
mod user;
mod userfault;
mod waiting;
mod watched;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use ::images::messages::{FdinfoEntry, FileEntry, RegFileEntry};
use ::kernel::descriptors::close_all;
use ids::{HostPid, ImagePid};
use nix::sys::resource::{Resource, getrlimit};
use support::{Refusal, Unsupported};

use crate::levels::Levels;
use crate::places::Roots;

use self::approve::Purpose;
pub use self::approve::Trust;
use self::beside::Beside;
pub use self::connections::Connections;
pub(crate) use self::connections::Repaired;
pub use self::content::{Needs, Validation};
pub use self::file_kind::Member;
pub use self::holders::Holders;
pub use self::images::FileImages;
pub(crate) use self::images::FileMemory;
pub use self::inherited::Inherited;
pub use self::ipc::IpcNamespaces;
use self::keep::Keep;
pub(crate) use self::keepers::{Keepers, Late};
pub(crate) use self::leases::Leases;
pub(crate) use self::links::LeftLinks;
pub use self::makers::Makers;
pub use self::networks::Networks;
use self::opener::Opener;
pub(crate) use self::user::User;
pub(crate) use io_uring::Issued;
pub(crate) use userfault::Serving;
use window::Window;

/// What the rest of the restore tells the files part.
#[derive(Clone, Debug, Default)]
pub struct OpenContext {
    /// The root joins the caller's session and terminal.
    pub shell_job: bool,
    /// Unix sockets are connected again to processes outside the tree.
    pub external_unix: bool,
    /// Directory that the paths in the images are relative to; `None` for the caller's root.
    pub root: Option<PathBuf>,
    /// Where the paths of files begin that were in mount namespaces of the tree's own.
    pub roots: Arc<Roots>,
    /// Who holds which file. A file that nobody holds is opened by our own rights.
    pub holders: Holders,
    /// Files that more than descriptors want: programs, mapped ones, directories of processes.
    pub lasting: BTreeSet<u32>,
    /// What is believed of the paths.
    pub trust: Trust,
    /// What of the files is compared.
    pub validation: Validation,
    /// The permissions of files are not compared.
    pub any_permissions: bool,
    /// How many numbers the restore needs for itself in every task.
    pub work: usize,
    /// What becomes of TCP connections.
    pub connections: Connections,
    /// The caller takes the masters of terminals outside the tree, which are made for it.
    pub gives_masters: bool,
    /// What tasks are called in pid namespaces of the tree's own.
    pub(crate) levels: Arc<Levels>,
    /// Where sockets are made.
    pub networks: Networks,
    /// Who makes them.
    pub makers: Arc<Makers>,
    /// The IPC namespaces that have been made.
    pub ipc: IpcNamespaces,
    /// Free process numbers, for processes that keep files which one process cannot have.
    pub numbers: Vec<HostPid>,
}

/// Why the files of the images were not opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kernel interface failed.
    #[error("{operation}")]
    Kernel {
        /// What was done, to what.
        operation: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The images say something that cannot be so.
    #[error("{object}: {reason}")]
    Image {
        /// The image entry.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The images hold something that this restore does not do.
    #[error("{}", support::said(&found(.0)))]
    Refused(Vec<Refused>),
    /// An image cannot be read.
    #[error(transparent)]
    Images(#[from] ::images::Error),
}

impl Error {
    fn kernel(operation: impl Into<String>, errno: nix::errno::Errno) -> Self {
        Self::Kernel { operation: operation.into(), source: errno.into() }
    }

    fn image(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Image { object: object.into(), reason: reason.into() }
    }

    /// A file of the images is not restored.
    fn refused(file: u32, refusal: Refusal, object: impl Into<String>) -> Self {
        Self::Refused(vec![Refused::new(file, refusal.of(0, object))])
    }

    /// Something that is of no file in particular is not restored.
    fn refused_of_none(refusal: Refusal, object: impl Into<String>) -> Self {
        Self::refused_of_task(refusal.of(0, object))
    }

    /// Something is not restored, of which it is known who has it.
    fn refused_of_task(found: Unsupported) -> Self {
        Self::Refused(vec![Refused { file: None, found }])
    }

    /// The same of a file, where it is of none yet.
    fn of(self, file: u32) -> Self {
        let of = |refused: Refused| Refused { file: refused.file.or(Some(file)), ..refused };
        match self {
            Self::Refused(all) => Self::Refused(all.into_iter().map(of).collect()),
            error => error,
        }
    }

    /// The same with the processes that have the files.
    pub(crate) fn named(self, holders: &Holders) -> Self {
        let named = |refused: Refused| match refused.file {
            Some(file) => Refused { file: None, found: holders.named(file, refused.found) },
            None => refused,
        };
        match self {
            Self::Refused(all) => Self::Refused(all.into_iter().map(named).collect()),
            error => error,
        }
    }
}

/// What is not restored. Whoever finds it knows the file; who has that is named at the end, by [`Error::named`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The file's id in the images; `None` if it is none, or its holder has been named.
    file: Option<u32>,
    found: Unsupported,
}

impl Refused {
    const fn new(file: u32, found: Unsupported) -> Self {
        Self { file: Some(file), found }
    }

    /// What is said of it.
    pub(crate) fn into_found(self) -> Unsupported {
        self.found
    }
}

fn found(all: &[Refused]) -> Vec<Unsupported> {
    all.iter().map(|one| one.found.clone()).collect()
}

fn no_path(id: u32) -> Error {
    Error::image(format!("file {id}"), "it is not there, or has no path")
}

/// The task that [`OpenFiles::install`] is called in.
#[derive(Clone, Copy, Debug)]
pub struct InstallTask {
    /// The id of its descriptor table (`TaskKobjIdsEntry.files_id`).
    pub files_id: u32,
    /// Its pid.
    pub pid: ImagePid,
}

/// What a file that no descriptor holds is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Held {
    Program,
    Directory,
    Root,
    Mapped(u32, Needs),
}

/// A working directory, or a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directory {
    /// A handle on it.
    Here(RawFd),
    /// It is about a process, and is entered when all are there: the file's id.
    OfProcess(u32),
}

/// The open files of the images, in the descriptor table of the coordinator.
#[derive(Debug)]
pub struct OpenFiles {
    connections: Connections,
    base: RawFd,
    files: BTreeMap<u32, Box<FileEntry>>,
    tables: BTreeMap<u32, Vec<FdinfoEntry>>,
    /// Files that are on their way in messages, and no table has.
    sent: BTreeSet<u32>,
    /// The table in which what is to be done once for a file is done, by the file's id.
    holders: BTreeMap<u32, u32>,
    /// What kinds of file have in images of their own, and what they have made of it.
    beside: Beside,
    /// Open file descriptions by id.
    opened: BTreeMap<u32, OwnedFd>,
    /// Where what is opened when the tree is there can be had.
    later: BTreeMap<u32, Window>,
    /// Those of them that are in processes of their own.
    kept: Keepers,
    /// The masters of terminals that the caller takes.
    orphans: Vec<OwnedFd>,
    /// Files that no descriptor holds, by id and what for.
    held: BTreeMap<(u32, Held), OwnedFd>,
    opener: Opener,
    /// What tasks are called in pid namespaces of the tree's own.
    levels: Arc<Levels>,
}

impl OpenFiles {
    /// Opens every open file description of the images once, at descriptors from
    /// [`OpenFiles::base`] on, with position, flags, contents and connections.
    ///
    /// The caller has one thread. Its limit of open files is raised as far as it goes.
    ///
    /// # Errors
    ///
    /// Names the file and what is wrong with it. What was opened is closed again; sockets bound
    /// to paths are unlinked.
    pub fn open(images: FileImages, context: &OpenContext) -> Result<Self, Error> {
        open::open(images, context).map_err(|error| error.named(&context.holders))
    }

    /// First descriptor number that no task of the images wants. The caller's own descriptors
    /// that must live on in the children are moved to this number or above
    /// (`fcntl(F_DUPFD_CLOEXEC, base)`): everything below belongs to the tasks.
    #[must_use]
    pub fn base(&self) -> RawFd {
        self.base
    }

    /// A descriptor (at or above the base, close-on-exec) for the program `id`.
    ///
    /// # Errors
    ///
    /// When there is no such file in the images, it is not what it was, or the tasks may not have it.
    pub fn program(&mut self, id: u32) -> Result<RawFd, Error> {
        let (flags, needs) = (libc::O_RDONLY.cast_unsigned(), Needs::Contents);
        self.keep(id, Held::Program, |opener, beside, file| {
            match (&file.reg, table::of_type(file.r#type)) {
                (Some(entry), _) => opener.open_contents(entry, Purpose::Run, flags, needs),
                (None, Some(kind)) => kind.map(opener, beside, file, flags, needs),
                (None, None) => Err(no_path(id)),
            }
        })
    }

    /// What the task's restorer has to fetch at its end, and the number at which it finds the way
    /// to who has it.
    pub(crate) fn late(&self, files_id: u32) -> (Vec<Late>, RawFd) {
        let table = self.tables.get(&files_id).map_or(&[][..], |table| table);
        let late: Vec<Late> = table
            .iter()
            .filter(|entry| keepers::is_late(entry, self.base))
            .filter_map(|entry| {
                Some(Late {
                    number: entry.fd.cast_signed(),
                    from: self.kept.late(entry.id)?,
                    close_on_exec: entry.flags & libc::FD_CLOEXEC.cast_unsigned() != 0,
                })
            })
            .collect();
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let limit = RawFd::try_from(limit).unwrap_or(RawFd::MAX);
        let slot = match late.is_empty() {
            true => -1,
            false => {
                let numbers = table.iter().map(|entry| entry.fd.cast_signed()).collect();
                keepers::slot(&numbers, self.base, limit)
            }
        };
        (late, slot)
    }

    /// Closes all that is ours of it; who keeps the rest is left, until it is dropped.
    ///
    /// The memory is left as it is, for the end of the process: copies of it have it, too, so that to
    /// free a page would be to copy it first.
    pub(crate) fn into_kept(self) -> (Keepers, impl Sized, LeftLinks) {
        let Self { opened, held, kept, files, tables, later, opener, .. } = self;
        std::mem::forget((files, tables));
        let ours = opened.into_values().chain(held.into_values());
        close_all(ours);
        (kept, later, opener.into_links())
    }

    /// The masters of terminals that the caller takes, which are no longer these files' then.
    pub(crate) fn take_orphans(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.orphans)
    }

    /// A handle (at or above the base, close-on-exec) on the working directory `id`.
    ///
    /// # Errors
    ///
    /// As [`OpenFiles::program`].
    pub fn working_directory(&mut self, id: u32) -> Result<Directory, Error> {
        let reg = self.files.get(&id).and_then(|file| file.reg.as_ref());
        if reg.is_some_and(proc_files::is_of_process) {
            return Ok(Directory::OfProcess(id));
        }
        let entered = self.hold(id, Held::Directory, |opener, entry| {
            opener.approve(entry, Purpose::Enter).map(|approved| approved.handle)
        });
        entered.map(Directory::Here)
    }

    /// In a task, when all processes are there: enters a directory that is about one of them.
    ///
    /// # Errors
    ///
    /// Names it.
    pub(crate) fn enter_of_process(&self, id: u32) -> Result<(), Error> {
        let file = self.files.get(&id).ok_or_else(|| no_path(id))?;
        let entry = file.reg.as_ref().ok_or_else(|| no_path(id))?;
        let approved = self.opener.approver.approve(entry, Purpose::Enter)?;
        nix::unistd::fchdir(&approved.handle).map_err(|errno| {
            Error::kernel(
                format!("change to the working directory {}", reopen::shown(entry)),
                errno,
            )
        })
    }

    /// A handle (at or above the base, close-on-exec) on the root directory `id`.
    ///
    /// # Errors
    ///
    /// As [`OpenFiles::program`].
    pub fn root_directory(&mut self, id: u32) -> Result<Directory, Error> {
        let reg = self.files.get(&id).and_then(|file| file.reg.as_ref());
        if reg.is_some_and(proc_files::is_of_process) {
            return Ok(Directory::OfProcess(id));
        }
        let root = self.hold(id, Held::Root, |opener, entry| {
            opener.approve(entry, Purpose::Root).map(|approved| approved.handle)
        });
        root.map(Directory::Here)
    }

    /// Whether two files have one path.
    pub(crate) fn are_one(&self, one: u32, other: u32) -> bool {
        let path = |id| Some(&self.files.get(&id)?.reg.as_ref()?.name);
        one == other || path(one).is_some() && path(one) == path(other)
    }

    /// A handle on a root that is about a process, when that is there. Where nobody is ever any more (`is_dead`), in a directory
    /// in which nothing is, everybody may be.
    ///
    /// # Errors
    ///
    /// Names it.
    pub(crate) fn root_of_process(
        &self,
        id: u32,
        is_dead: impl Fn(HostPid) -> bool,
    ) -> Result<OwnedFd, Error> {
        let file = self.files.get(&id).ok_or_else(|| no_path(id))?;
        let entry = file.reg.as_ref().ok_or_else(|| no_path(id))?;
        match proc_files::process_of_directory(entry).filter(|pid| is_dead(*pid)) {
            Some(_) => proc_files::open_directory(entry),
            None => self.opener.approver.approve(entry, Purpose::Root).map(|it| it.handle),
        }
    }

    /// A descriptor (at or above the base, close-on-exec) to map the file `id` from, opened with
    /// `flags`: `VmaEntry.fdflags`, or where that is absent `O_RDWR` for a shared writable
    /// mapping and `O_RDONLY` otherwise. Mappings with the same id and flags share it.
    ///
    /// # Errors
    ///
    /// As [`OpenFiles::program`].
    pub fn mapped(&mut self, id: u32, flags: u32, needs: Needs) -> Result<RawFd, Error> {
        self.keep(id, Held::Mapped(flags, needs), |opener, beside, file| {
            match table::of_type(file.r#type) {
                Some(kind) => kind.map(opener, beside, file, flags, needs),
                None => Err(no_path(id)),
            }
        })
    }

    fn hold(
        &mut self,
        id: u32,
        held: Held,
        open: impl FnOnce(&mut Opener, &RegFileEntry) -> Result<OwnedFd, Error>,
    ) -> Result<RawFd, Error> {
        self.keep(id, held, |opener, _, file| {
            open(opener, file.reg.as_ref().ok_or_else(|| no_path(id))?)
        })
    }

    fn keep(
        &mut self,
        id: u32,
        held: Held,
        open: impl FnOnce(&mut Opener, &mut Beside, &FileEntry) -> Result<OwnedFd, Error>,
    ) -> Result<RawFd, Error> {
        if let Some(fd) = self.held.get(&(id, held)) {
            return Ok(fd.as_raw_fd());
        }
        let file = self.files.get(&id).ok_or_else(|| no_path(id))?;
        let opened = open(&mut self.opener, &mut self.beside, file)
            .map_err(|error| error.named(self.opener.approver.holders()))?;
        let failed = |source| Error::Kernel { operation: format!("keep file {id}"), source };
        let keep = Keep(self.base);
        let fd = keep.keep(opened).map_err(failed)?;
        self.opener.keep(keep).map_err(failed)?;
        self.beside.keep(keep).map_err(failed)?;
        let number = fd.as_raw_fd();
        self.held.insert((id, held), fd);
        Ok(number)
    }

    /// In a child that has just founded a session: does what its leader does with files of it (its terminal).
    ///
    /// # Errors
    ///
    /// Names what was done.
    pub fn found_session(&self, leader: ImagePid) -> Result<(), Error> {
        table::all().try_for_each(|kind| kind.found_session(self, leader))
    }

    /// In a child, when everybody is there and in their groups, with `SIGTTOU` blocked: does what belongs to
    /// it as a member of its session.
    ///
    /// # Errors
    ///
    /// As [`OpenFiles::found_session`].
    pub fn in_session(&self, member: &Member) -> Result<(), Error> {
        table::all().try_for_each(|kind| kind.in_session(self, member))
    }

    /// In a child: closes everything below the base and puts the descriptors of the task's table
    /// into place; then does what belongs to this task: epoll entries and file owners
    /// whose first holder it is, the foreground of its terminal. Call it after `setsid` and
    /// `setpgid`, when all pids of the tree exist, and before credentials are given away, with
    /// `SIGTTOU` blocked.
    ///
    /// # Errors
    ///
    /// Names the descriptor and what was done to it.
    pub fn install(&self, task: &InstallTask) -> Result<(), Error> {
        self.install_in(task)
    }

    /// The same in a child whose descriptors another one has put into place: what each task does.
    ///
    /// # Errors
    ///
    /// As [`OpenFiles::install`].
    pub(crate) fn join(&self, task: &InstallTask) -> Result<(), Error> {
        self.each(task, |entry, file| match table::of_type(file.r#type) {
            Some(kind) => kind.in_task(self, entry, file, task),
            None => Ok(()),
        })
    }
}
