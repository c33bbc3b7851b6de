//! What was in a file system that lives in memory: an archive, as tar(1) makes them, is unpacked into a new one.
//!
//! Archives are believed nothing: every name is found from the root of the new file system, step by step and without
//! links, and has no `..`; so whatever is in them stays in there.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use images::id_map::owner_is_known;
use images::messages::MntEntry;
use images::store::Content;
use images::{Images, archives, names};
use kernel::attributes::{FileFlags, set_file_flags};
use kernel::paths::{Links, find};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat, symlinkat};
use tar::{Archive, Entry, EntryType};

use super::records::{self, Records};
use crate::error::Error;

const HANDLE: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Bytes that are written, or left out as zeros, at once.
const BLOCK: usize = 4096;

/// The longest value of an attribute (`XATTR_SIZE_MAX`), and some.
const LARGEST_EXTENSION: u64 = 1 << 20;

/// What the images have of a file system that lives in memory.
pub(super) fn open(entry: &MntEntry, images: &Images) -> Result<Box<dyn Content>, Error> {
    let by_device = images.raw(&names::tmpfs(entry.root_dev));
    Ok(by_device.or_else(|error| match error {
        images::Error::Missing { .. } => images.raw(&names::older_tmpfs(entry.mnt_id)),
        error => Err(error),
    })?)
}

/// Fills a new file system.
pub(super) fn fill(root: &OwnedFd, content: Box<dyn Content>, shown: &str) -> Result<(), Error> {
    unpack(root, content).map_err(Error::kernel(format!("unpack what was in {shown}")))
}

fn unpack(root: &OwnedFd, content: impl Read) -> io::Result<()> {
    let (archive, last) = records::Archive::new(MultiGzDecoder::new(content));
    let mut archive = Archive::new(archive);
    let (mut directories, mut flagged) = (Vec::new(), Vec::new());
    for entry in archive.entries()? {
        let mut entry = entry?;
        if matches!(entry.header().entry_type(), EntryType::XGlobalHeader) {
            continue;
        }
        let more = more(last.take())?;
        let name = plain(more.path.as_deref().unwrap_or(&entry.path_bytes()))?;
        let made = one(root, &name, &mut entry, &more, &mut flagged).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", name.display()))
        })?;
        // A directory changes with what comes into it.
        directories.extend(made);
    }
    for (handle, times) in directories.iter().rev() {
        times.set(handle)?;
    }
    // What must not be changed is not linked either, nor gets anything.
    for (name, flags) in flagged {
        let file = File::open(link(&find(root, &name, Links::Refused)?))?;
        match set_file_flags(file, flags) {
            // No file system in memory had them before Linux 6.6.
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                tracing::warn!("{} does not have its flags (chattr)", name.display());
            }
            set => set?,
        }
    }
    Ok(())
}

/// A name in an archive, from the root of the file system.
fn plain(name: &[u8]) -> io::Result<PathBuf> {
    let name = kernel::paths::of_bytes(name).ok_or(ErrorKind::InvalidData)?;
    let mut plain = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            _ => {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    format!("{} leads out of the file system", name.display()),
                ));
            }
        }
    }
    Ok(plain)
}

/// When a file was read and written.
#[derive(Clone, Copy, Debug)]
struct Times(TimeSpec);

impl Times {
    fn set(self, handle: &OwnedFd) -> io::Result<()> {
        let follow = UtimensatFlags::FollowSymlink;
        Ok(utimensat(AT_FDCWD, link(handle).as_str(), &self.0, &self.0, follow)?)
    }
}

