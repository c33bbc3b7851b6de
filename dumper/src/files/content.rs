//! What is in a program or a mapped file: what a restore recognises its contents by, as the images do not
//! hold them.
//!
//! The time of the last change is enough for the same file. For another one (a package installed again,
//! another machine) there is the build id; and for files that have none, and are not too large, a
//! checksum. All but the time is read while the target runs.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use images::build_id;
use images::messages::FileContent;
use nix::sys::stat::FileStat;

use super::identity::since_1970;

/// The largest file of which a checksum is made, which takes some milliseconds.
const LARGEST: u64 = 32 << 20;

/// What is known of the contents of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    size: u64,
    pub(super) build_id: Vec<u32>,
    pub(super) entry: FileContent,
}

impl Content {
    /// Reads them. Of a frozen target's file no checksum is made.
    pub(super) fn read(handle: &OwnedFd, stat: &FileStat, frozen: bool) -> io::Result<Self> {
        let size = stat.st_size.cast_unsigned();
        let file = open(handle)?;
        let build_id = build_id::find(|buffer, at| file.read_exact_at(buffer, at))?;
        let build_id = build_id.unwrap_or_default();
        let wanted = build_id.is_empty() && size <= LARGEST && !frozen;
        let checksum = wanted.then(|| checksum(&file, size)).transpose()?;
        Ok(Self { size, build_id, entry: FileContent { modified: modified(stat), checksum } })
    }

    /// Whether the file has not been written to since.
    pub(super) fn is_of(&self, stat: &FileStat) -> bool {
        self.size == stat.st_size.cast_unsigned() && self.entry.modified == modified(stat)
    }
}

const fn modified(stat: &FileStat) -> i64 {
    since_1970(stat.st_mtime, stat.st_mtime_nsec)
}

/// Opens a file so that nobody sees that it was read, if that may be.
fn open(handle: &OwnedFd) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let with = |flags| OpenOptions::new().read(true).custom_flags(flags).open(&path);
    with(libc::O_NOATIME | libc::O_NONBLOCK).or_else(|_| with(libc::O_NONBLOCK))
}

fn checksum(file: &File, size: u64) -> io::Result<u32> {
    let mut sum = crc32fast::Hasher::new();
    let mut buffer = vec![0; size.clamp(1, 1 << 20) as usize];
    // Not beyond what it was: who writes to it meanwhile changes the time too.
    let mut rest = file.take(size);
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(sum.finalize()),
            bytes => sum.update(&buffer[..bytes]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_is_written_to_a_file_is_seen() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"123456789").unwrap();
        let handle = OwnedFd::from(file.reopen().unwrap());
        let stat = nix::sys::stat::fstat(&handle).unwrap();
        let content = Content::read(&handle, &stat, false).unwrap();
        // The check value of CRC-32.
        assert_eq!(content.entry.checksum, Some(0xcbf4_3926));
        assert!(content.is_of(&stat) && content.build_id.is_empty());
        assert_eq!(Content::read(&handle, &stat, true).unwrap().entry.checksum, None);
        file.as_file().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert!(!content.is_of(&nix::sys::stat::fstat(&handle).unwrap()));
    }
}
