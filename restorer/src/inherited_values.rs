//! What nobody in a user namespace may set for himself, as it takes rights of the machine: the process that passes on the way there
//! has it before, and its children with it.

use std::collections::BTreeSet;

use images::id_map::{Id, IdMap};
use images::messages::TaskCoreEntry;
use kernel::limits::{LOCKED_MEMORY, raise};
use support::users::LOGIN_USERS;

use crate::error::Error;
use crate::load::Checkpoint;
use crate::proc_values::{OOM_SCORE, write_if_other, write_login};

/// No login has started it.
const NO_LOGIN: u32 = u32::MAX;

/// In the process that makes the root of a tree with a user namespace of its own, before it enters that.
///
/// The kernel lets a task choose its login user once, if it has none: so all have that of the tree, or none at first. And nobody may
/// go below the lowest score that root has given.
pub(crate) fn take_on(checkpoint: &Checkpoint) -> Result<(), Error> {
    let logins = logins(checkpoint);
    if let Some(login) = logins.first() {
        write_login(if logins.len() == 1 { *login } else { NO_LOGIN })?;
    }
    raise_limits(cores(checkpoint))?;
    let lowest = cores(checkpoint).filter_map(|core| core.oom_score_adj).min();
    let own = std::fs::read_to_string(OOM_SCORE).ok().and_then(|text| text.trim().parse().ok());
    match (lowest, own) {
        (Some(lowest), Some(own)) if lowest < own => write_if_other(OOM_SCORE, &lowest.to_string()),
        _ => Ok(()),
    }
}

/// Gives the calling process the highest hard limits that any of these has: nobody raises one in a user namespace, and everybody may
/// lower his. What they lock in memory is counted against the soft one before that is what it was.
pub(crate) fn raise_limits<'a>(
    cores: impl Iterator<Item = &'a TaskCoreEntry>,
) -> Result<(), Error> {
    let mut highest: Vec<u64> = Vec::new();
    for limits in cores.filter_map(|core| core.rlimits.as_ref()) {
        highest.resize(highest.len().max(limits.rlimits.len()), 0);
        for (most, limit) in highest.iter_mut().zip(&limits.rlimits) {
            *most = (*most).max(limit.max);
        }
    }
    for (resource, limit) in highest.into_iter().enumerate() {
        raise(resource, limit, resource == LOCKED_MEMORY)
            .map_err(Error::kernel(format!("raise the hard limit of resource {resource}")))?;
    }
    Ok(())
}

/// What stands in the way of a restore of a tree whose user namespace has these ids.
pub(crate) fn check(checkpoint: &Checkpoint, ids: &IdMap) -> Result<(), Error> {
    if ids.is_plain() || logins(checkpoint).len() <= 1 {
        return Ok(());
    }
    let is_unknown = |login: u32| login != NO_LOGIN && ids.inside(Id::User, login) == NO_LOGIN;
    let refused = checkpoint.living().filter_map(|(process, _)| {
        let login = process.core.loginuid.filter(|login| is_unknown(*login))?;
        Some(LOGIN_USERS.of(process.pid.get(), format!("login user {login}")))
    });
    match refused.collect::<Vec<_>>() {
        refused if refused.is_empty() => Ok(()),
        refused => Err(Error::Refused(refused)),
    }
}

fn cores(checkpoint: &Checkpoint) -> impl Iterator<Item = &TaskCoreEntry> {
    checkpoint.living().map(|(process, _)| &process.core)
}

fn logins(checkpoint: &Checkpoint) -> BTreeSet<u32> {
    cores(checkpoint).filter_map(|core| core.loginuid).collect()
}
