//! timerfd(2) with what restoring one needs: any clock, and ticks that nobody has read yet.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// `_IOW('T', 0, __u64)`.
const TFD_IOC_SET_TICKS: libc::Ioctl = 0x4008_5400;

/// A timer of the clock `clock` (`CLOCK_*`), close-on-exec, not armed.
///
/// # Errors
/// When timers of this clock are not supported, or not for us.
pub fn create(clock: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    let fd = unsafe { libc::timerfd_create(clock, libc::TFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Arms a timer: first after `value` (never when zero), then every `interval`.
///
/// # Errors
/// When it is no timer, or the flags make no sense for it.
pub fn set(timer: impl AsFd, flags: i32, value: Duration, interval: Duration) -> io::Result<()> {
    let setting = libc::itimerspec { it_interval: spec(interval)?, it_value: spec(value)? };
    // SAFETY: the kernel reads one `itimerspec`; the pointer for the old one may be null.
    let answer = unsafe {
        libc::timerfd_settime(
            timer.as_fd().as_raw_fd(),
            flags,
            &raw const setting,
            std::ptr::null_mut(),
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets how many expirations the next read tells (not 0).
///
/// # Errors
/// When the kernel has no checkpoint support.
pub fn set_ticks(timer: impl AsFd, ticks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads one 64-bit number.
    let answer =
        unsafe { libc::ioctl(timer.as_fd().as_raw_fd(), TFD_IOC_SET_TICKS, &raw const ticks) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the kernel count the expirations up to now.
///
/// A periodic timer that has run out stands still until somebody asks; then the kernel works out
/// how often it would have run out. Whoever reads it gets the same number with or without this.
///
/// # Errors
/// When it is no timer.
pub fn catch_up(timer: impl AsFd) -> io::Result<()> {
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut setting = libc::itimerspec { it_interval: none, it_value: none };
    // SAFETY: the kernel writes one `itimerspec`.
    let answer = unsafe { libc::timerfd_gettime(timer.as_fd().as_raw_fd(), &raw mut setting) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn spec(duration: Duration) -> io::Result<libc::timespec> {
    let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
    Ok(libc::timespec {
        tv_sec: duration.as_secs().try_into().map_err(invalid)?,
        tv_nsec: duration.subsec_nanos().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn ticks_are_read_back() {
        let timer = create(libc::CLOCK_MONOTONIC).unwrap();
        set(&timer, 0, Duration::from_secs(1000), Duration::ZERO).unwrap();
        set_ticks(&timer, 42).unwrap();
        let mut bytes = [0; 8];
        std::fs::File::from(timer).read_exact(&mut bytes).unwrap();
        assert_eq!(u64::from_ne_bytes(bytes), 42);
    }
}
