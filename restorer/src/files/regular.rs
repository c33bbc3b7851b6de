//! What is found by its path: regular files, directories, devices, fifos, programs, and ghosts.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use images::messages::RegFileEntry;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::{Whence, lseek};

use super::ghosts::{GhostImage, through};
use super::{Error, kernel};

/// Flags that a file is opened with again. Those that make, empty or insist on a new file are not
/// among them, nor `O_ASYNC`, which comes with the owner.
const AGAIN: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_DIRECT
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NOATIME
    | libc::O_SYNC
    | libc::O_PATH
    | libc::O_LARGEFILE;

/// Opens files by the paths of the images.
#[derive(Debug)]
pub(super) struct Opener {
    root: Option<PathBuf>,
    images: BTreeMap<u32, GhostImage>,
    remaps: BTreeMap<u32, u32>,
    /// Handles on the ghosts that have been made.
    made: BTreeMap<u32, OwnedFd>,
}

fn flags(mut flags: u32) -> OFlag {
    // What was made without a name is there when it is opened again: it is no directory.
    let nameless = libc::O_TMPFILE.cast_unsigned();
    if flags & nameless == nameless {
        flags &= !nameless;
    }
    OFlag::from_bits_retain(flags.cast_signed() & AGAIN) | OFlag::O_CLOEXEC | OFlag::O_NOCTTY
}

/// The path of an entry, for messages.
pub(super) fn shown(entry: &RegFileEntry) -> String {
    String::from_utf8_lossy(&entry.name).into_owned()
}

impl Opener {
    pub(super) fn new(
        root: Option<PathBuf>,
        images: BTreeMap<u32, GhostImage>,
        remaps: BTreeMap<u32, u32>,
    ) -> Self {
        Self { root, images, remaps, made: BTreeMap::new() }
    }

    /// The path in the file systems that we see.
    pub(super) fn locate(&self, name: &[u8]) -> PathBuf {
        let path = Path::new(std::ffi::OsStr::from_bytes(name));
        match &self.root {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_path_buf(),
        }
    }

    /// Opens the file of an entry with its own flags and position.
    pub(super) fn open(&mut self, entry: &RegFileEntry) -> Result<OwnedFd, Error> {
        let fd = self.open_as(entry, entry.flags)?;
        let handle = entry.flags & libc::O_PATH.cast_unsigned() != 0;
        if !handle && entry.pos != 0 && entry.pos != u64::MAX {
            lseek(&fd, entry.pos.cast_signed(), Whence::SeekSet)
                .map_err(|errno| kernel(format!("seek in {}", shown(entry)), errno))?;
        }
        Ok(fd)
    }

    /// Opens the file of an entry with other flags, and checks that it is what it was.
    pub(super) fn open_as(&mut self, entry: &RegFileEntry, with: u32) -> Result<OwnedFd, Error> {
        let path = match self.remaps.get(&entry.id) {
            Some(&ghost) => through(self.ghost(ghost, entry)?),
            None => self.locate(&entry.name),
        };
        let mut with = flags(with);
        if self.remaps.contains_key(&entry.id) {
            // The way to a ghost is a link.
            with.remove(OFlag::O_NOFOLLOW);
        }
        let fd = nix::fcntl::open(&path, with, Mode::empty())
            .map_err(|errno| kernel(format!("open {}", shown(entry)), errno))?;
        let stat = fstat(&fd).map_err(|errno| kernel(format!("stat {}", shown(entry)), errno))?;
        check(entry, &stat)?;
        Ok(fd)
    }

    fn ghost(&mut self, id: u32, entry: &RegFileEntry) -> Result<&OwnedFd, Error> {
        if !self.made.contains_key(&id) {
            let missing = || Error::image(shown(entry), "its ghost is not in the images");
            let image = self.images.remove(&id).ok_or_else(missing)?;
            let made = image.make(&self.locate(&entry.name)).map_err(|source| Error::Kernel {
                operation: format!("make deleted file {}", shown(entry)),
                source,
            })?;
            self.made.insert(id, made);
        }
        self.made.get(&id).ok_or_else(|| Error::image(shown(entry), "its ghost was not made"))
    }

    /// Moves the handles on ghosts out of the way of the tasks.
    pub(super) fn keep(&mut self, keep: super::keep::Keep) -> io::Result<()> {
        for (id, fd) in std::mem::take(&mut self.made) {
            self.made.insert(id, keep.keep(fd)?);
        }
        Ok(())
    }
}

/// The file must be what it was at the time of the dump, as far as the entry tells.
fn check(entry: &RegFileEntry, stat: &FileStat) -> Result<(), Error> {
    let now = stat.st_size.cast_unsigned();
    if let Some(size) = entry.size
        && size != now
    {
        return Err(Error::refused(
            shown(entry),
            format!("it has {now} bytes, and had {size} when it was dumped"),
            "put back the file as it was at the time of the dump",
        ));
    }
    if let Some(mode) = entry.mode
        && mode != stat.st_mode
    {
        return Err(Error::refused(
            shown(entry),
            format!("its mode is {:o}, and was {mode:o} when it was dumped", stat.st_mode),
            "put back the mode (chmod) that it had at the time of the dump",
        ));
    }
    Ok(())
}

/// Opens again, with other flags, what a descriptor of ours refers to.
pub(super) fn reopen(fd: &OwnedFd, with: u32) -> nix::Result<OwnedFd> {
    let mut with = flags(with);
    with.remove(OFlag::O_NOFOLLOW);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    nix::fcntl::open(path.as_str(), with, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opener() -> Opener {
        Opener::new(None, BTreeMap::new(), BTreeMap::new())
    }

    #[test]
    fn nothing_is_made_or_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut entry = RegFileEntry {
            name: path.as_os_str().as_bytes().to_vec(),
            flags: (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC).cast_unsigned(),
            pos: 3,
            ..RegFileEntry::default()
        };
        assert!(opener().open(&entry).is_err());
        assert!(!path.exists());
        std::fs::write(&path, "content").unwrap();
        let fd = opener().open(&entry).unwrap();
        assert_eq!(lseek(&fd, 0, Whence::SeekCur).unwrap(), 3);
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
        entry.size = Some(8);
        assert!(opener().open(&entry).unwrap_err().to_string().contains("it has 7 bytes"));
    }

    #[test]
    fn paths_below_a_root() {
        let opener = Opener::new(Some("/r".into()), BTreeMap::new(), BTreeMap::new());
        assert_eq!(opener.locate(b"/a/b"), Path::new("/r/a/b"));
        assert_eq!(opener.locate(b"/"), Path::new("/r/"));
    }
}
