//! IPC namespaces: their objects, and that the mappings of shared memory have theirs.

use std::collections::{BTreeMap, BTreeSet};

use super::unique::unique;
use super::{Mapping, Payload, Process};
use crate::error::Error;
use crate::images::Images;
use crate::mapping_kind::MappingKind;
use crate::messages::{
    IpcMsg, IpcMsgEntry, IpcSemEntry, IpcShmEntry, IpcVarEntry, MqueueEntry, MqueueMessage,
};
use crate::names;
use crate::pagemap::PAGE_SIZE;

/// What there is in an IPC namespace. Of the dumper's own it is what belongs to the processes.
#[derive(Clone, Debug, Default)]
pub struct IpcNamespace {
    /// Its limits. The dumper's own has none.
    pub limits: Option<IpcVarEntry>,
    /// Shared memory, by id.
    pub segments: BTreeMap<u32, IpcShmEntry>,
    /// Sets of semaphores, by id.
    pub sets: BTreeMap<u32, SemaphoreSet>,
    /// Message queues, by id.
    pub queues: BTreeMap<u32, MessageQueue>,
    /// POSIX queues that a restore makes, by their numbers.
    pub posix_queues: BTreeMap<u32, PosixQueue>,
}

/// A POSIX message queue.
#[derive(Clone, Debug)]
pub struct PosixQueue {
    /// What it is, and which messages it has.
    pub entry: MqueueEntry,
    /// The bytes of its messages, in `ipcns-mq-ID.img`.
    pub payload: Payload,
}

impl PosixQueue {
    /// Its messages, with where each is in the image.
    pub fn messages(&self) -> impl Iterator<Item = (MqueueMessage, Payload)> {
        let mut offset = self.payload.offset;
        self.entry.messages.iter().map(move |message| {
            let payload = Payload { offset, size: message.bytes.into() };
            offset += payload.size;
            (*message, payload)
        })
    }
}

/// A set of semaphores.
#[derive(Clone, Debug)]
pub struct SemaphoreSet {
    /// Whose it is.
    pub entry: IpcSemEntry,
    /// What each is at.
    pub values: Vec<u16>,
}

/// A message queue.
#[derive(Clone, Debug)]
pub struct MessageQueue {
    /// Whose it is, and how much it takes.
    pub entry: IpcMsgEntry,
    /// Its messages, the oldest first, with their bytes in `ipcns-msg-ID.img`.
    pub messages: Vec<(IpcMsg, Payload)>,
}

/// The most semaphores of a set: their number is one of 16 bits.
const MOST_SEMAPHORES: u32 = 1 << 16;

/// The longest name of a POSIX queue.
const LONGEST_NAME: usize = 255;

/// Those that the processes are in, by number, as far as they have images.
pub(super) fn load(
    images: &Images,
    processes: &[Process],
) -> Result<BTreeMap<u32, IpcNamespace>, Error> {
    let bodies = processes.iter().filter_map(|process| process.body.as_ref());
    let numbers: BTreeSet<u32> = bodies.filter_map(|body| body.ids.ipc_ns_id).collect();
    let mut found = BTreeMap::new();
    for number in numbers {
        let namespace = IpcNamespace {
            limits: images.read_one(&names::ipcns_var(number))?,
            segments: segments(images, number)?,
            sets: sets(images, number)?,
            queues: queues(images, number)?,
            posix_queues: posix_queues(images, number)?,
        };
        found.insert(number, namespace);
    }
    Ok(found)
}

fn segments(images: &Images, number: u32) -> Result<BTreeMap<u32, IpcShmEntry>, Error> {
    let image = names::ipcns_shm(number);
    let entries = images.read_all(&image)?;
    for entry in &entries {
        let id = entry.desc.id;
        if entry.in_pagemaps != Some(true) {
            let what =
                format!("the contents of segment {id} are in no page map, as before CRIU 3.0");
            return Err(Error::invalid(image.name(), what));
        }
        if entry.size == 0 || entry.size > i64::MAX as u64 || i32::try_from(id).is_err() {
            let what = format!("segment {id} of {} bytes cannot be", entry.size);
            return Err(Error::invalid(image.name(), what));
        }
    }
    let by_id = entries.into_iter().map(|entry| (entry.desc.id, entry));
    unique(image.name(), "segment", by_id)
}

fn sets(images: &Images, number: u32) -> Result<BTreeMap<u32, SemaphoreSet>, Error> {
    let image = names::ipcns_sem(number);
    let Some(mut reader) = images.reader(&image)? else { return Ok(BTreeMap::new()) };
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let id = entry.desc.id;
        if entry.nsems == 0 || entry.nsems > MOST_SEMAPHORES || i32::try_from(id).is_err() {
            let what = format!("set {id} of {} semaphores cannot be", entry.nsems);
            return Err(Error::invalid(image.name(), what));
        }
        let bytes = reader.bytes((u64::from(entry.nsems) * 2).next_multiple_of(8))?;
        let values = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let values = values.take(entry.nsems as usize).collect();
        found.push((id, SemaphoreSet { entry, values }));
    }
    unique(image.name(), "set", found)
}

