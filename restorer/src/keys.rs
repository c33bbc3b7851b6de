//! The session keyring that a tree is born in.

use images::messages::{KeyEntry, SessionKeyringEntry};
use kernel::keyrings::{self, Ownership};
use support::keys::{KEYS_APART, SESSION_KEYRING, keys_of_others};

use crate::error::Error;
use crate::load::{Checkpoint, Process};

/// Bytes of the longest payload that the kernel takes for a key of these types.
const LONGEST: usize = 32767;

/// Refuses keys that cannot be, and, on behalf of a user, those that are not his.
pub(crate) fn check(checkpoint: &Checkpoint, user: Option<(u32, u32)>) -> Result<(), Error> {
    let Some(keyring) = common(checkpoint)? else { return Ok(()) };
    let mut owners = std::iter::once(keyring.uid).chain(keyring.keys.iter().map(|key| key.uid));
    if let Some((uid, _)) = user
        && let Some(owner) = owners.find(|owner| *owner != uid)
    {
        return Err(Error::refused(keys_of_others(uid, owner).of(0, SESSION_KEYRING)));
    }
    match keyring.keys.iter().find(|key| !is_possible(key)) {
        None => Ok(()),
        Some(_) => Err(Error::image("the session keyring", "it holds a key that there cannot be")),
    }
}

fn is_possible(key: &KeyEntry) -> bool {
    let known = matches!(&key.kind[..], "user" | "logon");
    let description = &key.description[..];
    known
        && !description.is_empty()
        && description.len() < 4096
        && !description.contains(&0)
        && (1..=LONGEST).contains(&key.payload.len())
}

/// The keyring with keys that all living processes are in, if one is.
fn common(checkpoint: &Checkpoint) -> Result<Option<&SessionKeyringEntry>, Error> {
    let mut of_all = checkpoint.living().map(|(process, _)| (process, of(process)));
    let Some((_, first)) = of_all.next() else { return Ok(None) };
    match of_all.find(|(_, other)| *other != first) {
        None => Ok(first),
        Some((process, _)) => {
            let refusal = KEYS_APART.of(process.pid.get(), SESSION_KEYRING);
            Err(Error::refused(refusal))
        }
    }
}

const fn of(process: &Process) -> Option<&SessionKeyringEntry> {
    process.core.session_keyring.as_ref()
}

/// Has this process, and so the tree, in the keyring that the tree was in. It is an empty one where one of the tasks had that, and where this
/// process's would lend them keys.
pub(crate) fn join(checkpoint: &Checkpoint) -> Result<(), Error> {
    let empty = |process: &Process| process.core.empty_session_keyring == Some(true);
    // In a thread of its own, since a thread that looks gets the user's keyring by that.
    let lends = || !std::thread::spawn(keyrings::session_is_the_users).join().unwrap_or(true);
    let keyring = common(checkpoint)?;
    if keyring.is_some() || checkpoint.processes.iter().any(empty) || lends() {
        keyrings::join_new_session().map_err(Error::kernel("make a session keyring"))?;
    }
    let Some(keyring) = keyring else { return Ok(()) };
    for key in &keyring.keys {
        let name = String::from_utf8_lossy(&key.description);
        let owner = Ownership { uid: key.uid, gid: key.gid, permissions: key.permissions };
        keyrings::add_to_session(&key.kind, &key.description, &key.payload, owner)
            .map_err(Error::kernel(format!("make the key {name} of the session keyring")))?;
    }
    let SessionKeyringEntry { uid, gid, permissions, .. } = *keyring;
    keyrings::give_session(Ownership { uid, gid, permissions })
        .map_err(Error::kernel("give the session keyring to its owner"))
}
