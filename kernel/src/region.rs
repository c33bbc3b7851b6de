//! A piece of this process's address space at a chosen address, into which the process leaves for
//! good.

use std::io;
use std::ptr::NonNull;

/// Freshly mapped memory at a chosen address. It stays when the value is dropped: its use is to
/// outlive everything else.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    bytes: usize,
}

impl Region {
    /// Maps `bytes` of zeros at `address`, if nothing is there.
    ///
    /// # Errors
    /// `EEXIST` when something is.
    pub fn map(address: u64, bytes: usize) -> io::Result<Self> {
        let wanted = address as *mut libc::c_void;
        // SAFETY: MAP_FIXED_NOREPLACE leaves existing mappings alone.
        let mapped = unsafe {
            libc::mmap(
                wanted,
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if mapped != wanted {
            // A kernel before 4.17 takes the address for a wish.
            // SAFETY: the mapping was made by us just now.
            unsafe { libc::munmap(mapped, bytes) };
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        let start = NonNull::new(mapped.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { start, bytes })
    }

    /// Copies `from` to `offset`.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn write(&mut self, offset: usize, from: &[u8]) -> io::Result<()> {
        // SAFETY: the mapping is ours, `bytes` long, writable and initialised with zeros.
        let memory = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) };
        memory
            .get_mut(offset..)
            .and_then(|rest| rest.get_mut(..from.len()))
            .ok_or(io::ErrorKind::InvalidInput)?
            .copy_from_slice(from);
        Ok(())
    }

    /// Leaves for the code at `entry`, of which the first `code_bytes` of the region are
    /// made, with `argument` and the stack that ends at `stack` (both offsets into the region).
    ///
    /// The process gives itself up: nothing of this program runs in it any more, so there is
    /// nothing left whose safety could be broken.
    ///
    /// # Errors
    /// When the code cannot be made executable.
    pub fn leave(
        self,
        code_bytes: usize,
        entry: usize,
        stack: usize,
        argument: usize,
    ) -> io::Result<std::convert::Infallible> {
        let start = self.start.as_ptr();
        // SAFETY: the region is ours.
        let executable =
            unsafe { libc::mprotect(start.cast(), code_bytes, libc::PROT_READ | libc::PROT_EXEC) };
        if executable != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: control never comes back, so no promise made to the code of this process is
        // used again; the addresses are within the region.
        unsafe {
            arch::syscall::leave(
                start.add(entry) as usize,
                start.add(stack) as usize,
                start.add(argument) as usize,
            )
        }
    }
}
