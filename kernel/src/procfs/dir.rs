//! A process's or a thread's folder under `/proc`, held open so that the process cannot be
//! confused with a later one of the same pid, and so that each read is one short path walk.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::str::FromStr;

use ids::HostPid;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

use super::parse::dec;

/// Text that is not what the kernel prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing or malformed")]
pub struct Malformed(pub &'static str);

impl Malformed {
    /// Of a task that has no number any more: it has ended.
    pub const ENDED: Self = Self("the number of a task, which has ended,");
}

/// Why something under `/proc` could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("read {path}")]
    Read {
        /// The file.
        path: String,
        /// Its answer.
        #[source]
        source: Errno,
    },
    /// The kernel's text could not be understood.
    #[error("understand {path}")]
    Parse {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: Malformed,
    },
}

impl Error {
    /// Whether the process, thread, descriptor or mapping is simply no longer there.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Read { source, .. } => matches!(source, Errno::ENOENT | Errno::ESRCH),
            Self::Parse { source, .. } => *source == Malformed::ENDED,
        }
    }

    /// Whether the caller may not look.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Read { source: Errno::EACCES | Errno::EPERM, .. })
    }
}

/// A kernel file that is read whole and parsed into one value.
pub trait ProcFile: Sized {
    /// The file's path below the process's folder.
    const NAME: &'static str;
    /// Whether one `read` with room to spare returns all of it (the kernel builds it in one
    /// piece), which saves the second one that would return nothing.
    const SINGLE: bool = true;

    /// Understands the file's text.
    ///
    /// # Errors
    /// If the text is not what the kernel prints.
    fn parse(text: &[u8]) -> Result<Self, Malformed>;

    /// Reads the file of the process or thread of `dir`.
    ///
    /// # Errors
    /// If it cannot be read, which is so for a task that has gone, or not be understood.
    fn read(dir: &Dir) -> Result<Self, Error> {
        Self::read_with(dir, &mut Vec::new())
    }

    /// Like [`ProcFile::read`], with a buffer that is used again and again.
    ///
    /// # Errors
    /// As [`ProcFile::read`].
    fn read_with(dir: &Dir, buffer: &mut Vec<u8>) -> Result<Self, Error> {
        if Self::SINGLE {
            dir.read_single(Self::NAME, buffer)?;
        } else {
            dir.read(Self::NAME, buffer)?;
        }
        Self::parse(buffer).map_err(|source| dir.malformed(Self::NAME, source))
    }
}

