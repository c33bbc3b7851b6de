//! Limits of the calling process (setrlimit(2)), by their numbers.

use std::io;

/// `RLIMIT_MEMLOCK`.
pub const LOCKED_MEMORY: usize = libc::RLIMIT_MEMLOCK as usize;

/// Raises the hard limit of a resource to `least`, if it is lower; with `soft` the other one as far as that.
///
/// # Errors
/// Without the right to raise it (`CAP_SYS_RESOURCE`), or if there is no such resource.
pub fn raise(resource: usize, least: u64, soft: bool) -> io::Result<()> {
    let number = libc::c_uint::try_from(resource).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes an `rlimit64`, and sets nothing.
    let told = unsafe { libc::prlimit64(0, number, std::ptr::null(), &raw mut limit) };
    if told < 0 {
        return Err(io::Error::last_os_error());
    }
    let hard = limit.rlim_max.max(least);
    let wanted =
        libc::rlimit64 { rlim_cur: if soft { hard } else { limit.rlim_cur }, rlim_max: hard };
    if (wanted.rlim_cur, wanted.rlim_max) == (limit.rlim_cur, limit.rlim_max) {
        return Ok(());
    }
    // SAFETY: the kernel reads an `rlimit64`.
    let set = unsafe { libc::prlimit64(0, number, &raw const wanted, std::ptr::null_mut()) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_limit_that_is_high_enough_is_left() {
        super::raise(super::LOCKED_MEMORY, 0, false).unwrap();
        assert!(super::raise(1000, 0, false).is_err());
    }
}
