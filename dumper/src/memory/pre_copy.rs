//! Copying memory while the target runs.
//!
//! The first round copies everything that is worth it into a parent checkpoint inside the one that
//! is being made; further rounds copy what was written meanwhile, much of it into parent checkpoints that
//! come between, until little is left or it does not become less. What the target then waits for is the rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use collector::{Inventory, Mapping, Process, VmFlags};
use ids::HostPid;
use images::messages::{InventoryEntry, ManifestEntry};
use images::{Folder, ImageWriter, MappingKind, names};
use kernel::pagemap::PageRun;
use support::mappings::{TRACKED_DRY_RUN, WRITE_PROTECTED, object_of};

use super::copy::processors;
use super::dirty_log::{DirtyLog, Sorted, can_log};
use super::frozen_pages::available_memory;
use super::pages::Pages;
use super::parent::Parent;
use super::room::{Room, WORTH_A_FILE, files};
use super::uffd_holder::{self, Taken};
use crate::clock::Clock;
use crate::error::Error;
use crate::files::writes_memory;
use crate::inject::{GadgetFinder, Gadgets};
use crate::numbers::Numbers;
use crate::options::{DumpOptions, FrozenAccount};
use crate::processes::{is_zombie, lenders};
use crate::unsupported::is_paused;

/// Bytes of private memory from which on logging pays, of all processes together: to copy less takes no longer than the moment for
/// which a process's leader is stopped to have it logged. That moment is each process's own, while all wait for what is
/// copied frozen of any: of many processes less of each pays.
const WORTH_TRACKING: u64 = 4 << 20;
/// The same of one of many.
const WORTH_TRACKING_ONE: u64 = 512 << 10;
/// Bytes in mappings that lie side by side from which on they are logged.
const WORTH_REGISTERING: u64 = 256 << 10;
/// The same, where logging is to go on after the dump.
const LEAST: u64 = 64 << 10;
/// Bytes that are little enough to be copied while the target stands still.
const LITTLE: u64 = 512 << 10;
/// Bytes that are written before the target stands still, beside those of the last round.
const SPARE: u64 = 8 << 20;
/// Rounds after the first.
const ROUNDS: u32 = 16;
/// Rounds after which not much less was left than before, the last time that memory is copied again. Each takes a busy target's
/// time, and spares it little.
const PATIENCE: u32 = 1;

/// What was copied while the target ran, and the logging of what it writes.
#[derive(Debug)]
pub(crate) struct PreCopy {
    /// What the dump will be known by to later ones.
    pub(crate) id: String,
    logs: BTreeMap<HostPid, DirtyLog>,
    /// Bytes that the last round copied.
    last_round: u64,
    /// Where the first round went, and into how many folders what was copied went by now.
    first: First,
    folders: usize,
    /// Link to the checkpoint that the logging is relative to, from the finished directory.
    parent: Option<(PathBuf, ManifestEntry)>,
    /// What is copied frozen is protected again, for the next dump.
    protect: bool,
    /// How many threads there is use for at most.
    pub(crate) threads: usize,
    /// What whoever asked for the dump should know.
    pub(crate) warnings: Vec<String>,
}

/// Where what is copied first goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum First {
    /// Nothing is copied first.
    #[default]
    Nowhere,
    /// Into a parent checkpoint inside the one that is made.
    Inside,
    /// It is all that there is: a pre-dump.
    Here,
}

impl PreCopy {
    /// Nothing yet. In a pre-dump everything goes into the checkpoint itself.
    pub(crate) fn new(pre_dump: bool) -> Self {
        Self {
            id: unique_id(),
            logs: BTreeMap::new(),
            last_round: 0,
            first: if pre_dump { First::Here } else { First::Nowhere },
            folders: 0,
            parent: None,
            protect: false,
            threads: processors(),
            warnings: Vec::new(),
        }
    }

