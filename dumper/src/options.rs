//! What a dump is asked for, and what it says of itself.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::{CgroupRoot, CgroupsMode};
use collector::Home;
use ids::HostPid;
use images::messages::CpuinfoEntry;
use images::{Cancel, Images, Signer};
use kernel::netfilter::Method as LockMethod;
use kernel::rights::User;
use support::tree::Surroundings;

use crate::cgroup_settings::CgroupProperties;
use crate::files::{Connections, ExternalUnix};
use crate::mounts::MountOptions;

/// What becomes of the tree when its images are safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterDump {
    /// It runs on.
    Resume,
    /// It stays, stopped as by `SIGSTOP`.
    Stop,
    /// It is ended by `SIGKILL`.
    Kill,
}

/// Whose System V segments are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskedSegments {
    pub(crate) root: HostPid,
    /// The kernel's number of the dumper's IPC namespace.
    pub(crate) own: Option<u64>,
    /// Who asks, if that is a user.
    pub(crate) user: Option<u32>,
}

/// What a dump is asked for.
#[derive(Clone, Debug)]
pub struct DumpOptions {
    /// Process at the root of the tree.
    pub pid: HostPid,
    /// What becomes of the tree afterwards.
    pub after: AfterDump,
    /// Find out what would be refused, for how long the tree would stand still, and how large the images would be: all is done as for a tree
    /// that runs on, which it does, whatever `after` says; that only decides what is refused. It goes with [`images::Nowhere`], and with
    /// neither a parent nor tracking nor a signer.
    pub dry_run: bool,
    /// The root may belong to a session (and a terminal) outside the tree.
    pub shell_job: bool,
    /// Terminals may have their masters outside the tree: a restore makes them anew, and gives the masters away.
    pub gives_masters: bool,
    /// Which Unix sockets may be connected to processes outside the tree.
    pub external_unix: ExternalUnix,
    /// Open files that a restore is handed in their place, by CRIU's names: `tty[RDEV:DEV]` of a terminal whose master is
    /// outside the tree, `file[MOUNT:INODE]` of one with a path; the numbers in hexadecimal digits.
    pub external_files: BTreeSet<String>,
    /// Pipes may lead out of the tree: a restore joins them again, or is handed what takes their place.
    pub external_pipes: bool,
    /// The inode of the Unix socket by which somebody of the tree has asked for this dump: who is restored finds
    /// the answer in his end of the connection.
    pub client: Option<u32>,
    /// Root directory that the paths in the images are relative to; `None` for the caller's.
    pub root: Option<PathBuf>,
    /// What is asked about mounts, of a tree that is in another mount namespace.
    pub mounts: MountOptions,
    /// The largest deleted file, in allocated bytes, whose contents go into the images.
    pub ghost_limit: u64,
    /// Where the names of watched files (inotify, fanotify) are looked for that the kernel does not tell.
    pub search: crate::files::Search,
    /// Whether file locks and leases are carried, or refused.
    pub file_locks: bool,
    /// How much is said of its control groups: where the threads are, always; what the groups are, so that
    /// they can be made and set again, unless they are to be ignored.
    pub cgroups: CgroupsMode,
    /// The groups to describe, with all below them, of a hierarchy or of all; without one those that the
    /// tree is in, with all below them.
    pub cgroup_roots: Vec<CgroupRoot>,
    /// Of which hierarchies something is said, by a controller or their whole name; of all if none is listed.
    pub cgroup_controllers: Vec<String>,
    /// Settings beside those that are known.
    pub cgroup_properties: CgroupProperties,
    /// The directory in which all hierarchies are mounted; `None` to look for them.
    pub cgroup_yard: Option<PathBuf>,
    /// The directory of a control group that stops the tree. One that is frozen already is left so.
    pub freeze_cgroup: Option<PathBuf>,
    /// What becomes of TCP connections.
    pub connections: Connections,
    /// TCP connections that nobody has accepted yet are left out.
    pub skip_in_flight: bool,
    /// Network namespaces that are not part of the checkpoint, by the kernel's ids, with what a restore is told
    /// by which stands for each.
    pub external_networks: std::collections::BTreeMap<u64, String>,
    /// Pid namespaces that a restore is given, by the kernel's ids, with what it is told by which.
    pub external_pids: std::collections::BTreeMap<u64, String>,
    /// Processes may have uprobes: their breakpoints are in the memory that is dumped, and the kernel must know them at the restore, too.
    pub allow_uprobes: bool,
    /// Network namespaces come back empty.
    pub empty_networks: bool,
    /// A file that has lost its name, and has others, is given one (`link_remap.N`) beside it, by which a restore
    /// finds it.
    pub link_remap: bool,
    /// How connections are locked while the tree is away; `None` for what this machine has.
    pub network_lock: Option<LockMethod>,
    /// Connections with both ends in the tree are locked, too: a restore by CRIU counts on it.
    pub lock_inside: bool,
    /// A tree that is left stopped counts as one that has ended, as far as the network is concerned: it is ended without a word, and the
    /// restore that follows finds its connections.
    pub stopped_is_away: bool,
    /// If the root is in another network namespace than the dumper, everything in that is locked: it may be one that
    /// stays when the tree has ended, and who asks there for the tree would be told that nobody listens.
    pub lock_namespace: bool,
    /// Directory in which it is written down what would outlive a dump that is killed.
    pub undo: PathBuf,
    /// Who signs the checkpoint when it is safe; nobody, if that is not asked for.
    pub signer: Option<Arc<Signer>>,
    /// How long to go on trying to stop every task, between tries of which all run on.
    pub stop_within: Duration,
    /// How long the tree may stand still, from the first task that is stopped until it is let go
    /// (or, if it is to end, until its state is captured). When that is over the dump is given
    /// up and the tree runs on. The time is looked at after every process and every piece of
    /// memory, so that it is kept to within about a millisecond.
    pub max_freeze: Option<Duration>,
    /// How long the whole dump may take.
    pub timeout: Option<Duration>,
    /// Ends the dump when nobody wants it any more.
    pub cancel: Cancel,
    /// Ask the tasks themselves also for what the kernel's structures tell, read again what by its
    /// mark has not changed, and fail if the answers differ. Frozen times are longer.
    pub cross_check: bool,
    /// Where eBPF programs are found, or left for other dumps.
    pub programs: Home,
    /// Note what is in programs and mapped files (build ids, checksums), so that a restore recognises
    /// other versions of them; otherwise only their sizes.
    pub contents: bool,
    /// A device may be dumped by a path that leads to another node of it.
    pub evasive_devices: bool,
    /// What the images say of the processor (`cpuinfo.img`), for who asks whether another machine's does.
    pub processor: Option<CpuinfoEntry>,
    /// Go on logging what the tree writes when it runs on, for a later dump that has this one as
    /// its parent.
    pub keep_dirty_log: bool,
    /// Checkpoint that holds the pages that have not changed since. If nothing has logged the
    /// changes since then, all pages are dumped.
    pub parent: Option<Images>,
    /// Directory in which uffd holders of logging say what they hold.
    pub dirty_logs: PathBuf,
    /// The `stasis` that a uffd holder is made of.
    pub uffd_holder: PathBuf,
    /// Who asks, if that is somebody who may not do everything: he must be allowed to trace every
    /// task of the tree, before it is stopped and again when it stands still.
    pub on_behalf_of: Option<User>,
}

