//! POSIX message queues that go into the images, with their messages: all of IPC namespaces of the tree's own, and those without a
//! name that the tree has open. (One with a name in the dumper's namespace stays where it is, as files do.)
//!
//! No call shows a message without taking it away: eBPF programs read them in the kernel ([`collector`]). What they tell is
//! compared with what the queue says of itself. A queue without a name is the tree's own ([`crate::sharing`]); whoever has
//! entered an IPC namespace of the tree's may change the queues in it while the tree stands still, which is refused.
//!
//! Without eBPF a queue without messages is asked who is to be told of the next one, which counts as reading it (`st_atime`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use collector::{Collector, Inventory, Message, Messages, OpenFile};
use ids::HostPid;
use images::id_map::IdMap;
use images::messages::{MqueueEntry, MqueueMessage, Timespec};
use images::{ImageWriter, names};
use kernel::mqueue::{self, Attributes};
use kernel::namespaces::{inside, of_process};
use kernel::pidfd::PidFd;
use kernel::procfs::Mount;
use kernel::shared_memory;
use nix::sys::stat::{FileStat, fstat};
use support::mqueue as refusals;
use support::{Refusal, Unsupported};

use crate::aio::Tree;
use crate::error::Error;
use crate::mounts::{Origin, Views, shown};
use crate::namespaces::Namespaces;
use crate::options::AskedSegments as Asked;
use crate::own_namespaces::own_number;
use crate::processes::is_zombie;
use crate::sysv::namespaces;

/// The numbers that queues have in the images, by device and inode.
pub(crate) type Numbers = BTreeMap<(u64, u64), u32>;

/// The queues of a tree that go into the images.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    all: Vec<Queue>,
    numbers: Numbers,
    /// Bytes of all messages.
    bytes: u64,
    /// The IPC namespaces of the tree's own, by the devices of their queues.
    devices: BTreeMap<u64, u64>,
}

/// A queue.
#[derive(Debug)]
struct Queue {
    /// The kernel's number of an IPC namespace that a process of the tree is in; `None` if that is the dumper's.
    namespace: Option<u64>,
    name: Option<Vec<u8>>,
    stat: FileStat,
    attributes: Attributes,
    messages: Vec<Message>,
}

/// Looks at the queues of a tree. `sent` are files that are on their way to it in messages, which this process has open.
pub(crate) fn look(
    collector: &mut Collector,
    inventory: &Inventory,
    asked: Asked,
    sent: &[OpenFile],
    tree: Tree,
) -> Result<(Queues, Vec<Unsupported>), Error> {
    let (mut found, mut refused) = (Queues::default(), Vec::new());
    for (namespace, member) in namespaces(asked.own, inventory) {
        let failed = |source| Error::Process { operation: LOOK, pid: member, source };
        let queues =
            of_process(member, "ipc").and_then(|it| inside("ipc", it, mqueue::Queues::here));
        let Some(queues) = queues.map_err(failed)? else { continue };
        found.devices.insert(queues.device().map_err(failed)?, namespace);
        for name in queues.names().map_err(failed)? {
            let Some(queue) = queues.open(&name).map_err(failed)? else { continue };
            let name = Some(name.as_bytes().to_vec());
            let of = (member, Some(namespace), name);
            refused.extend(found.add(collector, &queue, of, tree)?);
        }
    }
    for (holder, files) in nameless(inventory, sent)? {
        let failed = |source| Error::Process { operation: LOOK, pid: holder.pid, source };
        let queue = match holder.open() {
            // It has been closed, or its process has ended.
            Err(error) if tree == Tree::Runs && is_gone(&error) => continue,
            queue => queue.map_err(failed)?,
        };
        let stat = fstat(&queue).map_err(|errno| failed(errno.into()))?;
        if stat.st_nlink != 0 || !mqueue::is_queue(&queue).map_err(failed)? {
            continue;
        }
        // Of one that nobody is in there is no image, and without a name it does not matter in which it is.
        let of_holder =
            inventory.processes.get(&holder.pid).or(inventory.processes.get(&asked.root));
        let of_holder = of_holder.and_then(|process| process.namespaces.get("ipc").copied());
        let of_holder = of_holder.filter(|namespace| asked.own != Some(*namespace));
        let namespace = found.devices.get(&stat.st_dev).copied().or(of_holder);
        let refusal = found.add(collector, &queue, (holder.pid, namespace, None), tree)?;
        let may_read = |flags: &u32| flags & ACCESS != libc::O_WRONLY.cast_unsigned();
        let not_read = asked.user.is_some() && !files.iter().any(may_read);
        refused.extend(refusal);
        refused.extend(not_read.then(|| refusals::NOT_READ.of(holder.pid, object(None, &stat))));
    }
    Ok((found, refused))
}

