//! Files whose names are gone: made anew, opened, and unlinked before anybody sees them.
//!
//! A ghost is made where its name was, so that `/proc/PID/fd` and `/proc/PID/maps` show what they
//! showed. Where that name is somebody else's now, or its directory is gone, another one in the
//! nearest directory does: nothing that is there is touched.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use images::messages::{GhostChunkEntry, GhostFileEntry};
use images::{ImageDir, ImageReader, names};
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::Error;

/// Largest ghost that is restored.
const LARGEST: u64 = 1 << 40;

/// A ghost as the images have it: what it is, and the pieces of its contents.
#[derive(Debug)]
pub(super) struct GhostImage {
    entry: GhostFileEntry,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl GhostImage {
    /// Reads `ghost-file-ID.img`.
    pub(super) fn read(dir: &ImageDir, id: u32) -> Result<Self, Error> {
        let image = names::ghost_file(id);
        let missing = || Error::image(image.name(), "it is missing or empty");
        let mut reader = dir.reader(&image)?.ok_or_else(missing)?;
        let entry = reader.next_entry()?.ok_or_else(missing)?;
        let pieces = if entry.chunks() {
            chunks(&mut reader, image.name())?
        } else {
            vec![(0, reader.bytes(reader.left())?)]
        };
        Ok(Self { entry, pieces })
    }

    fn kind(&self) -> u32 {
        self.entry.mode & libc::S_IFMT
    }

    /// Makes the file, at `path` or near it, and takes its name away again. What is returned is
    /// a handle (`O_PATH`), to be opened through `/proc/self/fd`.
    pub(super) fn make(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = self.create_near(path)?;
        let made = self.fill(&path);
        let removed = if self.kind() == libc::S_IFDIR {
            std::fs::remove_dir(&path)
        } else {
            std::fs::remove_file(&path)
        };
        let made = made?;
        removed?;
        Ok(made)
    }

    /// Owner, mode, contents and times of the file that has just been made.
    fn fill(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let handle = nix::fcntl::open(path, flags, Mode::empty())?;
        if self.kind() == libc::S_IFREG {
            let file = OpenOptions::new().write(true).open(through(&handle))?;
            self.write(&file)?;
        }
        std::os::unix::fs::chown(path, Some(self.entry.uid), Some(self.entry.gid))?;
        let mode = Mode::from_bits_truncate(self.entry.mode);
        nix::sys::stat::fchmodat(
            AT_FDCWD,
            path,
            mode,
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )?;
        if let (Some(atim), Some(mtim)) = (&self.entry.atim, &self.entry.mtim) {
            let time = |time: &images::messages::Timeval| {
                TimeSpec::new(time.tv_sec.cast_signed(), time.tv_usec.cast_signed() * 1000)
            };
            let follow = UtimensatFlags::NoFollowSymlink;
            utimensat(AT_FDCWD, path, &time(atim), &time(mtim), follow)?;
        }
        Ok(handle)
    }

    fn write(&self, mut file: &File) -> io::Result<()> {
        match &self.pieces[..] {
            [(0, bytes)] => file.write_all(bytes)?,
            pieces => {
                for (offset, bytes) in pieces {
                    file.write_all_at(bytes, *offset)?;
                }
            }
        }
        if let Some(size) = self.entry.size {
            file.set_len(size)?;
        }
        Ok(())
    }

    /// Makes an empty file of the ghost's kind under a name that is free.
    fn create_near(&self, path: &Path) -> io::Result<PathBuf> {
        let name = path.file_name().unwrap_or_else(|| "ghost".as_ref());
        let mut parent = path.parent().unwrap_or_else(|| "/".as_ref());
        while !parent.is_dir() {
            parent = parent.parent().ok_or(ErrorKind::NotFound)?;
        }
        let first = parent.join(name);
        for attempt in 0..1000 {
            let candidate = if attempt == 0 {
                first.clone()
            } else {
                let mut other = name.to_owned();
                other.push(format!(".stasis-{}-{attempt}", std::process::id()));
                parent.join(other)
            };
            match self.create(&candidate) {
                Ok(()) => return Ok(candidate),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    fn create(&self, path: &Path) -> io::Result<()> {
        match self.kind() {
            libc::S_IFDIR => std::fs::create_dir(path),
            libc::S_IFREG => {
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
            }
            kind @ (libc::S_IFIFO | libc::S_IFCHR) => {
                let device = self.entry.rdev.unwrap_or(0).into();
                let kind = SFlag::from_bits_truncate(kind);
                Ok(nix::sys::stat::mknod(path, kind, Mode::from_bits_truncate(0o600), device)?)
            }
            kind => {
                Err(io::Error::other(format!("a deleted file of kind {kind:o} is not supported")))
            }
        }
    }
}

/// Where a descriptor of ours is opened again.
pub(super) fn through(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn chunks<R: io::Read>(
    reader: &mut ImageReader<R, GhostFileEntry>,
    name: &str,
) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let mut pieces = Vec::new();
    while let Some(chunk) = reader.next_as::<GhostChunkEntry>()? {
        if chunk.off.saturating_add(chunk.len) > LARGEST {
            return Err(Error::image(name, "a piece of it lies beyond any file"));
        }
        pieces.push((chunk.off, reader.bytes(chunk.len)?));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn ghost(mode: u32, bytes: &[u8]) -> GhostImage {
        let entry = GhostFileEntry { mode, ..GhostFileEntry::default() };
        GhostImage { entry, pieces: vec![(0, bytes.to_vec())] }
    }

    #[test]
    fn a_ghost_leaves_no_name_and_spares_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone");
        for taken in [false, true] {
            if taken {
                std::fs::write(&path, "somebody else's").unwrap();
            }
            let handle = ghost(libc::S_IFREG | 0o640, b"boo").make(&path).unwrap();
            assert_eq!(std::fs::read(through(&handle)).unwrap(), b"boo");
            let metadata = std::fs::metadata(through(&handle)).unwrap();
            assert_eq!((metadata.nlink(), metadata.mode() & 0o7777), (0, 0o640));
            assert_eq!(path.exists(), taken);
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn directories_and_lost_parents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/gone");
        let handle = ghost(libc::S_IFDIR | 0o755, b"").make(&path).unwrap();
        assert!(std::fs::metadata(through(&handle)).unwrap().is_dir());
        let handle = ghost(libc::S_IFIFO | 0o600, b"").make(&path).unwrap();
        assert_eq!(
            std::fs::metadata(through(&handle)).unwrap().mode() & libc::S_IFMT,
            libc::S_IFIFO
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
