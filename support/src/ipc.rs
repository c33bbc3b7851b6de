//! System V IPC.

use ids::HostPid;

use crate::unsupported::Refusal;

/// Shared memory that the process's IPC namespace does not have, or that is mapped and not attached.
pub const MAPPED_OTHERWISE: Refusal = Refusal::fixed(
    "System V shared memory of another IPC namespace than the process is in, or mapped by another way than shmat",
    "have the process detach it (shmdt), and attach it by shmat while it is in the namespace that has it",
);

/// Shared memory that has more attachments than are seen.
pub const ATTACHED_UNSEEN: Refusal = Refusal::fixed(
    "System V shared memory that is attached by a process which is not to be seen from here",
    "run stasis in the first pid namespace, where all processes are seen, or end the processes outside the tree \
     that use it",
);

/// Queues in a namespace of the tree's own.
pub const POSIX_QUEUES: Refusal = Refusal::fixed(
    "a POSIX message queue in an IPC namespace of its own, which cannot be carried yet",
    "have the program remove it (mq_unlink) before the dump, or run it in the IPC namespace of stasis",
);

/// What the kernel would remove at once.
pub const KEPT_BY_ITS_MAKER: Refusal = Refusal::fixed(
    "System V shared memory that nobody has attached, in a namespace where the kernel keeps such only as long as its \
     maker lives (kernel.shm_rmid_forced)",
    "attach it before the dump, or set kernel.shm_rmid_forced to 0 in the namespace: nsenter --ipc -t PID sysctl -w \
     kernel.shm_rmid_forced=0",
);

/// Shared memory of another user's, for a user who asks.
pub const SEGMENT_OF_ANOTHER: Refusal = Refusal::fixed(
    "System V shared memory that is another user's: a restore would have to make it in that one's name",
    "dump it as root",
);

/// What speaks against the restore of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Another segment has its id, or the place in the kernel's table that the id stands for.
    Id {
        /// The id of that one.
        by: i32,
        /// Who made that one.
        creator: i32,
    },
    /// No segment is to be seen that has its id, and yet it is not to be had.
    NoId,
    /// Another segment has its key.
    Key {
        /// The id of that one.
        by: i32,
        /// Who made that one.
        creator: i32,
    },
    /// It is still there, and this process has it attached.
    InUse {
        /// Which, if it is to be seen.
        by: Option<HostPid>,
    },
    /// It is still there, and the tasks might not attach it.
    Forbidden,
    /// It is larger than segments may be, or than all of them together.
    Limits,
}

/// Why a segment cannot come back.
#[must_use]
pub fn conflict(id: i32, key: u32, conflict: &Conflict) -> Refusal {
    let remove = |id: &i32| format!("remove that one, if nobody needs it any more: ipcrm -m {id}");
    match conflict {
        Conflict::Id { by, creator } => Refusal::new(
            format!(
                "segment {by}, made by process {creator}, has its id {id}, or the place of that in the kernel's table"
            ),
            remove(by),
        ),
        Conflict::NoId => Refusal::new(
            format!("its id {id} is not to be had here (kernel.shm_next_id)"),
            "restore when no other process makes segments, with as many ids as the kernel had that it was dumped on \
             (ipcmni_extend)",
        ),
        Conflict::Key { by, creator } => Refusal::new(
            format!("segment {by}, made by process {creator}, has its key {key:#x}"),
            remove(by),
        ),
        Conflict::InUse { by: Some(by) } => Refusal::new(
            format!("segment {id} is still there, and process {by} has attached it since"),
            format!("end that process, if it is not needed any more: kill {by}"),
        ),
        Conflict::InUse { by: None } => Refusal::new(
            format!(
                "segment {id} is still there, and a process that is not to be seen from here has attached it since"
            ),
            "end the processes that use it, in whichever container they are",
        ),
        Conflict::Forbidden => Refusal::new(
            format!(
                "segment {id} is still there, and the restored processes would not be allowed to attach it"
            ),
            remove(&id),
        ),
        Conflict::Limits => Refusal::new(
            "this machine's limits leave no room for it",
            "raise the one that is too low: sysctl -w kernel.shmmax=BYTES, kernel.shmall=PAGES or kernel.shmmni=SEGMENTS",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_names_what_is_in_the_way() {
        let found = conflict(5, 0x1f, &Conflict::Key { by: 7, creator: 41 });
        assert_eq!(found.reason, "segment 7, made by process 41, has its key 0x1f");
        assert!(found.remedy.ends_with("ipcrm -m 7"));
        let by = HostPid::new(9);
        assert!(conflict(5, 0, &Conflict::InUse { by }).remedy.ends_with("kill 9"));
    }
}
