//! Processes with chosen numbers: clone3(2) with `set_tid`, and what a process does to itself
//! between its birth and the moment it becomes another one.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use arch::settings;
use ids::{HostPid, ImagePid, ImagePids};
use libc::{c_int, c_long, pid_t};
use nix::sched::{CloneFlags, setns};

use crate::turn::Turn;

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The forking process.
    Parent,
    /// The new one.
    Child,
}

/// `struct clone_args`, as far as it is used here.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn answer(value: c_long) -> io::Result<c_long> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// How long a number may be taken by nobody who can be seen.
const UNSEEN: Duration = Duration::from_millis(500);

/// Forks a process that has these numbers, each in a pid namespace, and which the parent learns by its number in the
/// parent's (the child: `None`). As a `sibling` it is a child of the caller's
/// parent, born into the caller's session and group all the same. Of `flags`, `CLONE_FILES` and `CLONE_FS` are for
/// tables that are the caller's, too, and not copies; `CLONE_NEWPID` makes the process the init of a pid namespace.
///
/// The C library is not told: neither its handlers for forks run, nor does it learn that thread
/// and process numbers are new. The caller must be the only thread of its process, or the child
/// may wait for ever for a lock that another thread held.
///
/// Since Linux 6.15 the kernel frees the number of a process that has been waited for only after nobody sees that any more,
/// and may be held up between: such a number is waited for.
///
/// # Errors
/// When the number is taken (`EEXIST`), or may not be chosen (`EPERM`).
pub fn fork_as(pids: &ImagePids, sibling: bool, flags: CloneFlags) -> io::Result<Option<HostPid>> {
    let known = CloneFlags::CLONE_FILES | CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWPID;
    let numbers: Vec<pid_t> = pids.from_innermost().map(ImagePid::get).collect();
    let until = Instant::now() + UNSEEN;
    loop {
        match fork_numbered(&numbers, sibling, flags & known) {
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists && Instant::now() < until =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            made => return made,
        }
    }
}

fn fork_numbered(
    numbers: &[pid_t],
    sibling: bool,
    flags: CloneFlags,
) -> io::Result<Option<HostPid>> {
    let arguments = CloneArgs {
        flags: if sibling { libc::CLONE_PARENT as u64 } else { 0 }
            | u64::from(flags.bits().cast_unsigned()),
        // The kernel gives a sibling that of the caller.
        exit_signal: if sibling { 0 } else { libc::SIGCHLD as u64 },
        ..CloneArgs::default()
    };
    clone_numbered(numbers, arguments)
}

/// Makes a process with these numbers and its own copy of all memory.
fn clone_numbered(numbers: &[pid_t], arguments: CloneArgs) -> io::Result<Option<HostPid>> {
    let arguments = CloneArgs {
        set_tid: numbers.as_ptr() as u64,
        set_tid_size: numbers.len() as u64,
        ..arguments
    };
    // SAFETY: without CLONE_VM the child has a copy of all memory and goes on from here as after
    // fork(2); the arguments outlive the call.
    let made = answer(unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>())
    })?;
    Ok(HostPid::new(made as i32))
}

/// Bytes of the stack of a process that has the memory of its maker, with the page at its end that nobody may touch.
const STACK: usize = 2 << 20;
const GUARD: usize = arch::memory::PAGE_SIZE as usize;

