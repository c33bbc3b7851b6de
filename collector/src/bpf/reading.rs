//! The iterators, run and read: what inventories and all that goes with them are made of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::hash::BuildHasherDefault;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use ebpf_common::{
    KIND_PLACE, KIND_SIGNAL_ACTIONS, KIND_TASK, PlaceRecord, SignalAction, SignalActionsRecord,
    TaskRecord,
};
use ids::HostPid;
use kernel::bpf::{IterTarget, iter_create, iter_link};
use zerocopy::FromBytes;

use super::files::{AddressHash, ReadFile};
use super::landlock::Landlock;
use super::programs::What;
use super::records::{device, records, with_name};
use super::tracks::Watch;
use super::{BpfError, Loaded, fallback};
use crate::deadline::Deadline;
use crate::{Mapping, NamedFile, Process};

/// Reads inventories by eBPF iterators. It keeps links and buffers from one to the next.
#[derive(Debug)]
pub struct BpfSource {
    pub(super) programs: Loaded,
    pub(super) links: HashMap<(What, IterTarget), OwnedFd>,
    pub(super) output: Vec<u8>,
    /// Names of descriptions by their addresses; kept for its memory.
    pub(super) descriptions: HashMap<u64, u64, BuildHasherDefault<AddressHash>>,
    /// The mapping that every native process has without having made it ([`arch::memory::GATE`]), which
    /// /proc shows and the iterator does not.
    pub(super) gate: Option<Mapping>,
    /// What is counted, while it is.
    pub(super) watch: Option<Watch>,
    /// When to stop, with what has been read until then.
    pub(crate) until: Deadline,
    /// Processes of the last inventory whose files were not read.
    pub(crate) spared: usize,
    /// How landlock domains are told, once that was found out.
    pub(super) landlock: Option<Landlock>,
    /// How the address of a page is made, once that was found out; 0 where it cannot be.
    pub(super) pages: Option<u64>,
    /// What /proc adds to the times at which tasks began.
    pub(super) boot_shift: i64,
}

/// More links than this are not kept: a machine's worth of processes has gone by.
pub(super) const LINKS_KEPT: usize = 4096;

/// The threads of one process as the iterator gave them.
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) threads: Vec<TaskRecord>,
    pub(super) actions: Vec<SignalAction>,
    /// Program, working and root directory, in the order of [`place`]; `None` where /proc has to be
    /// asked.
    pub(super) places: [Option<NamedFile>; 3],
}

/// Whether to look at all threads of the machine in one go (3 to 4 µs each, measured) rather than
/// at `count` of them or of the processes one by one (10 µs each, by an iterator or by /proc).
pub(crate) fn quicker_at_once(count: usize) -> bool {
    /// No machine has so few threads that this pays.
    const FEW: usize = 8;
    if count < FEW {
        return false;
    }
    // The fourth field of /proc/loadavg is RUNNING/ALL tasks.
    let all: Option<usize> = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split(['/', ' ']).nth(4)?.parse().ok());
    all.is_some_and(|all| count.saturating_mul(3) > all)
}

/// A process, with what only this source needs to know of it.
pub(super) struct FoundProcess {
    pub(super) process: Process,
    pub(super) leader: TaskRecord,
    /// A thread that has memory and descriptors to show, if any has.
    pub(super) speaker: Option<TaskRecord>,
    /// How many threads have those descriptors.
    pub(super) users: usize,
    /// Which files have been read.
    pub(super) read: Vec<ReadFile>,
    /// The descriptors are those of before.
    pub(super) same_descriptors: bool,
    /// Descriptors of files that are not what they were.
    pub(super) differing: Vec<i32>,
}

impl FoundProcess {
    /// A thread that has memory and descriptors to show.
    pub(super) fn speaker(&self) -> Option<HostPid> {
        self.speaker.as_ref().and_then(|speaker| HostPid::new(speaker.ids.tid))
    }
}

impl BpfSource {
    /// Runs an iterator to its end, into the buffer.
    pub(super) fn iterate(&mut self, what: What, target: IterTarget) -> Result<(), BpfError> {
        self.iterate_over(what, target, None)
    }

