//! What the end of a thread undoes in System V semaphores (`SEM_UNDO`).

use ids::HostPid;

/// What is to be undone for a thread in one set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SemaphoreUndo {
    /// The thread.
    pub tid: HostPid,
    /// Which list it is in, to be compared with others: threads share lists (`CLONE_SYSVSEM`).
    pub list: u64,
    /// How many tasks have that list.
    pub users: u32,
    /// The set, in the IPC namespace of the thread; `None` for one that has been removed.
    pub set: Option<i32>,
    /// What is added to each semaphore, from the first one on. Behind the last one of the set stands anything.
    pub adjustments: Vec<i16>,
    /// There are more sets than are told.
    pub more: bool,
}