/// Makes a process that has the caller's memory, and with `handlers` its signal handlers as well; when it has the `turn` it lives, on a stack of
/// its own. All else is as with [`fork_as`].
///
/// Both processes use one memory, and what the C library keeps for one thread. So the caller has the turn, and each lets the other have it
/// only to wait, and for nothing that uses either; they are as one thread then. What `life` borrows must stay for as long as the new
/// process runs code of this program, so it is nothing of the caller's own frame.
///
/// # Errors
/// As with [`fork_as`], and when there is no memory for a stack.
pub fn share_as<'l>(
    pids: &ImagePids,
    sibling: bool,
    (flags, handlers): (CloneFlags, bool),
    turn: &'l Turn,
    life: impl Fn() -> Infallible + 'l,
) -> io::Result<()> {
    struct Start<'l> {
        turn: &'l Turn,
        life: Box<dyn Fn() -> Infallible + 'l>,
    }
    unsafe extern "C" fn begin(start: usize) -> ! {
        // SAFETY: the maker has leaked this box.
        let start = unsafe { &*(start as *const Start<'_>) };
        start.turn.take();
        match (start.life)() {}
    }
    let known = CloneFlags::CLONE_FILES | CloneFlags::CLONE_FS;
    let shared = libc::CLONE_VM | if handlers { libc::CLONE_SIGHAND } else { 0 };
    let numbers: Vec<pid_t> = pids.from_innermost().map(ImagePid::get).collect();
    let stack = stack()?;
    let start = Box::into_raw(Box::new(Start { turn, life: Box::new(life) }));
    let arguments = CloneArgs {
        flags: if sibling { libc::CLONE_PARENT as u64 } else { 0 }
            | u64::from((flags & known).bits().cast_unsigned())
            | u64::from(shared.cast_unsigned()),
        exit_signal: if sibling { 0 } else { libc::SIGCHLD as u64 },
        stack: stack + GUARD as u64,
        stack_size: (STACK - GUARD) as u64,
        set_tid: numbers.as_ptr() as u64,
        set_tid_size: numbers.len() as u64,
        ..CloneArgs::default()
    };
    let until = Instant::now() + UNSEEN;
    loop {
        let at = &raw const arguments as usize;
        // SAFETY: the stack is the new process' alone, and its end is a multiple of 16. What it begins with is leaked, and it waits for its
        // turn before it uses anything else that is the caller's.
        let made = unsafe {
            arch::syscall::clone_thread(at, size_of::<CloneArgs>(), begin, start as usize)
        };
        match made {
            Err(libc::EEXIST) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            made => return made.map(drop).map_err(io::Error::from_raw_os_error),
        }
    }
}

/// Maps a stack, which stays.
fn stack() -> io::Result<u64> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
    // SAFETY: a mapping of its own, where nothing is.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), STACK, protection, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping was made just now, and nobody uses it.
    answer(unsafe { libc::mprotect(mapped, GUARD, libc::PROT_NONE) }.into())?;
    Ok(mapped as u64)
}

/// Forks a process of our own pid namespace that has one of `numbers`, the first that nobody else has by now: which, and on
/// which side of the fork the caller is. `None` if all are taken.
///
/// # Errors
/// As [`fork_as`].
pub fn fork_as_any(
    numbers: impl IntoIterator<Item = HostPid>,
) -> io::Result<Option<(HostPid, Fork)>> {
    first_free(numbers, |number| fork_numbered(&[number], false, CloneFlags::empty()))
}

