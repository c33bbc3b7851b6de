//! POSIX message queues. One with a name is still there, as the kernel keeps it until somebody removes it; one without is made
//! anew.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use images::messages::{FileEntry, MqueueFileEntry, fd_type};
use kernel::mqueue::{self, Attributes};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown};
use support::mqueue as refusals;

use support::Refusal;

use super::Error;
use super::file_kind::{FileKind, missing};
use super::images::FileImages;
use super::opening::{Opening, flagged};
use super::user::User;

/// An open message queue.
#[derive(Debug)]
pub(super) struct MessageQueue;

/// What the kernel takes as flags of an open queue.
const FLAGS: u32 = (libc::O_ACCMODE | libc::O_NONBLOCK).cast_unsigned();
/// The longest name.
const LONGEST: usize = 255;

impl FileKind for MessageQueue {
    fn r#type(&self) -> u32 {
        fd_type::MQUEUE
    }

    fn check(&self, file: &FileEntry, _images: &FileImages) -> Result<(), Error> {
        let entry = entry(file)?;
        let is_name = (1..=LONGEST).contains(&entry.name.len())
            && !entry.name.iter().any(|byte| [b'/', 0].contains(byte));
        if is_name {
            return Ok(());
        }
        Err(Error::image(format!("message queue {}", file.id), "its name can be none"))
    }

    fn beyond(&self, _file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        None
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        let mut unlinked: BTreeMap<u64, Vec<&MqueueFileEntry>> = BTreeMap::new();
        for file in files {
            let entry = entry(file)?;
            match entry.unlinked {
                Some(true) => unlinked.entry(entry.inode).or_default().push(entry),
                _ => opening.add(file.id, open_named(entry)?)?,
            }
        }
        unlinked.into_values().try_for_each(|entries| open_unlinked(opening, &entries))
    }
}

fn entry(file: &FileEntry) -> Result<&MqueueFileEntry, Error> {
    file.mq.as_ref().ok_or_else(|| missing(file))
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
