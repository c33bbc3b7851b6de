//! Memory of another process: `process_vm_readv`, `process_vm_writev` and `/proc/PID/mem`.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;

/// An address in another process. It cannot be dereferenced here, by its type.
#[derive(Debug)]
pub struct RemotePtr<T> {
    address: u64,
    pointee: PhantomData<fn() -> T>,
}

impl<T> Clone for RemotePtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for RemotePtr<T> {}

impl<T> RemotePtr<T> {
    /// The address as a typed remote pointer.
    #[must_use]
    pub const fn new(address: u64) -> Self {
        Self { address, pointee: PhantomData }
    }

    /// The plain address.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.address
    }
}

/// Values that are nothing but bytes: any bit pattern is one, and there is no padding.
///
/// # Safety
/// Implement it only for `#[repr(C)]` types (or integers and arrays of them) for which that
/// holds.
pub unsafe trait Plain: Copy {}

// SAFETY: integers and arrays of integers have no padding and no invalid values.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl<const N: usize> Plain for [u8; N] {}

/// The bytes of a plain value.
#[must_use]
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` promises that every byte of the value is initialised (no padding), and the
    // slice borrows the value.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The bytes of a plain value, to be written.
pub fn bytes_of_mut<T: Plain>(value: &mut T) -> &mut [u8] {
    // SAFETY: `Plain` promises no padding and that any bytes make a value; the slice borrows the
    // value mutably.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(value).cast(), size_of::<T>()) }
}

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
pub fn read_ranges(pid: i32, from: &[(u64, usize)], to: &mut [u8]) -> io::Result<usize> {
    assert!(from.len() <= IOV_MAX, "too many ranges in one read");
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let mut remote = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; IOV_MAX];
    for (slot, &(address, bytes)) in remote.iter_mut().zip(from) {
        *slot = libc::iovec { iov_base: address as *mut _, iov_len: bytes };
    }
    // SAFETY: the local segment is the caller's exclusive slice; remote addresses belong to
    // another address space and are checked by the kernel.
    let read = unsafe {
        libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), from.len() as _, 0)
    };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Fills `to` from `address` of the process.
///
/// # Errors
/// When any of it cannot be read.
pub fn read_exact(pid: i32, address: u64, to: &mut [u8]) -> io::Result<()> {
    match read_ranges(pid, &[(address, to.len())], to)? {
        read if read == to.len() => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EFAULT)),
    }
}

/// Reads a plain value.
///
/// # Errors
/// When any of it cannot be read.
pub fn read<T: Plain + Default>(pid: i32, from: RemotePtr<T>) -> io::Result<T> {
    let mut value = T::default();
    read_exact(pid, from.address(), bytes_of_mut(&mut value))?;
    Ok(value)
}

/// Writes `from` to `address` of the process, where its page protection allows writing.
///
/// # Errors
/// When any of it cannot be written.
pub fn write_all(pid: i32, address: u64, from: &[u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: from.len() };
    // SAFETY: the local segment is only read; the remote address belongs to another address
    // space and is checked by the kernel.
    let written =
        unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) };
    match usize::try_from(written) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(written) if written == from.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
    }
}

/// The memory of a process as a file (`/proc/PID/mem`). For a tracer it reads what the process
/// itself may not (mappings without read permission), which the vectored calls cannot.
#[derive(Debug)]
pub struct MemoryFile(File);

impl MemoryFile {
    /// Opens the memory of a process to be read.
    ///
    /// # Errors
    /// When there is no such process, or no right to trace it.
    pub fn open(pid: i32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/mem")).map(Self)
    }

    /// Fills `to` from `address`.
    ///
    /// # Errors
    /// When any of it cannot be read.
    pub fn read_exact(&self, address: u64, to: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(to, address)
    }
}
