//! The keys that a tree's session keyring holds, as system services have one of systemd (`KeyringMode=private`).
//!
//! Nobody but who possesses a key may read it, so the kernel's own structures tell what it holds. A restore makes a keyring with such keys, in
//! which all of the tree is born: therefore all have to be in one.

use std::collections::BTreeMap;
use std::io;

use collector::settings::holds_session_keys;
use collector::{Collector, Inventory, Key, Process, SessionKeyring};
use ids::HostPid;
use images::messages::{KeyEntry, SessionKeyringEntry, TaskCoreEntry};
use kernel::rights::User;
use support::keys::{
    KEYRING_NAMED, KEYS_APART, KEYS_BEYOND, KEYS_ENDING, KEYS_IN_USERS, KEYS_OF_SOME_THREADS,
    SESSION_KEYRING, key_of_type, keys_of_others,
};
use support::{Refusal, Unsupported};

use crate::aio::Tree;
use crate::error::Error;
use crate::processes::is_zombie;

/// The keyrings with keys, by processes.
#[derive(Debug, Default)]
pub(crate) struct SessionKeys(BTreeMap<HostPid, SessionKeyringEntry>);

impl SessionKeys {
    /// Says in the image of a process what its session keyring holds.
    pub(crate) fn tell(&self, pid: HostPid, entry: &mut TaskCoreEntry) {
        entry.session_keyring = self.0.get(&pid).cloned();
    }
}

/// Finds the keys of a tree, and what stands in the way of them.
pub(crate) fn look(
    collector: &mut Collector,
    inventory: &Inventory,
    (user, tree): (Option<User>, Tree),
) -> Result<(SessionKeys, Vec<Unsupported>), Error> {
    let (mut found, mut refused) = (SessionKeys::default(), Vec::new());
    let living = || inventory.processes.values().filter(|process| !is_zombie(process));
    for process in living() {
        let pid = process.pid;
        if !process
            .threads
            .values()
            .any(|thread| thread.in_task.is_some_and(|known| holds_session_keys(&known.settings)))
        {
            continue;
        }
        let known = collector.session_keyrings(pid);
        // Without BPF nothing would have said that there are some.
        let Some(known) = known.map_err(|source| Error::Inventory { pid, source })? else {
            continue;
        };
        if is_in_users(process).map_err(|source| Error::Process {
            operation: "find the user namespace of",
            pid,
            source,
        })? {
            refused.push(KEYS_IN_USERS.of(pid, SESSION_KEYRING));
            continue;
        }
        if tree == Tree::Runs && is_changing(process, &known) {
            continue;
        }
        let told = of_threads(process, &known).and_then(entry);
        match told.and_then(|keyring| of_user(keyring, user)) {
            Ok(keyring) => drop(found.0.insert(pid, keyring)),
            Err(refusal) => refused.push(refusal.of(pid, SESSION_KEYRING)),
        }
    }
    if let Some(first) = found.0.values().next().map(|keyring| keyring.serial) {
        let apart = living().filter(|process| !process.kernel_thread).filter(|process| {
            let own = found.0.get(&process.pid);
            own.is_none_or(|own| own.serial != first)
        });
        refused.extend(apart.map(|process| KEYS_APART.of(process.pid, SESSION_KEYRING)));
    }
    Ok((found, refused))
}

/// A restore on behalf of a user makes no key of somebody else's.
fn of_user(
    keyring: SessionKeyringEntry,
    user: Option<User>,
) -> Result<SessionKeyringEntry, Refusal> {
    let Some(User { uid, .. }) = user else { return Ok(keyring) };
    let mut owners = std::iter::once(keyring.uid).chain(keyring.keys.iter().map(|key| key.uid));
    match owners.find(|owner| *owner != uid) {
        Some(owner) => Err(keys_of_others(uid, owner)),
        None => Ok(keyring),
    }
}

/// Whether threads of a process have come or gone between two looks at it.
fn is_changing(process: &Process, known: &[SessionKeyring]) -> bool {
    process.threads.values().any(|thread| !known.iter().any(|keyring| keyring.tid == thread.tid))
}

fn is_in_users(process: &Process) -> io::Result<bool> {
    let own = kernel::namespaces::id(kernel::namespaces::own("user")?)?;
    Ok(process.namespaces.get("user").is_some_and(|user| *user != own))
}