/// Forks with the first number that nobody has.
fn first_free(
    numbers: impl IntoIterator<Item = HostPid>,
    fork: impl Fn(pid_t) -> io::Result<Option<HostPid>>,
) -> io::Result<Option<(HostPid, Fork)>> {
    for number in numbers {
        match fork(number.get()) {
            Ok(made) => {
                let side = if made.is_some() { Fork::Parent } else { Fork::Child };
                return Ok(Some((number, side)));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The secure bits of the calling thread (`PR_GET_SECUREBITS`).
#[must_use]
pub fn secure_bits() -> u32 {
    // SAFETY: takes integers, and gives one.
    let bits = unsafe { libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0) };
    u32::try_from(bits).unwrap_or(0)
}

/// Forks a process whose number the kernel chooses. Returns that to the parent, and `None` to the child. All else is as with
/// [`fork_as`].
///
/// # Errors
/// When there can be no more processes.
pub fn fork_any() -> io::Result<Option<HostPid>> {
    fork_beside(false)
}

/// Forks as [`fork_as_any`] does, a process that is born in a control group of version 2 (Linux 5.7); `group` is its directory.
///
/// # Errors
/// As [`fork_as`], and when this process may not put any there.
pub fn fork_into(
    group: BorrowedFd<'_>,
    numbers: impl IntoIterator<Item = HostPid>,
) -> io::Result<Option<(HostPid, Fork)>> {
    /// `CLONE_INTO_CGROUP` of clone3(2).
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    let group = u64::from(group.as_raw_fd().cast_unsigned());
    first_free(numbers, |number| {
        clone_numbered(
            &[number],
            CloneArgs {
                flags: INTO_CGROUP,
                exit_signal: libc::SIGCHLD as u64,
                cgroup: group,
                ..CloneArgs::default()
            },
        )
    })
}

/// Forks as [`fork_any`] does. A `sibling` becomes a child of the caller's parent, which gets the same signal at its end as at the
/// caller's.
///
/// # Errors
/// When there can be no more processes.
pub fn fork_beside(sibling: bool) -> io::Result<Option<HostPid>> {
    let arguments = match sibling {
        true => CloneArgs { flags: libc::CLONE_PARENT as u64, ..CloneArgs::default() },
        false => CloneArgs { exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() },
    };
    // SAFETY: as in `clone_numbered`.
    let made = answer(unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>())
    })?;
    Ok(HostPid::new(made as i32))
}

/// Has a descriptor made by another process, which leads a process group of its own in the caller's pid namespace, and ends with
/// `status`. All else is as with [`fork_any`].
///
/// # Errors
/// When there can be no more processes, or as `make`.
pub fn in_own_group(
    status: i32,
    make: impl FnOnce() -> io::Result<OwnedFd>,
) -> io::Result<OwnedFd> {
    let (mut told, mut tell) = io::pipe()?;
    let arguments = CloneArgs {
        flags: libc::CLONE_FILES as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // SAFETY: as in `clone_numbered`. the table of descriptors is that of both, and the child leaves all in it as it was but
    // for what it makes.
    let maker = answer(unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>())
    })?;
    let Some(maker) = HostPid::new(maker as i32) else {
        let own = nix::unistd::Pid::from_raw(0);
        let made = nix::unistd::setpgid(own, own).map_err(io::Error::from);
        let said = match made.and_then(|()| make()) {
            Ok(made) => made.into_raw_fd(),
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        // Who is told nothing takes it for a failure.
        tell.write_all(&said.to_ne_bytes()).unwrap_or_default();
        exit_now(status)
    };
    let mut said = [0; size_of::<RawFd>()];
    let ended = wait_status(maker);
    drop(tell);
    told.read_exact(&mut said)?;
    ended?;
    match RawFd::from_ne_bytes(said) {
        // SAFETY: who made it has left it to the caller alone, in the table that both had.
        made if made >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(made) }),
        errno => Err(io::Error::from_raw_os_error(-errno)),
    }
}

/// The calling thread.
///
/// # Panics
/// Never: the kernel has a number for whoever asks.
#[must_use]
pub fn own_thread() -> HostPid {
    HostPid::new(nix::unistd::gettid().as_raw()).expect("the kernel numbers threads from 1")
}

/// Ends the process at once: no handlers, no destructors, nothing flushed.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: ends the process; nothing runs afterwards.
    unsafe { libc::_exit(status) }
}

/// Lets any process of the same user trace the calling one, where Yama would have only ancestors
/// do so (`PR_SET_PTRACER_ANY`).
pub fn let_be_traced() {
    // SAFETY: takes integers only. Kernels without Yama refuse it, and need it not.
    unsafe {
        libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY);
    }
}

