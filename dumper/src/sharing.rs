//! What the tree holds together with processes outside of it: refused, as a restore would cut it in two.
//!
//! An open file *description* of something that has a name (a log, `/dev/null`, a terminal) may be shared with
//! others, and is carried: it is opened again by its name, and only the file position is no longer
//! shared. So is a pipe of which others hold both ends (that of a job server, or one by which a parent
//! learns that all have ended): it goes on without the tree, and is joined again. So is, where it is asked for, any
//! pipe that leads outside, as engines hand a restore others in the place of those.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use collector::sharing::{self, Hidden, Hold, Kind, Peculiar, Shared, Unaccounted, is_candidate};
use collector::{Collector, Inventory, OpenFile, Process};
use ids::HostPid;
use kernel::pidfd::PidFd;
use kernel::procfs::{Dir, ProcFile, Stat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use support::peculiar::of_bits;
use support::sharing::{Holder, Thing, held_by_kernel, held_outside};
use support::{Refusal, Unsupported};

use crate::error::Error;
use crate::files::Rings;
use crate::files::{self, FileReference};
use crate::mounts::Automounts;
use crate::rings;

/// What was found out while the tree ran.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Something had more references than there were holders of it, or a holder outside.
    is_in_doubt: bool,
    /// What was looked at: process, descriptor, device and inode.
    seen: HashSet<(HostPid, i32, u64, u64)>,
    pids: Vec<HostPid>,
    /// Pipes may lead out of the tree.
    external_pipes: bool,
    /// Pipes (by inode) that others keep as they are, or that may lead out of the tree, with the machine's boot.
    pub(crate) joined: BTreeMap<u64, u64>,
    /// Options of sockets (by inode) that no call reads back.
    pub(crate) hidden: BTreeMap<u64, Hidden>,
}

/// Looks at what a running tree holds, with the files that are on their way to it, `sent`; an empty list if
/// all of it is its own.
pub(crate) fn look(
    collector: &mut Collector,
    root: HostPid,
    inventory: &Inventory,
    sent: &[OpenFile],
    external_pipes: bool,
) -> Result<(Known, Vec<Unsupported>), Error> {
    let failed = |source| Error::Inventory { pid: root, source };
    let mut found = collector.sharing(inventory, sent).map_err(failed)?;
    // Who looks at the tree holds copies of its descriptors for a moment, under a mark: he may have let go of both since he was
    // seen to have the one. Whoever is seen twice has it for himself.
    for _ in 0..LOOKS {
        if found.shared.iter().all(is_the_same_twice) {
            break;
        }
        let again = collector.sharing(inventory, sent).map_err(failed)?;
        let is_the_same = again.shared == found.shared;
        found = again;
        if is_the_same {
            break;
        }
    }
    if found.unseen > 0 {
        tracing::warn!(
            processes = found.unseen,
            "there are processes that may not be looked into: what one of them shares with the tree (event files, memory, both ends of a \
             pipe) is cut in two by a restore"
        );
    }
    let mut known = Known {
        // The kernel takes up a map without a descriptor more of it.
        is_in_doubt: !found.unaccounted.is_empty() || has_maps(inventory),
        seen: all_candidates(inventory).collect(),
        pids: inventory.processes.keys().copied().collect(),
        external_pipes,
        joined: joined(&found.shared, external_pipes),
        hidden: hidden(&found.peculiar),
    };
    if found.unseen > 0 && external_pipes {
        let held = half_pipes(inventory).into_iter().filter(|(_, half)| is_held(*half));
        let boot = kernel::boot::boot();
        known.joined.extend(held.filter_map(|(number, _)| Some((number, boot?))));
    }
    let shared = found.shared.iter().filter(|shared| !known.joins(shared));
    let refused = shared.filter(|shared| !is_the_same_twice(shared));
    // No call holds a map itself, so what does is there to stay.
    let used = found.unaccounted.iter().filter(|it| it.shared.kind == Kind::Map && it.others > 0);
    let refused = refused.chain(used.map(|used| &used.shared));
    let mut refusals: Vec<_> = refused.map(|shared| unsupported(root, shared)).collect();
    // What is not there in another look may be there in the frozen one.
    known.is_in_doubt |= !refusals.is_empty();
    refusals.extend(found.peculiar.iter().flat_map(|peculiar| {
        let object = object(peculiar.hold, &peculiar.target);
        of_bits(peculiar.bits).map(move |refusal| refusal.of(peculiar.pid, object.clone()))
    }));
    Ok((known, refusals))
}