const LOOK: &str = "look at the POSIX message queues of";
const ACCESS: u32 = libc::O_ACCMODE.cast_unsigned();

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EBADF))
}

fn object(name: Option<&[u8]>, stat: &FileStat) -> String {
    match name {
        Some(name) => format!("message queue /{}", String::from_utf8_lossy(name)),
        None => format!("message queue {} without a name", stat.st_ino),
    }
}

/// Who has a file open.
#[derive(Clone, Copy, Debug)]
struct Holder {
    pid: HostPid,
    fd: i32,
}

impl Holder {
    fn open(self) -> io::Result<OwnedFd> {
        PidFd::open(self.pid)?.get(self.fd)
    }
}

/// What looks like an open queue without a name, once each, with the flags by which it is open.
fn nameless(inventory: &Inventory, sent: &[OpenFile]) -> Result<Vec<(Holder, Vec<u32>)>, Error> {
    let living = inventory.processes.values().filter(|process| !is_zombie(process));
    let of_tree = living.flat_map(|process| process.files.iter().map(|file| (process.pid, file)));
    let own = HostPid::own();
    let mut found: BTreeMap<(u64, u64), (Holder, Vec<u32>)> = BTreeMap::new();
    for (pid, file) in of_tree.chain(sent.iter().map(|file| (own, file))) {
        if may_be_nameless(file.mode, &file.target) {
            let first = || (Holder { pid, fd: file.fd }, Vec::new());
            found.entry((file.device, file.inode)).or_insert_with(first).1.push(file.flags);
        }
    }
    // Memfds look like it.
    if !found.is_empty() {
        let pid = HostPid::own();
        let memory = shared_memory::device();
        let memory = memory.map_err(|source| Error::Process { operation: LOOK, pid, source })?;
        found.retain(|(device, _), _| *device != memory);
    }
    Ok(found.into_values().collect())
}

/// Whether an open file may be a queue without a name: their file system is nowhere but has a root of its own.
fn may_be_nameless(mode: u32, target: &OsStr) -> bool {
    let name = target.as_encoded_bytes().strip_prefix(b"/");
    let name = name.and_then(|name| name.strip_suffix(b" (deleted)"));
    mode & libc::S_IFMT == libc::S_IFREG && name.is_some_and(|name| !name.contains(&b'/'))
}

impl Queues {
    /// The numbers that they have in the images.
    pub(crate) fn numbers(&self) -> Numbers {
        self.numbers.clone()
    }

    /// The mounts that a restore would make of the queues of another IPC namespace than they are of now: it makes all in that of the
    /// tree's root.
    pub(crate) fn mounted_of_others(
        &self,
        inventory: &Inventory,
        asked: Asked,
        views: &Views,
    ) -> Result<Vec<Unsupported>, Error> {
        let mounts = views.all().flat_map(|view| {
            let mounts = view.mounts.0.iter().zip(&view.origins);
            let made = mounts.filter(|(_, origin)| **origin == Some(Origin::Made));
            made.map(|(mount, _)| (view.member, mount))
        });
        let mounts: Vec<_> = mounts.filter(|(_, mount)| mount.kind() == "mqueue").collect();
        let root = inventory.processes.get(&asked.root);
        let Some(of_root) = root.and_then(|root| root.namespaces.get("ipc").copied()) else {
            return Ok(Vec::new());
        };
        if mounts.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |source| Error::Process { operation: LOOK, pid: asked.root, source };
        let device = match asked.own == Some(of_root) {
            true => match mqueue::Queues::here().map_err(failed)? {
                Some(queues) => Some(queues.device().map_err(failed)?),
                None => None,
            },
            false => self.devices.iter().find(|(_, id)| **id == of_root).map(|(device, _)| *device),
        };
        let others = mounts.into_iter().filter(|(_, mount)| Some(mount.device) != device);
        let refused = |(member, mount): (HostPid, &Mount)| {
            support::mounts::queues_of_others(Path::new(&mount.mount_point))
                .of(member, shown(mount))
        };
        Ok(others.map(refused).collect())
    }

