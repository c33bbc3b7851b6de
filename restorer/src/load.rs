//! Stage 1 of a restore: all images are read and checked in themselves, before anything is made.
//!
//! What is refused here, and by name, is what no host could help with: objects that stasis does
//! not restore (yet). What depends on the host is refused by [`crate::host`].

mod filters;
mod locks;
mod memfd;
mod memory;
pub(crate) mod registers;
mod semaphore_undo;
mod store;
mod task;
mod traced;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;

use arch::image::ThreadImage;
use arch::regs::Abi;
use ids::{ImagePid, ImagePids};
pub(crate) use images::checkpoint::{Mapping, State};
use images::id_map::IdMap;
use images::messages::{
    CgroupEntry, FsEntry, MmEntry, NestedPidsEntry, SECCOMP_MODE_STRICT, TaskCoreEntry,
    TaskKobjIdsEntry, ThreadCoreEntry,
};
use images::{Images, MappingKind};

pub(crate) use filters::Chain;
use filters::Filters;
pub(crate) use memfd::HugeMemfd;
use memfd::Nameless;
pub(crate) use memory::{SharedSegment, SystemVSegment, huge_page_shift};
use store::Store;
pub(crate) use task::{capability_set, ids_of, personality, signal_of};

use crate::Joined;
use crate::error::Error;
use crate::files::{FileImages, FileMemory};
use crate::levels::{Levels, Member};
use crate::locks::Locks;
use crate::namespaces::Sets;
use crate::nested_users::is_nested;
use crate::run::Run;
use crate::semaphore_undo::OfThread;
use crate::users::Users;

/// A checkpoint that was read and checked ([`images::Checkpoint`]), in the form in which it is restored: registers are
/// decoded, and of all memory it is known which file has the pages.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// Processes, parents before their children; the first is the root.
    pub(crate) processes: Vec<Process>,
    /// Shared anonymous memory.
    pub(crate) segments: Vec<SharedSegment>,
    /// Shared memory of System V.
    pub(crate) system_v: Vec<SystemVSegment>,
    /// Pages files that the processes and segments refer to by index.
    pub(crate) stores: Arc<[File]>,
    /// memfds in huge pages.
    pub(crate) huge_memfds: Vec<HugeMemfd>,
    /// Open files.
    pub(crate) files: FileImages,
    /// Locks on them.
    pub(crate) locks: Locks,
    /// What the end of their threads undoes in semaphores.
    pub(crate) semaphore_undo: Vec<OfThread>,
    /// Namespaces that they were in.
    pub(crate) namespaces: Sets,
    /// Numbers in pid namespaces below that of the root.
    pub(crate) levels: Arc<Levels>,
    /// Control groups, if they were dumped.
    pub(crate) cgroups: Option<CgroupEntry>,
    /// The set of control groups that the dumper was in.
    pub(crate) own_set: u32,
    /// There may be breakpoints of uprobes in memory.
    pub(crate) has_uprobes: bool,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: ImagePid,
    /// The root's is outside the tree.
    pub(crate) ppid: Option<ImagePid>,
    /// `None` for a group or session whose leader is outside of the pid namespace.
    pub(crate) pgid: Option<ImagePid>,
    pub(crate) sid: Option<ImagePid>,
    /// What it is called in pid namespaces below that of the root, if it is in one.
    pub(crate) nested: Option<NestedPidsEntry>,
    pub(crate) state: State,
    /// What belongs to the whole process.
    pub(crate) core: TaskCoreEntry,
    /// What only a living process has.
    pub(crate) body: Option<Body>,
}

/// What only a living process has.
#[derive(Debug)]
pub(crate) struct Body {
    /// The leader first.
    pub(crate) threads: Vec<Thread>,
    /// The process, by its index, whose memory it has as well: mappings and pages are that one's.
    pub(crate) lender: Option<usize>,
    pub(crate) mm: MmEntry,
    pub(crate) mappings: Vec<Mapping>,
    /// What its private memory holds, in ascending order of addresses.
    pub(crate) runs: Vec<Run>,
    /// What its vDSO held.
    pub(crate) vdso: Vec<Run>,
    pub(crate) fs: FsEntry,
    /// Which kernel objects it shares with others.
    pub(crate) ids: TaskKobjIdsEntry,
}

/// A thread.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) tid: ImagePid,
    /// All its numbers.
    pub(crate) levels: ImagePids,
    /// What is the processor's.
    pub(crate) processor: ThreadImage,
    pub(crate) core: ThreadCoreEntry,
    /// Its filters of system calls, the one first that was installed first.
    pub(crate) filters: Chain,
}

impl Thread {
    /// Whether it is in seccomp's strict mode.
    pub(crate) fn is_strict(&self) -> bool {
        self.core.seccomp_mode == Some(SECCOMP_MODE_STRICT)
    }

    /// Whether some of its system calls are forbidden.
    pub(crate) fn is_filtered(&self) -> bool {
        self.is_strict() || !self.filters.is_empty()
    }
}

