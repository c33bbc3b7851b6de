//! What a restore is asked for, and what it says of itself.

use std::path::PathBuf;
use std::time::Duration;

use api::{CgroupRoot, CgroupsMode};
use ids::HostPid;

use crate::files::{Connections, Inherited, Trust, Validation};
use crate::holder::Untold;
use crate::mounts::MountOptions;

/// What becomes of the tree once it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterRestore {
    /// It runs.
    Resume,
    /// It stays, stopped as by `SIGSTOP`.
    Stop,
}

/// Whose child the restored root is from its first moment. A signal that it asked for at its
/// parent's death (`PR_SET_PDEATHSIG`) comes when that one dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// The caller, which waits for it.
    Caller,
    /// The caller's parent (`CLONE_PARENT`).
    CallersParent,
    /// Whoever adopts orphans here: the caller is about to end, which the root is not to feel.
    WhoRemains,
}

/// What a restore is asked for.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// What becomes of the tree.
    pub after: AfterRestore,
    /// The root joins the caller's session (and terminal) instead of one of its own.
    pub shell_job: bool,
    /// Connect Unix sockets again to processes outside the tree.
    pub external_unix: bool,
    /// Root directory that the paths in the images are relative to; `None` for the caller's.
    pub root: Option<PathBuf>,
    /// What is asked about mounts, of a tree that is in another mount namespace.
    pub mounts: MountOptions,
    /// Whose child the root is.
    pub parent: Parent,
    /// The tree is ended if who asked is not told that it lives ([`RestoreReport::untold`]).
    pub until_told: bool,
    /// Where it is noted down which trees were restored ([`crate::Record`]), for those who ask when
    /// the restorer is no longer there.
    pub records: Option<PathBuf>,
    /// What the checkpoint is called by, which is noted with it.
    pub labels: api::Labels,
    /// Directory in which it is written down what would outlive a restore that is killed.
    pub undo: PathBuf,
    /// What becomes of its control groups.
    pub cgroups: CgroupsMode,
    /// Other places for them.
    pub cgroup_roots: Vec<CgroupRoot>,
    /// The directory in which all hierarchies are mounted; `None` to look for them.
    pub cgroup_yard: Option<PathBuf>,
    /// What is believed of the paths in the images.
    pub trust: Trust,
    /// What of the files is compared with what the images say.
    pub validation: Validation,
    /// Who may read, write and execute a file may differ from what the images say.
    pub any_permissions: bool,
    /// Whether the file locks and leases in the images are taken again.
    pub file_locks: bool,
    /// Breakpoints of uprobes in the memory that was dumped are known to the kernel.
    pub allow_uprobes: bool,
    /// What becomes of TCP connections. Those that were dumped as closed come back so.
    pub connections: Connections,
    /// Descriptors that take the place of files of the tree.
    pub inherited: Vec<Inherited>,
    /// What it is told of network namespaces.
    pub networks: crate::namespaces::Given,
    /// The namespaces that the restoring process has joined for the tree.
    pub joined: crate::Joined,
    /// User and primary group of who asks, if that is somebody who may not do everything: all tasks
    /// must have been his alone.
    pub on_behalf_of: Option<(u32, u32)>,
}

/// What a restore says of itself.
#[derive(Debug)]
pub struct RestoreReport {
    /// Pid of the restored root.
    pub pid: HostPid,
    /// The whole restore.
    pub total: Duration,
    /// Of it, until all processes were there, from the first one's birth on.
    pub births: Duration,
    /// Processes restored, zombies included.
    pub processes: usize,
    /// Threads restored.
    pub threads: usize,
    /// Pages put back.
    pub pages_restored: u64,
    /// Who asked has still to be told, if that was wanted ([`RestoreOptions::until_told`]).
    pub untold: Option<Untold>,
}
