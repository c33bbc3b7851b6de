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

/// What a thread has that is to be undone in semaphores.
pub const UNDO: &str = "System V semaphores";

/// What is to be undone belongs to several processes.
pub const UNDO_SHARED: Refusal = Refusal::fixed(
    "it has what is to be undone at its end (SEM_UNDO) in common with another process (clone with CLONE_SYSVSEM)",
    "start it without CLONE_SYSVSEM, as fork does",
);

/// What is to be undone belongs to some threads of a process.
pub const UNDO_OF_SOME_THREADS: Refusal = Refusal::fixed(
    "several of its threads, and not all, have in common what is to be undone at their end (SEM_UNDO; clone without \
     CLONE_SYSVSEM)",
    "start its threads with CLONE_SYSVSEM, as pthread_create does",
);

/// What is to be undone is more than is told.
pub const UNDO_BEYOND: Refusal = Refusal::fixed(
    "operations are to be undone at its end (SEM_UNDO) in more than 64 sets, or in a set of more than 128 semaphores, of \
     which the eBPF programs do not tell all",
    "have it give back what it took of the semaphores (ipcs -s lists them), or use smaller sets",
);

/// What is to be undone is in a set that the task may no more change.
pub const UNDO_FORBIDDEN: Refusal = Refusal::fixed(
    "operations on a set are to be undone at its end (SEM_UNDO), and it may no more change that set itself",
    "give it the right to: ipcs -s shows the set's owner and permissions; or have it give back what it took before it \
     gives up its own",
);

/// What speaks against a restore of what is to be undone in a set of semaphores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoConflict {
    /// The set is not there any more, or is another one.
    Gone,
    /// The semaphore has not as much as the tree had taken of it, or would come to more than the most.
    Taken {
        /// Which.
        semaphore: u32,
        /// What the tree had taken; below 0 for what it had added.
        by: i32,
    },
    /// The tasks may not change it.
    Forbidden,
}

/// Why what was to be undone in a set cannot be so again.
#[must_use]
pub fn undo_conflict(set: u32, conflict: UndoConflict) -> Refusal {
    match conflict {
        UndoConflict::Gone => Refusal::new(
            format!(
                "it had taken something of the set {set} (SEM_UNDO), which is not here any more, or is another one: sets \
                 stay in the kernel that they were made in, until they are removed or the machine is started again"
            ),
            "run and dump the program in an IPC namespace of its own (unshare --ipc), whose sets are in the images, or \
             start it anew",
        ),
        UndoConflict::Taken { semaphore, by } => {
            let what = if by > 0 {
                format!("it had taken {by} of semaphore {semaphore} of set {set}")
            } else {
                format!("it had added {} to semaphore {semaphore} of set {set}", -by)
            };
            Refusal::new(
                format!(
                    "{what} (SEM_UNDO), which the kernel undid when it ended, and which cannot be done again now"
                ),
                format!(
                    "wait until the others that use the set have given back what they hold: ipcs -s -i {set} shows them"
                ),
            )
        }
        UndoConflict::Forbidden => UNDO_FORBIDDEN,
    }
}

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
