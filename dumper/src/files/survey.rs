//! One look at every file of a tree: what becomes of each, and in which entry.
//!
//! The same look is taken twice. While the target runs it finds what cannot be dumped and fills
//! the [`HeldFiles`]; when the target is frozen it finds most answers there, and reads what changes:
//! contents, queues, counters.

use std::collections::HashMap;
use std::sync::Arc;

use collector::{Inventory, OpenFile, Process, ProcessState};
use ids::HostPid;
use images::messages::FownEntry;
use kernel::procfs::{Dir, FdInfo, ProcFile, Stat};
use support::{Refusal, Unsupported};

use super::diagnosed::Diagnosed;
use super::file_cache::FileCache;
use super::file_reference::FileReference;
use super::held::{HeldFiles, key};
use super::in_flight::InFlight;
use super::neighbours::Neighbours;
use super::open_memory::open_memory;
use super::paths::{Check, Key};
use super::problem::{Doing, Problem};
use super::taps::Taps;
use super::{Captured, Error, PlanContext, owners};
use crate::numbers::Numbers;

/// A look that is being taken.
pub(super) struct Survey<'a> {
    pub(super) context: &'a PlanContext,
    pub(super) held: &'a mut HeldFiles,
    pub(super) inventory: &'a Inventory,
    /// What the images call the tasks.
    pub(super) numbers: &'a Numbers,
    /// The target does not run: what changes by the moment is read, and what is missing is an
    /// error.
    pub(super) frozen: bool,
    /// The tree holds the sockets that it held when it was looked at before.
    pub(super) same_sockets: bool,
    /// Whether there is no time left.
    pub(super) is_late: &'a dyn Fn() -> bool,
    /// What is being looked at may turn out to hold until the target is frozen: it is read as then. A kind
    /// that finds out that it will have to be read again takes this back.
    pub(super) to_keep: bool,
    pub(super) cache: FileCache,
    pub(super) neighbours: Neighbours,
    pub(super) diagnosed: Diagnosed,
    pub(super) in_flight: &'a mut InFlight,
    /// The process that receives the file which is looked at, if that is on its way.
    pub(super) receiver: Option<HostPid>,
    pub(super) taps: Taps,
    /// Shared anonymous memory that is open or mapped as a file, by device and inode.
    pub(super) memory: std::collections::BTreeSet<(u64, u64)>,
    /// Every id of the tree that can own a file.
    pub(super) known: std::collections::BTreeSet<HostPid>,
    /// The table of each process whose descriptors have been looked at.
    pub(super) tables: HashMap<HostPid, u32>,
    /// Descriptions whose lowest holders were not to be had.
    pub(super) strays: HashMap<u64, (u32, u32)>,
    /// Ids of files that no descriptor holds.
    pub(super) path_ids: HashMap<Key, u32>,
    pub(super) refusals: Vec<Unsupported>,
    dirs: HashMap<HostPid, Arc<Dir>>,
    /// Room for the text of `/proc`.
    pub(super) text: Vec<u8>,
    pub(super) out: Captured,
}

/// How many files are looked at, or spared a look, between two looks at the clock.
pub(super) const AT_ONCE: usize = 64;

impl<'a> Survey<'a> {
    /// A look at a frozen target is given time, and `is_late` when there is none left; `same_sockets` says
    /// whether the tree holds the sockets that it held.
    pub(super) fn new(
        context: &'a PlanContext,
        held: &'a mut HeldFiles,
        (inventory, numbers): (&'a Inventory, &'a Numbers),
        mut cache: FileCache,
        in_flight: &'a mut InFlight,
        same_sockets: bool,
        is_late: Option<&'a dyn Fn() -> bool>,
    ) -> Self {
        let same_sockets = same_sockets && cache.in_flight == in_flight.sockets;
        cache.in_flight.clone_from(&in_flight.sockets);
        let sockets = if same_sockets {
            std::mem::take(&mut cache.sockets)
        } else {
            let files = inventory.processes.values().flat_map(|process| &process.files);
            let sockets = files.filter(|file| file.mode & libc::S_IFMT == libc::S_IFSOCK);
            sockets.map(|file| file.inode as u32).collect()
        };
        let room = if is_late.is_some() { std::mem::take(&mut cache.room) } else { Vec::new() };
        Self {
            context,
            held,
            inventory,
            numbers,
            frozen: is_late.is_some(),
            same_sockets,
            is_late: is_late.unwrap_or(&|| false),
            to_keep: false,
            cache,
            neighbours: Neighbours::new(sockets, in_flight.sockets.clone()),
            in_flight,
            receiver: None,
            diagnosed: Diagnosed::default(),
            taps: Taps::default(),
            memory: open_memory(inventory),
            known: owners::ids(inventory),
            tables: HashMap::new(),
            strays: HashMap::new(),
            path_ids: HashMap::new(),
            refusals: Vec::new(),
            dirs: HashMap::new(),
            text: Vec::new(),
            out: Captured { files: room, ..Captured::default() },
        }
    }

