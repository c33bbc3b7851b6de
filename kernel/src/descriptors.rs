//! fcntl(2), dup3(2), close_range(2) and kcmp(2) on descriptors: owners and signals of files, and
//! a descriptor table built to order.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use ids::{HostPid, ImagePid};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit};

/// Who is signalled when input or output becomes possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<Pid> {
    /// `F_OWNER_TID`, `F_OWNER_PID` or `F_OWNER_PGRP`.
    pub kind: i32,
    /// The thread, process or process group; `None` for nobody.
    pub pid: Option<Pid>,
}

#[repr(C)]
struct FOwnerEx {
    kind: libc::c_int,
    pid: libc::pid_t,
}

const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_GETOWNER_UIDS: i32 = 17;

const KCMP_EPOLL_TFD: i32 = 7;

fn answer(value: libc::c_int) -> io::Result<i32> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// The owner of a file.
///
/// # Errors
/// For `O_PATH` descriptors.
pub fn owner(fd: impl AsFd) -> io::Result<Owner<HostPid>> {
    let mut raw = FOwnerEx { kind: 0, pid: 0 };
    // SAFETY: the kernel writes one `f_owner_ex`, which `raw` has the layout of.
    answer(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_GETOWN_EX, &raw mut raw) })?;
    Ok(Owner { kind: raw.kind, pid: HostPid::new(raw.pid) })
}

/// Makes a file signal somebody, with the caller's credentials of this moment. The caller is a task of the
/// tree, in its own pid namespace.
///
/// # Errors
/// When there is no such thread, process or group.
pub fn set_owner(fd: impl AsFd, owner: Owner<ImagePid>) -> io::Result<()> {
    let raw = FOwnerEx { kind: owner.kind, pid: owner.pid.map_or(0, ImagePid::get) };
    // SAFETY: the kernel reads one `f_owner_ex`, which `raw` has the layout of.
    answer(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_SETOWN_EX, &raw const raw) }).map(drop)
}

/// The real and effective user ids with which the owner was set.
///
/// # Errors
/// When the kernel has no checkpoint support, or for `O_PATH` descriptors.
pub fn owner_uids(fd: impl AsFd) -> io::Result<(u32, u32)> {
    let mut uids = [0_u32; 2];
    // SAFETY: the kernel writes two 32-bit ids, which `uids` has room for.
    answer(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), F_GETOWNER_UIDS, uids.as_mut_ptr()) })?;
    Ok((uids[0], uids[1]))
}

/// `struct epoll_params`: how an epoll polls network cards.
pub type EpollPolling = [u8; 8];

// include/uapi/linux/eventpoll.h; the same on all processors that there is a stasis for.
const EPIOCSPARAMS: libc::Ioctl = 0x4008_8a01;
const EPIOCGPARAMS: libc::Ioctl = 0x8008_8a02_u32 as libc::Ioctl;

/// How an epoll polls network cards; `None` if it does not, and where the kernel cannot (before Linux
/// 6.9, or built without).
///
/// # Errors
/// For what is no epoll.
pub fn epoll_polling(epoll: impl AsFd) -> io::Result<Option<EpollPolling>> {
    let mut parameters = EpollPolling::default();
    // SAFETY: the kernel writes a `struct epoll_params`, which is that long.
    let done =
        unsafe { libc::ioctl(epoll.as_fd().as_raw_fd(), EPIOCGPARAMS, parameters.as_mut_ptr()) };
    match answer(done) {
        Ok(_) => Ok(Some(parameters).filter(|it| *it != EpollPolling::default())),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::EINVAL) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Says how an epoll is to poll network cards.
///
/// # Errors
/// When the kernel cannot, or for values that it does not take.
pub fn set_epoll_polling(epoll: impl AsFd, mut parameters: EpollPolling) -> io::Result<()> {
    // SAFETY: the kernel reads a `struct epoll_params`, which is that long.
    let done =
        unsafe { libc::ioctl(epoll.as_fd().as_raw_fd(), EPIOCSPARAMS, parameters.as_mut_ptr()) };
    answer(done).map(drop)
}

/// An `fcntl` command that takes and gives an integer.
fn integer(fd: impl AsFd, command: i32, argument: i32) -> io::Result<i32> {
    // SAFETY: the callers below pass commands whose argument is an integer, or nothing.
    answer(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, argument) })
}

