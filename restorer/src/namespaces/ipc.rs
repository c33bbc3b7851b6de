//! IPC namespaces (ipc_namespaces(7)): limits, sets of semaphores, message queues and segments of System V, and POSIX queues. What is
//! in the segments is brought in later ([`crate::sysv`]).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use images::checkpoint::{IpcNamespace, PayloadReader, PosixQueue};
use images::messages::IpcVarEntry;
use images::{Checkpoint, names};
use kernel::mqueue;
use kernel::namespaces::{new, within_ipc};
use kernel::sysv::limits::Limit;
use kernel::sysv::queues::{Message, Queue, send};
use kernel::sysv::segments::Segment;
use kernel::sysv::semaphores::Set;
use kernel::user_namespaces::Inside;

use super::{Given, Kind, Made, Making};
use crate::error::Error;
use crate::ipc_owner::owner;
use crate::mqueues;

/// The kind.
pub(super) const KIND: Kind = Kind { name: "ipc", load };

/// What an IPC namespace is to have.
#[derive(Debug)]
struct Ipc {
    objects: IpcNamespace,
    /// Has the bytes of messages, if there are some.
    reader: RefCell<Option<PayloadReader>>,
    /// The same of POSIX queues.
    posix_reader: RefCell<Option<PayloadReader>>,
}

/// The longest message that is read from images. The kernel's limit of them is 8,192 bytes, unless it is raised.
const LONGEST_MESSAGE: u32 = 64 << 20;

fn load(checkpoint: &Checkpoint, number: u32) -> Result<Box<dyn Making>, Error> {
    let image = names::ipcns_var(number);
    let missing = || images::Error::Missing { name: image.name().into() };
    let objects = checkpoint.ipc_namespaces.get(&number).ok_or_else(missing)?.clone();
    if objects.limits.is_none() {
        return Err(missing().into());
    }
    let messages = objects.queues.values().flat_map(|queue| &queue.messages);
    if let Some((message, _)) =
        messages.clone().find(|(it, _)| it.msize > LONGEST_MESSAGE || it.mtype == 0)
    {
        let what = format!("a message of type {} and {} bytes", message.mtype, message.msize);
        return Err(Error::image(names::ipcns_msg(number).name(), what));
    }
    // Who makes the namespace may not be let at the images.
    let image = names::ipcns_msg(number);
    let reader = match objects.queues.is_empty() {
        true => None,
        false => Some(PayloadReader::open(&checkpoint.images, &image)?),
    };
    let image = names::ipcns_mq(number);
    mqueues::check(&objects.posix_queues).map_err(|what| Error::image(image.name(), what))?;
    let posix_reader = match objects.posix_queues.is_empty() {
        true => None,
        false => Some(PayloadReader::open(&checkpoint.images, &image)?),
    };
    let (reader, posix_reader) = (RefCell::new(reader), RefCell::new(posix_reader));
    Ok(Box::new(Ipc { objects, reader, posix_reader }))
}

impl Making for Ipc {
    fn make(&self, number: u32, _given: &Given) -> Result<OwnedFd, Error> {
        // The bytes of messages are read before, so that what fails in the namespace is the kernel's.
        let mut readers = (self.reader.take(), self.posix_reader.take());
        let failed = Error::kernel(format!("make IPC namespace {number}"));
        let objects = &self.objects;
        new("ipc", || fill(objects, &mut readers)).map_err(failed)
    }

    fn make_nested(&self, number: u32, _: &Given, inside: &Inside<'_>) -> Result<OwnedFd, Error> {
        let made = inside.during(|| new("ipc", || Ok(())));
        made.map_err(Error::kernel(format!("make IPC namespace {number}")))
    }

    /// One that belongs to a user namespace below that of the root is filled from outside, where all ids have the numbers of the images.
    /// A dump takes none with POSIX queues, or other limits than a new one has: those are set by nobody but root in there.
    fn fill(&self, number: u32, made: &Made<'_>, _given: &Given) -> Result<(), Error> {
        let is_nested = made.sets.nested_users.owner(number).is_some();
        let Some(namespace) = made.namespace("ipc", number).filter(|_| is_nested) else {
            return Ok(());
        };
        if !self.objects.posix_queues.is_empty() {
            let refusal = support::users::IPC_UNUSUAL;
            return Err(Error::refused(refusal.of(0, format!("IPC namespace {number}"))));
        }
        let mut reader = self.reader.take();
        let filled = within_ipc(namespace, || make_system_v(&self.objects, &mut reader));
        filled.flatten().map_err(Error::kernel(format!("fill IPC namespace {number}")))
    }
}

/// Says which object the kernel did not make.
fn named<T>(what: &str, id: u32, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("make {what} {id}: {error}")))
}

/// The id of a new object is the one that it had.
fn has_id(is_so: bool) -> io::Result<()> {
    if is_so { Ok(()) } else { Err(io::Error::other("its id is not to be had")) }
}

