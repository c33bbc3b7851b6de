//! One look at every file of a tree: what becomes of each, and in which entry.
//!
//! The same look is taken twice. While the target runs it finds what cannot be dumped and fills
//! the [`Memory`]; when the target is frozen it finds most answers there, and reads what changes:
//! contents, queues, counters.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use api::Obstacle;
use collector::{Inventory, OpenFile, Process, ProcessState};
use images::messages::{FdinfoEntry, FileEntry, FownEntry};
use kernel::procfs::{Dir, FdInfo};

use super::kept::Kept;
use super::memory::{Memory, key};
use super::neighbours::Neighbours;
use super::paths::{Check, Key};
use super::place::Place;
use super::problem::{Doing, Problem};
use super::{Captured, Error, PlanContext, locks, owners, pipes, standing, table};

/// A look that is being taken.
pub(super) struct Survey<'a> {
    pub(super) context: &'a PlanContext,
    pub(super) memory: &'a mut Memory,
    pub(super) inventory: &'a Inventory,
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
    pub(super) kept: Kept,
    pub(super) neighbours: Neighbours,
    pub(super) pipes: pipes::Seen,
    /// Every id of the tree that can own a file.
    pub(super) known: std::collections::BTreeSet<i32>,
    /// The table of each process whose descriptors have been looked at.
    tables: HashMap<i32, u32>,
    /// Descriptions whose lowest holders were not to be had.
    strays: HashMap<u64, (u32, u32)>,
    /// Ids of files that no descriptor holds.
    pub(super) path_ids: HashMap<Key, u32>,
    refusals: Vec<Obstacle>,
    dirs: HashMap<i32, Arc<Dir>>,
    /// Room for the text of `/proc`.
    pub(super) text: Vec<u8>,
    pub(super) out: Captured,
}

/// How many files are looked at, or spared a look, between two looks at the clock.
pub(super) const AT_ONCE: usize = 64;

impl<'a> Survey<'a> {
    /// A look at a frozen target is given time, and `is_late` when there is none left.
    pub(super) fn new(
        context: &'a PlanContext,
        memory: &'a mut Memory,
        inventory: &'a Inventory,
        kept: Kept,
        is_late: Option<&'a dyn Fn() -> bool>,
    ) -> Self {
        let mut kept = kept;
        let same_sockets = is_late.is_some() && standing::are_sockets_the_same(&kept, inventory);
        let held = if same_sockets {
            std::mem::take(&mut kept.sockets)
        } else {
            let files = inventory.processes.values().flat_map(|process| &process.files);
            let sockets = files.filter(|file| file.mode & libc::S_IFMT == libc::S_IFSOCK);
            sockets.map(|file| file.inode as u32).collect()
        };
        Self {
            context,
            memory,
            inventory,
            frozen: is_late.is_some(),
            same_sockets,
            is_late: is_late.unwrap_or(&|| false),
            to_keep: false,
            kept,
            neighbours: Neighbours::new(held),
            pipes: pipes::Seen::default(),
            known: owners::ids(inventory),
            tables: HashMap::new(),
            strays: HashMap::new(),
            path_ids: HashMap::new(),
            refusals: Vec::new(),
            dirs: HashMap::new(),
            text: Vec::new(),
            out: Captured::default(),
        }
    }

    /// Takes the look; `tables` gives the id of each process's descriptor table. Also returns what
    /// cannot be dumped.
    pub(super) fn run(
        mut self,
        tables: &BTreeMap<i32, u32>,
    ) -> Result<(Captured, Kept, Vec<Obstacle>), Error> {
        let inventory = self.inventory;
        let suspects = self.suspects()?;
        let alive = || inventory.processes.values().filter(|process| is_alive(process));
        for process in alive() {
            if has_table(process) {
                let standing = match self.frozen {
                    true => self.standing(process, &suspects)?,
                    false => None,
                };
                let entries = match standing {
                    Some(entries) => entries,
                    None => self.table(process, &suspects)?,
                };
                let id = tables.get(&process.pid).copied();
                let id = id.unwrap_or(process.pid.cast_unsigned());
                self.out.tables.insert(id, entries);
                self.tables.insert(process.pid, id);
            }
            self.in_time()?;
            self.places(process)?;
        }
        self.out.paths = std::mem::take(&mut self.path_ids);
        self.kept.sockets = self.neighbours.into_held();
        Ok((self.out, self.kept, self.refusals))
    }

    /// Fails when there is no time left.
    pub(super) fn in_time(&self) -> Result<(), Error> {
        if (self.is_late)() { Err(Error::TooLate) } else { Ok(()) }
    }

    pub(super) fn new_id(&mut self) -> u32 {
        self.kept.last_id += 1;
        self.kept.last_id
    }

    /// The descriptors of a process.
    fn table(&mut self, process: &Process, suspects: &Suspects) -> Result<Vec<FdinfoEntry>, Error> {
        let mut entries = Vec::with_capacity(process.files.len());
        for (nth, file) in process.files.iter().enumerate() {
            if nth % AT_ONCE == 0 {
                self.in_time()?;
            }
            let entry = self.entry(process, file, suspects, &entries)?;
            if !self.frozen {
                self.note(process.pid, file.fd, entry.as_ref());
            }
            entries.extend(entry);
        }
        Ok(entries)
    }