    /// Fails when there is no time left.
    pub(super) fn in_time(&self) -> Result<(), Error> {
        if (self.is_late)() { Err(Error::TooLate) } else { Ok(()) }
    }

    pub(super) fn new_id(&mut self) -> u32 {
        self.cache.last_id += 1;
        self.cache.last_id
    }

    /// Sorts out what went wrong with one file: it is refused, it has gone while the target runs,
    /// or the look fails.
    pub(super) fn settle<T>(
        &mut self,
        pid: HostPid,
        place: FileReference,
        target: &std::ffi::OsStr,
        result: Result<T, Problem>,
    ) -> Result<Option<T>, Error> {
        let object = || target.to_string_lossy().into_owned();
        let failed = |operation: &str, source| {
            let operation = format!("{operation} {place} ({}) of process {pid}", object());
            Error::Kernel { operation, source }
        };
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Problem::Refused(refusal)) => {
                self.refusals.push(refusal.of(pid, format!("{place} ({})", object())));
                Ok(None)
            }
            Err(Problem::Lost { path }) => {
                let refusal = match place {
                    FileReference::Queue(_) => support::sockets::lost_on_its_way(&path),
                    _ => lost_name(pid, place, &path),
                };
                self.refusals.push(refusal.of(pid, format!("{place} ({})", object())));
                Ok(None)
            }
            Err(Problem::Gone | Problem::Exchanged(_)) if !self.frozen => Ok(None),
            // The process has ended, or is about to, or has another file there: the frozen look will tell.
            Err(Problem::Kernel { .. })
                if !self.frozen && (is_ending(pid) || is_another(pid, place, target)) =>
            {
                Ok(None)
            }
            Err(Problem::Exchanged(kind)) => {
                let source = std::io::Error::other(format!("it is not that of {kind}"));
                Err(failed("understand fdinfo of", source))
            }
            Err(Problem::Gone) => {
                Err(failed("find", std::io::Error::from_raw_os_error(libc::ENOENT)))
            }
            Err(Problem::TooLate) => Err(Error::TooLate),
            Err(Problem::Kernel { operation, source }) => Err(failed(operation, source)),
        }
    }

    /// The owner of an open file, asked for where there may be one.
    pub(super) fn owner(&mut self, pid: HostPid, file: &OpenFile) -> Result<FownEntry, Problem> {
        if file.owned == Some(false) || file.flags & libc::O_PATH.cast_unsigned() != 0 {
            return Ok(owners::nobody());
        }
        let (inventory, frozen) = (self.inventory, self.frozen);
        let is_process = |pid: HostPid| inventory.processes.contains_key(&pid);
        let is_newer = |pid: HostPid| !frozen && is_newer(inventory, pid);
        let fd = self.held.borrow(pid, file.fd)?;
        let owner = owners::owner(&fd, &self.known, self.numbers, is_process, is_newer)?;
        // It is set again by this process.
        let of_tree = self.known.iter().find(|it| self.numbers.message(Some(**it)) == owner.pid);
        match of_tree.filter(|it| owner.pid != 0 && !self.numbers.sees(pid, **it)) {
            Some(unseen) => Err(Problem::Refused(support::files::owner_unseen(*unseen))),
            None => Ok(owner),
        }
    }

    /// Whether a process that the inventory lacks is of the tree all the same: it was born when that was being taken, and the
    /// frozen look will tell.
    pub(super) fn is_newer(&self, pid: HostPid) -> bool {
        !self.frozen && is_newer(self.inventory, pid)
    }

    /// What `/proc/PID/fdinfo` says of an open file.
    pub(super) fn fdinfo(&mut self, pid: HostPid, file: &OpenFile) -> Result<FdInfo, Problem> {
        let dir = self.dir(pid)?;
        FdInfo::read_with(&dir, file.fd, &mut self.text).doing("read fdinfo of")
    }

    /// `/proc/PID`, opened once.
    pub(super) fn dir(&mut self, pid: HostPid) -> Result<Arc<Dir>, Problem> {
        if let Some(dir) = self.dirs.get(&pid) {
            return Ok(Arc::clone(dir));
        }
        let dir = Arc::new(Dir::open(pid).doing("open the process of")?);
        self.dirs.insert(pid, Arc::clone(&dir));
        Ok(dir)
    }

    /// The mount namespace of a process; 0 where all are in the dumper's.
    pub(super) fn namespace(&self, pid: HostPid) -> u64 {
        self.context.views.of(pid).map_or(0, |view| view.id)
    }

    /// The path of an open file, looked at.
    pub(super) fn find(
        &mut self,
        pid: HostPid,
        file: &OpenFile,
    ) -> Result<Arc<super::paths::FileByPath>, Problem> {
        let dir = self.dir(pid)?;
        // It may have been opened in another namespace than its holder's.
        let mount = match self.context.views.are_several() {
            true => self.fdinfo(pid, file)?.mount,
            false => 0,
        };
        let key = key(self.namespace(pid), mount, file);
        let found = self.held.paths.find(&key, Check::Numbers, self.context, || {
            dir.open_behind(&format!("fd/{}", file.fd)).doing("open")
        });
        match found {
            // Renamed while it was being looked at: what it was called is no matter.
            Err(Problem::Refused { .. } | Problem::Lost { .. })
                if !self.frozen && is_renamed(pid, file) =>
            {
                Err(Problem::Gone)
            }
            found => found,
        }
    }
}

