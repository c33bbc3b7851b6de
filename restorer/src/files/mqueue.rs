//! POSIX message queues. One with a name in the dumper's IPC namespace is still there, as the kernel keeps it until somebody removes it;
//! those of a namespace that is made have been made with it; one without a name elsewhere is made anew, with its messages.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use images::checkpoint::{PayloadReader, PosixQueue};
use images::messages::{FileEntry, MqueueFileEntry, fd_type};
use images::{Checkpoint, names};
use kernel::mqueue::{self, Attributes};
use kernel::namespaces::{new, within_ipc};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown};
use support::mqueue as refusals;

use support::Refusal;

use super::Error;
use super::beside::{Beside, Part};
use super::file_kind::{FileKind, missing};
use super::images::FileImages;
use super::opening::{Opening, flagged};
use super::user::User;
use crate::mqueues::{check, filled, raise_limits, settle};

/// An open message queue.
#[derive(Debug)]
pub(super) struct MessageQueue;

/// The queues that are in the images, by the numbers of their namespaces.
#[derive(Debug, Default)]
struct Queues(BTreeMap<u32, OfNamespace>);

#[derive(Debug)]
struct OfNamespace {
    queues: BTreeMap<u32, PosixQueue>,
    /// Has the bytes of their messages.
    reader: PayloadReader,
}

impl Part for Queues {}

impl Queues {
    /// The number of a queue's namespace, and whether it has a name.
    fn find(&self, queue: u32) -> Option<(u32, bool)> {
        let mut all = self.0.iter();
        all.find_map(|(number, of)| Some((*number, of.queues.get(&queue)?.entry.name.is_some())))
    }
}

const IN_NO_IMAGE: &str = "no image has the queue";

/// What the kernel takes as flags of an open queue.
const FLAGS: u32 = (libc::O_ACCMODE | libc::O_NONBLOCK).cast_unsigned();
/// The longest name.
const LONGEST: usize = 255;

impl FileKind for MessageQueue {
    fn r#type(&self) -> u32 {
        fd_type::MQUEUE
    }

    fn load(&self, checkpoint: &Checkpoint, beside: &mut Beside) -> Result<(), Error> {
        let all = checkpoint.ipc_namespaces.iter();
        for (&number, namespace) in all.filter(|(_, it)| !it.posix_queues.is_empty()) {
            let image = names::ipcns_mq(number);
            let queues = namespace.posix_queues.clone();
            check(&queues).map_err(|what| Error::image(image.name(), what))?;
            let reader = PayloadReader::open(&checkpoint.images, &image)?;
            beside.of::<Queues>().0.insert(number, OfNamespace { queues, reader });
        }
        Ok(())
    }

    fn check(&self, file: &FileEntry, images: &FileImages) -> Result<(), Error> {
        let entry = entry(file)?;
        let is_name = (1..=LONGEST).contains(&entry.name.len())
            && !entry.name.iter().any(|byte| [b'/', 0].contains(byte));
        let wrong = |what| Err(Error::image(format!("message queue {}", file.id), what));
        let queues = images.beside.get::<Queues>();
        match entry.queue {
            _ if !is_name => wrong("its name can be none"),
            Some(queue) if queues.is_none_or(|it| it.find(queue).is_none()) => wrong(IN_NO_IMAGE),
            _ => Ok(()),
        }
    }

    fn beyond(&self, _file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        None
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        let mut unlinked: BTreeMap<u64, Vec<&MqueueFileEntry>> = BTreeMap::new();
        let mut named: BTreeMap<(u32, u32), Vec<&MqueueFileEntry>> = BTreeMap::new();
        let mut nameless = named.clone();
        for file in files {
            let entry = entry(file)?;
            match (entry.queue, entry.unlinked) {
                (Some(queue), _) => {
                    let queues = opening.beside.get::<Queues>();
                    let Some((number, has_name)) = queues.and_then(|it| it.find(queue)) else {
                        return Err(Error::image(object(entry), IN_NO_IMAGE));
                    };
                    let of = if has_name { &mut named } else { &mut nameless };
                    of.entry((number, queue)).or_default().push(entry);
                }
                // As it was before the images had queues: it is empty.
                (None, Some(true)) => unlinked.entry(entry.inode).or_default().push(entry),
                (None, _) => opening.add(file.id, open_named(entry)?)?,
            }
        }
        for (queue, entries) in named {
            open_of_images(opening, queue, &entries)?;
        }
        open_nameless(opening, &nameless)?;
        unlinked.into_values().try_for_each(|entries| open_unlinked(opening, &entries))
    }
}

fn entry(file: &FileEntry) -> Result<&MqueueFileEntry, Error> {
    file.mq.as_ref().ok_or_else(|| missing(file))
}

/// Opens a queue of the images that has a name, as often as it was open.
fn open_of_images(
    opening: &mut Opening<'_>,
    (number, queue): (u32, u32),
    entries: &[&MqueueFileEntry],
) -> Result<(), Error> {
    let Some(first) = entries.first() else { return Ok(()) };
    let queues = opening.beside.get::<Queues>();
    let name =
        queues.and_then(|queues| queues.0.get(&number)?.queues.get(&queue)?.entry.name.clone());
    let opened = match (opening.opener.ipc.0.get(&number), name) {
        (Some(namespace), Some(name)) => within_ipc(&**namespace, || open_all(&name, entries))
            .map_err(failed("enter the IPC namespace of", first))??,
        // The tree joins another namespace: it is there, or not.
        _ => {
            let open = |entry: &&MqueueFileEntry| Ok((entry.id, open_named(entry)?));
            entries.iter().map(open).collect::<Result<_, Error>>()?
        }
    };
    opened.into_iter().try_for_each(|(id, fd)| opening.add(id, fd))
}

