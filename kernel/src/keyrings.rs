//! The session keyring of the calling thread.

use std::io;

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
const KEYCTL_DESCRIBE: libc::c_int = 6;
const KEY_SPEC_SESSION_KEYRING: libc::c_int = -3;

/// Whether the session keyring is that of the user (`_uid_ses.N`), which every process of the user
/// finds; so it is on a kernel without keyrings.
#[must_use]
pub fn session_is_the_users() -> bool {
    let mut text = [0u8; 256];
    // SAFETY: the kernel writes no more than the length that it is told, which is the buffer's.
    let bytes = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_DESCRIBE,
            KEY_SPEC_SESSION_KEYRING,
            text.as_mut_ptr(),
            text.len(),
        )
    };
    let Ok(bytes) = usize::try_from(bytes) else { return true };
    // type;uid;gid;permissions;description
    let name = text.get(..bytes).and_then(|text| text.split(|byte| *byte == b';').nth(4));
    name.is_none_or(|name| name.starts_with(b"_uid_ses."))
}

/// Gives the calling thread, and what it will fork, an empty session keyring.
///
/// # Errors
/// When the kernel has no keyrings, or the user's quota of keys is used up.
pub fn join_new_session() -> io::Result<()> {
    // SAFETY: without a name the call takes a null pointer.
    let made = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    if made < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