pub(super) fn is_alive(process: &Process) -> bool {
    !process.kernel_thread && !matches!(process.state, ProcessState::Zombie { .. })
}

/// A file that is held in `place`, and has lost the name that it had.
fn lost_name(pid: HostPid, place: FileReference, path: &std::path::Path) -> Refusal {
    let link = match place {
        FileReference::Descriptor(fd) => format!("fd/{fd}"),
        // The shell finds the other end of the mapping.
        FileReference::Mapping(start) => format!("map_files/{start:x}-*"),
        FileReference::Exe => "exe".to_owned(),
        FileReference::Cwd => "cwd".to_owned(),
        FileReference::Root => "root".to_owned(),
        FileReference::Thread(tid) => format!("task/{tid}/exe"),
        // It is nowhere to be linked from.
        FileReference::Queue(_) => String::new(),
    };
    let needs_directory = path.parent().is_some_and(|parent| !parent.exists());
    support::paths::lost(&format!("/proc/{pid}/{link}"), path, needs_directory)
}

/// Whether a process has ended, or has let go of its files to end.
fn is_ending(pid: HostPid) -> bool {
    Dir::open(pid).and_then(|dir| dir.descriptors()).map_or(true, |fds| fds.is_empty())
}

/// Whether a process is below one of these by now.
fn is_newer(inventory: &Inventory, pid: HostPid) -> bool {
    /// So many generations are born while an inventory is taken.
    const GENERATIONS: usize = 16;
    let parent = |pid: &HostPid| Dir::open(*pid).and_then(|dir| Stat::read(&dir)).ok()?.ppid;
    let mut above = std::iter::successors(Some(pid), parent).take(GENERATIONS);
    above.any(|pid| inventory.processes.contains_key(&pid))
}

/// Whether a process is the one by which its descriptors are written.
pub(super) fn has_table(process: &Process) -> bool {
    process.tables.files.is_none_or(|owner| owner == process.pid)
}

/// Whether a descriptor is of another file, or the file has another name, than the inventory says.
fn is_renamed(pid: HostPid, file: &OpenFile) -> bool {
    is_another(pid, FileReference::Descriptor(file.fd), &file.target)
}

/// Whether what is held in `place` is called otherwise than `target`, as far as that is looked at.
fn is_another(pid: HostPid, place: FileReference, target: &std::ffi::OsStr) -> bool {
    let FileReference::Descriptor(fd) = place else { return false };
    let link = Dir::open(pid).and_then(|dir| dir.link(&format!("fd/{fd}")));
    link.map_or(true, |link| link != target)
}
