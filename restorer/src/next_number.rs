//! The number that the kernel gives out next in a pid namespace (`/proc/sys/kernel/ns_last_pid`), where none can be chosen:
//! at births in user namespaces that do not own the pid namespace ([`crate::registrars`]).
//!
//! It is opened before any task is in its mount namespace, where there may be no such file, or one that nobody may write to; which
//! pid namespace it is about is up to whoever writes.

use std::fs::File;
use std::io::Result;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use ids::ImagePid;
use kernel::descriptors::duplicate_from;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// One number, which one call reads.
const PLACE: &str = "/proc/sys/kernel/ns_last_pid";

/// The file, at a descriptor that no task wants.
pub(crate) fn open(base: RawFd) -> Result<File> {
    let file = File::options().read(true).write(true).open(PLACE)?;
    Ok(File::from(duplicate_from(&file, base)?))
}

/// The turn of one birth.
pub(crate) struct NextNumber<'f> {
    file: &'f File,
    before: String,
    is_locked: bool,
}

impl<'f> NextNumber<'f> {
    /// Takes the turn, which nobody else of the tree has meanwhile, nor another restore if the namespace is `shared` with others.
    pub(crate) fn begin(file: &'f File, shared: bool) -> Result<Self> {
        /// Longer than any number.
        const LONGEST: usize = 32;
        let is_locked = shared && lock(file)?;
        let mut text = [0; LONGEST];
        let count = file.read_at(&mut text, 0)?;
        let before = String::from_utf8_lossy(&text[..count]).trim().to_owned();
        // One that has given out none yet says -1, which it does not take.
        let before = if before.starts_with('-') { "0".to_owned() } else { before };
        Ok(Self { file, before, is_locked })
    }

    /// Has the kernel give out `wanted` next.
    pub(crate) fn set(&self, wanted: ImagePid) -> Result<()> {
        self.file.write_all_at((wanted.get() - 1).to_string().as_bytes(), 0)
    }

    /// Puts it back: the numbers that come after are those of others of the tree, which nobody else is to get.
    pub(crate) fn put_back(self) -> Result<()> {
        let put = self.file.write_all_at(self.before.as_bytes(), 0);
        if self.is_locked {
            fcntl(self.file, FcntlArg::F_SETLK(&whole(libc::F_UNLCK)))?;
        }
        put
    }
}

/// Takes a lock of this process (the tasks have the open file in common, by which other locks go), if it is to be had soon: everybody on
/// the machine may take it and keep it. Without it two restores may take each other's numbers, which is found out, and tried again.
fn lock(file: &File) -> Result<bool> {
    let end = Instant::now() + PATIENCE;
    loop {
        match fcntl(file, FcntlArg::F_SETLK(&whole(libc::F_WRLCK))) {
            Ok(_) => return Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A birth takes a fraction of that.
const PATIENCE: Duration = Duration::from_millis(300);

fn whole(how: i32) -> libc::flock {
    libc::flock {
        l_type: how as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