fn queues(images: &Images, number: u32) -> Result<BTreeMap<u32, MessageQueue>, Error> {
    let image = names::ipcns_msg(number);
    let Some(mut reader) = images.reader(&image)? else { return Ok(BTreeMap::new()) };
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let id = entry.desc.id;
        if i32::try_from(id).is_err() {
            return Err(Error::invalid(image.name(), format!("queue {id} cannot be")));
        }
        let mut messages = Vec::new();
        for index in 0..entry.qnum {
            let missing = || {
                let what = format!("queue {id} has {index} of {} messages", entry.qnum);
                Error::invalid(image.name(), what)
            };
            let message: IpcMsg = reader.next_as()?.ok_or_else(missing)?;
            let payload = Payload { offset: reader.offset(), size: message.msize.into() };
            reader.skip(payload.size.next_multiple_of(8))?;
            messages.push((message, payload));
        }
        found.push((id, MessageQueue { entry, messages }));
    }
    unique(image.name(), "queue", found)
}

/// The most messages of a queue, and the most bytes of one; the kernel has no more, whatever its limits are set to.
const MOST_MESSAGES: u64 = 1 << 16;
const MOST_BYTES: u64 = 1 << 24;
/// Priorities are below this.
const PRIORITIES: u32 = 1 << 15;

fn posix_queues(images: &Images, number: u32) -> Result<BTreeMap<u32, PosixQueue>, Error> {
    let image = names::ipcns_mq(number);
    let Some(mut reader) = images.reader(&image)? else { return Ok(BTreeMap::new()) };
    let (mut found, mut taken) = (Vec::new(), BTreeSet::new());
    while let Some(entry) = reader.next_entry()? {
        let wrong =
            |what: &str| Err(Error::invalid(image.name(), format!("queue {}: {what}", entry.id)));
        if !(1..=MOST_MESSAGES).contains(&entry.most)
            || !(1..=MOST_BYTES).contains(&entry.bytes)
            || entry.messages.len() as u64 > entry.most
        {
            return wrong("there is none for so many messages, or of so many bytes");
        }
        let is_wrong = |message: &&MqueueMessage| {
            message.priority >= PRIORITIES || u64::from(message.bytes) > entry.bytes
        };
        if let Some(message) = entry.messages.iter().find(is_wrong) {
            return wrong(&format!("it takes no message like {message:?}"));
        }
        let is_name = |name: &Vec<u8>| {
            (1..=LONGEST_NAME).contains(&name.len())
                && !name.iter().any(|byte| [b'/', 0].contains(byte))
                && ![&b"."[..], b".."].contains(&&name[..])
        };
        if let Some(name) = &entry.name
            && !(is_name(name) && taken.insert(name.clone()))
        {
            return wrong("its name can be none, or another has it");
        }
        let size = entry.messages.iter().map(|message| u64::from(message.bytes)).sum();
        let payload = Payload { offset: reader.offset(), size };
        reader.skip(size)?;
        found.push((entry.id, PosixQueue { entry, payload }));
    }
    unique(image.name(), "queue", found)
}

/// Whatever is mapped is there, and large enough.
pub(super) fn check(
    namespaces: &BTreeMap<u32, IpcNamespace>,
    process: &Process,
    mapping: &Mapping,
) -> Result<(), Error> {
    if mapping.kind != MappingKind::SystemV {
        return Ok(());
    }
    let vma = &mapping.vma;
    let number = process.body.as_ref().and_then(|body| body.ids.ipc_ns_id).unwrap_or_default();
    let segment = namespaces.get(&number).and_then(|namespace| {
        let id = u32::try_from(vma.shmid).ok()?;
        namespace.segments.get(&id)
    });
    let end = vma.pgoff.checked_add(vma.end - vma.start);
    // The last huge page is mapped whole; how large it is where the kernel chooses, who restores knows.
    const LARGEST: u64 = 1 << 30;
    let page = |segment: &IpcShmEntry| match segment.huge_page_shift() {
        None => PAGE_SIZE,
        Some(0) => LARGEST,
        Some(shift) => 1u64.checked_shl(shift).unwrap_or(LARGEST),
    };
    let holds = |segment: &&IpcShmEntry| {
        let bytes = segment.size.checked_next_multiple_of(page(segment));
        end.is_some_and(|end| bytes.is_some_and(|bytes| end <= bytes))
    };
    if segment.is_some_and(|segment| holds(&segment)) {
        return Ok(());
    }
    let what = match segment {
        None => format!("which is not in {}", names::ipcns_shm(number).name()),
        Some(segment) => format!("which has {} bytes", segment.size),
    };
    let what = format!(
        "mapping {:#x}-{:#x} is of shared memory segment {} from {:#x}, {what}",
        vma.start, vma.end, vma.shmid, vma.pgoff
    );
    Err(Error::invalid(names::mm(process.pid).name(), what))
}