    /// Starts to log the writes to what is worth it, and copies it.
    pub(crate) fn copy(
        &mut self,
        options: &DumpOptions,
        (inventory, numbers): (&Inventory, &Numbers),
        finder: &mut GadgetFinder,
        gadgets: &BTreeMap<HostPid, Gadgets>,
        writer: &ImageWriter,
        clock: &Clock,
    ) -> Result<(), Error> {
        let lasting = options.keep_dirty_log || self.first == First::Here;
        self.protect = lasting;
        let direct = direct_io(inventory);
        if let Some(path) = &direct {
            tracing::info!(path, "a file is open for direct I/O: all memory is copied frozen");
            if lasting {
                self.warn(&format!(
                    "changes cannot be tracked while {path} is open for direct I/O"
                ));
            }
        }
        self.take_over(options, (inventory, numbers), writer, direct.is_none())?;
        if direct.is_some() {
            return Ok(());
        }
        // No code runs in it, so that it could not begin to log.
        let paused = is_paused(options.pid);
        if paused && lasting && self.logs.is_empty() {
            self.warn(
                "changes cannot be tracked of a tree that is paused: let it run, and dump it again",
            );
        }
        let lenders = lenders(inventory);
        let own = |process: &&Process| !is_zombie(process) && !lenders.contains_key(&process.pid);
        let (worth, least) = match lasting || self.parent.is_some() {
            true => (0, LEAST),
            false => {
                let living = inventory.processes.values().filter(own).count().max(1);
                let share = WORTH_TRACKING / living as u64;
                (share.max(WORTH_TRACKING_ONE), WORTH_REGISTERING)
            }
        };
        let mut fresh = false;
        for process in inventory.processes.values().filter(own) {
            if self.logs.contains_key(&process.pid) {
                self.of_one(process.pid, |log| log.extend(process, least))?;
            } else if !paused && private_bytes(process.pid) >= worth {
                match begin(process, finder, gadgets, (least, worth), self.threads) {
                    Ok(Some(log)) => {
                        check(log.handover, options.max_freeze)?;
                        self.logs.insert(process.pid, log);
                        fresh = true;
                    }
                    Ok(None) => {}
                    // It has ended: there is nothing to be logged.
                    Err(error) if error.is_gone() => {}
                    Err(error) => {
                        let pid = process.pid;
                        if lasting {
                            self.warn(&format!(
                                "changes of process {pid} cannot be tracked: {error}"
                            ));
                        }
                        let error: &dyn std::error::Error = &error;
                        tracing::info!(%pid, error, "memory is copied frozen");
                    }
                }
            }
        }
        self.first_round(fresh, writer, clock)
    }

    /// Copies what is not protected yet, if that is worth a parent checkpoint.
    fn first_round(
        &mut self,
        fresh: bool,
        writer: &ImageWriter,
        clock: &Clock,
    ) -> Result<(), Error> {
        if self.first == First::Nowhere {
            let mut written = 0;
            if !fresh {
                self.of_each(|log| {
                    written += log.written_bytes()?;
                    Ok(())
                })?;
            }
            if fresh || written >= WORTH_TRACKING {
                self.first = First::Inside;
            }
        }
        let bytes: u64 = self.logs.keys().map(|&pid| private_bytes(pid)).sum();
        self.folders = match (self.first, bytes) {
            (First::Inside, WORTH_A_FILE..) => files(self.threads),
            (First::Inside, _) => 1,
            (First::Nowhere | First::Here, _) => 0,
        };
        let folders = self.folders(writer)?;
        if folders.is_empty() {
            return Ok(());
        }
        let mut copied = 0;
        self.of_each(|log| {
            copied += log.first_round(&folders, clock)?;
            Ok(())
        })?;
        self.last_round += copied;
        Ok(())
    }

    /// Does something with each of the logged processes. What has ended meanwhile is logged no more.
    fn of_each(
        &mut self,
        mut what: impl FnMut(&mut DirtyLog) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let pids: Vec<HostPid> = self.logs.keys().copied().collect();
        pids.into_iter().try_for_each(|pid| self.of_one(pid, &mut what))
    }

    fn of_one(
        &mut self,
        pid: HostPid,
        what: impl FnOnce(&mut DirtyLog) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(log) = self.logs.get_mut(&pid) else { return Ok(()) };
        match what(log) {
            Err(error) if error.is_gone() => {
                tracing::info!(%pid, "it has ended, or executed another program");
                self.logs.remove(&pid);
                Ok(())
            }
            done => done,
        }
    }

