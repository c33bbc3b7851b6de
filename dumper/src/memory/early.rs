//! Copying memory while the target runs.
//!
//! The first round copies everything that is worth it into a parent checkpoint inside the one that
//! is being made; further rounds copy what was written meanwhile into memory, until little is
//! left or it does not become less. What the target then waits for is the rest.

use std::collections::BTreeMap;

use collector::{Inventory, Process, VmFlags};
use images::messages::InventoryEntry;
use images::{ImageWriter, names};
use kernel::pagemap::PageRun;

use super::pages::Pages;
use super::store::available_memory;
use super::tracked::{Sorted, Tracked, trackable};
use crate::clock::Clock;
use crate::error::{Error, Obstacle};
use crate::inject::{CodeFinder, Codes};

/// Bytes of private memory from which on tracking pays.
const WORTH_TRACKING: u64 = 16 << 20;
/// Bytes in mappings that lie side by side from which on they are tracked.
const WORTH_REGISTERING: u64 = 256 << 10;
/// Bytes that are little enough to be copied while the target stands still.
const LITTLE: u64 = 512 << 10;
/// Rounds after the first.
const ROUNDS: u32 = 16;
/// Rounds after which not much less was left than before.
const PATIENCE: u32 = 2;

/// What was copied while the target ran, and the tracking of what it writes.
#[derive(Debug, Default)]
pub(crate) struct Early {
    tracked: BTreeMap<i32, Tracked>,
    /// Bytes that the last round copied.
    last_round: u64,
}

impl Early {
    /// Starts to track what is worth it, and copies it.
    pub(crate) fn copy(
        &mut self,
        inventory: &Inventory,
        finder: &mut CodeFinder,
        codes: &BTreeMap<i32, Codes>,
        writer: &ImageWriter,
        clock: &Clock,
    ) -> Result<(), Error> {
        refuse_foreign(inventory)?;
        if let Some(path) = direct_io(inventory) {
            tracing::info!(path, "a file is open for direct I/O: memory is copied frozen");
            return Ok(());
        }
        for process in inventory.processes.values() {
            if private_bytes(process.pid) < WORTH_TRACKING {
                continue;
            }
            match begin(process, finder, codes) {
                Ok(tracked) => self.tracked.extend(tracked.map(|tracked| (process.pid, tracked))),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::info!(pid = process.pid, error, "memory is copied frozen");
                }
            }
        }
        if self.tracked.is_empty() {
            return Ok(());
        }
        let folder = writer.pre_copy()?;
        for tracked in self.tracked.values_mut() {
            self.last_round += tracked.first_round(&folder)?;
            clock.check("copy memory that is in use")?;
        }
        Ok(())
    }

    /// Copies what was written meanwhile, again and again. The last thing before the target is
    /// stopped.
    pub(crate) fn copy_again(&mut self, clock: &Clock) -> Result<(), Error> {
        if self.tracked.is_empty() {
            return Ok(());
        }
        let budget = available_memory() / 4;
        let mut taken = 0;
        let mut in_vain = 0;
        for round in 1..=ROUNDS {
            let mut copied = 0;
            for tracked in self.tracked.values_mut() {
                copied += tracked.next_round(budget.saturating_sub(taken + copied))?;
            }
            clock.check("copy memory that is in use")?;
            tracing::debug!(round, bytes = copied, "memory was copied again");
            taken += copied;
            in_vain += u32::from(copied > self.last_round / 4 * 3);
            self.last_round = copied;
            if copied <= LITTLE || in_vain > PATIENCE || taken > budget {
                break;
            }
        }
        Ok(())
    }

    /// Whether nothing is tracked.
    pub(crate) fn is_empty(&self) -> bool {
        self.tracked.is_empty()
    }

    /// Bytes that will have to be copied while the target stands still, of a tree that holds about
    /// `resident` bytes.
    pub(crate) fn expected(&self, resident: u64) -> u64 {
        let covered: u64 = self.tracked.values().map(Tracked::covered_bytes).sum();
        match self.tracked.is_empty() {
            true => resident,
            // As much as is written in the worst of cases, between the last look and the freeze.
            false => resident.saturating_sub(covered) + resident / 64 + (32 << 20),
        }
    }

    /// Takes our own marks off the mappings of an inventory. What they were on, by process.
    pub(crate) fn take_marks(&self, inventory: &mut Inventory) -> Marked {
        let mut marked = Marked::new();
        for (pid, process) in &mut inventory.processes {
            if !self.tracked.contains_key(pid) {
                continue;
            }
            let spans = marked.entry(*pid).or_default();
            for mapping in &mut process.mappings {
                if mapping.flags.contains(VmFlags::UFFD_WRITE_PROTECT) {
                    mapping.flags.0 &= !VmFlags::UFFD_WRITE_PROTECT.0;
                    if trackable(mapping) {
                        kernel::pagemap::push(spans, mapping.start, mapping.end);
                    }
                }
            }
        }
        marked
    }

    /// Sorts the tracked pages of a process that stands still; `spans` are its marked mappings.
    pub(crate) fn sort(&mut self, pages: &mut Pages, spans: &[PageRun]) -> Result<(), Error> {
        let Some(tracked) = self.tracked.get_mut(&pages.pid) else { return Ok(()) };
        let Sorted { changed, kept } = tracked.sort(spans, false)?;
        pages.runs = changed;
        pages.kept = kept;
        pages.rounds = tracked.take_rounds();
        Ok(())
    }

    /// Stops to track. The target may run.
    pub(crate) fn end(&mut self) {
        for tracked in std::mem::take(&mut self.tracked).into_values() {
            tracked.end();
        }
    }

    /// Writes the page maps of what was copied first, and links it to the checkpoint.
    pub(crate) fn encode(
        &self,
        writer: &ImageWriter,
        inventory: &InventoryEntry,
    ) -> Result<(), Error> {
        if self.tracked.is_empty() {
            return Ok(());
        }
        let folder = writer.pre_copy()?;
        for tracked in self.tracked.values() {
            tracked.encode_first(&folder)?;
        }
        folder.write_one(&names::inventory(), inventory)?;
        Ok(writer.link_parent(names::PRE_COPY.as_ref())?)
    }

    /// Bytes that were copied first.
    pub(crate) fn bytes(&self) -> u64 {
        self.tracked.values().map(Tracked::first_bytes).sum()
    }
}

