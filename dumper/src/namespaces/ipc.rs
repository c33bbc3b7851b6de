//! IPC namespaces (ipc_namespaces(7)): limits, sets of semaphores and message queues of System V. Their shared memory is
//! read with that of the tasks ([`crate::sysv`]).

use std::io;

use ids::HostPid;
use images::id_map::IdMap;
use images::messages::{IpcMsg, IpcMsgEntry, IpcSemEntry, IpcVarEntry};
use images::{ImageWriter, names};
use kernel::namespaces::{inside, new, of_process};
use kernel::sysv::limits::Limit;
use kernel::sysv::queues::{Message, Queue};
use kernel::sysv::segments::Segment;
use kernel::sysv::semaphores::Set;

use super::{Described, Namespace};
use crate::error::Error;
use crate::ipc_desc::desc;

/// What there is in an IPC namespace beside shared memory.
#[derive(Debug)]
struct Ipc {
    limits: IpcVarEntry,
    sets: Vec<Set>,
    queues: Vec<(Queue, Vec<Message>)>,
    /// How ids are called in the user namespace.
    ids: IdMap,
}

/// Bytes that follow a message are filled up to a multiple of this.
const ALIGN: usize = 8;

/// Reads what is in a namespace.
pub(super) fn read(namespace: &Namespace) -> Result<Box<dyn Described>, Error> {
    let pid = namespace.member;
    let failed = |source: io::Error| Error::Process {
        operation: "read the semaphores and message queues in the IPC namespace of",
        pid,
        source,
    };
    let ipc = of_process(pid, "ipc")
        .and_then(|ipc| inside("ipc", ipc, || Ipc::read(namespace.users.ids.clone())));
    Ok(Box::new(ipc.map_err(failed)?))
}

/// Whether the IPC namespace of a process has nothing in it, and the limits that a new one has.
pub(crate) fn is_as_new(member: HostPid) -> io::Result<bool> {
    let look = || {
        let is_empty = Set::all()?.is_empty() && Queue::all()?.is_empty();
        Ok((is_empty && Segment::all()?.is_empty(), limits()?))
    };
    let (is_empty, there) = of_process(member, "ipc").and_then(|ipc| inside("ipc", ipc, look))?;
    let mut usual = None;
    new("ipc", || limits().map(|limits| usual = Some(limits)))?;
    Ok(is_empty && usual == Some(there))
}

impl Ipc {
    /// Of the calling thread's namespace.
    fn read(ids: IdMap) -> io::Result<Self> {
        let with_messages = |queue: Queue| match queue.copy() {
            Ok(messages) => Ok((queue, messages)),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!(
                    "copy the messages in queue {}, of which none may be longer than kernel.msgmax says: {error}",
                    queue.id
                ),
            )),
        };
        Ok(Self {
            limits: limits()?,
            sets: Set::all()?,
            queues: Queue::all()?.into_iter().map(with_messages).collect::<Result<_, _>>()?,
            ids,
        })
    }

    fn encode_sets(&self, number: u32, writer: &ImageWriter) -> Result<(), images::Error> {
        if self.sets.is_empty() {
            return Ok(());
        }
        let mut image = writer.image(&names::ipcns_sem(number))?;
        for set in &self.sets {
            let nsems = set.values.len() as u32;
            image.put(&IpcSemEntry { desc: desc(set.id, &set.owner, &self.ids), nsems })?;
            let bytes = set.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            image.payload(&filled_up(bytes))?;
        }
        image.finish()
    }

    fn encode_queues(&self, number: u32, writer: &ImageWriter) -> Result<(), images::Error> {
        if self.queues.is_empty() {
            return Ok(());
        }
        let mut image = writer.image(&names::ipcns_msg(number))?;
        for (queue, messages) in &self.queues {
            image.put(&IpcMsgEntry {
                desc: desc(queue.id, &queue.owner, &self.ids),
                qbytes: u32::try_from(queue.most).unwrap_or(u32::MAX),
                qnum: messages.len() as u32,
            })?;
            for Message { kind, bytes } in messages {
                let (mtype, msize) = (kind.cast_unsigned(), bytes.len() as u32);
                image.put_as(&IpcMsg { mtype, msize })?;
                image.payload(&filled_up(bytes.clone()))?;
            }
        }
        image.finish()
    }
}

fn filled_up(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
    bytes
}

/// The limits of the calling thread's namespace.
fn limits() -> io::Result<IpcVarEntry> {
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

impl Described for Ipc {
    fn encode(&self, number: u32, writer: &ImageWriter) -> Result<(), images::Error> {
        writer.write_one(&names::ipcns_var(number), &self.limits)?;
        self.encode_sets(number, writer)?;
        self.encode_queues(number, writer)
    }
}
