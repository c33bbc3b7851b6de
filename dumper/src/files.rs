//! Open files of every kind: what to capture of them and how to write it.
//!
//! Three steps, one for each phase of a dump: [`Plan::begin`] and [`Plan::prepare`] while the target runs
//! (classify, resolve paths, refuse, read), [`Plan::receive`] and [`Plan::capture`] while it is frozen (what has changed since, and
//! what may have: socket queues, counters), [`Captured::encode`] when it runs again.
//!
//! Everything that a file can be held by gets its id here: descriptors, mappings, the program,
//! the working and the root directory. The ids are those of `files.img`.

mod beside;
mod bpfmap;
mod connections;
mod content;
mod datagrams;
mod devices;
mod diagnosed;
mod encode;
mod epoll;
mod eventfd;
mod fanotify;
mod fifos;
mod file_cache;
mod file_kind;
mod file_reference;
mod held;
mod held_memfd;
mod identity;
mod in_flight;
mod in_networks;
mod inet_sockets;
mod inotify;
mod io_uring;
mod link_remaps;
mod listeners;
mod locks;
mod made_in_task;
mod memfd;
mod mqueue;
mod multicast;
mod neighbours;
mod netlink_sockets;
mod networks;
mod nsfs;
mod open_memory;
mod other_names;
mod other_options;
mod outside;
mod owners;
mod packet_sockets;
mod paths;
mod paths_of_process;
mod pidfd;
mod pipes;
mod problem;
mod queues;
mod regular;
mod sent_files;
mod signalfd;
mod socket_options;
mod sockets;
mod survey;
mod suspects;
mod table;
mod taps;
mod terminals;
mod timerfd;
mod tun;
mod unchanged;
mod unix_order;
mod unix_sockets;
mod userfault;
mod waiting;
mod walk;
mod watched;
mod watched_inside;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use collector::sharing::Hidden;
use collector::{Collector, Inventory, OpenFile, Ring};
use ids::HostPid;
use images::id_map::IdMap;
use images::messages::{FdinfoEntry, FileEntry};
use kernel::descriptors::make_room;
use support::Unsupported;

use crate::mounts::Views;
use crate::numbers::Numbers;
use crate::segment::{Key, Segment};
use crate::served_memory::Userfault;
use beside::Beside;
pub(crate) use connections::Connection;
pub use connections::Connections;
use file_cache::{Contents, FileCache, Keeping, Unchanged};
use file_kind::FileKind;
pub use file_reference::FileReference;
use held::HeldFiles;
use held_memfd::HeldMemfds;
use in_flight::InFlight;
pub use link_remaps::{GivenLinks, LinkRemaps};
use netlink_sockets::may_be_registered;
pub(crate) use networks::Attached;
pub use outside::ExternalUnix;
pub(crate) use paths_of_process::mapping_status;
pub(crate) use waiting::Queued;
pub use watched::Search;

/// Whether two files of a link text, which `open` opens, are as good as one, by their kind.
pub(crate) fn is_the_same_twice(target: &OsStr, open: &dyn Fn() -> io::Result<File>) -> bool {
    const SOME_INODE: u64 = 1;
    table::of_mapped(SOME_INODE, target).is_some_and(|kind| kind.is_the_same_twice(open))
}

/// Whether the kernel may write into memory for an open file behind the back of the page tables, by its kind.
pub(crate) fn writes_memory(file: &OpenFile) -> bool {
    table::of(file).is_some_and(FileKind::writes_memory)
}

/// What the kernel keeps of io_urings, by process and descriptor.
pub(crate) type Rings = BTreeMap<(HostPid, i32), Ring>;