/// Whether a child of the caller has ended, which is then waited for: its wait status. Waits until
/// it has.
///
/// # Errors
/// When it is no child of the caller.
pub fn wait_status(pid: HostPid) -> io::Result<c_int> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call, which writes nothing else.
        if unsafe { libc::waitpid(pid.get(), &raw mut status, libc::__WALL) } >= 0 {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Sets the calling thread's mask of blocked signals, signal 1 at bit 0, those included that the
/// C library keeps for itself.
///
/// # Errors
/// Never, in practice.
pub fn set_signal_mask(mask: u64) -> io::Result<()> {
    // SAFETY: the set is eight bytes long and outlives the call.
    answer(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    })
    .map(drop)
}

/// Gives every signal its default action.
pub fn reset_signal_actions() {
    const LAST_SIGNAL: c_int = 64;
    let default = [0u64; 4];
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: a kernel `struct sigaction` of zeros is SIG_DFL. SIGKILL and SIGSTOP refuse, as
        // they are default for ever.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            );
        }
    }
}

/// Sends a signal to a process, by its number in the pid namespace of the caller, which may be one of the tree's.
///
/// # Errors
/// When it is gone or the caller may not.
pub fn send_signal_to(pid: ImagePid, signal: c_int) -> io::Result<()> {
    // SAFETY: takes two integers.
    answer(unsafe { libc::kill(pid.get(), signal) }.into()).map(drop)
}

/// Has the children of the calling process born into the pid namespace of a process, by its number in that of the caller. It is
/// the caller's own, or one below.
///
/// # Errors
/// When it is gone or the caller may not.
pub fn enter_pids_of(pid: ImagePid) -> io::Result<()> {
    // SAFETY: takes two integers.
    let opened = answer(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.get(), 0) })?;
    // SAFETY: the system call has just returned this descriptor; nobody else owns it.
    let opened = unsafe { OwnedFd::from_raw_fd(opened as i32) };
    Ok(setns(opened, CloneFlags::CLONE_NEWPID)?)
}

/// Whether a process or thread with this number exists.
#[must_use]
pub fn exists(id: HostPid) -> bool {
    // SAFETY: signal 0 only asks.
    let asked = unsafe { libc::kill(id.get(), 0) };
    asked == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Whether a process group has this number, whose leader may have ended.
#[must_use]
pub fn group_exists(id: HostPid) -> bool {
    // The number 1 would stand for all processes.
    if id.get() <= 1 {
        return false;
    }
    // SAFETY: signal 0 only asks.
    let asked = unsafe { libc::kill(-id.get(), 0) };
    asked == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Sends a signal to a process.
///
/// # Errors
/// When it is gone or we may not.
pub fn send_signal(pid: HostPid, signal: c_int) -> io::Result<()> {
    // SAFETY: takes two integers.
    answer(unsafe { libc::kill(pid.get(), signal) }.into()).map(drop)
}

/// An instruction that can be made a fault for the calling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultingInstructions {
    /// The one that identifies the processor.
    Identification,
    /// Those that read the processor's clock (`PR_SET_TSC`).
    Clock,
}

/// Makes an instruction a fault for the calling thread, or lets it be used again.
///
/// # Errors
/// When the kernel or the processor cannot do that.
pub fn set_faulting(instruction: FaultingInstructions, faults: bool) -> io::Result<()> {
    let answered = match instruction {
        FaultingInstructions::Identification => settings::set_identification_faults(faults),
        FaultingInstructions::Clock => settings::set_clock_faults(faults),
    };
    answered.map(drop).map_err(io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Needs root.
    #[test]
    fn a_number_that_is_about_to_be_free_is_waited_for() {
        let mut there = Command::new("sleep").arg("0.1").spawn().unwrap();
        let number = ImagePid::new(there.id().cast_signed()).unwrap();
        let waits = std::thread::spawn(move || there.wait());
        let made = fork_as(&ImagePids::single(number), false, CloneFlags::empty());
        match made.unwrap() {
            Some(child) => {
                assert_eq!(child.get(), number.get());
                assert_eq!(wait_status(child).unwrap(), 7 << 8);
            }
            None => exit_now(7),
        }
        waits.join().unwrap().unwrap();
    }
}
