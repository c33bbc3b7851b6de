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
    /// Makes this the inventory that later ones are compared with: those that are taken on its basis, directly or not, tell which
    /// open files differ from it.
    pub fn refer_to_this(&mut self) {
        self.basis.differing = Some(self.processes.keys().map(|pid| (*pid, Vec::new())).collect());
    }

    /// The descriptors of a process, in ascending order, that may lead to something else than in the inventory referred to
    /// ([`Inventory::refer_to_this`]). `None` if that is not known, or if the process has other descriptors now.
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
    /// Per process, the descriptors that may lead to something else than in the inventory referred to. A process that has opened or
    /// closed descriptors since is not in it.
    pub(crate) differing: Option<BTreeMap<HostPid, Vec<i32>>>,
}

impl PartialEq for Basis {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Basis {}
