//! How a thread is scheduled, and the robust-futex list that goes with it: state of another
//! thread that a system call tells without its help.

use std::io;

use arch::memory::PAGE_SIZE;
use ids::HostPid;

use crate::process::own_thread;

/// Scheduling of a thread (sched_getattr(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// `SCHED_*`.
    pub policy: u32,
    /// Nice value, -20 to 19.
    pub nice: i32,
    /// Real-time priority, 1 to 99; 0 for the policies without one.
    pub priority: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nanoseconds: of a deadline thread what it may run in each period, of an ordinary one its slice
    /// (0 before Linux 6.12).
    pub runtime: u64,
    /// Nanoseconds by which a deadline thread has to have run.
    pub deadline: u64,
    /// Nanoseconds of a deadline thread's period.
    pub period: u64,
    /// The least and the most that the processor is to be clocked for it, in 1/1024; zeros where the
    /// kernel has no such wishes.
    pub utilization: (u32, u32),
}

/// `struct sched_attr`, second version.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    /// Only of threads that are not real-time ones.
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    utilization_min: u32,
    utilization_max: u32,
}

/// A thread's wish to be run before others, for as long as this lives.
#[derive(Debug)]
pub struct Urgent {
    /// What it was before.
    nice: i32,
    tid: HostPid,
}

impl Urgent {
    /// Gives the calling thread, and those that it starts, the highest priority that is no
    /// real-time one (a real-time thread that polls would keep away whom it waits for). `None`
    /// where that is not allowed (`CAP_SYS_NICE`).
    #[must_use]
    pub fn begin() -> Option<Self> {
        let tid = own_thread();
        let nice = scheduling(tid).ok()?.nice;
        let urgent = Self { nice, tid };
        urgent.set(-20).then_some(urgent)
    }

    fn set(&self, nice: i32) -> bool {
        // SAFETY: takes integers only.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, self.tid.unsigned(), nice) == 0 }
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        self.set(self.nice);
    }
}

/// How thread `tid` is scheduled.
///
/// # Errors
/// When there is no such thread.
pub fn scheduling(tid: HostPid) -> io::Result<Scheduling> {
    let mut attr = SchedAttr::default();
    // SAFETY: the kernel fills at most the size that it is told, which is the struct's.
    let answer = unsafe {
        libc::syscall(libc::SYS_sched_getattr, tid.get(), &raw mut attr, size_of::<SchedAttr>(), 0)
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // Of a real-time thread sched_getattr tells no nice value, though it keeps one for the day when
    // it is none any more. The system call answers 1 to 40, so that no answer is an error.
    // SAFETY: takes two integers.
    let answer = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid.get()) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    let nice = 20 - answer as i32;
    let SchedAttr { policy, flags, priority, runtime, deadline, period, .. } = attr;
    let utilization = (attr.utilization_min, attr.utilization_max);
    Ok(Scheduling { policy, nice, priority, flags, runtime, deadline, period, utilization })
}

/// Processors that a thread may run on, one bit each, as many bytes as the kernel's mask has.
///
/// # Errors
/// When there is no such thread.
pub fn affinity(tid: HostPid) -> io::Result<Vec<u8>> {
    // Enough for 8,192 processors, the most that Linux is built for.
    let mut mask = vec![0u8; 1024];
    // SAFETY: the kernel fills at most the length that it is told, which is the buffer's.
    let bytes = unsafe {
        libc::syscall(libc::SYS_sched_getaffinity, tid.get(), mask.len(), mask.as_mut_ptr())
    };
    let Ok(bytes) = usize::try_from(bytes) else { return Err(io::Error::last_os_error()) };
    mask.truncate(bytes);
    Ok(mask)
}

