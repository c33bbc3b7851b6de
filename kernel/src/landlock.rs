//! Landlock: rights that a thread has given up for itself.

use std::io;

/// `LANDLOCK_ACCESS_FS_MAKE_BLOCK`: one right, which the caller does not use.
const MAKE_BLOCK: u64 = 1 << 11;

/// Gives up, for the calling thread and for good, the right to make block devices, so that it has a
/// landlock domain. `false` where this kernel has no landlock, or it is switched off.
///
/// # Errors
/// When the kernel refuses for another reason.
pub fn restrict_this_thread() -> io::Result<bool> {
    let handled = [MAKE_BLOCK];
    // SAFETY: the attribute is one word long and outlives the call.
    let rules = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, handled.as_ptr(), size_of_val(&handled), 0)
    };
    if rules < 0 {
        let error = io::Error::last_os_error();
        let absent = [libc::ENOSYS, libc::EOPNOTSUPP];
        return match error.raw_os_error() {
            Some(number) if absent.contains(&number) => Ok(false),
            _ => Err(error),
        };
    }
    // SAFETY: these take integers; the descriptor was just made and belongs to nobody else.
    unsafe {
        let done = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_landlock_restrict_self, rules, 0) == 0;
        let error = io::Error::last_os_error();
        libc::close(rules as i32);
        if done { Ok(true) } else { Err(error) }
    }
}
