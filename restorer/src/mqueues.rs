//! POSIX message queues that are in the images: made and filled.
//!
//! Those with a name are made with their namespace, before it has the limits that it had. The others go with who has them open, and
//! are made when files are opened ([`crate::files`]).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use images::checkpoint::{PayloadReader, PosixQueue};
use images::id_map::owner_is_known;
use images::messages::Timespec;
use kernel::mqueue::{Attributes, make, send, set_times, unlink};
use kernel::sysv::limits::Limit;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown};

/// Checks what is said of the queues of a namespace; what is wrong.
pub(crate) fn check(queues: &BTreeMap<u32, PosixQueue>) -> Result<(), String> {
    for PosixQueue { entry, .. } in queues.values() {
        let wrong = |what: String| Err(format!("queue {}: {what}", entry.id));
        if let Err(what) = owner_is_known(entry.uid, entry.gid) {
            return wrong(what.to_string());
        }
        if entry.mode & libc::S_IFMT != libc::S_IFREG {
            return wrong(format!("it is of mode {:o}, which is no queue's", entry.mode));
        }
    }
    Ok(())
}

/// Lets the IPC namespace of the calling thread take whatever queues are to come: there may be more of them, and larger ones, than
/// its limits would let in by now.
pub(crate) fn raise_limits() -> io::Result<()> {
    const MOST: u64 = 1 << 16;
    const MOST_BYTES: u64 = 1 << 24;
    const MOST_QUEUES: u64 = i32::MAX as u64;
    Limit::PosixQueues.set(&[MOST_QUEUES])?;
    Limit::PosixMessages.set(&[MOST])?;
    Limit::PosixBytes.set(&[MOST_BYTES])
}

/// Makes a queue by a name, in the namespace of the calling thread, and sends it its messages. [`settle`] is for when it is open as it
/// was: not everybody who restores may open what others own.
pub(crate) fn filled(
    name: &[u8],
    queue: &PosixQueue,
    reader: &mut PayloadReader,
) -> io::Result<OwnedFd> {
    let entry = &queue.entry;
    let like = Attributes { most: entry.most, bytes: entry.bytes, waiting: 0 };
    let made = make(name, &like)?;
    let filled = fill(&made, queue, reader);
    if filled.is_err() {
        // It is nobody's.
        unlink(name).ok();
    }
    filled.map(|()| made)
}

fn fill(made: &OwnedFd, queue: &PosixQueue, reader: &mut PayloadReader) -> io::Result<()> {
    for (message, payload) in queue.messages() {
        let bytes = reader.read(payload).map_err(io::Error::other)?;
        send(made, &bytes, message.priority)?;
    }
    Ok(())
}

/// Gives a queue its owner, mode and times.
pub(crate) fn settle(made: &OwnedFd, queue: &PosixQueue) -> io::Result<()> {
    let entry = &queue.entry;
    fchown(made, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    fchmod(made, Mode::from_bits_truncate(entry.mode))?;
    let time = |it: Timespec| (it.tv_sec.cast_signed(), it.tv_nsec.cast_signed());
    set_times(made, time(entry.accessed), time(entry.modified))
}