/// `/proc/PID` or `/proc/PID/task/TID`, open.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: String,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// The folder of a process. (Of any thread, too: the kernel answers for tids.)
    ///
    /// # Errors
    /// If there is no such process.
    pub fn open(pid: HostPid) -> Result<Self, Error> {
        let path = format!("/proc/{pid}");
        let fd = open_dir(AT_FDCWD, &path, &path)?;
        Ok(Self { fd, path })
    }

    /// The folder of the calling thread, which may be in other namespaces than its process.
    ///
    /// # Errors
    /// If there is no `/proc`.
    pub fn of_this_thread() -> Result<Self, Error> {
        let path = "/proc/thread-self".to_owned();
        let fd = open_dir(AT_FDCWD, &path, &path)?;
        Ok(Self { fd, path })
    }

    /// The folder of one of the process's threads.
    ///
    /// # Errors
    /// If there is no such thread.
    pub fn thread(&self, tid: HostPid) -> Result<Self, Error> {
        let name = format!("task/{tid}");
        let path = format!("{}/{name}", self.path);
        let fd = open_dir(self.fd.as_fd(), &name, &path)?;
        Ok(Self { fd, path })
    }

    /// Whether the caller may look into the process's memory and descriptors, as the kernel decides
    /// for whoever wants to trace it.
    ///
    /// # Errors
    /// If the process has gone.
    pub fn may_inspect(&self) -> Result<bool, Error> {
        match self.open_file("smaps") {
            Ok(_) => Ok(true),
            Err(error) if error.is_denied() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where the folder is, for messages.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Reads a file of the folder to its end, in place of what `buffer` held.
    ///
    /// # Errors
    /// If it cannot be opened or read.
    pub fn read(&self, name: &str, buffer: &mut Vec<u8>) -> Result<(), Error> {
        buffer.clear();
        let mut file = self.open_file(name)?;
        file.read_to_end(buffer).map_err(|error| self.error(name, errno(&error)))?;
        Ok(())
    }

    /// Like [`Dir::read`] for files that the kernel builds in one piece: a read that leaves room
    /// in the buffer was the last one.
    pub(super) fn read_single(&self, name: &str, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let mut file = self.open_file(name)?;
        // Not the buffer's whole capacity, which would be cleared for each file: a page holds
        // nearly all of them.
        buffer.resize(4096, 0);
        let mut filled = 0;
        loop {
            match file.read(&mut buffer[filled..]) {
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.error(name, errno(&error))),
            }
            if filled < buffer.len() {
                break;
            }
            buffer.resize(buffer.len() * 2, 0);
        }
        buffer.truncate(filled);
        Ok(())
    }

    /// The numbers that name the entries of a folder below this one (`fd`, `fdinfo`), rising, in place of
    /// what `numbers` held.
    ///
    /// # Errors
    /// If it cannot be opened or read.
    pub fn numbers(&self, name: &str, numbers: &mut Vec<i32>) -> Result<(), Error> {
        self.named(name, numbers)
    }

    /// The tids of the process's threads, rising, in place of what `tids` held.
    ///
    /// # Errors
    /// If the process has gone.
    pub fn threads_into(&self, tids: &mut Vec<HostPid>) -> Result<(), Error> {
        self.named("task", tids)
    }

    fn named<T: FromStr + Ord>(&self, name: &str, numbers: &mut Vec<T>) -> Result<(), Error> {
        numbers.clear();
        let fd =
            open_dir(self.fd.as_fd(), name, name).map_err(|error| self.located(name, error))?;
        collect_numbers(fd.as_fd(), numbers).map_err(|source| self.error(name, source))
    }

    /// The tids of the process's threads, rising.
    ///
    /// # Errors
    /// If the process has gone.
    pub fn threads(&self) -> Result<Vec<HostPid>, Error> {
        let mut tids = Vec::new();
        self.threads_into(&mut tids)?;
        Ok(tids)
    }

    /// The numbers of the process's descriptors, rising.
    ///
    /// # Errors
    /// If the process has gone, or may not be looked into.
    pub fn descriptors(&self) -> Result<Vec<i32>, Error> {
        let mut fds = Vec::new();
        self.numbers("fd", &mut fds)?;
        Ok(fds)
    }

    pub(super) fn error(&self, name: &str, source: Errno) -> Error {
        // So the kernel answers whoever follows a link of a process that is gone, too.
        let source = match source {
            Errno::EACCES if !self.exists("stat") => Errno::ESRCH,
            other => other,
        };
        Error::Read { path: format!("{}/{name}", self.path), source }
    }

    /// The error for text of the file `name` that cannot be understood.
    #[must_use]
    pub fn malformed(&self, name: &str, source: Malformed) -> Error {
        Error::Parse { path: format!("{}/{name}", self.path), source }
    }

    fn located(&self, name: &str, error: Error) -> Error {
        match error {
            Error::Read { source, .. } => self.error(name, source),
            other @ Error::Parse { .. } => other,
        }
    }

    fn open_file(&self, name: &str) -> Result<std::fs::File, Error> {
        openat(self.fd.as_fd(), name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .map(std::fs::File::from)
            .map_err(|source| self.error(name, source))
    }
}

/// The pids of all processes that this `/proc` shows, rising.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn processes() -> Result<Vec<HostPid>, Error> {
    let mut pids = Vec::new();
    let fd = open_dir(AT_FDCWD, "/proc", "/proc")?;
    collect_numbers(fd.as_fd(), &mut pids)
        .map_err(|source| Error::Read { path: "/proc".to_owned(), source })?;
    Ok(pids)
}

fn open_dir(at: BorrowedFd<'_>, name: &str, path: &str) -> Result<OwnedFd, Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(at, name, flags, Mode::empty())
        .map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn collect_numbers<T: FromStr + Ord>(
    fd: BorrowedFd<'_>,
    numbers: &mut Vec<T>,
) -> Result<(), Errno> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let filled = entries(fd, &mut buffer)?;
        if filled == 0 {
            break;
        }
        numbers.extend(names(&buffer[..filled]).filter_map(dec::<T>));
    }
    // The kernel lists them in rising order, but does not promise to.
    numbers.sort_unstable();
    Ok(())
}

/// The next entries of an open folder, as `getdents64` packs them: how many bytes.
///
/// `readdir` of the C library would allocate for each folder; these are read by the thousand.
fn entries(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`, which is ours alone for
    // the time of the call.
    let filled = unsafe {
        libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
    };
    Errno::result(filled).map(|filled| usize::try_from(filled).unwrap_or(0))
}

/// The names in what [`entries`] returned: records of inode, offset, record length (16 bits at
/// byte 16), type and name up to a zero byte.
fn names(mut records: &[u8]) -> impl Iterator<Item = &[u8]> {
    const NAME: usize = 19;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(records.get(16..18)?.try_into().ok()?));
        let record = records.get(..length)?;
        let name = record.get(NAME..)?;
        records = &records[length..];
        Some(name.split(|&byte| byte == 0).next().unwrap_or(name))
    })
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
