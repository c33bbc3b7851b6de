//! A restore on behalf of a user brings back what was his alone.
//!
//! The images were made by a dump on his behalf, of tasks that he might trace, and lie where he cannot
//! alter them. That every task in them has his ids and no capability is looked at all the same, so that
//! a directory that came there in another way gives nobody more than he has.

use images::messages::CredsEntry;

use crate::error::Error;
use crate::files::{Connections, Holders, User};
use crate::load::Checkpoint;
use crate::options::RestoreOptions;
use crate::sysv;

/// Refuses what is not the user's, if it is a user that asks.
pub(crate) fn check(
    checkpoint: &Checkpoint,
    holders: &Holders,
    options: &RestoreOptions,
    connections: Connections,
) -> Result<(), Error> {
    let Some((uid, gid)) = options.on_behalf_of else { return Ok(()) };
    for (process, body) in checkpoint.living() {
        for thread in &body.threads {
            let creds = thread.core.creds.as_ref();
            let refusal = if !creds.is_some_and(|creds| is_plain(creds, uid, gid)) {
                support::host::more_rights(uid, gid)
            } else if !thread.filters.is_empty() && !creds.is_some_and(gains_nothing) {
                support::host::FILTERS_OF_ROOT
            } else {
                continue;
            };
            let object = format!("thread {}", thread.tid);
            return Err(Error::refused(refusal.of(process.pid.get(), object)));
        }
    }
    if let Some(pid) = checkpoint.namespaces.first() {
        return Err(Error::refused(
            support::host::NAMESPACE_OF_ROOT.of(pid.get(), format!("process {pid}")),
        ));
    }
    if checkpoint.namespaces.any_is_made() {
        let object = "a namespace that no process has for its own".to_owned();
        return Err(Error::refused(support::host::NAMESPACE_OF_ROOT.of(0, object)));
    }
    sysv::check_user(checkpoint, uid)?;
    let threads = checkpoint.living().flat_map(|(_, body)| &body.threads);
    let creds = threads.filter_map(|thread| thread.core.creds.as_ref());
    let groups = creds.map(|creds| &creds.groups[..]).collect();
    let user = User { uid, gid, groups, connections };
    let beyond = checkpoint.files.check_user(&user);
    beyond.map_err(|error| error.named(holders).into())
}

/// Whether programs that it executes gain no rights, so that it may filter what they call.
fn gains_nothing(creds: &CredsEntry) -> bool {
    creds.no_new_privs == Some(1)
}

/// Whether these are a user's own rights, as one has them who has logged in.
fn is_plain(creds: &CredsEntry, uid: u32, gid: u32) -> bool {
    let none = |set: &[u32]| set.iter().all(|word| *word == 0);
    [creds.uid, creds.euid, creds.suid, creds.fsuid] == [uid; 4]
        && [creds.gid, creds.egid, creds.sgid, creds.fsgid] == [gid; 4]
        && none(&creds.cap_prm)
        && none(&creds.cap_eff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn creds(uid: u32, gid: u32) -> CredsEntry {
        CredsEntry {
            uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            cap_bnd: vec![u32::MAX; 2],
            ..CredsEntry::default()
        }
    }

    #[test]
    fn only_plain_rights_come_back() {
        assert!(is_plain(&creds(1000, 50), 1000, 50));
        assert!(!is_plain(&creds(0, 0), 1000, 50));
        let changes: [fn(&mut CredsEntry); 8] = [
            |creds| creds.suid = 0,
            |creds| creds.euid = 0,
            |creds| creds.uid = 0,
            |creds| creds.fsuid = 0,
            |creds| creds.sgid = 0,
            |creds| creds.egid = 7,
            |creds| creds.cap_prm = vec![0, 1],
            |creds| creds.cap_eff = vec![1],
        ];
        for change in changes {
            let mut creds = creds(1000, 50);
            change(&mut creds);
            assert!(!is_plain(&creds, 1000, 50), "{creds:?}");
        }
    }
}
