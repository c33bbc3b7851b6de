//! What can go wrong while an inventory is taken.

use ids::HostPid;
use kernel::procfs;

/// What can go wrong while an inventory is taken. That a process, thread, descriptor or mapping has
/// gone is no error: it is absent from the inventory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/proc` would not tell.
    #[error("take an inventory of process {pid} from /proc")]
    Proc {
        /// The process.
        pid: HostPid,
        /// What was being read.
        #[source]
        source: procfs::Error,
    },
    /// `/proc` would not tell who else holds something.
    #[error("find out from /proc who else holds what the processes do")]
    Holders(#[source] procfs::Error),
    /// It took longer than it may.
    #[error("take an inventory in the time there is")]
    OutOfTime,
    /// The eBPF programs would not tell.
    #[error("take an inventory by eBPF")]
    Bpf(#[from] crate::bpf::BpfError),
    /// The tree of a process could not be followed.
    #[error("list the process tree of {root}")]
    Tree {
        /// The process at its root.
        root: HostPid,
        /// What was being read.
        #[source]
        source: procfs::Error,
    },
    /// Two descriptors or tables could not be compared.
    #[error("compare {what} of processes {first} and {second}")]
    Compare {
        /// What was compared.
        what: &'static str,
        /// One process.
        first: HostPid,
        /// The other.
        second: HostPid,
        /// The kernel's answer.
        #[source]
        source: nix::Error,
    },
}
