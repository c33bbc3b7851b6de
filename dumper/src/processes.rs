//! What processes are, at a glance.

use collector::{Inventory, Process, ProcessState};
use ids::HostPid;
use kernel::procfs::{Dir, ProcFile, Stat, Status};

/// Whether a process has the memory of another one that made it, as a child of vfork does until it
/// executes a program: what is opened of its memory is the other one's.
pub(crate) fn borrows_memory(process: &Process, inventory: &Inventory) -> bool {
    let memory = process.tables.memory;
    let shares = |other: &Process| memory.is_some() && other.tables.memory == memory;
    let of_parent =
        process.ppid.and_then(|parent| inventory.processes.get(&parent)).is_some_and(shares);
    let mut others = inventory.processes.values().filter(|other| other.pid != process.pid);
    of_parent || others.any(|other| shares(other) && other.ppid != Some(process.pid))
}

/// Whether it has ended and waits to be collected.
pub(crate) fn is_zombie(process: &Process) -> bool {
    matches!(process.state, ProcessState::Zombie { .. })
}

/// Whether a process is gone, or a zombie.
pub(crate) fn has_ended(pid: HostPid) -> bool {
    Dir::open(pid).and_then(|dir| Stat::read(&dir)).map_or(true, |stat| stat.is_dead())
}

/// Whether the system calls of the process are filtered, so that none may be made in it that is not its own.
pub(crate) fn is_filtered(pid: HostPid) -> bool {
    Dir::open(pid).and_then(|dir| Status::read(&dir)).is_ok_and(|status| status.seccomp != 0)
}

/// Whether no memory of the process can be both written and executed (`PR_SET_MDWE`), as a parasite
/// is. One that would have to be asked is refused in the plan.
pub(crate) fn denies_parasites(process: &Process) -> bool {
    process.in_process.as_ref().is_some_and(|known| known.settings.deny_write_execute != 0)
}