/// Looks again, at a tree that stands still, if something may have come to be shared since, or was not to
/// be told. `sent` are the files on their way to it.
pub(crate) fn look_again(
    known: &Known,
    collector: &mut Collector,
    root: HostPid,
    frozen: &Inventory,
    (sent, rings, automounts): (&[OpenFile], &Rings, &Automounts),
) -> Result<Vec<Unsupported>, Error> {
    let is_in_doubt = known.is_in_doubt || !sent.is_empty();
    if !is_in_doubt && !has_left(known, frozen) && !has_new(known, frozen) {
        return Ok(Vec::new());
    }
    let failed = |source| Error::Inventory { pid: root, source };
    let mut found = collector.sharing(frozen, sent).map_err(failed)?;
    // Others may look into it just now, as whoever reads /proc/PID/fdinfo does.
    for _ in 0..LOOKS {
        if found.unaccounted.is_empty() && found.shared.iter().all(|shared| known.joins(shared)) {
            break;
        }
        found = collector.sharing(frozen, sent).map_err(failed)?;
    }
    let shared = found.shared.iter().filter(|shared| !known.joins(shared));
    // What is registered with a ring is held by that, and a pipe by the autofs that asks by it.
    let unaccounted = found.unaccounted.iter().filter(|thing| {
        let automounts = pipe(&thing.shared).map_or(0, |inode| automounts.that_ask_by(inode));
        !rings::hold(rings, frozen, thing) && !are_references(thing, automounts)
    });
    let refusals = shared
        .chain(unaccounted.map(|thing| &thing.shared))
        .filter(|shared| !is_the_same_twice(shared));
    Ok(refusals.map(|shared| unsupported(root, shared)).collect())
}

/// Whether something has so many references that no process accounts for, and no more.
fn are_references(thing: &Unaccounted, count: usize) -> bool {
    let more: u64 = thing.descriptions.iter().map(|(.., more)| more).sum();
    thing.contexts == 0 && thing.others.saturating_add(more) == count as u64
}

/// Whether two of it are as good as one.
fn is_the_same_twice(shared: &Shared) -> bool {
    let open = || {
        let path = match shared.hold {
            Hold::Descriptor(fd) => format!("/proc/{}/fd/{fd}", shared.pid),
            Hold::Mapping(start) => {
                let link = mapping_link(shared.pid, start).ok_or(io::ErrorKind::NotFound)?;
                format!("/proc/{}/map_files/{link}", shared.pid)
            }
        };
        File::open(path)
    };
    files::is_the_same_twice(&shared.target, &open)
}

/// The name in `map_files` of the mapping that begins at an address.
fn mapping_link(pid: HostPid, start: u64) -> Option<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/map_files")).ok()?;
    let mut names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.find(|name| name.strip_prefix(&format!("{start:x}-")).is_some())
}

/// The pipes that are joined again: those that others keep as they are, or all that lead outside.
fn joined(shared: &[Shared], external: bool) -> BTreeMap<u64, u64> {
    let Some(boot) = kernel::boot::boot() else { return BTreeMap::new() };
    let outlive = shared.iter().filter(|shared| shared.outlives || external);
    outlive.filter_map(|shared| Some((pipe(shared)?, boot))).collect()
}

impl Known {
    /// Whether this is a pipe that is known to be joined again, and can be.
    fn joins(&self, shared: &Shared) -> bool {
        let is_kept = shared.outlives || self.external_pipes;
        is_kept && pipe(shared).is_some_and(|inode| self.joined.contains_key(&inode))
    }
}

/// What the link text of a pipe begins with.
const PIPE: &str = "pipe:[";

/// The inode of a pipe.
fn pipe(shared: &Shared) -> Option<u64> {
    inode(&shared.target, PIPE)
}

/// The number in the link text of a pipe or socket.
fn inode(target: &std::ffi::OsStr, prefix: &str) -> Option<u64> {
    target.to_str()?.strip_prefix(prefix)?.strip_suffix(']')?.parse().ok()
}

/// Options of sockets that no call reads back.
fn hidden(peculiar: &[Peculiar]) -> BTreeMap<u64, Hidden> {
    let known = peculiar.iter().filter(|socket| socket.hidden != Hidden::default());
    known.filter_map(|socket| Some((inode(&socket.target, "socket:[")?, socket.hidden))).collect()
}

/// The pipes of which the tree has one end only, by their inodes, each with a process and a descriptor that has it.
fn half_pipes(inventory: &Inventory) -> BTreeMap<u64, (HostPid, i32)> {
    const BOTH: u32 = 3;
    let mut pipes: BTreeMap<u64, (u32, (HostPid, i32))> = BTreeMap::new();
    for process in inventory.processes.values() {
        for file in &process.files {
            let Some(number) = inode(&file.target, PIPE) else { continue };
            let ends = match file.flags.cast_signed() & libc::O_ACCMODE {
                libc::O_RDONLY => 1,
                libc::O_WRONLY => 2,
                _ => BOTH,
            };
            pipes.entry(number).or_insert((0, (process.pid, file.fd))).0 |= ends;
        }
    }
    let halves = pipes.into_iter().filter(|(_, (ends, _))| *ends != BOTH);
    halves.map(|(number, (_, half))| (number, half)).collect()
}

/// Whether somebody has the other end of half a pipe, as the pipe tells.
fn is_held((pid, fd): (HostPid, i32)) -> bool {
    let Ok(end) = PidFd::open(pid).and_then(|process| process.get(fd)) else { return false };
    let mut ends = [PollFd::new(end.as_fd(), PollFlags::empty())];
    let nobody = PollFlags::POLLHUP | PollFlags::POLLERR;
    poll(&mut ends, PollTimeout::ZERO).is_ok()
        && !ends[0].revents().is_some_and(|told| told.intersects(nobody))
}

