//! Namespaces that are there already, and that the tree is to be in, in place of its own.

use images::messages::TaskKobjIdsEntry;

/// The kinds of namespaces that the restoring process has joined: the tree comes back in the joined one, whichever its tasks were in. (For
/// network namespaces [`crate::Given`] says that, with more.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// System V IPC and queues of messages. What the tree has attached of shared memory comes back in it; semaphores and
    /// queues are those that it has.
    pub ipc: bool,
    /// The names of the host.
    pub uts: bool,
    /// The clocks. The restoring process stays with its own; the tasks enter [`crate::Given::time`].
    pub time: bool,
}

/// The number of the time namespace that is joined: no namespace that is dumped has it.
pub(crate) const JOINED_TIME: u32 = u32::MAX;

impl Joined {
    /// The ids of a process, as if it had been in the dumper's namespaces of these kinds: a tree comes back in that of the restoring
    /// process then. Of time namespaces, as if all had been in another one.
    pub(crate) fn seen(self, ids: &TaskKobjIdsEntry, own: &TaskKobjIdsEntry) -> TaskKobjIdsEntry {
        let mut seen = *ids;
        if self.ipc {
            seen.ipc_ns_id = own.ipc_ns_id;
        }
        if self.uts {
            seen.uts_ns_id = own.uts_ns_id;
        }
        if self.time {
            seen.time_ns_id = Some(JOINED_TIME);
        }
        seen
    }
}
