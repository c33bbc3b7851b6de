//! The `bpf` system call: programs and maps, iterators over one process, pinned objects.

mod code;
mod load;

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use ids::HostPid;
use nix::errno::Errno;

pub use code::{Code, STACK};
pub use load::{
    ArrayMap, Called, MapSpec, ProgramSpec, map_constant, map_create, map_freeze, program_load,
};

// include/uapi/linux/bpf.h
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_ITER_CREATE: libc::c_int = 33;
const BPF_TRACE_ITER: u32 = 28;
const BPF_TCX_INGRESS: u32 = 46;

/// Which tasks an iterator visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IterTarget {
    /// One thread.
    Thread(HostPid),
    /// All threads of a process.
    Process(HostPid),
    /// All threads of the machine.
    All,
}

impl std::fmt::Display for IterTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Thread(tid) => write!(f, "thread {tid}"),
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::All => f.write_str("all processes"),
        }
    }
}

/// `union bpf_iter_link_info`, of which this is the largest member.
#[repr(C, align(8))]
struct IterLinkInfo {
    tid: u32,
    pid: u32,
    pid_fd: u32,
    padding: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    padding: u32,
}

/// Of a link to a network device (`tcx`).
#[repr(C)]
struct TrafficCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    padding: u32,
    expected_revision: u64,
}

#[repr(C)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

/// Of `BPF_OBJ_GET` and `BPF_OBJ_PIN`.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct RawTracepoint {
    name: u64,
    prog_fd: u32,
    padding: u32,
    cookie: u64,
}

/// The numbers in an array map (made with `BPF_F_MMAPABLE`), in this process's memory: they are read as
/// they are now, without a system call.
#[derive(Debug)]
pub struct Numbers {
    start: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: memory that is only read, atomically, and stays mapped for as long as the value is there.
unsafe impl Send for Numbers {}
// SAFETY: as above.
unsafe impl Sync for Numbers {}

impl Numbers {
    /// Maps the first `count` values, of 8 bytes each.
    ///
    /// # Errors
    /// `EINVAL` if the map has not so many, `ENOTSUPP` if it cannot be mapped.
    pub fn map(map: BorrowedFd<'_>, count: usize) -> Result<Self, Errno> {
        let bytes = count.checked_mul(8).filter(|bytes| *bytes > 0).ok_or(Errno::EINVAL)?;
        // SAFETY: a new mapping, for reading, at a place that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::EINVAL)?;
        Ok(Self { start, count })
    }

    /// One of them; `None` behind the last.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<u64> {
        // SAFETY: inside the mapping, which is there until the value is dropped, and aligned.
        (index < self.count)
            .then(|| unsafe { self.start.add(index).as_ref() }.load(Ordering::Acquire))
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made; nobody refers to it any more. It cannot fail.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.count * 8) };
    }
}

/// Has the kernel call a loaded `tp_btf` program at its tracepoint, for as long as what is returned
/// is open.
///
/// # Errors
/// `EPERM` without the right to use BPF.
pub fn raw_tracepoint(program: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let attributes = RawTracepoint { name: 0, prog_fd: number(program), padding: 0, cookie: 0 };
    bpf(BPF_RAW_TRACEPOINT_OPEN, &attributes)
}

/// Links a loaded iterator program to the tasks that it is to visit. The link may outlive them: it
/// then visits nothing.
///
/// # Errors
/// `EPERM` without the right to use BPF, `EINVAL` from kernels before 6.1, which cannot filter.
pub fn iter_link(program: BorrowedFd<'_>, target: IterTarget) -> Result<OwnedFd, Errno> {
    let (tid, pid) = match target {
        IterTarget::Thread(tid) => (tid.unsigned(), 0),
        IterTarget::Process(pid) => (0, pid.unsigned()),
        IterTarget::All => (0, 0),
    };
    let info = IterLinkInfo { tid, pid, pid_fd: 0, padding: 0 };
    let attributes = LinkCreate {
        prog_fd: number(program),
        target_fd: 0,
        attach_type: BPF_TRACE_ITER,
        flags: 0,
        iter_info: std::ptr::from_ref(&info) as u64,
        iter_info_len: size_of::<IterLinkInfo>() as u32,
        padding: 0,
    };
    bpf(BPF_LINK_CREATE, &attributes)
}

/// Has the kernel call a loaded program for the packets that a device of this thread's network namespace receives, before any other of
/// its kind, for as long as what is returned is open.
///
/// # Errors
/// `EPERM` without the right to, `ENODEV` if there is no such device, `EINVAL` from kernels before 6.6.
pub fn traffic_link(program: BorrowedFd<'_>, interface: u32) -> Result<OwnedFd, Errno> {
    const BPF_F_BEFORE: u32 = 1 << 3;
    let attributes = TrafficCreate {
        prog_fd: number(program),
        target_ifindex: interface,
        attach_type: BPF_TCX_INGRESS,
        flags: BPF_F_BEFORE,
        relative_fd: 0,
        padding: 0,
        expected_revision: 0,
    };
    bpf(BPF_LINK_CREATE, &attributes)
}

/// Starts an iteration: reading the descriptor to its end visits every object once.
///
/// # Errors
/// If there is no memory or descriptor left.
pub fn iter_create(link: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    bpf(BPF_ITER_CREATE, &IterCreate { link_fd: number(link), flags: 0 })
}

/// Opens an object that was pinned in a BPF file system.
///
/// # Errors
/// If nothing is pinned there, or may not be used.
pub fn object_get(path: &Path) -> Result<OwnedFd, Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let attributes = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    bpf(BPF_OBJ_GET, &attributes)
}

/// Pins an object under a name in a BPF file system, where it stays when its descriptors are closed.
///
/// # Errors
/// If the name is taken, or may not be given.
pub fn object_pin(object: BorrowedFd<'_>, path: &Path) -> Result<(), Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let attributes =
        ObjGet { pathname: path.as_ptr() as u64, bpf_fd: number(object), file_flags: 0 };
    command(BPF_OBJ_PIN, &attributes).map(drop)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Calls `bpf` with a command that returns a descriptor.
fn bpf<T>(command: libc::c_int, attributes: &T) -> Result<OwnedFd, Errno> {
    let fd = self::command(command, attributes)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn command<T>(command: libc::c_int, attributes: &T) -> Result<libc::c_long, Errno> {
    // SAFETY: each command is passed the attributes that the kernel defines for it, which it only reads;
    // the addresses inside are those of what the callers hold, still alive here. Of these the kernel
    // writes to the log of `program_load` alone, as far as that says that there is room.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    })
}
