//! Keys that a session keyring holds.

#[cfg(feature = "host")]
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::Header;

/// Bytes of a key's description that a [`KeyRecord`] has room for, with the zero byte.
pub const KEY_DESCRIPTION_BYTES: usize = 128;

/// Bytes of a key's payload that a [`KeyRecord`] has room for.
pub const KEY_PAYLOAD_BYTES: usize = 256;

/// The session keyring of a thread, if it is neither its user's nor empty. Its keys follow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct KeyringRecord {
    /// The header.
    pub header: Header,
    /// The thread.
    pub tid: i32,
    /// How many keys it holds; there are no more of them in this record's wake than are told.
    pub keys: u32,
    /// The keyring itself.
    pub itself: KeyHead,
    /// Whether what may be linked into it is restricted (not 0).
    pub restriction: u64,
    /// The beginning of its name.
    pub name: [u8; 16],
}

/// A key. It is written in three pieces.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct KeyRecord {
    /// The header.
    pub header: Header,
    /// Whose it is.
    pub head: KeyHead,
    /// Its description and a zero byte, if it has room.
    pub description: [u8; KEY_DESCRIPTION_BYTES],
    /// Its payload. Behind the last byte stands anything.
    pub payload: [u8; KEY_PAYLOAD_BYTES],
}

/// What any key has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct KeyHead {
    /// When it ends, in seconds since 1970; 0 or the largest number for never.
    pub expires: i64,
    /// `KEY_FLAG_*` (include/linux/key.h), by bit.
    pub flags: u64,
    /// Its number.
    pub serial: i32,
    /// Its owner, as the initial user namespace has it.
    pub uid: u32,
    /// Its group, as above.
    pub gid: u32,
    /// Who may do what, as keyctl_setperm(3) has it.
    pub permissions: u32,
    /// 1 for one that has been made.
    pub state: i32,
    /// Bytes of its payload, if it is of a type whose payload is bytes.
    pub payload_bytes: u32,
    /// The beginning of its type's name.
    pub kind: [u8; 8],
}