fn link(handle: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

/// What an entry has beside its header.
#[derive(Debug, Default)]
struct More {
    mtime: Option<(i64, i64)>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    flags: FileFlags,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

fn more(records: Records) -> io::Result<More> {
    let mut more = More::default();
    for (key, value) in records {
        if value.len() as u64 > LARGEST_EXTENSION {
            return Err(ErrorKind::InvalidData.into());
        }
        if key == b"mtime" {
            more.mtime = time(&value);
        } else if key == b"path" {
            more.path = Some(value);
        } else if key == b"linkpath" {
            more.link = Some(value);
        } else if key == archives::FILE_FLAGS.0.as_bytes() {
            more.flags = flags(&value)?;
        } else if let Some(name) = key.strip_prefix(archives::ATTRIBUTE.as_bytes()) {
            more.attributes.push((archives::attribute_of_key(name), value));
        }
    }
    Ok(more)
}

/// The flags with these names.
fn flags(text: &[u8]) -> io::Result<FileFlags> {
    let bit = |name: &[u8]| {
        let found = archives::FILE_FLAGS.1.iter().find(|(known, _)| known.as_bytes() == name);
        let unknown = || io::Error::other(format!("flag {} is not known", name.escape_ascii()));
        found.map(|(_, bit)| FileFlags::from_bits_truncate(*bit)).ok_or_else(unknown)
    };
    text.split(|byte| *byte == b',').map(bit).collect()
}

/// Seconds and nanoseconds of `SECONDS.FRACTION`.
fn time(text: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some((seconds.parse().ok()?, digits.parse().ok()?))
}

/// Unpacks one entry; of a directory it returns what is set at the end, and adds to what is `flagged` then.
fn one(
    root: &OwnedFd,
    name: &Path,
    entry: &mut Entry<'_, impl Read>,
    more: &More,
    flagged: &mut Vec<(PathBuf, FileFlags)>,
) -> io::Result<Option<(OwnedFd, Times)>> {
    let kind = entry.header().entry_type();
    let times = {
        let (seconds, fraction) = more.mtime.unwrap_or((entry.header().mtime()?.cast_signed(), 0));
        Times(TimeSpec::new(seconds, fraction))
    };
    let handle = match name.file_name() {
        // The root of the file system itself.
        None => find(root, Path::new(""), Links::Refused)?,
        Some(last) => {
            let directory = find(root, name.parent().unwrap_or(Path::new("")), Links::Refused)?;
            if kind == EntryType::Link {
                let target = target_of(entry, more)?;
                let target = find(root, &plain(&target)?, Links::Refused)?;
                linkat(&target, "", &directory, last, AtFlags::AT_EMPTY_PATH)?;
                return Ok(None);
            }
            make(&directory, last, entry, more)?;
            openat(&directory, last, HANDLE, Mode::empty())?
        }
    };
    own(&handle, entry, more)?;
    // To open anything else may be more than to look at it.
    let can_be_opened = matches!(
        kind,
        EntryType::Directory | EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
    );
    if !more.flags.is_empty() && can_be_opened {
        flagged.push((name.to_owned(), more.flags));
    }
    if kind == EntryType::Directory || name.file_name().is_none() {
        return Ok(Some((handle, times)));
    }
    times.set(&handle)?;
    Ok(None)
}

/// What a link leads to, or another name is of.
fn target_of(entry: &Entry<'_, impl Read>, more: &More) -> io::Result<Vec<u8>> {
    let by_header = || entry.link_name_bytes().map(|target| target.to_vec());
    Ok(more.link.clone().or_else(by_header).ok_or(ErrorKind::InvalidData)?)
}

/// Makes what an entry is, root's own.
fn make(
    directory: &OwnedFd,
    name: &OsStr,
    entry: &mut Entry<'_, impl Read>,
    more: &More,
) -> io::Result<()> {
    let only = Mode::S_IRUSR | Mode::S_IWUSR;
    let device = |entry: &Entry<'_, _>| {
        let major = entry.header().device_major()?.unwrap_or(0);
        let minor = entry.header().device_minor()?.unwrap_or(0);
        Ok::<_, io::Error>(makedev(major.into(), minor.into()))
    };
    match entry.header().entry_type() {
        EntryType::Directory => match mkdirat(directory, name, Mode::S_IRWXU) {
            Ok(()) => {}
            Err(errno) => return Err(errno.into()),
        },
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
            let file = openat(directory, name, flags | OFlag::O_CLOEXEC, only)?;
            copy(entry, File::from(file))?;
        }
        EntryType::Symlink => {
            let target = target_of(entry, more)?;
            let target = kernel::paths::of_bytes(&target).ok_or(ErrorKind::InvalidData)?;
            symlinkat(target, directory, name)?;
        }
        EntryType::Fifo => mknodat(directory, name, SFlag::S_IFIFO, only, 0)?,
        EntryType::Char => mknodat(directory, name, SFlag::S_IFCHR, only, device(entry)?)?,
        EntryType::Block => mknodat(directory, name, SFlag::S_IFBLK, only, device(entry)?)?,
        kind => return Err(io::Error::other(format!("an entry of kind {kind:?} is not known"))),
    }
    Ok(())
}

/// Copies contents, without blocks of zeros.
fn copy(from: &mut impl Read, mut to: File) -> io::Result<()> {
    let mut block = [0; BLOCK];
    let mut size = 0;
    loop {
        let mut filled = 0;
        while filled < BLOCK {
            match from.read(&mut block[filled..])? {
                0 => break,
                more => filled += more,
            }
        }
        let part = &block[..filled];
        if part.iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Current(filled as i64))?;
        } else {
            to.write_all(part)?;
        }
        size += filled as u64;
        if filled < BLOCK {
            return to.set_len(size);
        }
    }
}

/// Owner, permissions and attributes.
fn own(handle: &OwnedFd, entry: &Entry<'_, impl Read>, more: &More) -> io::Result<()> {
    let number = |number: u64| u32::try_from(number).map_err(io::Error::other);
    let (uid, gid) = (number(entry.header().uid()?)?, number(entry.header().gid()?)?);
    owner_is_known(uid, gid)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    fchownat(handle, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
    if entry.header().entry_type() != EntryType::Symlink {
        let mode = Mode::from_bits_truncate(entry.header().mode()? & 0o7777);
        fchmodat(AT_FDCWD, link(handle).as_str(), mode, FchmodatFlags::FollowSymlink)?;
    }
    for (name, value) in &more.attributes {
        match kernel::attributes::set(handle, name, value) {
            // A security module gives labels as it likes.
            Err(error)
                if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32)
                    && name.starts_with(b"security.") => {}
            set => set?,
        }
    }
    Ok(())
}