/// Schedules another thread so.
///
/// # Errors
/// When there is no such thread, the caller may not, or a deadline thread finds no room.
pub fn set_scheduling(tid: HostPid, wanted: &Scheduling) -> io::Result<()> {
    let &Scheduling { policy, nice, priority, flags, runtime, deadline, period, utilization } =
        wanted;
    let (utilization_min, utilization_max) = utilization;
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy,
        flags,
        nice,
        priority,
        runtime,
        deadline,
        period,
        utilization_min,
        utilization_max,
    };
    // SAFETY: the kernel reads as many bytes as the struct says that it has.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, tid.get(), &raw const attr, 0) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // Of a real-time thread, too, which has a nice value for later.
    // SAFETY: takes integers only.
    let answer = unsafe { libc::setpriority(libc::PRIO_PROCESS, tid.unsigned(), nice) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives another thread an I/O priority (ioprio_set(2)).
///
/// # Errors
/// When there is no such thread, the caller may not, or the kernel has none.
pub fn set_io_priority(tid: HostPid, priority: u32) -> io::Result<()> {
    // SAFETY: takes integers only.
    let answer =
        unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid.get(), priority) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// A thread's I/O priority (ioprio_get(2)), 0 for none of its own.
///
/// # Errors
/// When there is no such thread.
pub fn io_priority(tid: HostPid) -> io::Result<u32> {
    // SAFETY: takes two integers.
    let answer = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid.get()) };
    u32::try_from(answer).map_err(|_| io::Error::last_os_error())
}

/// Address and length of a thread's robust-futex list (get_robust_list(2)); zeros for none.
///
/// # Errors
/// When there is no such thread, or no right to trace it.
pub fn robust_list(tid: HostPid) -> io::Result<(u64, u64)> {
    let (mut head, mut bytes) = (0u64, 0u64);
    // SAFETY: both pointers are to words that outlive the call.
    let answer = unsafe {
        libc::syscall(libc::SYS_get_robust_list, tid.get(), &raw mut head, &raw mut bytes)
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok((head, bytes)) }
}

/// The same of its list of 32-bit members, which 32-bit code has registered. The kernel carries out calls of such code: there is a task of it.
///
/// # Errors
/// As [`robust_list`], and if there is no memory below 4 GiB.
pub fn compat_robust_list(tid: HostPid) -> io::Result<(u64, u64)> {
    let place = LowPage::low()?;
    // SAFETY: the page is below 4 GiB, and nobody else's.
    let asked = unsafe { arch::compat::ask_robust_list(tid.get(), place.address()) };
    asked.map_err(io::Error::from_raw_os_error)?;
    let [head, bytes] = place.words();
    Ok((head.into(), bytes.into()))
}

/// A page that 32-bit calls can write to.
struct LowPage(std::ptr::NonNull<libc::c_void>);

impl LowPage {
    fn low() -> io::Result<Self> {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
        );
        // SAFETY: a new mapping, where the kernel finds room.
        let made = unsafe {
            libc::mmap(std::ptr::null_mut(), PAGE_SIZE as usize, protection, flags, -1, 0)
        };
        match std::ptr::NonNull::new(made).filter(|_| made != libc::MAP_FAILED) {
            Some(page) => Ok(Self(page)),
            None => Err(io::Error::last_os_error()),
        }
    }

    fn address(&self) -> u32 {
        self.0.as_ptr() as usize as u32
    }

    /// The words at its start.
    fn words(&self) -> [u32; 2] {
        // SAFETY: the page is this value's own, and as long.
        unsafe { self.0.cast().read_volatile() }
    }
}

impl Drop for LowPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.0.as_ptr(), PAGE_SIZE as usize) };
    }
}

#[cfg(test)]
mod tests {
    use crate::process::own_thread;

    #[test]
    fn of_this_thread() {
        let tid = own_thread();
        assert!(super::scheduling(tid).unwrap().nice < 20);
        assert!(super::affinity(tid).unwrap().iter().any(|&byte| byte != 0));
        // The C library registers one for every thread.
        assert_ne!(super::robust_list(tid).unwrap().0, 0);
    }
}