/// The signal that is sent instead of `SIGIO`, 0 for `SIGIO` itself.
///
/// # Errors
/// For `O_PATH` descriptors.
pub fn signal(fd: impl AsFd) -> io::Result<i32> {
    integer(fd, F_GETSIG, 0)
}

/// Sets the signal that is sent instead of `SIGIO`.
///
/// # Errors
/// For `O_PATH` descriptors, and when there is no such signal.
pub fn set_signal(fd: impl AsFd, signal: i32) -> io::Result<()> {
    integer(fd, F_SETSIG, signal).map(drop)
}

/// Sets the status flags (`O_APPEND`, `O_ASYNC`, `O_DIRECT`, `O_NOATIME`, `O_NONBLOCK`; the kernel
/// passes over the others).
///
/// # Errors
/// When the file does not take one of them.
pub fn set_status_flags(fd: impl AsFd, flags: u32) -> io::Result<()> {
    integer(fd, libc::F_SETFL, flags.cast_signed()).map(drop)
}

/// The status flags that can be set.
const STATUS: u32 =
    (libc::O_APPEND | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME | libc::O_NONBLOCK)
        .cast_unsigned();

/// Sets the status flags of a file that is known to have those of `now`, if they differ.
///
/// # Errors
/// As [`set_status_flags`].
pub fn change_status_flags(fd: impl AsFd, now: u32, flags: u32) -> io::Result<()> {
    if (now ^ flags) & STATUS == 0 { Ok(()) } else { set_status_flags(fd, flags) }
}

/// Takes a lease on the file behind `number` of our table, which the kernel names when somebody breaks it:
/// `F_RDLCK` or `F_WRLCK`.
///
/// # Errors
/// When others have it open (`EAGAIN`), and for whoever is neither its owner nor has CAP_LEASE.
pub fn set_lease(number: RawFd, lease: i32) -> io::Result<()> {
    // SAFETY: takes three integers; a number that is not open is an answer.
    answer(unsafe { libc::fcntl(number, libc::F_SETLEASE, lease) }).map(drop)
}

/// Takes a lock (flock) on the open file behind `number` of our table, without waiting: `F_RDLCK` or `F_WRLCK`.
///
/// # Errors
/// When others have one that does not go with it (`EAGAIN`).
pub fn take_flock(number: RawFd, access: i32) -> io::Result<()> {
    let how = if access == libc::F_WRLCK { libc::LOCK_EX } else { libc::LOCK_SH };
    // SAFETY: takes two integers; a number that is not open is an answer.
    answer(unsafe { libc::flock(number, how | libc::LOCK_NB) }).map(drop)
}

/// The capacity of a pipe.
///
/// # Errors
/// When it is none.
pub fn pipe_capacity(fd: impl AsFd) -> io::Result<u32> {
    integer(fd, libc::F_GETPIPE_SZ, 0).map(i32::cast_unsigned)
}

/// Sets the capacity of a pipe; the kernel rounds it up.
///
/// # Errors
/// When it is none, is too full, or the limits forbid it.
pub fn set_pipe_capacity(fd: impl AsFd, bytes: u32) -> io::Result<()> {
    let bytes = i32::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    integer(fd, libc::F_SETPIPE_SZ, bytes).map(drop)
}

/// The seals of a memfd.
///
/// # Errors
/// When it is none.
pub fn seals(fd: impl AsFd) -> io::Result<u32> {
    integer(fd, libc::F_GET_SEALS, 0).map(i32::cast_unsigned)
}

/// Adds seals to a memfd.
///
/// # Errors
/// When it is none, or may not be sealed further.
pub fn add_seals(fd: impl AsFd, seals: u32) -> io::Result<()> {
    integer(fd, libc::F_ADD_SEALS, seals.cast_signed()).map(drop)
}