    /// Where what is copied early goes; the parent of each is the one before.
    fn folders<'w>(&self, writer: &'w ImageWriter) -> Result<Vec<Folder<'w>>, Error> {
        Ok(match self.first {
            First::Nowhere => Vec::new(),
            First::Inside => writer.pre_copies(self.folders)?,
            First::Here => vec![writer.here()],
        })
    }

    /// Takes over the logging that an earlier dump began. It is of use if it is relative to
    /// the parent that was asked for, and `wanted` at all; otherwise it ends here.
    fn take_over(
        &mut self,
        options: &DumpOptions,
        (inventory, numbers): (&Inventory, &Numbers),
        writer: &ImageWriter,
        wanted: bool,
    ) -> Result<(), Error> {
        if options.dry_run && uffd_holder::is_there(&options.dirty_logs, options.pid) {
            let found = vec![TRACKED_DRY_RUN.of(options.pid, "the memory of the tree")];
            return Err(Error::Refused { root: options.pid, found });
        }
        let parent = options.parent.as_ref().map(|images| Parent::of(images, writer.target()));
        let parent = parent.transpose()?;
        let taken = uffd_holder::take(&options.dirty_logs, options.pid);
        refuse_foreign(inventory, taken.as_ref())?;
        let base = taken.as_ref().map(|taken| taken.base.as_str());
        let relative = parent.filter(|parent| wanted && base.is_some() && parent.id() == base);
        for (pid, fd) in taken.map(|taken| taken.fds).unwrap_or_default() {
            let Some(process) = inventory.processes.get(&pid) else { continue };
            let inherited = match (&relative, numbers.image(pid)) {
                (Some(parent), Some(pid)) => parent.pages(pid)?,
                _ => Vec::new(),
            };
            let log = match DirtyLog::resume(process, fd, &inherited, self.threads) {
                Ok(Some(log)) => log,
                Ok(None) => continue,
                Err(error) if error.is_gone() => continue,
                Err(error) => return Err(error),
            };
            match relative {
                Some(_) => {
                    self.logs.insert(pid, log);
                }
                None => log.end(),
            }
        }
        if options.parent.is_some() && relative.is_none() {
            self.warn("changes were not tracked since the parent checkpoint: all pages are dumped");
        }
        self.parent = relative.map(|parent| (parent.link, parent.entry));
        Ok(())
    }

    /// Copies what was written meanwhile, until each time about as much has been written as the time before.
    pub(crate) fn catch_up(&mut self, writer: &ImageWriter, clock: &Clock) -> Result<(), Error> {
        self.rounds(writer, 0, clock)
    }

    /// The same, until it is little or does not become less. The last thing before the target is stopped.
    pub(crate) fn copy_again(&mut self, writer: &ImageWriter, clock: &Clock) -> Result<(), Error> {
        self.rounds(writer, PATIENCE, clock)
    }

    /// `patience` rounds may be in vain.
    fn rounds(&mut self, writer: &ImageWriter, patience: u32, clock: &Clock) -> Result<(), Error> {
        if self.logs.is_empty() {
            return Ok(());
        }
        let mut budget = available_memory() / 4;
        let mut in_vain = 0;
        for round in 1..=ROUNDS {
            let mut copied = 0;
            let mut room = Room::of_round(writer, self.folders, self.threads, budget);
            self.of_each(|log| {
                copied += log.next_round(&mut room)?;
                Ok(())
            })?;
            (self.folders, budget) = (room.taken, room.budget);
            clock.check("copy memory that is in use")?;
            tracing::debug!(round, bytes = copied, "memory was copied again");
            in_vain += u32::from(copied > self.last_round / 4 * 3);
            self.last_round = copied;
            if copied <= LITTLE || in_vain > patience || room.is_full {
                break;
            }
        }
        Ok(())
    }

    /// For how long one thread of a process, or all of one with seccomp filters, stood still so that
    /// its memory can be logged; the longest of them.
    pub(crate) fn handover(&self) -> Duration {
        self.logs.values().map(|log| log.handover).max().unwrap_or_default()
    }

    /// Whether nothing is logged.
    pub(crate) fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// Bytes that will have to be copied while the target stands still, of a tree that holds about
    /// `resident` bytes.
    pub(crate) fn expected(&self, resident: u64) -> u64 {
        let covered: u64 = self.logs.values().map(DirtyLog::covered_bytes).sum();
        match self.logs.is_empty() {
            true => resident,
            // As much as is written in the worst of cases, between the last look and the freeze.
            false => resident.saturating_sub(covered) + 2 * self.last_round + SPARE,
        }
    }

    /// Takes our own marks off the mappings of an inventory. What they were on, by process.
    ///
    /// A mapping has one userfaultfd: where it reaches into what we registered it is ours, though it
    /// may have grown beyond. Any other one is somebody else's, and refused.
    pub(crate) fn take_marks(&self, inventory: &mut Inventory) -> Result<Marked, Error> {
        let mut marked = Marked::new();
        for (pid, process) in &mut inventory.processes {
            let Some(log) = self.logs.get(pid) else { continue };
            let spans = marked.entry(*pid).or_default();
            let protected =
                |mapping: &&mut Mapping| mapping.flags.contains(VmFlags::UFFD_WRITE_PROTECT);
            for mapping in process.mappings.iter_mut().filter(protected) {
                let ours = log.own_part(mapping);
                if ours.is_empty() {
                    continue;
                }
                mapping.flags.0 &= !VmFlags::UFFD_WRITE_PROTECT.0;
                if can_log(mapping) {
                    for part in ours {
                        kernel::pagemap::push(spans, part.start, part.end);
                    }
                }
            }
        }
        refuse_foreign(inventory, None)?;
        Ok(marked)
    }

    /// Looks once more for direct I/O, into a tree that stands still: a device may have written behind
    /// the protection's back since, so that no copy counts if there is any.
    pub(crate) fn doubt(&mut self, inventory: &Inventory) {
        if self.logs.is_empty() {
            return;
        }
        if let Some(path) = direct_io(inventory) {
            // Said later: nothing is logged while the target stands still.
            self.warnings.push(format!(
                "{path} was opened for direct I/O during the dump: all memory was copied frozen"
            ));
            self.logs.values_mut().for_each(DirtyLog::forget);
        }
    }

    /// Sorts the logged pages of a process that stands still; `spans` are its marked mappings.
    pub(crate) fn sort(&mut self, pages: &mut Pages, spans: &[PageRun]) -> Result<(), Error> {
        let Some(log) = self.logs.get_mut(&pages.pid) else { return Ok(()) };
        let Sorted { changed, kept, guards } = log.sort(spans, self.protect)?;
        pages.runs = changed;
        pages.kept = kept;
        pages.guards = guards;
        pages.rounds = log.take_rounds();
        Ok(())
    }

    /// Stops logging. The target may run.
    pub(crate) fn end(&mut self) {
        for log in std::mem::take(&mut self.logs).into_values() {
            log.end();
        }
    }

    /// Lets logging go on for the next dump, with what is protected now being in this checkpoint.
    pub(crate) fn keep(&mut self, options: &DumpOptions) {
        let logs = std::mem::take(&mut self.logs).into_iter();
        let fds: BTreeMap<_, _> = logs.map(|(pid, log)| (pid, log.into_fd())).collect();
        if fds.is_empty() {
            return;
        }
        let (program, dirty_logs) = (&options.uffd_holder, &options.dirty_logs);
        if let Err(error) = uffd_holder::start(program, dirty_logs, options.pid, &self.id, &fds) {
            self.warn(&format!("changes cannot be tracked from here on: {error}"));
        }
    }

    fn warn(&mut self, what: &str) {
        self.warnings.push(what.to_owned());
    }

    /// Writes the page maps of what was copied into folders, and links the parents: the checkpoint's is the newest
    /// of them.
    pub(crate) fn encode(
        &self,
        writer: &ImageWriter,
        inventory: &InventoryEntry,
        numbers: &Numbers,
    ) -> Result<(), Error> {
        let folders = self.folders(writer)?;
        for (&pid, log) in &self.logs {
            log.encode(&folders, numbers.named(pid)?)?;
        }
        let inside = match self.first {
            First::Inside => &folders[..],
            First::Nowhere | First::Here => &[],
        };
        for (depth, folder) in inside.iter().enumerate() {
            // Known by another name: it lacks what was written later, so that nothing must be
            // relative to it.
            let inventory =
                InventoryEntry { dump_criu_run_id: Some(unique_id()), ..inventory.clone() };
            folder.write_one(&names::inventory(), &inventory)?;
            if depth > 0 {
                folder.link_parent(Path::new(".."))?;
            }
        }
        if let Some(newest) = inside.len().checked_sub(1) {
            writer.link_parent(names::PRE_COPIES[newest].as_ref())?;
        }
        match (&self.parent, inside.first()) {
            (Some((parent, entry)), Some(oldest)) => {
                oldest.link_checkpoint(&Path::new("..").join(parent), entry.clone())?;
            }
            (Some((parent, entry)), None) => {
                writer.here().link_checkpoint(parent, entry.clone())?;
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// How many pages of these that are left to a parent were copied early.
    pub(crate) fn pages_of(&self, sets: &[Pages]) -> u64 {
        let of = |pages: &Pages| {
            self.logs.get(&pages.pid).map_or(0, |log| pages.in_parent_of(&log.copied()))
        };
        sets.iter().map(of).sum()
    }

    /// Bytes that were copied into folders.
    pub(crate) fn bytes(&self) -> u64 {
        self.logs.values().map(DirtyLog::stored_bytes).sum()
    }
}

/// Ends the logging of the tree below `root` that an earlier dump let go on; whether there was
/// any.
pub(crate) fn end_dirty_log(
    dirty_logs: &Path,
    root: HostPid,
    inventory: &Inventory,
) -> Result<bool, Error> {
    let Some(taken) = uffd_holder::take(dirty_logs, root) else { return Ok(false) };
    for (pid, fd) in taken.fds {
        if let Some(process) = inventory.processes.get(&pid) {
            match DirtyLog::resume(process, fd, &[], 1) {
                Ok(log) => log.into_iter().for_each(DirtyLog::end),
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(true)
}

/// A name that no other dump has.
fn unique_id() -> String {
    let id = kernel::sysctl::read("/proc/sys/kernel/random/uuid").unwrap_or_default();
    match id.trim() {
        "" => format!("{}-{:?}", std::process::id(), std::time::SystemTime::now()),
        id => id.to_owned(),
    }
}

/// Mappings that bear our marks, by process.
pub(crate) type Marked = BTreeMap<HostPid, Vec<PageRun>>;

/// Fails if a thread stood still for longer than the tree may.
fn check(handover: Duration, limit: Option<Duration>) -> Result<(), Error> {
    match limit.filter(|limit| handover > *limit) {
        Some(limit) => Err(Error::FrozenTooLong {
            step: "hand over what memory is tracked by",
            limit,
            account: Box::new(FrozenAccount { handover, ..FrozenAccount::default() }),
        }),
        None => Ok(()),
    }
}

fn begin(
    process: &Process,
    finder: &mut GadgetFinder,
    gadgets: &BTreeMap<HostPid, Gadgets>,
    worth: (u64, u64),
    threads: usize,
) -> Result<Option<DirtyLog>, Error> {
    let pid = process.pid;
    let gadgets = match gadgets.get(&pid) {
        Some(gadgets) => *gadgets,
        None => finder.find(process).map_err(|source| Error::Inject { pid, source })?,
    };
    DirtyLog::begin(process, &gadgets, worth, threads)
}

/// Bytes of memory that a process has for itself, about.
pub(super) fn private_bytes(pid: HostPid) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let mut fields = text.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0u64));
    let (resident, file) = (fields.nth(1).unwrap_or(0), fields.next().unwrap_or(0));
    resident.saturating_sub(file) * kernel::pagemap::PAGE_SIZE
}

/// Refuses memory that is write-protected by a userfaultfd of somebody else's: its pages could
/// not be told from ours.
fn refuse_foreign(inventory: &Inventory, ours: Option<&Taken>) -> Result<(), Error> {
    let mut found = Vec::new();
    let is_ours = |pid: &HostPid| ours.is_some_and(|taken| taken.fds.contains_key(pid));
    for process in inventory.processes.values().filter(|process| !is_ours(&process.pid)) {
        let protected = |flags: VmFlags| flags.contains(VmFlags::UFFD_WRITE_PROTECT);
        for mapping in process.mappings.iter().filter(|mapping| protected(mapping.flags)) {
            found.push(WRITE_PROTECTED.of(process.pid, object_of(mapping)));
        }
    }
    match inventory.processes.keys().next() {
        Some(&root) if !found.is_empty() => Err(Error::Refused { root, found }),
        _ => Ok(()),
    }
}

/// What a device may write into memory through, behind the back of the page tables.
fn direct_io(inventory: &Inventory) -> Option<String> {
    // A request of asynchronous I/O holds its file, which may be closed.
    let mut mappings = inventory.processes.values().flat_map(|process| &process.mappings);
    if mappings.any(|mapping| mapping.kind == MappingKind::AioRing) {
        return Some("a ring of asynchronous I/O".to_owned());
    }
    let files = inventory.processes.values().flat_map(|process| &process.files);
    if let Some(file) = files.clone().find(|file| writes_memory(file)) {
        return Some(file.target.to_string_lossy().into_owned());
    }
    let direct = libc::O_DIRECT.cast_unsigned();
    // On a pipe the flag means packets.
    let mut direct =
        files.filter(|file| file.flags & direct != 0 && file.mode & libc::S_IFMT != libc::S_IFIFO);
    direct.next().map(|file| file.target.to_string_lossy().into_owned())
}
