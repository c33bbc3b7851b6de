//! Keeps a live inventory of process trees: by eBPF iterators where the kernel lets us, from
//! /proc otherwise. One [`Inventory`] type, two sources.

mod error;
mod identity;
mod inventory;
mod parts;
pub mod proc_source;

pub use error::Error;
pub use inventory::{
    InTask, Inventory, Mapping, OpenFile, Process, ProcessState, Tables, Thread, VmFlags,
};
pub use parts::Parts;

/// Every process of the tree below and with `root`, parents before their children, zombies
/// included.
///
/// # Errors
/// If `root` has gone, or `/proc` cannot be read.
pub fn tree(root: i32) -> Result<Vec<i32>, Error> {
    kernel::procfs::tree(root).map_err(|source| Error::Tree { root, source })
}

/// Where inventories come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The eBPF iterators.
    Bpf,
    /// /proc.
    Proc,
}

/// Takes inventories, by the source that it was opened with.
#[derive(Debug)]
pub struct Collector {
    proc_source: proc_source::ProcSource,
}

impl Collector {
    /// Takes the best source there is.
    #[must_use]
    pub fn open() -> Self {
        Self::proc_only()
    }

    /// Reads /proc, whatever else there is.
    #[must_use]
    pub fn proc_only() -> Self {
        Self { proc_source: proc_source::ProcSource::default() }
    }

    /// Where inventories come from.
    #[must_use]
    pub const fn source(&self) -> Source {
        Source::Proc
    }

    /// Takes an inventory in one bulk pass. Processes that are gone are absent.
    ///
    /// # Errors
    /// If something that is there cannot be read or understood.
    pub fn inventory(&mut self, pids: &[i32]) -> Result<Inventory, Error> {
        self.proc_source.take(pids, Parts::all())
    }
}
