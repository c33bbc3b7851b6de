//! POSIX message queues of the calling thread's IPC namespace (mq_overview(7)).
//!
//! The kernel keeps queues as files of a file system of their own, one for each IPC namespace, which need not be mounted
//! anywhere.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

/// `fsconfig`: make the file system.
const FSCONFIG_CMD_CREATE: libc::c_long = 6;

/// The names of all queues of the namespace.
///
/// # Errors
/// Without the right to mount (`CAP_SYS_ADMIN`).
pub fn names() -> io::Result<Vec<OsString>> {
    Queues::here()?.map_or_else(|| Ok(Vec::new()), |queues| queues.names())
}

/// The queues of an IPC namespace, as the files of their file system, which is mounted nowhere.
#[derive(Debug)]
pub struct Queues {
    root: OwnedFd,
}

impl Queues {
    /// Those of the calling thread's namespace; `None` for a kernel without.
    ///
    /// # Errors
    /// Without the right to mount (`CAP_SYS_ADMIN`).
    pub fn here() -> io::Result<Option<Self>> {
        match file_system() {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            root => Ok(Some(Self { root: root? })),
        }
    }

    /// The device of the file system.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn device(&self) -> io::Result<u64> {
        Ok(nix::sys::stat::fstat(&self.root)?.st_dev)
    }

    /// Their names.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory = nix::dir::Dir::openat(&self.root, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in directory.iter() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    /// Opens one to look at it; `None` if it has gone.
    ///
    /// # Errors
    /// If it may not be opened, or there are too many open files.
    pub fn open(&self, name: &OsStr) -> io::Result<Option<OwnedFd>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        match nix::fcntl::openat(&self.root, name, flags, Mode::empty()) {
            Err(nix::errno::Errno::ENOENT) => Ok(None),
            opened => Ok(Some(opened?)),
        }
    }
}

/// The root of the namespace's file system of queues, mounted nowhere.
fn file_system() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string, and no pointers but that one are given.
    unsafe {
        let context = opened(libc::syscall(libc::SYS_fsopen, c"mqueue".as_ptr(), 1))?;
        let null = std::ptr::null::<libc::c_void>();
        let of = context.as_raw_fd();
        done(libc::syscall(libc::SYS_fsconfig, of, FSCONFIG_CMD_CREATE, null, null, 0))?;
        opened(libc::syscall(libc::SYS_fsmount, of, 1, 0))
    }
}

fn done(answer: libc::c_long) -> io::Result<libc::c_long> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn opened(answer: libc::c_long) -> io::Result<OwnedFd> {
    let fd = done(answer)?;
    // SAFETY: the kernel has just opened it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// What a queue takes, and has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Most messages in it.
    pub most: u64,
    /// Most bytes of each.
    pub bytes: u64,
    /// Messages in it.
    pub waiting: u64,
}

/// Whether an open file is a queue.
///
/// # Errors
/// If the kernel does not tell.
pub fn is_queue(fd: impl AsFd) -> io::Result<bool> {
    // ipc/mqueue.c
    const MAGIC: i64 = 0x1980_0202;
    Ok(nix::sys::statfs::fstatfs(fd)?.filesystem_type().0 == MAGIC)
}

/// What an open queue takes, and has.
///
/// # Errors
/// If it is no queue.
pub fn attributes(fd: impl AsFd) -> io::Result<Attributes> {
    // SAFETY: of integers all zeros are a value.
    let mut found: libc::mq_attr = unsafe { std::mem::zeroed() };
    let null = std::ptr::null::<libc::mq_attr>();
    // SAFETY: nothing is set, and the kernel writes an `mq_attr`.
    done(unsafe {
        libc::syscall(libc::SYS_mq_getsetattr, fd.as_fd().as_raw_fd(), null, &raw mut found)
    })?;
    let number = |number: libc::c_long| u64::try_from(number).unwrap_or(0);
    Ok(Attributes {
        most: number(found.mq_maxmsg),
        bytes: number(found.mq_msgsize),
        waiting: number(found.mq_curmsgs),
    })
}

/// Whether a process is to be told of the next message in an open queue.
///
/// # Errors
/// If it cannot be read, or the kernel's text is not understood.
pub fn is_notified(fd: impl AsFd) -> io::Result<bool> {
    let text = std::fs::read_to_string(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))?;
    let mut words = text.split_ascii_whitespace();
    let pid = words.find_map(|word| word.strip_prefix("NOTIFY_PID:"));
    // It is filled up with blanks behind the number.
    pid.map(|pid| pid != "0").ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Device and inode of the queue with this name, if there is one.