/// Makes the queues that have no name, and opens each as often as it was open. That is done in an IPC namespace which nobody is in
/// afterwards: so no name of theirs is left behind whatever happens, and the limits of the machine's namespace do not matter.
fn open_nameless(
    opening: &mut Opening<'_>,
    queues: &BTreeMap<(u32, u32), Vec<&MqueueFileEntry>>,
) -> Result<(), Error> {
    let Some(first) = queues.values().flatten().next() else { return Ok(()) };
    let found = opening.beside.of::<Queues>();
    let mut opened = Ok(Vec::new());
    let made = new("ipc", || {
        // Where nobody may raise them those of the process count, and what does not fit says so.
        drop(raise_limits());
        opened = make_nameless(found, queues);
        Ok(())
    });
    match made {
        // Without the right to make a namespace they have a name for a moment.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            opened = make_nameless(found, queues);
        }
        made => drop(made.map_err(failed("make an IPC namespace for", first))?),
    }
    opened?.into_iter().try_for_each(|(id, fd)| opening.add(id, fd))
}

/// Makes them in the IPC namespace of the calling thread.
fn make_nameless(
    found: &mut Queues,
    queues: &BTreeMap<(u32, u32), Vec<&MqueueFileEntry>>,
) -> Result<Vec<(u32, OwnedFd)>, Error> {
    let mut opened = Vec::new();
    for ((number, queue), entries) in queues {
        let of = found.0.get_mut(number).zip(entries.first());
        let Some((OfNamespace { queues, reader }, first)) = of else { continue };
        let Some(queue) = queues.get(queue) else { continue };
        let name = format!("stasis-{}-{}", std::process::id(), first.id).into_bytes();
        let _room = mqueue::Room::make().map_err(failed("make room for", first))?;
        let made = filled(&name, queue, reader).map_err(failed("make", first))?;
        let all = open_all(&name, entries);
        mqueue::unlink(&name).map_err(failed("remove the name of", first))?;
        settle(&made, queue).map_err(failed("set the owner of", first))?;
        opened.extend(all?);
    }
    Ok(opened)
}

/// Opens a queue by a name that it has for now.
fn open_all(name: &[u8], entries: &[&MqueueFileEntry]) -> Result<Vec<(u32, OwnedFd)>, Error> {
    let open = |entry: &&MqueueFileEntry| {
        let fd = mqueue::open(name, entry.flags & FLAGS).map_err(failed("open", entry))?;
        Ok((entry.id, flagged(fd, entry.flags, &object(entry))?))
    };
    entries.iter().map(open).collect()
}

fn object(entry: &MqueueFileEntry) -> String {
    format!("message queue /{}", String::from_utf8_lossy(&entry.name))
}

fn failed(what: &str, entry: &MqueueFileEntry) -> impl FnOnce(std::io::Error) -> Error {
    let operation = format!("{what} {}", object(entry));
    move |source| Error::Kernel { operation, source }
}

/// Opens a queue by its name, which must be the one that it was.
fn open_named(entry: &MqueueFileEntry) -> Result<OwnedFd, Error> {
    let refused = |refusal: Refusal| Err(Error::refused(entry.id, refusal, object(entry)));
    let fd = match mqueue::open(&entry.name, entry.flags & FLAGS) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return refused(refusals::GONE),
        opened => opened.map_err(failed("open", entry))?,
    };
    let inode = fstat(&fd).map_err(|errno| failed("stat", entry)(errno.into()))?.st_ino;
    let boot = kernel::boot::boot();
    if inode != entry.inode || boot.is_none() || boot != entry.boot {
        return refused(refusals::ANOTHER);
    }
    flagged(fd, entry.flags, &object(entry))
}

/// Makes a queue that has no name, and opens it as often as it was open.
fn open_unlinked(opening: &mut Opening<'_>, entries: &[&MqueueFileEntry]) -> Result<(), Error> {
    let Some(first) = entries.first() else { return Ok(()) };
    let name = format!("stasis-{}-{}", std::process::id(), first.id).into_bytes();
    let like = Attributes { most: first.most, bytes: first.bytes, waiting: 0 };
    let made = mqueue::make(&name, &like).map_err(failed("make", first))?;
    let opened: Result<Vec<OwnedFd>, Error> = (entries.iter())
        .map(|entry| mqueue::open(&name, entry.flags & FLAGS).map_err(failed("open", entry)))
        .collect();
    mqueue::unlink(&name).map_err(failed("remove the name of", first))?;
    let owner = (Some(Uid::from_raw(first.uid)), Some(Gid::from_raw(first.gid)));
    fchown(&made, owner.0, owner.1)
        .and_then(|()| fchmod(&made, Mode::from_bits_truncate(first.mode)))
        .map_err(|errno| failed("set the owner of", first)(errno.into()))?;
    for (entry, fd) in entries.iter().zip(opened?) {
        opening.add(entry.id, flagged(fd, entry.flags, &object(entry))?)?;
    }
    Ok(())
}