    /// The entry of a descriptor, with that of what is behind it; `entries` are those of the process's
    /// lower descriptors. `None` of one that is refused, or has gone while the target runs.
    pub(super) fn entry(
        &mut self,
        process: &Process,
        file: &OpenFile,
        suspects: &Suspects,
        entries: &[FdinfoEntry],
    ) -> Result<Option<FdinfoEntry>, Error> {
        // Locks belong to a process or an open file: every descriptor is asked.
        let free = if suspects.contains(file) { self.no_locks(process.pid, file) } else { Ok(()) };
        let described = free.and_then(|()| {
            if file.description == OpenFile::description_of(process.pid, file.fd) {
                self.description(process, file)
            } else if let Some(described) = self.described(process.pid, file, entries) {
                Ok(described)
            } else {
                self.stray(process, file)
            }
        });
        let place = Place::Descriptor(file.fd);
        let described = self.settle(process.pid, place, &file.target, described)?;
        Ok(described.map(|(id, r#type)| FdinfoEntry {
            id,
            flags: if file.close_on_exec { libc::FD_CLOEXEC.cast_unsigned() } else { 0 },
            r#type,
            fd: file.fd.cast_unsigned(),
            xattr_security_selinux: None,
        }))
    }

    /// Id and type of the entry of a description whose lowest holder has been met: in a process
    /// before, or in this one, of which `entries` have been written.
    fn described(&self, pid: i32, file: &OpenFile, entries: &[FdinfoEntry]) -> Option<(u32, u32)> {
        let (holder, fd) = file.lowest_holder();
        let entries = if holder == pid {
            entries
        } else {
            self.out.tables.get(self.tables.get(&holder)?)?.as_slice()
        };
        let index = entries.binary_search_by_key(&fd.cast_unsigned(), |entry| entry.fd).ok()?;
        let entry = entries.get(index)?;
        Some((entry.id, entry.r#type))
    }

    /// The entry of a description whose lowest holder has not been met.
    fn stray(&mut self, process: &Process, file: &OpenFile) -> Result<(u32, u32), Problem> {
        if let Some(described) = self.strays.get(&file.description) {
            return Ok(*described);
        }
        let described = self.file(process, file)?;
        self.strays.insert(file.description, described);
        Ok(described)
    }

    /// The entry of a description that is met first: its id and type.
    fn description(&mut self, process: &Process, file: &OpenFile) -> Result<(u32, u32), Problem> {
        if self.frozen {
            if let Some(kept) = self.kept(process.pid, file)? {
                return Ok(kept);
            }
        } else if file.mark.is_some() {
            let before = self.out.files.len();
            self.to_keep = true;
            let described = self.file(process, file);
            let keeps = std::mem::replace(&mut self.to_keep, false);
            if let Ok((id, _)) = described {
                if keeps {
                    self.keep(process.pid, file, id, before);
                }
                return described;
            }
            // What cannot be carried now may be over when the target is frozen.
            self.out.files.truncate(before);
        }
        self.file(process, file)
    }

    /// Sorts out what went wrong with one file: it is refused, it has gone while the target runs,
    /// or the look fails.
    pub(super) fn settle<T>(
        &mut self,
        pid: i32,
        place: Place,
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
            Err(Problem::Refused { reason, remedy }) => {
                let object = format!("{place} ({})", object());
                self.refusals.push(Obstacle::of(pid, object, reason, remedy));
                Ok(None)
            }
            Err(Problem::Lost { path }) => {
                let object = format!("{place} ({})", object());
                let reason =
                    "its name has been deleted, while the file has other names (hard links)";
                let remedy = name_again(pid, place, &path);
                self.refusals.push(Obstacle::of(pid, object, reason, remedy));
                Ok(None)
            }
            Err(Problem::Gone) if !self.frozen => Ok(None),
            // It has ended, or is about to: the frozen look will tell.
            Err(Problem::Kernel { .. }) if !self.frozen && is_ending(pid) => Ok(None),
            Err(Problem::Gone) => {
                Err(failed("find", std::io::Error::from_raw_os_error(libc::ENOENT)))
            }
            Err(Problem::TooLate) => Err(Error::TooLate),
            Err(Problem::Kernel { operation, source }) => Err(failed(operation, source)),
        }
    }

    /// The entry of an open file description that has none yet: its id and type.
    fn file(&mut self, process: &Process, file: &OpenFile) -> Result<(u32, u32), Problem> {
        let kind = table::of(file)?;
        let id = self.new_id();
        let entry = FileEntry { id, ..FileEntry::default() };
        let entry = kind.capture(self, process, file, entry)?;
        let r#type = entry.r#type;
        self.out.files.push(entry);
        Ok((id, r#type))
    }

    /// The owner of an open file, asked for where there may be one.
    pub(super) fn owner(&mut self, pid: i32, file: &OpenFile) -> Result<FownEntry, Problem> {
        if file.owned == Some(false) || file.flags & libc::O_PATH.cast_unsigned() != 0 {
            return Ok(owners::nobody());
        }
        let is_process = |pid: i32| self.inventory.processes.contains_key(&pid);
        owners::owner(&self.memory.borrow(pid, file.fd)?, &self.known, is_process)
    }

    /// What `/proc/PID/fdinfo` says of an open file.
    pub(super) fn fdinfo(&mut self, pid: i32, file: &OpenFile) -> Result<FdInfo, Problem> {
        let dir = self.dir(pid)?;
        FdInfo::read_with(&dir, file.fd, &mut self.text).doing("read fdinfo of")
    }

    /// The open files that may have locks on them.
    ///
    /// `/proc/locks` tells of all at once, but makes the kernel wait for every processor (10 ms):
    /// a few hundred descriptors are asked one by one in less.
    fn suspects(&self) -> Result<Suspects, Error> {
        let lockable = || {
            let files = self.inventory.processes.values().flat_map(|process| &process.files);
            files.filter(|file| is_lockable(file))
        };
        if lockable().count() <= FEW {
            return Ok(Suspects::All);
        }
        let wanted = lockable().map(|file| file.inode).collect();
        let text = std::fs::read("/proc/locks")
            .map_err(|source| Error::Kernel { operation: "read /proc/locks".to_owned(), source })?;
        Ok(Suspects::Inodes(locks::locked(&text, &wanted)))
    }

    /// Refuses a file through which locks are held.
    fn no_locks(&mut self, pid: i32, file: &OpenFile) -> Result<(), Problem> {
        if self.fdinfo(pid, file)?.locks.is_empty() {
            return Ok(());
        }
        Err(Problem::refused(
            "file locks and leases are not supported yet",
            "release the lock before the checkpoint",
        ))
    }

    /// `/proc/PID`, opened once.
    pub(super) fn dir(&mut self, pid: i32) -> Result<Arc<Dir>, Problem> {
        if let Some(dir) = self.dirs.get(&pid) {
            return Ok(Arc::clone(dir));
        }
        let dir = Arc::new(Dir::open(pid).doing("open the process of")?);
        self.dirs.insert(pid, Arc::clone(&dir));
        Ok(dir)
    }

    /// The path of an open file, looked at.
    pub(super) fn find(
        &mut self,
        pid: i32,
        file: &OpenFile,
    ) -> Result<Arc<super::paths::Found>, Problem> {
        let dir = self.dir(pid)?;
        let found = self.memory.paths.find(&key(file), Check::Numbers, self.context, || {
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

/// How a file that is held in `place` gets back the name that it had.
fn name_again(pid: i32, place: Place, path: &std::path::Path) -> String {
    let word = |path: &std::path::Path| api::word(&path.to_string_lossy());
    let link = match place {
        Place::Descriptor(fd) => format!("fd/{fd}"),
        // The shell finds the other end of the mapping.
        Place::Mapping(start) => format!("map_files/{start:x}-*"),
        Place::Exe => "exe".to_owned(),
        Place::Cwd => "cwd".to_owned(),
        Place::Root => "root".to_owned(),
        Place::Thread(tid) => format!("task/{tid}/exe"),
    };
    let directory = match path.parent().filter(|parent| !parent.exists()) {
        Some(parent) => format!("mkdir -p {} && ", word(parent)),
        None => String::new(),
    };
    let path = word(path);
    format!("give it that name again: {directory}ln -L /proc/{pid}/{link} {path}")
}

/// Whether a process has ended, or has let go of its files to end.
fn is_ending(pid: i32) -> bool {
    Dir::open(pid).and_then(|dir| dir.descriptors()).map_or(true, |fds| fds.is_empty())
}

/// Whether a process is the one by which its descriptors are written.
pub(super) const fn has_table(process: &Process) -> bool {
    process.tables.files == process.pid || process.tables.files == 0
}

/// Whether a descriptor is of another file, or the file has another name, than the inventory says.
fn is_renamed(pid: i32, file: &OpenFile) -> bool {
    let link = Dir::open(pid).and_then(|dir| dir.link(&format!("fd/{}", file.fd)));
    link.map_or(true, |link| link != file.target)
}

/// Up to how many descriptors are asked for locks one by one.
const FEW: usize = 1000;

/// The open files that may have locks on them.
pub(super) enum Suspects {
    /// Any of them.
    All,
    /// Those with these inodes, on whatever file system.
    Inodes(HashSet<u64>),
}

impl Suspects {
    fn contains(&self, file: &OpenFile) -> bool {
        is_lockable(file)
            && match self {
                Self::All => true,
                Self::Inodes(inodes) => inodes.contains(&file.inode),
            }
    }
}

/// Whether there may be locks on a file: files of every kind can have some (flock(2)).
fn is_lockable(file: &OpenFile) -> bool {
    let handle = file.flags & libc::O_PATH.cast_unsigned() != 0;
    !handle && file.locked != Some(false)
}
