//! Whether there is still in a program, or in a mapped file, what was in it.
//!
//! Of a private mapping the images have only the pages that differ from the file: the rest is the file's.
//! With another version of a library, of the same size even, a process would go on in code that it never
//! saw. So the file must be the one that was dumped, not written to since; or have the build id that it
//! had; or the same checksum. What is mapped shared is the file itself, and as the file it may have been
//! written to since.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use images::build_id;
use images::messages::RegFileEntry;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use support::changed::Contents;

use super::Error;
use super::approve::{Approved, nanoseconds};
use super::reopen::{shown, through};

/// What of files is compared with what the images say, beside the size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Validation {
    /// Of programs and mapped files, that their contents are the same.
    #[default]
    Contents,
    /// Nothing.
    Size,
}

/// How much of a mapped file has to be as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// No more than for an open file (its size): what the process writes goes into the file anyway.
    File,
    /// It has to be the very file, but may have been written to.
    Identity,
    /// All of its contents.
    Contents,
}

/// Refuses a file whose contents are not what they were, as far as `needs` asks for that.
pub(super) fn check(entry: &RegFileEntry, file: &Approved, needs: Needs) -> Result<(), Error> {
    let unchanged = |content: &images::messages::FileContent| {
        needs == Needs::Identity || content.modified == nanoseconds(file.attributes.modified)
    };
    if needs == Needs::File || file.same && entry.content.as_ref().is_some_and(unchanged) {
        return Ok(());
    }
    let checksum = entry.content.and_then(|content| content.checksum);
    let failed = |source| {
        let operation = format!("read {}", shown(entry));
        Error::Kernel { operation, source }
    };
    let refuse = |known: Contents<'_>| {
        Err(Error::refused(entry.id, support::changed::other_contents(known), shown(entry)))
    };
    if !entry.build_id.is_empty() {
        let now = build_id_of(&file.handle).map_err(failed)?;
        if now.as_ref() == Some(&entry.build_id) {
            return Ok(());
        }
        let now = now.as_deref().map(hex);
        return refuse(Contents::BuildId { now: now.as_deref(), was: &hex(&entry.build_id) });
    }
    if let Some(was) = checksum {
        let same = checksum_of(&file.handle).map_err(failed)? == was;
        return if same { Ok(()) } else { refuse(Contents::Checksum) };
    }
    match entry.content {
        Some(_) if file.same => refuse(Contents::Written),
        Some(_) => refuse(Contents::Replaced),
        // Images of CRIU's, or of a dump that was to compare sizes: that has been done.
        None => Ok(()),
    }
}

fn open(handle: &OwnedFd) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    Ok(nix::fcntl::open(&through(handle), flags, Mode::empty())?.into())
}

fn build_id_of(handle: &OwnedFd) -> io::Result<Option<Vec<u32>>> {
    let file = open(handle)?;
    build_id::find(|buffer, at| file.read_exact_at(buffer, at))
}

fn checksum_of(handle: &OwnedFd) -> io::Result<u32> {
    let mut file = open(handle)?;
    let mut sum = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(sum.finalize()),
            bytes => sum.update(&buffer[..bytes]),
        }
    }
}

fn hex(words: &[u32]) -> String {
    words.iter().flat_map(|word| word.to_ne_bytes()).map(|byte| format!("{byte:02x}")).collect()
}
