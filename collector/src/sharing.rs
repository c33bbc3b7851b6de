//! Who else holds what a tree holds: things that a checkpoint cannot take out of the hands of others.
//!
//! What has a name is found again by it, and may be open elsewhere as often as one likes. What has none is
//! made anew by a restore, and is cut in two if somebody outside of the tree holds it as well: a pipe, an
//! event file, a socket, anonymous shared memory, the contents of a deleted file that is written. Such a
//! thing is recognised by the object itself (open file description, inode), whatever it is reached by.
//!
//! The kernel counts the references to each. If those of the tree are all there are, nobody else has to be
//! looked at; if not, all processes of the machine are, for who has the others. References that no process
//! accounts for are a call's that is being made, or those of the kernel: a message on its way, a device. Of
//! a tree that stands still they are not a call's.
//!
//! The order of holders among themselves is that of the passes; only which they are matters.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;

use ids::HostPid;
use inventory::{is_shared_anonymous, is_system_v};

use crate::holds::{Class, Ends, Held, is_the_same_twice};
pub use crate::holds::{Failure, Hidden, Hold, is_candidate};
use crate::looking::is_passing;
use crate::{Error, Inventory, OpenFile, Process, Sources};

/// What is held that has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pipe, or a fifo: what is in it is nowhere else.
    Pipe,
    /// A socket.
    Socket,
    /// An eventfd, whose count somebody may hold without it.
    Eventfd,
    /// A BPF map, which programs and names in a BPF file system hold without it.
    Map,
    /// Another that has a link text with `anon_inode:`: it tells of events, or does work.
    Anonymous,
    /// A deleted file that somebody may write, or a memfd.
    DeletedFile,
    /// Anonymous memory.
    SharedMemory,
}

/// Something that the tree does not hold alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// A process of the tree that holds it, the lowest.
    pub pid: HostPid,
    /// Where it holds it.
    pub hold: Hold,
    /// The link text or the name of the mapping.
    pub target: std::ffi::OsString,
    /// What it is.
    pub kind: Kind,
    /// The processes outside, each with one place in which it holds it. If there is none, the kernel
    /// itself holds it.
    pub outside: BTreeMap<HostPid, Hold>,
    /// A pipe of which others hold both ends: it goes on as it is when the tree has gone, nobody reads an
    /// end of it and what is in it stays there. So it can be joined again.
    pub outlives: bool,
}

/// Something with more references than there are holders of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unaccounted {
    /// What it is.
    pub shared: Shared,
    /// Of each open file description with more references: somebody who holds it, where, and how many more there are.
    pub descriptions: Vec<(HostPid, Hold, u64)>,
    /// Of an eventfd, the references to what it counts with beside that of the open file.
    pub contexts: u64,
    /// References of another kind: descriptions of a pipe that nobody is known to have open; of a BPF map 1 if anything uses it.
    pub others: u64,
}

/// What a tree does not hold alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// What processes outside hold as well.
    pub shared: Vec<Shared>,
    /// What has more references than there are holders among the processes. If the tree stands still, the
    /// kernel itself holds it, or a message on its way does; if it runs, it may as well be a call that is
    /// being made.
    pub unaccounted: Vec<Unaccounted>,
    /// Sockets with something that they do not tell themselves; known only from eBPF.
    pub peculiar: Vec<Peculiar>,
    /// How many processes may not be looked into, which may hold anything as well; none where eBPF sees them.
    pub unseen: usize,
}

/// A socket with something that it does not tell itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peculiar {
    /// A process that has it.
    pub pid: HostPid,
    /// Where.
    pub hold: Hold,
    /// The link text.
    pub target: std::ffi::OsString,
    /// What it has that cannot be carried: bits of [`ebpf_common::peculiar`].
    pub bits: u32,
    /// What it has that can.
    pub hidden: Hidden,
}

fn is_peculiar(held: &&Held) -> bool {
    held.peculiar != 0 || held.hidden != Hidden::default()
}

fn peculiarities(inventory: &Inventory, holders: &[Held]) -> Vec<Peculiar> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for held in holders.iter().filter(is_peculiar) {
        let Some(process) = inventory.processes.get(&held.pid) else { continue };
        if !seen.insert(held.description) {
            continue;
        }
        let (pid, hold, target) = (held.pid, held.hold, target(process, held.hold));
        found.push(Peculiar { pid, hold, target, bits: held.peculiar, hidden: held.hidden });
    }
    found
}

