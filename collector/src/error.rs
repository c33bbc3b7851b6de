//! What can go wrong while an inventory is taken.

use kernel::procfs;

/// What can go wrong while an inventory is taken. That a process, thread, descriptor or mapping has
/// gone is no error: it is absent from the inventory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/proc` would not tell.
    #[error("take an inventory of process {pid} from /proc")]
    Proc {
        /// The process.
        pid: i32,
        /// What was being read.
        #[source]
        source: procfs::Error,
    },
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
        root: i32,
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
        first: i32,
        /// The other.
        second: i32,
        /// The kernel's answer.
        #[source]
        source: nix::Error,
    },
}