/// Fills the calling thread's namespace, which is new.
fn fill(
    objects: &IpcNamespace,
    (reader, posix_reader): &mut (Option<PayloadReader>, Option<PayloadReader>),
) -> io::Result<()> {
    let IpcNamespace { segments, posix_queues, limits, .. } = objects;
    raise()?;
    if let Some(reader) = posix_reader {
        make_posix(posix_queues, reader)?;
    }
    make_system_v(objects, reader)?;
    // With segments it is set when they are attached.
    let forced = limits.as_ref().filter(|_| segments.is_empty());
    forced.map_or(Ok(()), |it| Limit::RemovedForced.set(&[it.shm_rmid_forced.into()]))?;
    limits.as_ref().map_or(Ok(()), set)
}

/// Makes what is of System V.
fn make_system_v(objects: &IpcNamespace, reader: &mut Option<PayloadReader>) -> io::Result<()> {
    let IpcNamespace { segments, sets, queues, .. } = objects;
    for (&id, set) in sets {
        let owner = owner(&set.entry.desc);
        let set = Set { id: id.cast_signed(), owner, values: set.values.clone() };
        named("set of semaphores", id, set.make().and_then(has_id))?;
    }
    for (&id, entry) in segments {
        let made = Segment::make(
            id.cast_signed(),
            &owner(&entry.desc),
            entry.size,
            entry.hugetlb_flag.unwrap_or(0).cast_signed(),
        );
        named("shared memory segment", id, made.and_then(has_id))?;
    }
    for (&id, found) in queues {
        let queue = Queue {
            id: id.cast_signed(),
            owner: owner(&found.entry.desc),
            most: found.entry.qbytes.into(),
            messages: 0,
            bytes: 0,
        };
        named("message queue", id, queue.make().and_then(has_id))?;
        for (message, payload) in &found.messages {
            let bytes = match reader {
                Some(reader) => reader.read(*payload).map_err(io::Error::other)?,
                None => Vec::new(),
            };
            let message = Message { kind: message.mtype.cast_signed(), bytes };
            named("a message of queue", id, send(queue.id, &message))?;
        }
        named("message queue", id, queue.finish())?;
    }
    Ok(())
}

/// Makes the POSIX queues that have a name.
fn make_posix(queues: &BTreeMap<u32, PosixQueue>, reader: &mut PayloadReader) -> io::Result<()> {
    mqueues::raise_limits()?;
    let _room = mqueue::Room::make()?;
    for (&id, queue) in queues {
        if let Some(name) = &queue.entry.name {
            let filled = mqueues::filled(name, queue, reader);
            let settled = filled.and_then(|made| mqueues::settle(&made, queue));
            named("POSIX message queue", id, settled)?;
        }
    }
    Ok(())
}

/// Lets the namespace take whatever is to come: there may be more in it than its limits would let in by now.
fn raise() -> io::Result<()> {
    const MOST: u64 = i32::MAX as u64;
    const MOST_IDS: u64 = 1 << 15;
    Limit::Semaphores.set(&[1 << 16, MOST, 500, MOST_IDS])?;
    Limit::MessageBytes.set(&[MOST])?;
    Limit::QueueBytes.set(&[MOST])?;
    Limit::Queues.set(&[MOST_IDS])?;
    Limit::Segments.set(&[MOST_IDS])
}

/// Sets the limits that it had.
fn set(limits: &IpcVarEntry) -> io::Result<()> {
    let sem: Vec<u64> = limits.sem_ctls.iter().map(|number| u64::from(*number)).collect();
    if !sem.is_empty() {
        Limit::Semaphores.set(&sem)?;
    }
    let numbers = [
        (Limit::MessageBytes, Some(limits.msg_ctlmax)),
        (Limit::QueueBytes, Some(limits.msg_ctlmnb)),
        (Limit::Queues, Some(limits.msg_ctlmni)),
        (Limit::AutoQueues, Some(limits.auto_msgmni)),
        (Limit::Segments, Some(limits.shm_ctlmni)),
        // Where there were none, these are 0.
        (Limit::PosixQueues, Some(limits.mq_queues_max).filter(|_| limits.mq_msg_max > 0)),
        (Limit::PosixMessages, Some(limits.mq_msg_max).filter(|most| *most > 0)),
        (Limit::PosixBytes, Some(limits.mq_msgsize_max).filter(|most| *most > 0)),
        (Limit::PosixMessagesDefault, limits.mq_msg_default),
        (Limit::PosixBytesDefault, limits.mq_msgsize_default),
        (Limit::NextQueue, limits.msg_next_id),
        (Limit::NextSet, limits.sem_next_id),
        (Limit::NextSegment, limits.shm_next_id),
    ];
    Limit::SegmentBytes.set(&[limits.shm_ctlmax])?;
    Limit::SegmentPages.set(&[limits.shm_ctlall])?;
    let numbers = numbers.into_iter().filter_map(|(limit, number)| Some((limit, number?)));
    numbers.into_iter().try_for_each(|(limit, number)| limit.set(&[number.into()]))
}
