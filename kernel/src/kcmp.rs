//! `kcmp`: whether two tasks share a kernel object, and an order among objects to sort by.

use std::cmp::Ordering;

use ids::HostPid;
use nix::errno::Errno;

/// What two tasks may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// The address space.
    Memory,
    /// The descriptor table.
    Files,
    /// Root, working directory and umask.
    FileSystem,
    /// The signal handlers.
    SignalHandlers,
    /// The input and output context.
    Io,
    /// The System V semaphore adjustments.
    SysvSem,
}

// include/uapi/linux/kcmp.h
const KCMP_FILE: libc::c_int = 0;

impl Resource {
    const fn number(self) -> libc::c_int {
        match self {
            Self::Memory => 1,
            Self::Files => 2,
            Self::FileSystem => 3,
            Self::SignalHandlers => 4,
            Self::Io => 5,
            Self::SysvSem => 6,
        }
    }
}

/// Compares an object of two tasks. Equal means the same object; otherwise the order is arbitrary
/// but total, and holds until the machine reboots.
///
/// # Errors
/// `ESRCH` if a task has gone, `EPERM` without the right to trace both, `ENOSYS` where the kernel
/// has no `kcmp`.
pub fn resources(first: HostPid, second: HostPid, resource: Resource) -> Result<Ordering, Errno> {
    kcmp(first, second, resource.number(), 0, 0)
}

/// Compares the open file descriptions behind two descriptors, each of a task.
///
/// # Errors
/// As [`resources`], and `EBADF` if a descriptor is not open.
pub fn files(first: (HostPid, i32), second: (HostPid, i32)) -> Result<Ordering, Errno> {
    // A negative descriptor becomes a number that no table reaches, hence EBADF.
    let number = |fd: i32| libc::c_ulong::from(fd.cast_unsigned());
    kcmp(first.0, second.0, KCMP_FILE, number(first.1), number(second.1))
}

fn kcmp(
    first: HostPid,
    second: HostPid,
    kind: libc::c_int,
    index1: libc::c_ulong,
    index2: libc::c_ulong,
) -> Result<Ordering, Errno> {
    let (first, second) = (first.get(), second.get());
    // SAFETY: the kinds passed take numbers, no addresses: the call touches no memory of ours.
    let answer = unsafe { libc::syscall(libc::SYS_kcmp, first, second, kind, index1, index2) };
    match Errno::result(answer)? {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        // "Not equal, and no order": the kernel does not give it for these kinds.
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_duplicate_is_the_same_file_and_a_second_opening_is_not() {
        let own = HostPid::own();
        let first = std::fs::File::open("/dev/null").unwrap();
        let copy = first.try_clone().unwrap();
        let second = std::fs::File::open("/dev/null").unwrap();
        let (first, copy, second) = (first.as_raw_fd(), copy.as_raw_fd(), second.as_raw_fd());
        assert_eq!(files((own, first), (own, copy)), Ok(Ordering::Equal));
        let order = files((own, first), (own, second)).unwrap();
        assert_ne!(order, Ordering::Equal);
        assert_eq!(files((own, second), (own, first)), Ok(order.reverse()));
        assert_eq!(files((own, -1), (own, first)), Err(Errno::EBADF));
        assert_eq!(resources(own, own, Resource::Memory), Ok(Ordering::Equal));
    }
}