    /// Takes a queue that this process has open; also returns what stands in its way.
    fn add(
        &mut self,
        collector: &mut Collector,
        queue: &OwnedFd,
        (member, namespace, name): (HostPid, Option<u64>, Option<Vec<u8>>),
        tree: Tree,
    ) -> Result<Option<Unsupported>, Error> {
        let failed = |source| Error::Process { operation: LOOK, pid: member, source };
        let stat = fstat(queue).map_err(|errno| failed(errno.into()))?;
        let attributes = mqueue::attributes(queue).map_err(failed)?;
        let told = self.read(collector, queue, &attributes, tree).map_err(|error| match error {
            Unread::Inventory(source) => Error::Inventory { pid: member, source },
            Unread::Kernel(source) => failed(source),
        })?;
        let object = object(name.as_deref(), &stat);
        let (messages, refusal) = match told {
            Ok(messages) => (messages, None),
            Err(refusal) => (Vec::new(), Some(refusal.of(member, object))),
        };
        self.bytes += messages.iter().map(|message| message.bytes.len() as u64).sum::<u64>();
        self.all.push(Queue { namespace, name, stat, attributes, messages });
        self.numbers.insert((stat.st_dev, stat.st_ino), self.all.len() as u32);
        Ok(refusal)
    }

    /// The messages in a queue, or why they are not carried.
    fn read(
        &self,
        collector: &mut Collector,
        queue: &OwnedFd,
        attributes: &Attributes,
        tree: Tree,
    ) -> Result<Result<Vec<Message>, Refusal>, Unread> {
        /// So often a queue of a tree that stands still is read.
        const TRIES: u32 = 3;
        let most = refusals::LARGEST_TOGETHER - self.bytes;
        for _ in 0..TRIES {
            match collector.messages(queue.as_fd(), most).map_err(Unread::Inventory)? {
                Some(Messages::All { notifies: true, .. }) => return Ok(Err(refusals::NOTIFIES)),
                Some(Messages::All { messages, .. }) => return Ok(Ok(messages)),
                Some(Messages::More(_)) => return Ok(Err(refusals::TOO_LARGE)),
                // The frozen look will tell.
                Some(Messages::Moves) if tree == Tree::Runs => return Ok(Ok(Vec::new())),
                Some(Messages::Moves) => {}
                None if attributes.waiting > 0 => return Ok(Err(refusals::UNREADABLE)),
                None if mqueue::is_notified(queue).map_err(Unread::Kernel)? => {
                    return Ok(Err(refusals::NOTIFIES));
                }
                None => return Ok(Ok(Vec::new())),
            }
        }
        Ok(Err(refusals::CHANGES))
    }

    /// Writes the queues, those of each namespace into an image of its own.
    pub(crate) fn encode(
        &self,
        namespaces: &Namespaces,
        writer: &ImageWriter,
    ) -> Result<(), images::Error> {
        let number = |queue: &Queue| match queue.namespace {
            Some(id) => namespaces.numbers().get(&("ipc", id)).copied(),
            None => own_number("ipc"),
        };
        let of: BTreeSet<u32> = self.all.iter().filter_map(number).collect();
        for namespace in of {
            let mut image = writer.image(&names::ipcns_mq(namespace))?;
            for (id, queue) in (1..).zip(&self.all) {
                if number(queue) == Some(namespace) {
                    image.put(&queue.entry(id, namespaces.ids()))?;
                    for message in &queue.messages {
                        image.payload(&message.bytes)?;
                    }
                }
            }
            image.finish()?;
        }
        Ok(())
    }
}

/// Why nothing is known of a queue.
enum Unread {
    Inventory(collector::Error),
    Kernel(io::Error),
}

impl Queue {
    fn entry(&self, id: u32, ids: &IdMap) -> MqueueEntry {
        let Self { stat, attributes, .. } = self;
        let time = |seconds: i64, nanoseconds: i64| Timespec {
            tv_sec: seconds.cast_unsigned(),
            tv_nsec: nanoseconds.cast_unsigned(),
        };
        let message = |message: &Message| MqueueMessage {
            priority: message.priority,
            bytes: message.bytes.len() as u32,
        };
        let mut entry = MqueueEntry {
            id,
            name: self.name.clone(),
            most: attributes.most,
            bytes: attributes.bytes,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode,
            accessed: time(stat.st_atime, stat.st_atime_nsec),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            messages: self.messages.iter().map(message).collect(),
        };
        ids.enter(&mut entry);
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_without_a_name_look_like_deleted_files_in_the_root_directory() {
        let is = |target: &str, mode| may_be_nameless(mode, OsStr::new(target));
        assert!(is("/queue (deleted)", libc::S_IFREG) && !is("/queue", libc::S_IFREG));
        assert!(!is("/tmp/queue (deleted)", libc::S_IFREG));
        assert!(!is("/queue (deleted)", libc::S_IFIFO));
    }
}