fn has_maps(inventory: &Inventory) -> bool {
    let mut files = inventory.processes.values().flat_map(|process| &process.files);
    files.any(|file| sharing::is_map(&file.target))
}

/// How often holders outside, and references that nobody accounts for, are doubted.
const LOOKS: usize = 3;

/// Whether a process lives that belonged to the tree before.
fn has_left(known: &Known, frozen: &Inventory) -> bool {
    let gone = known.pids.iter().filter(|pid| !frozen.processes.contains_key(pid));
    gone.into_iter().any(|pid| Dir::open(*pid).is_ok())
}

/// Whether the tree has opened anything meanwhile that could be somebody else's as well.
fn has_new(known: &Known, frozen: &Inventory) -> bool {
    frozen.processes.values().any(|process| match frozen.different_files(process.pid) {
        Some(different) => different.iter().any(|fd| {
            let index = process.files.binary_search_by_key(fd, |file| file.fd);
            let file = index.ok().and_then(|index| process.files.get(index));
            file.and_then(|file| candidate(process.pid, file))
                .is_some_and(|file| !known.seen.contains(&file))
        }),
        None => candidates(process).any(|file| !known.seen.contains(&file)),
    })
}

fn all_candidates(inventory: &Inventory) -> impl Iterator<Item = (HostPid, i32, u64, u64)> {
    inventory.processes.values().flat_map(candidates)
}

fn candidates(process: &Process) -> impl Iterator<Item = (HostPid, i32, u64, u64)> {
    process.files.iter().filter_map(|file| candidate(process.pid, file))
}

fn candidate(pid: HostPid, file: &OpenFile) -> Option<(HostPid, i32, u64, u64)> {
    is_candidate(file).then_some((pid, file.fd, file.device, file.inode))
}

fn unsupported(root: HostPid, shared: &Shared) -> Unsupported {
    let thing = match shared.kind {
        Kind::Pipe => Thing::Pipe,
        Kind::Socket => Thing::Socket,
        Kind::Eventfd | Kind::Anonymous => Thing::Anonymous,
        Kind::Map => Thing::Map,
        Kind::DeletedFile => Thing::DeletedFile,
        Kind::SharedMemory => Thing::Memory,
    };
    let refusal = match shared.outside.iter().next() {
        Some((&pid, hold)) => {
            let place = (hold.to_string(), matches!(hold, Hold::Mapping(_)));
            held_by(root, thing, pid, place, shared.outside.len() == 1)
        }
        None => held_by_kernel(thing),
    };
    if shared.pid == HostPid::own() {
        // No process of the tree has it yet.
        return refusal
            .of(root, format!("a file on its way ({})", shared.target.to_string_lossy()));
    }
    refusal.of(shared.pid, object(shared.hold, &shared.target))
}

/// A process outside of the tree holds something as well; `place` says where, and whether that is a mapping. It is
/// `alone` if no other process does.
pub(crate) fn held_by(
    root: HostPid,
    thing: Thing,
    pid: HostPid,
    (place, by_mapping): (String, bool),
    alone: bool,
) -> Refusal {
    let (command, common) = (command(pid), common(root, pid));
    held_outside(thing, &Holder { pid, command, place, by_mapping, alone, common })
}

fn object(hold: Hold, target: &std::ffi::OsStr) -> String {
    format!("{} ({})", place(hold), target.to_string_lossy())
}

const fn place(hold: Hold) -> FileReference {
    match hold {
        Hold::Descriptor(fd) => FileReference::Descriptor(fd),
        Hold::Mapping(start) => FileReference::Mapping(start),
    }
}

/// The nearest common ancestor of two processes, with its command: a dump of its tree would have what both hold. `None` if that tree has
/// the dumper in it, or is all of the machine.
fn common(root: HostPid, outside: HostPid) -> Option<(HostPid, String)> {
    let above = ancestors(root);
    let own = ancestors(HostPid::own());
    let common = ancestors(outside).into_iter().find(|pid| above.contains(pid));
    let common = common.filter(|pid| pid.get() > 1 && !own.contains(pid))?;
    Some((common, command(common)))
}

/// A process and those above it.
fn ancestors(pid: HostPid) -> Vec<HostPid> {
    let mut all = vec![pid];
    while let Some(&last) = all.last()
        && let Ok(stat) = Dir::open(last).and_then(|dir| Stat::read(&dir))
        && let Some(parent) = stat.ppid.filter(|parent| !all.contains(parent))
    {
        all.push(parent);
    }
    all
}

fn command(pid: HostPid) -> String {
    let stat = Dir::open(pid).and_then(|dir| Stat::read(&dir));
    stat.map_or_else(|_| "it has ended".to_owned(), |stat| stat.comm.to_string_lossy().into_owned())
}