/// The keyring that all living threads of a process are in.
fn of_threads<'k>(
    process: &Process,
    known: &'k [SessionKeyring],
) -> Result<&'k SessionKeyring, Refusal> {
    let mut common: Option<&SessionKeyring> = None;
    for thread in process.threads.values().filter(|thread| !matches!(thread.state, 'Z' | 'X')) {
        let own = known.iter().find(|keyring| keyring.tid == thread.tid);
        let own = own.ok_or(KEYS_OF_SOME_THREADS)?;
        if common.is_some_and(|common| common.itself.serial != own.itself.serial) {
            return Err(KEYS_OF_SOME_THREADS);
        }
        common = Some(own);
    }
    common.ok_or(KEYS_OF_SOME_THREADS)
}

fn entry(keyring: &SessionKeyring) -> Result<SessionKeyringEntry, Refusal> {
    if keyring.more {
        return Err(KEYS_BEYOND);
    }
    if keyring.name != b"_ses" || keyring.restricted {
        return Err(KEYRING_NAMED);
    }
    if keyring.itself.ends || !keyring.itself.is_plain {
        return Err(KEYS_ENDING);
    }
    let mut keys = keyring.keys.iter().map(key).collect::<Result<Vec<_>, _>>()?;
    // In the order in which they were made.
    keys.sort_by_key(|(serial, _)| *serial);
    let Key { serial, uid, gid, permissions, .. } = keyring.itself;
    let keys = keys.into_iter().map(|(_, entry)| entry).collect();
    Ok(SessionKeyringEntry { serial, uid, gid, permissions, keys })
}

fn key(key: &Key) -> Result<(i32, KeyEntry), Refusal> {
    let kind = match &key.kind[..] {
        b"user" => "user",
        b"logon" => "logon",
        other => return Err(key_of_type(&String::from_utf8_lossy(other))),
    };
    if key.ends || !key.is_plain {
        return Err(KEYS_ENDING);
    }
    let (Some(description), Some(payload)) = (&key.description, &key.payload) else {
        return Err(KEYS_BEYOND);
    };
    // There are none of these: it could not be read.
    if description.is_empty() || payload.is_empty() {
        return Err(KEYS_BEYOND);
    }
    let entry = KeyEntry {
        kind: kind.to_owned(),
        description: description.clone(),
        payload: payload.clone(),
        uid: key.uid,
        gid: key.gid,
        permissions: key.permissions,
    };
    Ok((key.serial, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_key(serial: i32, kind: &[u8]) -> Key {
        Key {
            serial,
            kind: kind.to_vec(),
            uid: 7,
            gid: 8,
            permissions: 0x3f01_0000,
            ends: false,
            is_plain: true,
            description: Some(b"invocation_id".to_vec()),
            payload: Some(vec![1; 16]),
        }
    }

    fn a_keyring(keys: Vec<Key>) -> SessionKeyring {
        let itself = a_key(1, b"keyring");
        let (tid, name) = (HostPid::new(5).unwrap(), b"_ses".to_vec());
        SessionKeyring { tid, itself, name, restricted: false, keys, more: false }
    }

    #[test]
    fn keys_are_told_in_the_order_of_their_making() {
        let told = entry(&a_keyring(vec![a_key(9, b"logon"), a_key(3, b"user")])).unwrap();
        let kinds: Vec<_> = told.keys.iter().map(|key| &key.kind[..]).collect();
        assert_eq!(kinds, ["user", "logon"]);
        assert_eq!((told.uid, told.gid, told.permissions), (7, 8, 0x3f01_0000));
    }

    #[test]
    fn what_a_restore_could_not_make_is_refused() {
        let one = |change: fn(&mut SessionKeyring)| {
            let mut keyring = a_keyring(vec![a_key(3, b"user")]);
            change(&mut keyring);
            entry(&keyring).unwrap_err()
        };
        assert_eq!(one(|it| it.more = true), KEYS_BEYOND);
        assert_eq!(one(|it| it.keys[0].payload = None), KEYS_BEYOND);
        assert_eq!(one(|it| it.keys[0].payload = Some(Vec::new())), KEYS_BEYOND);
        assert_eq!(one(|it| it.keys[0].description = None), KEYS_BEYOND);
        assert_eq!(one(|it| it.name = b"mine".to_vec()), KEYRING_NAMED);
        assert_eq!(one(|it| it.restricted = true), KEYRING_NAMED);
        assert_eq!(one(|it| it.keys[0].ends = true), KEYS_ENDING);
        assert_eq!(one(|it| it.keys[0].is_plain = false), KEYS_ENDING);
        assert_eq!(one(|it| it.keys[0].kind = b"keyring".to_vec()), key_of_type("keyring"));
    }
}