/// What was found out from holders.
#[derive(Debug, Default, PartialEq, Eq)]
struct Judged {
    shared: Vec<Shared>,
    /// More references than holders have been seen of something.
    has_unknown: bool,
    /// What has more references than there are holders of it.
    unaccounted: Vec<Unaccounted>,
}

/// Names what may not be cut in two: a description, or all that is open of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Description(u64),
    Inode((u64, u64)),
}

/// A tree, with what is on its way to it.
struct Tree<'a> {
    inventory: &'a Inventory,
    /// Files in messages, by the descriptors of the process that looks: it has each once for each message.
    sent: HashMap<i32, &'a OpenFile>,
    /// The process that looks, which is not somebody outside.
    own: HostPid,
    /// Whether another process only looks, too.
    is_passing: fn(HostPid) -> bool,
}

impl<'a> Tree<'a> {
    fn of(
        inventory: &'a Inventory,
        sent: &'a [OpenFile],
        own: HostPid,
        is_passing: fn(HostPid) -> bool,
    ) -> Self {
        Self { inventory, sent: sent.iter().map(|file| (file.fd, file)).collect(), own, is_passing }
    }

    /// What is on its way, if a holder has it for that.
    fn sent(&self, held: &Held) -> Option<&'a OpenFile> {
        match held.hold {
            Hold::Descriptor(fd) if held.pid == self.own => self.sent.get(&fd).copied(),
            _ => None,
        }
    }

    fn has(&self, held: &Held) -> bool {
        self.inventory.processes.contains_key(&held.pid) || self.sent(held).is_some()
    }

    /// The link text, or the name of a mapping.
    fn target(&self, held: &Held) -> std::ffi::OsString {
        match (self.sent(held), self.inventory.processes.get(&held.pid)) {
            (Some(file), _) => file.target.clone(),
            (None, Some(process)) => target(process, held.hold),
            (None, None) => std::ffi::OsString::new(),
        }
    }
}

/// Judges what `holders` say of the things that a tree holds.
fn judge(tree: &Tree<'_>, holders: &[Held]) -> Judged {
    let is_inside = |held: &&Held| tree.has(held);
    // What is in a table that processes share is held once, by the one that the table is known by.
    let counts = |held: &&Held| {
        let process = tree.inventory.processes.get(&held.pid);
        let table = process.and_then(|process| process.tables.files);
        table.is_none_or(|table| table == held.pid) || !matches!(held.hold, Hold::Descriptor(_))
    };
    let holders: Vec<Held> = holders.iter().filter(counts).copied().collect();
    let mut wanted: HashMap<Key, (Kind, &Held)> = HashMap::new();
    for held in holders.iter().filter(is_inside) {
        let Some(kind) = kind(held, &tree.target(held)) else { continue };
        let lowest = wanted.entry(key(held)).or_insert((kind, held));
        if (held.pid, held.hold) < (lowest.1.pid, lowest.1.hold) {
            lowest.1 = held;
        }
    }
    let mut by_key: HashMap<Key, Vec<&Held>> = HashMap::new();
    for held in &holders {
        if wanted.contains_key(&key(held)) {
            by_key.entry(key(held)).or_default().push(held);
        }
    }
    let mut things: Vec<(Key, (Kind, &Held))> = wanted.into_iter().collect();
    things.sort_unstable_by_key(|(_, (_, held))| (held.pid, held.hold));
    let mut judged = Judged::default();
    for (key, (kind, lowest)) in things {
        let all = by_key.get(&key).map_or(&[][..], Vec::as_slice);
        let is_outside = |held: &&&Held| {
            !is_inside(held) && held.pid != tree.own && !(tree.is_passing)(held.pid)
        };
        let outside = all.iter().filter(is_outside).map(|held| (held.pid, held.hold));
        let target = tree.target(lowest);
        let is_pipe = target.as_bytes().starts_with(b"pipe:[");
        let has = |is: fn(Ends) -> bool| all.iter().filter(is_outside).any(|held| is(held.ends));
        let shared = Shared {
            pid: lowest.pid,
            hold: lowest.hold,
            target,
            kind,
            outside: outside.collect(),
            outlives: is_pipe && has(|ends| ends.reads) && has(|ends| ends.writes),
        };
        let (is_unknown, more) = unaccounted(tree, kind, all);
        judged.has_unknown |= is_unknown;
        if !shared.outside.is_empty() {
            judged.shared.push(shared);
        } else if let Some(More { descriptions, contexts, others }) = more {
            judged.unaccounted.push(Unaccounted { shared, descriptions, contexts, others });
        }
    }
    judged
}

