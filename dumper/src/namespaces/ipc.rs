//! IPC namespaces (ipc_namespaces(7)): limits, sets of semaphores and message queues of System V. Their shared memory is
//! read with that of the tasks ([`crate::sysv`]).

use std::io;

use images::id_map::IdMap;
use images::messages::{IpcMsg, IpcMsgEntry, IpcSemEntry, IpcVarEntry};
use images::{ImageWriter, names};
use kernel::namespaces::{inside, of_process};
use kernel::sysv::queues::{Message, Queue};
use kernel::sysv::semaphores::Set;

use super::{Described, Namespace};
use crate::error::Error;
use crate::ipc_desc::desc;
use crate::ipc_limits::limits;

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

impl Described for Ipc {
    fn encode(&self, number: u32, writer: &ImageWriter) -> Result<(), images::Error> {
        writer.write_one(&names::ipcns_var(number), &self.limits)?;
        self.encode_sets(number, writer)?;
        self.encode_queues(number, writer)
    }
}
