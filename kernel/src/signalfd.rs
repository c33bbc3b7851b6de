//! signalfd(2) with any set of signals, those of real time too.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// A descriptor that takes the signals of `mask` (signal 1 at bit 0), close-on-exec.
///
/// # Errors
/// When no descriptor is free.
pub fn create(mask: u64) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads a signal set of 8 bytes, which `mask` is; the rest are integers.
    let fd = unsafe {
        libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, size_of::<u64>(), libc::SFD_CLOEXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use ids::HostPid;

    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn the_mask_is_what_was_asked_for() {
        let mask = 1 << 9 | 1 << 63;
        let fd = create(mask).unwrap();
        let dir = crate::procfs::Dir::open(HostPid::own()).unwrap();
        let info = crate::procfs::FdInfo::read(&dir, fd.as_raw_fd()).unwrap();
        assert_eq!(info.detail, crate::procfs::Detail::Signalfd { mask });
    }
}