    /// Runs an iterator into the buffer, to its end or over so many objects that it writes out, if that
    /// is a number: the last of them may come soon.
    pub(super) fn iterate_over(
        &mut self,
        what: What,
        target: IterTarget,
        mut objects: Option<usize>,
    ) -> Result<(), BpfError> {
        let failed = |source| BpfError::Iterate { what: what.text(), of: target, source };
        let program = self.programs.iterator(what as usize);
        let link = match self.links.entry((what, target)) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(iter_link(program, target).map_err(|e| failed(e.into()))?)
            }
        };
        let mut iterator =
            File::from(iter_create(link.as_fd()).map_err(|errno| failed(errno.into()))?);
        // The kernel hands out at most its own buffer of 32 KiB at a time.
        const ROOM: usize = 64 << 10;
        // A process with a million mappings stays below this.
        const LIMIT: usize = 256 << 20;
        let mut filled = 0;
        // The kernel goes on until it has as much as is asked for. With one byte asked for it has one
        // object, and hands out the rest of that the next time.
        let mut is_rest = false;
        while !self.until.is_over() && objects != Some(0) {
            if filled > LIMIT {
                return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
            }
            if self.output.len() < filled + ROOM {
                self.output.resize(filled + ROOM, 0);
            }
            let room = if objects.is_some() && !is_rest { 1 } else { ROOM };
            match iterator.read(&mut self.output[filled..filled + room]) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    if let Some(objects) = &mut objects {
                        *objects -= usize::from(is_rest);
                        is_rest = !is_rest;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // The kernel's way to say that the task is busy: read on.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.output.truncate(filled);
        Ok(())
    }

    /// The threads of these processes, of those that are there.
    pub(super) fn tasks(&mut self, pids: &[HostPid]) -> Result<BTreeMap<HostPid, Tasks>, BpfError> {
        let mut all = BTreeMap::new();
        if pids.len() > 1 && quicker_at_once(pids.len()) {
            let wanted: HashSet<HostPid> = pids.iter().copied().collect();
            self.read_tasks(IterTarget::All, &mut all)?;
            all.retain(|pid, _| wanted.contains(pid));
        } else {
            for &pid in pids {
                self.read_tasks(IterTarget::Process(pid), &mut all)?;
            }
            // A thread's number finds its process.
            all.retain(|pid, _| pids.contains(pid));
        }
        Ok(all)
    }

    pub(super) fn read_tasks(
        &mut self,
        target: IterTarget,
        all: &mut BTreeMap<HostPid, Tasks>,
    ) -> Result<(), BpfError> {
        self.iterate(What::Threads, target)?;
        let bad = || BpfError::Record { what: What::Threads.text(), of: target };
        for record in records(&self.output) {
            match record.ok_or_else(bad)? {
                (KIND_TASK, bytes) => {
                    let (task, _) = TaskRecord::read_from_prefix(bytes).map_err(|_| bad())?;
                    let Some(pid) = HostPid::new(task.ids.tgid) else { continue };
                    all.entry(pid).or_default().threads.push(task);
                }
                (KIND_SIGNAL_ACTIONS, bytes) => {
                    let (tgid, actions) = signal_actions(bytes).ok_or_else(bad)?;
                    let Some(pid) = HostPid::new(tgid) else { continue };
                    all.entry(pid).or_default().actions = actions;
                }
                (KIND_PLACE, bytes) => {
                    let (place, target) = with_name::<PlaceRecord>(bytes).ok_or_else(bad)?;
                    let Some(pid) = HostPid::new(place.tgid) else { continue };
                    let places = &mut all.entry(pid).or_default().places;
                    if let Some(slot) = places.get_mut(place.place as usize) {
                        *slot = named_file(&place, target);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn named_file(place: &PlaceRecord, target: OsString) -> Option<NamedFile> {
    let known = place.name_bytes != 0 && !fallback::OWN_NUMBERS.contains(&place.magic);
    known.then(|| NamedFile { device: device(place.device), inode: place.inode, target })
}

fn signal_actions(bytes: &[u8]) -> Option<(i32, Vec<SignalAction>)> {
    let (header, mut rest) = SignalActionsRecord::read_from_prefix(bytes).ok()?;
    let mut actions = Vec::with_capacity(ebpf_common::SIGNALS);
    while !rest.is_empty() {
        let (action, behind) = SignalAction::read_from_prefix(rest).ok()?;
        actions.push(action);
        rest = behind;
    }
    Some((header.tgid, actions))
}