impl Body {
    /// Whose code it is, all of it.
    pub(crate) fn abi(&self) -> Abi {
        self.threads.first().map_or(Abi::Native, |leader| leader.processor.abi())
    }

    /// Components of the processor's extended state that the process has asked to use, as a mask.
    pub(crate) fn permitted_components(&self) -> u64 {
        self.threads.first().map_or(0, |leader| leader.processor.permitted())
    }
}

impl Checkpoint {
    /// Reads and checks all images of `dir`, of a tree that is to be in namespaces that are `joined`.
    pub(crate) fn load(dir: &Images, joined: Joined) -> Result<Self, Error> {
        // Whatever is referred to is there, and nothing is there twice.
        let mut read = images::Checkpoint::load(dir.clone())?;
        let own = dir.inventory().root_ids.as_ref().and_then(|ids| ids.ipc_ns_id);
        let users = users(&read)?;
        let nameless = Nameless::of(&read);
        let mut store = Store::of(dir)?;
        let mut processes = Vec::new();
        let mut filters = Filters::of(std::mem::take(&mut read.seccomp));
        for process in std::mem::take(&mut read.processes) {
            processes.push(task::load(process, (&nameless, &mut filters), &mut store)?);
        }
        check_sharing(&processes)?;
        traced::check(&processes)?;
        let semaphore_undo = semaphore_undo::load(&processes, &read.ipc_namespaces, own, joined)?;
        let levels = Levels::of(&processes.iter().map(member).collect::<Vec<_>>())?;
        let own_ids = dir.inventory().root_ids.unwrap_or_default();
        if joined.time && own_ids.time_ns_id.is_none() {
            let reason = "it is of a dumper that knew of no time namespaces, so none can be joined";
            return Err(Error::image("the inventory", reason));
        }
        let seen = |process: &Process| {
            Some((process.pid, joined.seen(&process.body.as_ref()?.ids, &own_ids)))
        };
        let living: Vec<_> = processes.iter().filter_map(seen).collect();
        let ids = users.as_ref().map(|users| users.ids.clone()).unwrap_or_default();
        let is_inside = |number: u32| {
            let is_made = !joined.ipc && Some(number) != own;
            is_made && users.as_ref().is_some_and(|users| users.owns(number))
        };
        let (made_inside, made_outside): (Vec<u32>, Vec<u32>) =
            read.ipc_namespaces.keys().partition(|number| is_inside(**number));
        leave_ipc(&ids, &mut read, &made_outside);
        ids.leave_all(&mut read);
        let namespaces =
            Sets::of(&read, (users, &levels), living.iter().map(|(pid, ids)| (*pid, ids)))?;
        // What is in a segment comes from outside.
        leave_ipc(&ids, &mut read, &made_inside);
        let pids = processes.iter().map(|process| process.pid).collect();
        let members = living.iter().flat_map(|(pid, ids)| {
            let numbers = crate::namespaces::numbers(ids).into_iter();
            numbers.filter_map(|(name, number)| Some(((name, number?), *pid)))
        });
        // A file of one that is entered last of all cannot be had.
        let nested = namespaces.nested_users().numbers();
        let members =
            members.filter(|((name, number), _)| *name != "user" || !nested.contains(number));
        let members = members.collect();
        let mut maps = std::mem::take(&mut read.shared_memory);
        let segments = memory::segments(&processes, &nameless, &mut maps, &mut store)?;
        // In a namespace that is joined there is what others have; what nobody has attached is not the tree's.
        let own = own.filter(|_| !joined.ipc);
        let mut system_v = memory::system_v(&read.ipc_namespaces, own, &mut maps, &mut store)?;
        if joined.ipc {
            let attached = attached_segments(&processes);
            system_v.retain(|segment| attached.contains(&u64::from(segment.entry.desc.id)));
        }
        let runs = memory::of_files(maps, &mut store)?;
        let huge_memfds = memfd::huge_memfds(&read, &runs);
        let stores: Arc<[File]> = store.into_files()?.into();
        let memory = FileMemory { runs: runs.into(), stores: Arc::clone(&stores) };
        let taken = std::mem::take(&mut read.locks);
        let (locks, leases) = locks::load(taken, &processes, &read.files.tables)?;
        let mut files = FileImages::load(&mut read, pids, memory)?;
        files.know_members(members);
        *files.leases() = leases;
        let own_set = dir.inventory().root_cg_set.unwrap_or(0);
        let cgroups = read.cgroups;
        Ok(Self {
            has_uprobes: dir.inventory().allow_uprobes == Some(true),
            processes,
            segments,
            system_v,
            stores,
            huge_memfds,
            files,
            locks,
            semaphore_undo,
            namespaces,
            levels: Arc::new(levels),
            cgroups,
            own_set,
        })
    }

    /// Leaves the locks and leases out, if there are any; whether there were.
    pub(crate) fn leave_locks(&mut self) -> bool {
        let leases = std::mem::take(self.files.leases());
        let locks = std::mem::take(&mut self.locks);
        !locks.is_empty() || !leases.is_empty()
    }