/// What the rest of the dump tells the files part.
#[derive(Clone, Debug, Default)]
pub struct PlanContext {
    /// The root may belong to a session and a terminal outside the tree.
    pub shell_job: bool,
    /// Terminals may have their masters outside the tree, whom a restore gives masters that it makes.
    pub gives_masters: bool,
    /// Which Unix sockets may be connected to processes outside the tree.
    pub external_unix: ExternalUnix,
    /// Open files that a restore is handed, by CRIU's names.
    pub external_files: BTreeSet<String>,
    /// The inode of the socket by which somebody of the tree has asked for the dump.
    pub client: Option<u32>,
    /// Directory that the paths in the images are relative to; `None` for the caller's root.
    pub root: Option<PathBuf>,
    /// The largest deleted file, in allocated bytes, whose contents go into the images.
    pub ghost_limit: u64,
    /// What the kernel keeps of io_urings, by their holders.
    pub rings: BTreeMap<(HostPid, i32), Ring>,
    /// The numbers of POSIX message queues that go into the images, by device and inode.
    pub queues: BTreeMap<(u64, u64), u32>,
    /// What is known of userfaultfds, by their holders.
    pub userfaults: BTreeMap<(HostPid, i32), Userfault>,
    /// Whether locks and leases are carried, or refused.
    pub file_locks: bool,
    /// Pipes (by inode) that others keep as they are, with the boot in which that is so: a restore
    /// joins them again.
    pub joined: BTreeMap<u64, u64>,
    /// Options of sockets (by inode) that no call reads back, as far as the plan was told.
    pub hidden: BTreeMap<u64, Hidden>,
    /// A user asks, who gets no more from a restore than he may make himself.
    pub for_user: bool,
    /// Whether it is noted what is in programs and mapped files, beside their sizes.
    pub contents: bool,
    /// Where the names of watched files are looked for.
    pub search: Search,
    /// What becomes of TCP connections.
    pub connections: Connections,
    /// TCP connections that nobody has accepted yet are left out.
    pub skip_in_flight: bool,
    /// The mount namespaces of the tree that are not the dumper's.
    pub views: Arc<Views>,
    /// What becomes of files that have lost their names.
    pub link_remaps: LinkRemaps,
    /// A device may be dumped by a path that leads to another node of it.
    pub evasive_devices: bool,
}

impl PlanContext {
    /// Largest deleted file that a dump carries unless told otherwise.
    pub const GHOST_LIMIT: u64 = 64 << 20;
}

