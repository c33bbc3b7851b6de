//! Session keyrings that hold keys (keyrings(7)).

use crate::unsupported::Refusal;

/// What has them.
pub const SESSION_KEYRING: &str = "session keyring";

const UNLINK: &str =
    "start it in an empty one (keyctl session - COMMAND), or unlink the key (keyctl unlink KEY @s)";

/// Not all of it is told.
pub const KEYS_BEYOND: Refusal = Refusal::fixed(
    "it holds more than 16 keys, or one whose description has more than 127 or whose payload has more than 256 bytes, which the eBPF \
     programs do not tell",
    UNLINK,
);

/// A key whose payload is nothing that a restore could give it.
#[must_use]
pub fn key_of_type(kind: &str) -> Refusal {
    Refusal::new(format!("it holds a key of type {kind}, which stays in the kernel"), UNLINK)
}

/// A key that is not as it was made.
pub const KEYS_ENDING: Refusal = Refusal::fixed(
    "it holds a key that ends at some time, or that has been revoked or never made, which cannot be carried yet",
    UNLINK,
);

/// A keyring that is not as a new one is.
pub const KEYRING_NAMED: Refusal = Refusal::fixed(
    "it holds keys, and has a name that others may join it by, or a restriction on what may be linked into it",
    "start it in a keyring without one (keyctl session - COMMAND)",
);

/// Threads in several of them.
pub const KEYS_OF_SOME_THREADS: Refusal = Refusal::fixed(
    "some of its threads are in a session keyring with keys and others are not",
    "have it join the keyring before it makes threads",
);

/// Processes in several of them.
pub const KEYS_APART: Refusal = Refusal::fixed(
    "processes of the tree hold keys in one, and it is in another one: a restore gives all of a tree the same",
    "dump the parts by themselves, or start all of them in one (keyctl session - COMMAND)",
);

/// Keys in another user namespace.
pub const KEYS_IN_USERS: Refusal = Refusal::fixed(
    "it holds keys, and is in a user namespace of its own, to whose users they belong",
    UNLINK,
);

/// Keys of somebody else, in a restore on behalf of a user.
#[must_use]
pub fn keys_of_others(uid: u32, owner: u32) -> Refusal {
    Refusal::new(
        format!("it holds a key of user {owner}, and the restore is on behalf of user {uid}"),
        "restore it as root",
    )
}