    /// Processes that are to live, with what they have.
    pub(crate) fn living(&self) -> impl Iterator<Item = (&Process, &Body)> {
        self.processes.iter().filter_map(|process| Some((process, process.body.as_ref()?)))
    }

    /// The mappings of the memory of a process, be it its own or another's.
    pub(crate) fn mappings<'c>(&'c self, body: &'c Body) -> &'c [Mapping] {
        let lender = body.lender.and_then(|lender| self.processes.get(lender)?.body.as_ref());
        &lender.unwrap_or(body).mappings
    }

    /// Number of threads that are to live.
    pub(crate) fn threads(&self) -> usize {
        self.living().map(|(_, body)| body.threads.len()).sum()
    }

    /// Pages that will be put back, other than those of files ([`FileImages::pages`]).
    pub(crate) fn pages(&self) -> u64 {
        let private = self.living().flat_map(|(_, body)| &body.runs);
        let shared = self.segments.iter().flat_map(|segment| &segment.runs);
        let shared = shared.chain(self.system_v.iter().flat_map(|segment| &segment.runs));
        private.chain(shared).filter(|run| run.stored().is_some()).map(|run| run.pages).sum()
    }
}

/// What is to be known of a process to tell its numbers in all pid namespaces.
fn member(process: &Process) -> Member<'_> {
    let body = process.body.as_ref();
    let threads = body.iter().flat_map(|body| &body.threads).map(|thread| thread.levels.clone());
    Member {
        pid: process.pid,
        parent: process.ppid,
        group: process.pgid,
        session: process.sid,
        ended: match process.state {
            State::Dead { status } => Some(status),
            _ => None,
        },
        nested: process.nested.as_ref(),
        threads: threads.collect(),
        for_children: body.and_then(|body| body.ids.pid_for_children_ns_id),
    }
}

/// The user namespace of the tree's root, if that was not the dumper's.
fn users(read: &images::Checkpoint) -> Result<Option<Users>, Error> {
    let own = read.images.inventory().root_ids.as_ref().and_then(|ids| ids.user_ns_id);
    let of_root = read.processes.first().and_then(|it| it.body.as_ref()?.ids.user_ns_id);
    match of_root.filter(|_| own.is_some() && of_root != own) {
        Some(number) if !is_nested(read, number)? => Users::load(read, number).map(Some),
        _ => Ok(None),
    }
}

/// The ids of System V segments that processes have attached.
fn attached_segments(processes: &[Process]) -> BTreeSet<u64> {
    let mappings = processes.iter().filter_map(|process| process.body.as_ref());
    let mappings = mappings.flat_map(|body| &body.mappings);
    let attached = mappings.filter(|mapping| mapping.kind == MappingKind::SystemV);
    attached.map(|mapping| mapping.vma.shmid).collect()
}

/// Gives what is in these IPC namespaces the ids that are meant outside.
fn leave_ipc(ids: &IdMap, read: &mut images::Checkpoint, numbers: &[u32]) {
    let all = read.ipc_namespaces.iter_mut();
    for (_, namespace) in all.filter(|(number, _)| numbers.contains(number)) {
        namespace.segments.values_mut().for_each(|segment| ids.leave(&mut segment.desc));
        namespace.sets.values_mut().for_each(|set| ids.leave(&mut set.entry.desc));
        namespace.queues.values_mut().for_each(|queue| ids.leave(&mut queue.entry.desc));
        namespace.posix_queues.values_mut().for_each(|queue| ids.leave(&mut queue.entry));
    }
}

/// Memory is one process' own, or that of one who has; signal handlers are shared by those who share memory, and are the same then.
fn check_sharing(processes: &[Process]) -> Result<(), Error> {
    let mut memories: BTreeMap<u32, ImagePid> = BTreeMap::new();
    let mut handlers: BTreeMap<u32, (&Process, u32)> = BTreeMap::new();
    for (process, body) in processes.iter().filter_map(|p| Some((p, p.body.as_ref()?))) {
        let ids = &body.ids;
        let object = || format!("process {}", process.pid);
        let refused = |what, other| {
            let refusal = support::images::shares(what, other);
            Err(Error::refused(refusal.of(process.pid.get(), object())))
        };
        let lender = body.lender.and_then(|lender| processes.get(lender)?.body.as_ref());
        if lender.is_some_and(|lender| lender.abi() != body.abi()) {
            let refusal = support::images::MIXED_CODE;
            return Err(Error::refused(refusal.of(process.pid.get(), object())));
        }
        if body.lender.is_none()
            && let Some(other) = memories.insert(ids.vm_id, process.pid)
        {
            return refused("address space", other);
        }
        let Some((other, memory)) = handlers.insert(ids.sighand_id, (process, ids.vm_id)) else {
            continue;
        };
        if memory != ids.vm_id {
            return refused("signal handlers", other.pid);
        }
        if other.core.sigactions != process.core.sigactions {
            let what =
                format!("its signal handlers are those of process {}, and others", other.pid);
            return Err(Error::image(object(), what));
        }
    }
    Ok(())
}