/// Where uffd holders say what they hold.
pub const DIRTY_LOGS: &str = "/run/stasis/tracks";

/// Where it is written down what would outlive a dump that is killed.
pub const UNDO_DIR: &str = "/run/stasis/undo";

impl DumpOptions {
    /// What really becomes of the tree.
    pub(crate) fn afterwards(&self) -> AfterDump {
        if self.dry_run { AfterDump::Resume } else { self.after }
    }

    /// Whether the tree, for its peers, is away when it has been dumped.
    pub(crate) fn is_away(&self) -> bool {
        match self.afterwards() {
            AfterDump::Kill => true,
            AfterDump::Stop => self.stopped_is_away,
            AfterDump::Resume => false,
        }
    }

    /// Whose System V segments a look is for.
    pub(crate) fn asks_for_segments(&self, around: &Surroundings) -> AskedSegments {
        AskedSegments {
            root: self.pid,
            own: around.namespaces.get("ipc").copied(),
            user: self.on_behalf_of.map(|user| user.uid),
        }
    }

    /// A dump that ends the tree, with nothing else asked for.
    #[must_use]
    pub fn new(pid: HostPid) -> Self {
        Self {
            pid,
            after: AfterDump::Kill,
            dry_run: false,
            shell_job: false,
            gives_masters: false,
            external_unix: ExternalUnix::default(),
            external_files: BTreeSet::new(),
            external_pipes: false,
            client: None,
            root: None,
            mounts: MountOptions::default(),
            ghost_limit: crate::files::PlanContext::GHOST_LIMIT,
            search: crate::files::Search::default(),
            file_locks: true,
            cgroups: CgroupsMode::default(),
            cgroup_roots: Vec::new(),
            cgroup_controllers: Vec::new(),
            cgroup_properties: CgroupProperties::default(),
            cgroup_yard: None,
            freeze_cgroup: None,
            connections: Connections::default(),
            skip_in_flight: false,
            external_networks: Default::default(),
            external_pids: Default::default(),
            allow_uprobes: false,
            empty_networks: false,
            link_remap: false,
            network_lock: None,
            lock_inside: false,
            stopped_is_away: false,
            lock_namespace: false,
            undo: UNDO_DIR.into(),
            signer: None,
            stop_within: Duration::from_secs(5),
            max_freeze: None,
            timeout: None,
            cancel: Cancel::default(),
            cross_check: false,
            programs: Home::default(),
            contents: true,
            evasive_devices: false,
            processor: None,
            keep_dirty_log: false,
            parent: None,
            dirty_logs: DIRTY_LOGS.into(),
            uffd_holder: "/proc/self/exe".into(),
            on_behalf_of: None,
        }
    }
}