/// Mappings that bear our marks, by process.
pub(crate) type Marked = BTreeMap<i32, Vec<PageRun>>;

fn begin(
    process: &Process,
    finder: &mut CodeFinder,
    codes: &BTreeMap<i32, Codes>,
) -> Result<Option<Tracked>, Error> {
    let pid = process.pid;
    let codes = match codes.get(&pid) {
        Some(codes) => *codes,
        None => finder.find(process).map_err(|source| Error::Inject { pid, source })?,
    };
    Tracked::begin(process, &codes, WORTH_REGISTERING)
}

/// Bytes of memory that a process has for itself, about.
pub(super) fn private_bytes(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let mut fields = text.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0u64));
    let (resident, file) = (fields.nth(1).unwrap_or(0), fields.next().unwrap_or(0));
    resident.saturating_sub(file) * kernel::pagemap::PAGE_SIZE
}

/// Refuses memory that is write-protected by a userfaultfd of somebody else's: its pages could
/// not be told from ours.
fn refuse_foreign(inventory: &Inventory) -> Result<(), Error> {
    let mut obstacles = Vec::new();
    for process in inventory.processes.values() {
        let protected = |flags: VmFlags| flags.contains(VmFlags::UFFD_WRITE_PROTECT);
        for mapping in process.mappings.iter().filter(|mapping| protected(mapping.flags)) {
            obstacles.push(Obstacle {
                pid: process.pid,
                object: format!("mapping {:#x}-{:#x}", mapping.start, mapping.end),
                reason: "its pages are write-protected by a userfaultfd",
                remedy: "unregister it before the dump",
            });
        }
    }
    match inventory.processes.keys().next() {
        Some(&root) if !obstacles.is_empty() => Err(Error::Refused { root, obstacles }),
        _ => Ok(()),
    }
}

/// A file through which a device may write into memory behind the back of the page tables.
fn direct_io(inventory: &Inventory) -> Option<String> {
    let files = inventory.processes.values().flat_map(|process| &process.files);
    let direct = libc::O_DIRECT.cast_unsigned();
    // On a pipe the flag means packets.
    let mut direct =
        files.filter(|file| file.flags & direct != 0 && file.mode & libc::S_IFMT != libc::S_IFIFO);
    direct.next().map(|file| file.target.to_string_lossy().into_owned())
}