const fn key(held: &Held) -> Key {
    match held.class {
        Class::Pipe | Class::Named | Class::File { .. } => Key::Inode(held.inode),
        Class::Socket | Class::Anonymous => Key::Description(held.description),
    }
}

/// Whether there are references that none of these holders accounts for; and whether there are if what
/// only hints at others (names) is left out.
fn unaccounted(tree: &Tree<'_>, kind: Kind, holders: &[&Held]) -> (bool, Option<More>) {
    let mut descriptions: BTreeMap<u64, u64> = BTreeMap::new();
    let mut programs = HashSet::new();
    for held in holders {
        let runs = held.is_program && programs.insert((held.pid, held.description));
        // The message itself holds it as well.
        let is_sent = tree.sent(held).is_some();
        let count = 1 + u64::from(runs) + u64::from(is_sent);
        *descriptions.entry(held.description).or_default() += count;
    }
    let all = descriptions.len() as u64;
    let (mut more, mut is_unknown) = (More::default(), false);
    for held in holders {
        let Some(references) = held.references else {
            is_unknown = true;
            // Of these only the kernel's counts tell.
            more.others = more.others.max(u64::from(kind == Kind::Map));
            continue;
        };
        // Each description once, by the first of its holders.
        if let Some(own) = descriptions.remove(&held.description)
            && references.description > own
        {
            more.descriptions.push((held.pid, held.hold, references.description - own));
        }
        let others = match kind {
            Kind::Pipe => references.descriptions.saturating_sub(all),
            Kind::Map => u64::from(references.descriptions != 1),
            _ => 0,
        };
        more.others = more.others.max(others);
        if kind == Kind::Eventfd {
            more.contexts = more.contexts.max(references.context.saturating_sub(1));
        }
        is_unknown |= matches!(kind, Kind::DeletedFile | Kind::SharedMemory)
            && (references.by_name > all || references.names > 1);
    }
    let more = (more != More::default()).then_some(more);
    (is_unknown || more.is_some(), more)
}

/// References that no holder accounts for, as [`Unaccounted`] has them.
#[derive(Debug, Default, PartialEq, Eq)]
struct More {
    descriptions: Vec<(HostPid, Hold, u64)>,
    contexts: u64,
    others: u64,
}

/// What the tree holds, by its link text or the name of the mapping, if it is something that must not be cut in
/// two.
fn kind(held: &Held, target: &std::ffi::OsStr) -> Option<Kind> {
    match held.class {
        Class::Named => None,
        Class::Pipe => Some(Kind::Pipe),
        Class::Socket => Some(Kind::Socket),
        Class::Anonymous if target == "anon_inode:[eventfd]" => Some(Kind::Eventfd),
        Class::Anonymous if is_map(target) => Some(Kind::Map),
        Class::Anonymous => (!is_the_same_twice(target)).then_some(Kind::Anonymous),
        Class::File { is_written } => {
            let name = target.as_bytes();
            match held.hold {
                // The kernel does not count who writes a memfd.
                _ if !is_written && !name.starts_with(b"/memfd:") => None,
                // The kernel counts their attachments, which whoever dumps them compares.
                _ if is_system_v(name) => None,
                Hold::Mapping(_) if is_shared_anonymous(name) => Some(Kind::SharedMemory),
                _ => Some(Kind::DeletedFile),
            }
        }
    }
}

/// Whether it is a BPF map, by the link text.
#[must_use]
pub fn is_map(target: &std::ffi::OsStr) -> bool {
    target == "anon_inode:bpf-map"
}