/// Why the files of a tree were not dumped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Things are open that cannot be dumped: all of them, not only the first.
    #[error("{}", support::said(.0))]
    Refused(Vec<Unsupported>),
    /// What was to end it did, before all was read.
    #[error("read the open files in the time that was given")]
    TooLate,
    /// A kernel interface failed.
    #[error("{operation}")]
    Kernel {
        /// What was done, to what.
        operation: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// What is known of the open files before the target is stopped.
#[derive(Debug, Default)]
pub struct Plan {
    context: PlanContext,
    held: HeldFiles,
    cache: FileCache,
    in_flight: InFlight,
    connections: Vec<Connection>,
    waiting: Vec<Queued>,
    /// Tells others who look that this process does; the last to be closed.
    _mark: Option<OwnedFd>,
}

impl Plan {
    /// Looks for files that are on their way in messages to the processes of `inventory`, which run. This
    /// process has them open until [`Plan::prepare`] has looked at them.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer.
    pub fn begin(inventory: &Inventory) -> Result<Self, Error> {
        // Without one, whoever looks at the same time may take this process for one that shares these files.
        let mut plan = Self { _mark: collector::looking::mark().ok(), ..Self::default() };
        plan.in_flight =
            sent_files::gather(inventory, &mut plan.held, None).map_err(sent_files::in_queues)?;
        Ok(plan)
    }

    /// Looks at every file that the processes of `inventory` hold, while they run. The files' marks
    /// in `inventory` were taken before: that is what tells later which have changed since.
    ///
    /// It keeps a descriptor for nearly each of them, which the caller's limit must allow.
    ///
    /// Returns everything that cannot be dumped now. Something that vanishes meanwhile is neither
    /// that nor an error: it is looked at again in [`Plan::capture`].
    ///
    /// # Errors
    ///
    /// If the kernel does not answer.
    pub(crate) fn prepare(
        &mut self,
        inventory: &Inventory,
        numbers: &Numbers,
        context: PlanContext,
        collector: &mut Collector,
    ) -> Result<Vec<Unsupported>, Error> {
        self.context = context;
        let files: usize = inventory.processes.values().map(|process| process.files.len()).sum();
        if files as u64 > AT_FIRST / 2 {
            make_room(files as u64 * 2).map_err(no_room)?;
        }
        let (mut captured, mut cache, mut refusals) = walk::look(
            &self.context,
            &mut self.held,
            (inventory, numbers),
            FileCache::default(),
            &BTreeMap::new(),
            &mut self.in_flight,
            None,
        )?;
        // What stands in the way of those that wait passes when they are accepted.
        waiting::read(&mut captured, &self.held, collector)?;
        refusals.extend(captured.judge_connections(&self.context).0);
        self.waiting = captured.queued();
        captured.settle(&mut self.held);
        let connections = captured.connections().to_vec();
        cache.files = captured.files;
        cache.make_room(cache.files.len());
        self.cache = cache;
        self.connections = connections;
        self.in_flight = InFlight::default();
        Ok(refusals)
    }

    /// Takes what the kernel keeps of the io_urings of a frozen target.
    pub(crate) fn know_rings(&mut self, rings: Rings) {
        self.context.rings = rings;
    }

    /// Takes what is known of the userfaultfds of a frozen target.
    pub(crate) fn know_userfaults(&mut self, userfaults: BTreeMap<(HostPid, i32), Userfault>) {
        self.context.userfaults = userfaults;
    }

    /// Takes the numbers of the message queues of a frozen target that go into the images.
    pub(crate) fn know_queues(&mut self, queues: BTreeMap<(u64, u64), u32>) {
        self.context.queues = queues;
    }

    /// Looks for files that are on their way in messages to a frozen target, and reads those messages, once.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer; [`Error::TooLate`] once `is_late`.
    pub fn receive(&mut self, frozen: &Inventory, is_late: &dyn Fn() -> bool) -> Result<(), Error> {
        let gathered = sent_files::gather(frozen, &mut self.held, Some(is_late));
        self.in_flight = gathered.map_err(sent_files::in_queues)?;
        Ok(())
    }

    /// The files on their way, as this process has them open.
    pub fn in_flight(&self) -> impl Iterator<Item = &OpenFile> {
        self.in_flight.files()
    }

    /// Bytes of memory behind descriptors, about, mapped or not.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held.beside.get().map_or(0, HeldMemfds::bytes)
    }

    /// Waits for a moment in which no connection waits at a socket of the tree, the last thing before that is stopped.
    pub(crate) fn await_quiet(&mut self) {
        if !self.context.skip_in_flight {
            listeners::await_quiet(&mut self.held);
        }
    }

    /// Looks whether connections wait, the first thing when it has been stopped.
    pub(crate) fn look_for_quiet(&mut self) {
        listeners::look_again(&mut self.held);
    }

    /// The network namespaces in which the tree has sockets or processes, beside this process's own, by the kernel's
    /// ids.
    pub(crate) fn networks(&self) -> &BTreeMap<u64, Arc<OwnedFd>> {
        self.held.networks.others()
    }

    /// What is attached to network devices of programs in these.
    pub(crate) const fn attached(&self) -> &Attached {
        &self.held.networks.attached
    }

    /// Reads what has changed and what only a frozen target has, once: `frozen` is its inventory, taken now, and `tables`
    /// gives the id of each process's descriptor table (`TaskKobjIdsEntry.files_id`; processes
    /// that share a table have equal ids).
    ///
    /// Only reads: the target is as it was whether this succeeds or not. Drop the plan when the
    /// target runs again, and soon: it holds sockets and pipes of the target, and letting go of
    /// them takes time that is not to be taken from a frozen one.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] for what has been opened or has changed since and cannot be dumped;
    /// [`Error::TooLate`] once `is_late`, which is asked between any two longer steps.
    pub(crate) fn capture(
        &mut self,
        frozen: &Inventory,
        numbers: &Numbers,
        tables: &BTreeMap<HostPid, u32>,
        is_late: &dyn Fn() -> bool,
        collector: &mut Collector,
    ) -> Result<Captured, Error> {
        self.context.link_remaps.freeze();
        let cache = std::mem::take(&mut self.cache);
        let (context, held) = (&self.context, &mut self.held);
        let in_flight = &mut self.in_flight;
        let (mut captured, cache, mut refusals) =
            walk::look(context, held, (frozen, numbers), cache, tables, in_flight, Some(is_late))?;
        refusals.extend(waiting::read(&mut captured, held, collector)?);
        let (refused, of_waiting) = captured.judge_connections(context);
        refusals.extend(refused.into_iter().chain(of_waiting));
        if !refusals.is_empty() {
            return Err(Error::Refused(refusals));
        }
        Ok(Captured { cached: cache.files, contents: cache.contents, ..captured })
    }
}