/// Where the frozen time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrozenAccount {
    /// Stopping every task.
    pub stop: Duration,
    /// Reading the inventory again.
    pub inventory: Duration,
    /// Registers and signal state by ptrace.
    pub registers: Duration,
    /// What only the tasks know.
    pub parasite: Duration,
    /// Contents of files that live in the kernel: pipes, sockets.
    pub files: Duration,
    /// Memory.
    pub memory: Duration,
    /// Removing the parasite and giving the registers back.
    pub cure: Duration,
    /// Hooks that run while it stands still: what hangs on `post-dump`.
    pub hooks: Duration,
    /// Waiting for the other trees that are dumped together with it.
    pub others: Duration,
    /// From there until it ran on, or was ended: then the writing of its images is part of it.
    pub release: Duration,
    /// Not of the frozen time, and none of the steps: for how long one thread of a process, or all of
    /// one with seccomp filters, stood still before, to hand over what its memory is logged by; the
    /// longest of them.
    pub handover: Duration,
}

impl FrozenAccount {
    /// What no step accounts for.
    pub(crate) fn rest_of(&self, frozen: Duration) -> Duration {
        frozen.saturating_sub(self.steps().iter().map(|(_, took)| *took).sum())
    }

    /// The steps by the names of the fields, in the order in which they are taken.
    #[must_use]
    pub const fn steps(&self) -> [(&'static str, Duration); 10] {
        [
            ("stop", self.stop),
            ("inventory", self.inventory),
            ("registers", self.registers),
            ("parasite", self.parasite),
            ("files", self.files),
            ("cure", self.cure),
            ("memory", self.memory),
            ("hooks", self.hooks),
            ("others", self.others),
            ("release", self.release),
        ]
    }
}

/// "stop 0.3 ms, inventory 1.2 ms, …", of the steps that took time.
impl std::fmt::Display for FrozenAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut steps = self.steps().to_vec();
        steps.push(("handover", self.handover));
        for (index, (step, time)) in steps.iter().filter(|(_, time)| !time.is_zero()).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{step} {:.1} ms", time.as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}

/// What a dump says of itself.
#[derive(Clone, Debug, Default)]
pub struct DumpReport {
    /// From the first stopped task to the last resumed one.
    pub frozen: Duration,
    /// Where the inventory came from: from /proc the tree stands still for longer. `None` if none
    /// was needed.
    pub source: Option<collector::Source>,
    /// When it began; `None` if nothing was stopped.
    pub frozen_at: Option<SystemTime>,
    /// Where that time went.
    pub account: FrozenAccount,
    /// The whole dump.
    pub total: Duration,
    /// Processes dumped, zombies included.
    pub processes: usize,
    /// Threads dumped.
    pub threads: usize,
    /// Pages looked at.
    pub pages_scanned: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Bytes of all images.
    pub image_bytes: u64,
    /// What is not as it was asked for, though the checkpoint is whole.
    pub warnings: Vec<String>,
}

impl From<&DumpReport> for api::DumpSummary {
    fn from(report: &DumpReport) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let account = &report.account;
        Self {
            frozen_us: micros(report.frozen),
            account: api::FrozenAccount {
                stop_us: micros(account.stop),
                inventory_us: micros(account.inventory),
                registers_us: micros(account.registers),
                parasite_us: micros(account.parasite),
                files_us: micros(account.files),
                memory_us: micros(account.memory),
                cure_us: micros(account.cure),
                release_us: micros(account.release),
                handover_us: micros(account.handover),
                others_us: micros(account.others),
            },
            total_us: micros(report.total),
            processes: report.processes as u64,
            threads: report.threads as u64,
            pages_scanned: report.pages_scanned,
            pages_written: report.pages_written,
            image_bytes: report.image_bytes,
            warnings: report.warnings.clone(),
        }
    }
}
