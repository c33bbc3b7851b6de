//! Memory of another process: `process_vm_readv`, `process_vm_writev` and `/proc/PID/mem`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ids::HostPid;

/// Largest number of segments in one vectored call (`IOV_MAX`).
pub const IOV_MAX: usize = 1024;

/// Reads the remote ranges `from` (address, bytes), one behind the other, into `to`. Returns the
/// number of bytes read, which is short when a page cannot be read: the kernel stops there.
///
/// # Errors
/// When not even the first byte could be read.
///
/// # Panics
/// When `from` has more than [`IOV_MAX`] ranges.
pub fn read_ranges(pid: HostPid, from: &[(u64, usize)], to: &mut [u8]) -> io::Result<usize> {
    assert!(from.len() <= IOV_MAX, "too many ranges in one read");
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let mut remote = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; IOV_MAX];
    for (slot, &(address, bytes)) in remote.iter_mut().zip(from) {
        *slot = libc::iovec { iov_base: address as *mut _, iov_len: bytes };
    }
    // SAFETY: the local segment is the caller's exclusive slice; remote addresses belong to
    // another address space and are checked by the kernel.
    let read = unsafe {
        libc::process_vm_readv(pid.get(), &raw const local, 1, remote.as_ptr(), from.len() as _, 0)
    };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Fills `to` from `address` of the process.
///
/// # Errors
/// When any of it cannot be read.
pub fn read_exact(pid: HostPid, address: u64, to: &mut [u8]) -> io::Result<()> {
    match read_ranges(pid, &[(address, to.len())], to)? {
        read if read == to.len() => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EFAULT)),
    }
}

/// Writes `from` to `address` of the process, where its page protection allows writing: another process, or memory of
/// our own in which there is no object of this program.
///
/// # Errors
/// When any of it cannot be written.
pub fn write_all(pid: HostPid, address: u64, from: &[u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: from.len() };
    // SAFETY: the local segment is only read; the remote address is checked by the kernel, and belongs to
    // another address space or to nothing of this one.
    let written =
        unsafe { libc::process_vm_writev(pid.get(), &raw const local, 1, &raw const remote, 1, 0) };
    match usize::try_from(written) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(written) if written == from.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
    }
}

/// The memory of a process as a file (`/proc/PID/mem`). For a tracer it reads what the process
/// itself may not (mappings without read permission), and a stack that is too short for an
/// access grows as it would under the process's own hand: the vectored calls do neither.
#[derive(Debug)]
pub struct MemoryFile(File);

impl MemoryFile {
    /// Opens the memory of a process to be read and written.
    ///
    /// # Errors
    /// When there is no such process, or no right to trace it.
    pub fn open(pid: HostPid) -> io::Result<Self> {
        File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).map(Self)
    }

    /// Opens the memory of a process to be read only.
    ///
    /// # Errors
    /// When there is no such process, or no right to trace it.
    pub fn open_to_read(pid: HostPid) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/mem")).map(Self)
    }

    /// Fills `to` from `address`.
    ///
    /// # Errors
    /// When any of it cannot be read.
    pub fn read_exact(&self, address: u64, to: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(to, address)
    }

    /// Writes `from` to `address`, even where the process itself may only read.
    ///
    /// # Errors
    /// When any of it cannot be written.
    pub fn write_all(&self, address: u64, from: &[u8]) -> io::Result<()> {
        self.0.write_all_at(from, address)
    }
}
