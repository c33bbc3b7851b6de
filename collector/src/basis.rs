//! What is known of process trees: one type, two sources.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use ids::HostPid;
use inventory::Process;
use serde::Serialize;

/// Everything known of a set of processes at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// The processes by their pid, in no particular order of kinship.
    pub processes: BTreeMap<HostPid, Process>,
    /// What the next inventory may be based on.
    #[serde(skip)]
    pub(crate) basis: Basis,
}

impl Inventory {
    /// From here on inventories that are made from this one, or from those that were, tell what of open
    /// files is different from this one.
    pub fn refer_to_this(&mut self) {
        self.basis.differing = Some(self.processes.keys().map(|pid| (*pid, Vec::new())).collect());
    }

    /// The descriptors of a process, by rising number, behind which there is anything different from the
    /// inventory that was referred to ([`Inventory::refer_to_this`]). `None` if that is not known, or if
    /// there are others than there were.
    #[must_use]
    pub fn different_files(&self, pid: HostPid) -> Option<&[i32]> {
        self.basis.differing.as_ref()?.get(&pid).map(Vec::as_slice)
    }
}

/// What goes with an inventory, and is no part of what it says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Basis {
    /// What spares the source a look when it takes the next one. Only the source understands it.
    pub(crate) of_source: Option<Arc<dyn Any + Send + Sync>>,
    /// Of each process whose descriptors are those of the inventory that was referred to, those that
    /// may mean something else than there.
    pub(crate) differing: Option<BTreeMap<HostPid, Vec<i32>>>,
}

impl PartialEq for Basis {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Basis {}
