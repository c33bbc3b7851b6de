//! The session keyring of the calling thread (keyrings(7)).

use std::ffi::CString;
use std::io;

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
const KEYCTL_CHOWN: libc::c_int = 4;
const KEYCTL_SETPERM: libc::c_int = 5;
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

/// Whose a key is, and who may do what with it (`KEYCTL_SETPERM`).
#[derive(Clone, Copy, Debug)]
pub struct Ownership {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Four bytes: possessor, owner, group, others.
    pub permissions: u32,
}

/// Makes a key and links it into the session keyring.
///
/// # Errors
/// When the kernel knows no such type or refuses what it is given, when a quota of keys is used up, or the caller may not give a key to
/// somebody else.
pub fn add_to_session(
    kind: &str,
    description: &[u8],
    payload: &[u8],
    owner: Ownership,
) -> io::Result<()> {
    let (kind, description) = (CString::new(kind)?, CString::new(description)?);
    // SAFETY: the strings and the payload outlive the call.
    let made = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            kind.as_ptr(),
            description.as_ptr(),
            payload.as_ptr(),
            payload.len(),
            KEY_SPEC_SESSION_KEYRING,
        )
    };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    give(made, owner)
}

/// Gives the session keyring to its owner.
///
/// # Errors
/// When the caller may not.
pub fn give_session(owner: Ownership) -> io::Result<()> {
    give(KEY_SPEC_SESSION_KEYRING.into(), owner)
}

fn give(key: libc::c_long, Ownership { uid, gid, permissions }: Ownership) -> io::Result<()> {
    // The permissions at last: they may forbid to give it away.
    for (operation, arguments) in [(KEYCTL_CHOWN, [uid, gid]), (KEYCTL_SETPERM, [permissions, 0])] {
        let [one, other] = arguments;
        // SAFETY: takes numbers alone.
        let done = unsafe { libc::syscall(libc::SYS_keyctl, operation, key, one, other) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