/// So many descriptors there is room for before a dump knows how many it will hold. Their table takes 9 bytes each.
const AT_FIRST: u64 = 16_384;

/// Raises this process's limit of open files as far as it goes, and makes room for descriptors: the table of a
/// process must not grow while the target stands still ([`make_room`]).
pub(crate) fn raise_limit() -> Result<(), Error> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let failed = |errno: nix::errno::Errno| Error::Kernel {
        operation: "raise the limit of open files".to_owned(),
        source: errno.into(),
    };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(failed)?;
    }
    make_room(AT_FIRST).map_err(no_room)
}

fn no_room(source: io::Error) -> Error {
    Error::Kernel { operation: "make room for descriptors".to_owned(), source }
}

/// The open files of a frozen tree, in memory.
#[derive(Debug, Default)]
pub struct Captured {
    /// Ids of files that are not held by a descriptor, by process and place.
    places: BTreeMap<(HostPid, FileReference), u32>,
    /// The same by the file itself, of mapped ones too.
    paths: HashMap<paths::Key, u32>,
    /// The mount namespaces of processes that are not in the dumper's.
    namespaces: BTreeMap<HostPid, u64>,
    files: Vec<FileEntry>,
    /// The entries of the plan. Those that `keeping` and `unchanged` name still hold, and are written.
    cached: Vec<FileEntry>,
    keeping: Vec<Keeping>,
    unchanged: Vec<Unchanged>,
    /// What the plan has read of pipes and fifos. It is written of those that `unchanged` names.
    contents: Contents,
    tables: BTreeMap<u32, Vec<FdinfoEntry>>,
    beside: Beside,
    /// What is lost, though the checkpoint is whole.
    pub(crate) warnings: Vec<String>,
    /// How many sockets have packets that wait and are left behind.
    left_behind: usize,
    /// Sockets outside of the tree that its own may be connected to.
    outside: Vec<FileEntry>,
    /// The numbers that namespaces beside the dumper's have in the images, by their kinds and the kernel's ids.
    numbers_of_namespaces: BTreeMap<(&'static str, u64), u32>,
    /// How ids are called in the user namespace of the tree.
    ids: IdMap,
}

impl Captured {
    /// Id of the program that `pid` runs (`MmEntry.exe_file_id`).
    #[must_use]
    pub fn exe(&self, pid: HostPid) -> Option<u32> {
        self.places.get(&(pid, FileReference::Exe)).copied()
    }

    /// What is to be told of packets, connections and registrations that are not in the images.
    fn left_out(&self) -> Vec<String> {
        let mut told = Vec::new();
        let files = self.files.iter().chain(&self.cached);
        let may_be_registered = files.filter(|file| may_be_registered(file)).count();
        if may_be_registered > 0 {
            told.push(format!(
                "{may_be_registered} generic or audit netlink sockets: what they may have registered for in the kernel (statistics of \
                 tasks that end, frames of nl80211, to be the audit daemon) is shown nowhere, and is not in the images"
            ));
        }
        if self.left_behind > 0 {
            told.push(format!(
                "packets that waited in {} raw or packet sockets, copies of what passed, or in network \
                 devices of programs are not in the images",
                self.left_behind
            ));
        }
        told
    }

    /// Takes the numbers that namespaces beside the dumper's have in the images, by their kinds and the kernel's ids, and
    /// how ids are called in the user namespace.
    pub(crate) fn take_namespaces(
        &mut self,
        namespaces: BTreeMap<(&'static str, u64), u32>,
        ids: IdMap,
    ) {
        (self.numbers_of_namespaces, self.ids) = (namespaces, ids);
    }

    /// Memory that is held by descriptors, by device and inode; it is read with that of the tasks.
    pub(crate) fn take_memory(&mut self) -> BTreeMap<Key, Segment> {
        self.beside.take_memory()
    }

    /// Id of the working directory of `pid` (`FsEntry.cwd_id`).
    #[must_use]
    pub fn cwd(&self, pid: HostPid) -> Option<u32> {
        self.places.get(&(pid, FileReference::Cwd)).copied()
    }

    /// Id of the root directory of `pid` (`FsEntry.root_id`).
    #[must_use]
    pub fn root(&self, pid: HostPid) -> Option<u32> {
        self.places.get(&(pid, FileReference::Root)).copied()
    }
}
