//! Session keyrings that hold keys of their own (keyrings(7)).

use ids::HostPid;

/// The session keyring of a thread, if it is neither its user's nor empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionKeyring {
    /// The thread.
    pub tid: HostPid,
    /// The keyring.
    pub itself: Key,
    /// Its name; `_ses` if it was made without one.
    pub name: Vec<u8>,
    /// What is linked into it may be restricted (`KEYCTL_RESTRICT_KEYRING`).
    pub restricted: bool,
    /// The keys that are told.
    pub keys: Vec<Key>,
    /// It holds more.
    pub more: bool,
}

/// A key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its number.
    pub serial: i32,
    /// The beginning of its type's name, eight bytes at most.
    pub kind: Vec<u8>,
    /// Owner, as the initial user namespace has it.
    pub uid: u32,
    /// Group, as the initial user namespace has it.
    pub gid: u32,
    /// Who may do what, as `KEYCTL_SETPERM` takes it.
    pub permissions: u32,
    /// It ends at some time.
    pub ends: bool,
    /// It can be used: it has been made, and is neither revoked nor marked in another way.
    pub is_plain: bool,
    /// What it is found by; `None` if that is longer than is told.
    pub description: Option<Vec<u8>>,
    /// Its content, of a type whose content is bytes; `None` if that is longer than is told.
    pub payload: Option<Vec<u8>>,
}
