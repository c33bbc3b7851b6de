//! The limits of IPC namespaces, and whether one has those of a new one.

use std::io;

use ids::HostPid;
use images::messages::IpcVarEntry;
use kernel::mqueue;
use kernel::namespaces::{inside, new, of_process};
use kernel::sysv::limits::Limit;

/// Whether the IPC namespace of a process has the limits that a new one has, and no POSIX queues.
pub(crate) fn is_usual(member: HostPid) -> io::Result<bool> {
    let look = || Ok((mqueue::names()?.is_empty(), limits()?));
    let (is_empty, there) = of_process(member, "ipc").and_then(|ipc| inside("ipc", ipc, look))?;
    let mut usual = None;
    new("ipc", || limits().map(|limits| usual = Some(limits)))?;
    Ok(is_empty && usual == Some(there))
}

/// The limits of the calling thread's namespace.
pub(crate) fn limits() -> io::Result<IpcVarEntry> {
    let number = |limit: Limit| Ok::<_, io::Error>(limit.first()?.unwrap_or(0));
    let narrow = |limit| Ok::<_, io::Error>(u32::try_from(number(limit)?).unwrap_or(u32::MAX));
    let wide = |limit| Ok::<_, io::Error>(u64::try_from(number(limit)?).unwrap_or(u64::MAX));
    // The next ids are -1 where nobody has asked for one.
    let optional =
        |limit: Limit| Ok::<_, io::Error>(limit.first()?.and_then(|it| u32::try_from(it).ok()));
    let all = |limit: Limit| {
        let numbers = limit.read()?.into_iter().map(|it| u32::try_from(it).unwrap_or(u32::MAX));
        Ok::<_, io::Error>(numbers.collect())
    };
    Ok(IpcVarEntry {
        sem_ctls: all(Limit::Semaphores)?,
        msg_ctlmax: narrow(Limit::MessageBytes)?,
        msg_ctlmnb: narrow(Limit::QueueBytes)?,
        msg_ctlmni: narrow(Limit::Queues)?,
        auto_msgmni: narrow(Limit::AutoQueues)?,
        shm_ctlmax: wide(Limit::SegmentBytes)?,
        shm_ctlall: wide(Limit::SegmentPages)?,
        shm_ctlmni: narrow(Limit::Segments)?,
        shm_rmid_forced: narrow(Limit::RemovedForced)?,
        mq_queues_max: narrow(Limit::PosixQueues)?,
        mq_msg_max: narrow(Limit::PosixMessages)?,
        mq_msgsize_max: narrow(Limit::PosixBytes)?,
        mq_msg_default: optional(Limit::PosixMessagesDefault)?,
        mq_msgsize_default: optional(Limit::PosixBytesDefault)?,
        msg_next_id: optional(Limit::NextQueue)?,
        sem_next_id: optional(Limit::NextSet)?,
        shm_next_id: optional(Limit::NextSegment)?,
    })
}