///
/// # Errors
/// If it may not be opened, or there are too many open files.
pub fn number_of(name: &[u8]) -> io::Result<Option<(u64, u64)>> {
    match open(name, libc::O_RDONLY.cast_unsigned()) {
        Ok(fd) => {
            let stat = nix::sys::stat::fstat(&fd)?;
            Ok(Some((stat.st_dev, stat.st_ino)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a queue by its name, which is without the stroke. It closes at an exec, as the kernel has it of every queue; to
/// ask for that would show in the flags that it tells.
///
/// # Errors
/// If there is none, or it may not be opened so.
pub fn open(name: &[u8], flags: u32) -> io::Result<OwnedFd> {
    let (name, flags) = (CString::new(name)?, flags.cast_signed());
    // SAFETY: the name is a C string; without O_CREAT the other two are not looked at.
    opened(unsafe { libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags, 0, 0) })
}

/// Makes an empty queue like another.
///
/// # Errors
/// If there is one of that name, or the limits leave no room.
pub fn make(name: &[u8], like: &Attributes) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    // SAFETY: of integers all zeros are a value.
    let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
    let number = |number| libc::c_long::try_from(number).map_err(|_| io::ErrorKind::InvalidInput);
    (attributes.mq_maxmsg, attributes.mq_msgsize) = (number(like.most)?, number(like.bytes)?);
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    // SAFETY: the name is a C string, and the kernel reads an `mq_attr`.
    let made = opened(unsafe {
        libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags, 0o600, &raw const attributes)
    });
    made.map_err(|error| match error.raw_os_error() {
        Some(libc::EMFILE) => said(&error, "the queues of a user may not have room for so many bytes: raise the limit (ulimit -q)"),
        Some(libc::ENOSPC) => said(&error, "raise the number of queues: sysctl -w fs.mqueue.queues_max=NUMBER"),
        Some(libc::EINVAL) => said(&error, "raise what a queue may have room for: sysctl -w fs.mqueue.msg_max=NUMBER fs.mqueue.msgsize_max=BYTES"),
        _ => error,
    })
}

fn said(error: &io::Error, remedy: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{error}; {remedy}"))
}

/// Sets when a queue was read, and changed, last: seconds and nanoseconds.
///
/// # Errors
/// If it belongs to somebody else, or the times are none.
pub fn set_times(fd: impl AsFd, accessed: (i64, i64), modified: (i64, i64)) -> io::Result<()> {
    let [accessed, modified] = [accessed, modified]
        .map(|(seconds, nanoseconds)| nix::sys::time::TimeSpec::new(seconds, nanoseconds));
    Ok(nix::sys::stat::futimens(fd.as_fd(), &accessed, &modified)?)
}

/// As long as it is there, this process may have queues with room for as many bytes as its rights let it.
#[derive(Debug)]
pub struct Room {
    before: libc::rlimit,
}

impl Room {
    /// Raises the limit; it stays as it is where it cannot be raised.
    ///
    /// # Errors
    /// If the kernel does not tell the limit.
    pub fn make() -> io::Result<Self> {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel writes an `rlimit`.
        let told = unsafe { libc::getrlimit(libc::RLIMIT_MSGQUEUE, &raw mut before) };
        done(told.into())?;
        for most in [libc::RLIM_INFINITY, before.rlim_max] {
            let raised = libc::rlimit { rlim_cur: most, rlim_max: most };
            // SAFETY: the kernel reads an `rlimit`.
            if unsafe { libc::setrlimit(libc::RLIMIT_MSGQUEUE, &raw const raised) } == 0 {
                break;
            }
        }
        Ok(Self { before })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: the kernel reads an `rlimit`. To lower it is anybody's right.
        unsafe { libc::setrlimit(libc::RLIMIT_MSGQUEUE, &raw const self.before) };
    }
}

/// Puts a message into an open queue, without waiting for room.
///
/// # Errors
/// If it is full, takes no message of that length, or is not open to be written.
pub fn send(fd: impl AsFd, message: &[u8], priority: u32) -> io::Result<()> {
    // A time that is over: nobody waits.
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let (bytes, length) = (message.as_ptr(), message.len());
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel reads so many bytes of the message, and a time.
    done(unsafe {
        libc::syscall(libc::SYS_mq_timedsend, fd, bytes, length, priority, &raw const now)
    })
    .map(drop)
}

/// Removes a queue's name.
///
/// # Errors
/// If there is none, or the rights are missing.
pub fn unlink(name: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: the name is a C string.
    done(unsafe { libc::syscall(libc::SYS_mq_unlink, name.as_ptr()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_known_by_its_name_and_tells_who_waits() {
        let name = format!("stasis-test-{}", std::process::id()).into_bytes();
        let like = Attributes { most: 3, bytes: 100, waiting: 0 };
        let made = make(&name, &like).unwrap();
        assert!(is_queue(&made).unwrap() && !is_queue(tempfile::tempfile().unwrap()).unwrap());
        assert_eq!(attributes(&made).unwrap(), like);
        assert!(!is_notified(&made).unwrap());
        let stat = nix::sys::stat::fstat(&made).unwrap();
        assert_eq!(number_of(&name).unwrap(), Some((stat.st_dev, stat.st_ino)));
        // SAFETY: of integers all zeros are a value; the kernel reads a `sigevent`.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_NONE;
            let fd = made.as_raw_fd();
            assert_eq!(libc::syscall(libc::SYS_mq_notify, fd, &raw const event), 0);
        }
        assert!(is_notified(&made).unwrap());
        unlink(&name).unwrap();
        assert_eq!(number_of(&name).unwrap(), None);
    }
}