/// A second descriptor for the same open file, at the lowest free number from `least` on,
/// close-on-exec.
///
/// # Errors
/// When no number is free.
pub fn duplicate_from(fd: impl AsFd, least: RawFd) -> io::Result<OwnedFd> {
    let new = integer(fd, libc::F_DUPFD_CLOEXEC, least)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// Makes room for `count` descriptors in this process's table, as far as its limit goes; the table does not shrink
/// again.
///
/// A table doubles when it is full, and where several threads use it the one that meets this waits until all
/// processors have noticed (`expand_files`): 5 to 20 ms each time. The table of a single thread grows at once.
///
/// # Errors
/// When no number is free.
pub fn make_room(count: u64) -> io::Result<()> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let last = i32::try_from(count.min(soft)).unwrap_or(i32::MAX) - 1;
    let any = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
    match duplicate_from(&any, last.max(0)) {
        // The last number is in use: there is room.
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => Ok(()),
        made => made.map(drop),
    }
}

/// A second descriptor (close-on-exec) for what `number` of our table refers to; none if that is
/// not open.
///
/// # Errors
/// When no number is free.
pub fn duplicate_number(number: RawFd) -> io::Result<Option<OwnedFd>> {
    // SAFETY: takes three integers; a number that is not open is an answer.
    match answer(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) }) {
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        Ok(new) => Ok(Some(unsafe { OwnedFd::from_raw_fd(new) })),
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes `number` of our table refer to the open file of `fd`, whatever it was before.
///
/// For a process that is about to become another: nothing in it may go on using what `number`
/// was, and nothing closes it by ownership.
///
/// # Errors
/// When `number` is beyond the limit of open files.
pub fn place(fd: impl AsFd, number: RawFd, close_on_exec: bool) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    if fd == number {
        let flags = if close_on_exec { libc::FD_CLOEXEC } else { 0 };
        // SAFETY: takes three integers.
        return answer(unsafe { libc::fcntl(fd, libc::F_SETFD, flags) }).map(drop);
    }
    let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: takes three integers. What `number` was is given up by the caller (see above).
    answer(unsafe { libc::dup3(fd, number, flags) }).map(drop)
}

/// Changes to a directory by its descriptor, also where no path leads to it.
///
/// # Errors
/// As fchdir(2).
pub fn change_directory(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes an integer.
    answer(unsafe { libc::fchdir(fd) }).map(drop)
}

/// Closes the descriptors from `first` to `last`, both included. The same care as with [`place`].
///
/// # Errors
/// When `first` is above `last`.
pub fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    let (first, last) = (first.cast_unsigned(), last.cast_unsigned());
    // SAFETY: takes three integers. What is closed is given up by the caller (see above).
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets a program that is to be started have the three standard streams, and no other descriptor that
/// happens to be inheritable.
pub fn standard_streams_only(command: &mut Command) {
    const FIRST: libc::c_uint = 3;
    let close = || {
        // SAFETY: takes three integers, and only marks descriptors of the new process.
        let result = unsafe {
            libc::syscall(libc::SYS_close_range, FIRST, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure runs between fork and exec; it makes one system call and takes no lock.
    unsafe { command.pre_exec(close) };
}

/// Lets a program that is to be started have a descriptor of ours, too, by the same number. It must be open until then.
pub fn inherit(command: &mut Command, fd: BorrowedFd<'_>) {
    let number = fd.as_raw_fd();
    let keep = move || {
        // SAFETY: takes three integers, and only marks a descriptor of the new process.
        answer(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }).map(drop)
    };
    // SAFETY: the closure runs between fork and exec; it makes one system call and takes no lock.
    unsafe { command.pre_exec(keep) };
}

/// Closes descriptors, those with numbers next to each other by one call.
pub fn close_all(fds: impl IntoIterator<Item = OwnedFd>) {
    let mut numbers: Vec<RawFd> = fds.into_iter().map(IntoRawFd::into_raw_fd).collect();
    numbers.sort_unstable();
    for run in numbers.chunk_by(|one, next| one + 1 == *next) {
        if run.len() > 1
            && let [first, .., last] = run
            && close_range(*first, *last).is_ok()
        {
            continue;
        }
        for number in run {
            // SAFETY: it came from an `OwnedFd`, which has been given up for it. (It is one by itself,
            // or the kernel has no close_range: before Linux 5.9.)
            drop(unsafe { OwnedFd::from_raw_fd(*number) });
        }
    }
}

/// Makes an epoll watch what the caller has as descriptor `number`.
///
/// # Errors
/// As epoll_ctl(2): `EBADF` when `number` is not open, `EEXIST` when it is watched already.
pub fn watch(epoll: impl AsFd, number: RawFd, events: u32, data: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: data };
    let epoll = epoll.as_fd().as_raw_fd();
    // SAFETY: the kernel reads one `epoll_event`; the descriptors are integers to it.
    answer(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, number, &raw mut event) }).map(drop)
}