fn target(process: &Process, hold: Hold) -> std::ffi::OsString {
    let found = match hold {
        Hold::Descriptor(fd) => {
            let index = process.files.binary_search_by_key(&fd, |file| file.fd);
            index.ok().and_then(|index| process.files.get(index)).map(|file| &file.target)
        }
        Hold::Mapping(start) => {
            let index = process.mappings.binary_search_by_key(&start, |mapping| mapping.start);
            index.ok().and_then(|index| process.mappings.get(index)).map(|mapping| &mapping.name)
        }
    };
    found.cloned().unwrap_or_default()
}

/// Whether any process of an inventory holds anything that this is about.
fn has_candidates(inventory: &Inventory) -> bool {
    inventory.processes.values().any(|process| {
        process.files.iter().any(is_candidate) || process.mappings.iter().any(is_mapped_candidate)
    })
}

/// Whether any process has a file open that it may have written to.
fn has_written(inventory: &Inventory) -> bool {
    let mut files = inventory.processes.values().flat_map(|process| &process.files);
    files.any(|file| {
        file.mode & libc::S_IFMT == libc::S_IFREG
            && file.flags.cast_signed() & libc::O_ACCMODE != libc::O_RDONLY
    })
}

fn is_mapped_candidate(mapping: &crate::Mapping) -> bool {
    let name = mapping.name.as_bytes();
    mapping.inode != 0
        && mapping.flags.contains(crate::VmFlags::MAY_SHARE)
        && (name.ends_with(b" (deleted)") || is_shared_anonymous(name))
}

/// Finds out who else holds what the processes of `inventory` do.
pub(crate) fn look(
    sources: &mut Sources,
    inventory: &Inventory,
    sent: &[OpenFile],
) -> Result<Sharing, Error> {
    let is_seeing = matches!(sources, Sources::Bpf(_));
    if !(has_candidates(inventory) || is_seeing && has_written(inventory)) {
        return Ok(Sharing::default());
    }
    let own = HostPid::own();
    let tree = Tree::of(inventory, sent, own, is_passing);
    let (mut peculiar, mut unseen) = (Vec::new(), 0);
    let mut judged = match sources {
        Sources::Bpf(source) => {
            let near: Vec<HostPid> = inventory.processes.keys().copied().chain([own]).collect();
            let held = source.held(Some(&near))?;
            peculiar = peculiarities(inventory, &held);
            let judged = judge(&tree, &held);
            match judged.has_unknown {
                true => judge(&tree, &source.held(None)?),
                false => judged,
            }
        }
        Sources::Proc(_) => {
            let held = crate::proc_holds::held(inventory, sent);
            let (held, denied) = held.map_err(Error::Holders)?;
            unseen = denied;
            judge(&tree, &held)
        }
    };
    drop_descendants(&mut judged.shared, inventory);
    Ok(Sharing { shared: judged.shared, unaccounted: judged.unaccounted, peculiar, unseen })
}

/// Of these holders outside of a tree those that do not descend from it: what has been started since the
/// inventory was taken belongs to the tree.
fn drop_descendants(shared: &mut Vec<Shared>, inventory: &Inventory) {
    let pids: BTreeSet<HostPid> =
        shared.iter().flat_map(|shared| shared.outside.keys().copied()).collect();
    let strangers: HashSet<HostPid> =
        pids.into_iter().filter(|pid| is_stranger(*pid, inventory)).collect();
    for shared in shared.iter_mut() {
        shared.outside.retain(|pid, _| strangers.contains(pid));
    }
    shared.retain(|shared| !shared.outside.is_empty());
}

/// Whether a process is there and has none of the inventory above it.
fn is_stranger(pid: HostPid, inventory: &Inventory) -> bool {
    use kernel::procfs::{Dir, ProcFile, Stat};
    let mut above = pid;
    loop {
        if inventory.processes.contains_key(&above) {
            return false;
        }
        match Dir::open(above).and_then(|dir| Stat::read(&dir)) {
            Ok(stat) if above == pid && stat.is_dead() => return false,
            Ok(stat) => match stat.ppid.filter(|parent| *parent != above) {
                Some(parent) => above = parent,
                None => return true,
            },
            // Its parent may have ended in between; it itself has gone, and holds nothing.
            Err(_) => return above != pid,
        }
    }
}

#[cfg(test)]
#[path = "sharing_tests.rs"]
mod tests;