/// Where an epoll entry is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpollSlot {
    /// The epoll's descriptor, in the process that is asked.
    pub epoll: i32,
    /// The number under which the file was added.
    pub added_as: i32,
    /// Which of the entries with this number, from 0 (a number can have been closed and used
    /// again while the file lives on).
    pub nth: u32,
}

#[repr(C)]
struct KcmpEpollSlot {
    efd: u32,
    tfd: u32,
    toff: u32,
}

/// Whether descriptor `fd` of process `pid` is the file that the entry `slot` of an epoll of
/// process `epoll_pid` watches.
///
/// # Errors
/// When one of them is gone, or may not be looked into.
pub fn is_epoll_target(
    pid: HostPid,
    fd: i32,
    epoll_pid: HostPid,
    slot: EpollSlot,
) -> io::Result<bool> {
    let raw = KcmpEpollSlot {
        efd: slot.epoll.cast_unsigned(),
        tfd: slot.added_as.cast_unsigned(),
        toff: slot.nth,
    };
    // SAFETY: the kernel reads one `kcmp_epoll_slot`, which `raw` has the layout of.
    let order = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            pid.get(),
            epoll_pid.get(),
            KCMP_EPOLL_TFD,
            fd,
            &raw const raw,
        )
    };
    if order < 0 { Err(io::Error::last_os_error()) } else { Ok(order == 0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
    use nix::sys::resource::setrlimit;

    #[test]
    fn a_table_has_room_before_it_is_needed() {
        let size = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
            line.trim().parse::<u64>().unwrap()
        };
        // Where the limit is a thousand million, a table as large takes all memory.
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let soft = soft.min(4096);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        let wanted = soft.min(size() * 4);
        make_room(wanted).unwrap();
        assert!(size() >= wanted);
        // As far as the limit goes, and no further.
        make_room(u64::MAX).unwrap();
        make_room(0).unwrap();
    }

    #[test]
    fn an_epoll_entry_leads_to_its_file() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        epoll.add(&read, EpollEvent::new(EpollFlags::EPOLLIN, 7)).unwrap();
        let pid = HostPid::own();
        let slot = EpollSlot { epoll: epoll.0.as_raw_fd(), added_as: read.as_raw_fd(), nth: 0 };
        assert!(is_epoll_target(pid, read.as_raw_fd(), pid, slot).unwrap());
        assert!(!is_epoll_target(pid, write.as_raw_fd(), pid, slot).unwrap());
    }

    #[test]
    fn what_is_closed_in_runs_is_closed_and_nothing_else() {
        let base = 700;
        let keep: Vec<OwnedFd> =
            (0..6).map(|_| duplicate_from(io::stderr(), base).unwrap()).collect();
        let numbers: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
        let (between, closed): (Vec<_>, Vec<_>) =
            keep.into_iter().enumerate().partition(|(index, _)| *index == 2);
        close_all(closed.into_iter().rev().map(|(_, fd)| fd));
        for (index, number) in numbers.into_iter().enumerate() {
            assert_eq!(duplicate_number(number).unwrap().is_some(), index == 2);
        }
        drop(between);
    }

    #[test]
    fn owner_and_signal_of_a_pipe() {
        let (read, _write) = nix::unistd::pipe().unwrap();
        assert_eq!(owner(&read).unwrap().pid, None);
        let own = ImagePid::new(HostPid::own().get());
        set_owner(&read, Owner { kind: 1, pid: own }).unwrap();
        set_signal(&read, libc::SIGUSR1).unwrap();
        assert_eq!(owner(&read).unwrap(), Owner { kind: 1, pid: Some(HostPid::own()) });
        assert_eq!(signal(&read).unwrap(), libc::SIGUSR1);
    }
}
