//! What a command takes is asked for before anything else: what would fail later, at some file of
//! /proc, is said at once, and how it is put right.

use caps::{CapSet, Capability};

/// Without one of each of these, nothing comes of a dump, a restore or a list of what runs. (A dump or
/// restore of some things takes more, which is said then.)
const NEEDED: [&[Capability]; 2] = [
    &[Capability::CAP_SYS_PTRACE],
    &[Capability::CAP_CHECKPOINT_RESTORE, Capability::CAP_SYS_ADMIN],
];

/// Who asks has not the rights for what is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{command}: this takes root, or at least {lacking}; this is uid {uid}")]
pub struct NoRights {
    command: String,
    lacking: String,
    uid: u32,
}

/// Refuses a command that takes root, or the capabilities for it, to who has neither.
///
/// # Errors
/// If this process has neither.
pub fn require(command: &str) -> Result<(), NoRights> {
    let Some(lacking) = lacking() else { return Ok(()) };
    let uid = nix::unistd::geteuid().as_raw();
    Err(NoRights { command: command.to_owned(), lacking, uid })
}

/// What this process lacks to be of use, if it is not root's.
#[must_use]
pub fn lacking() -> Option<String> {
    if nix::unistd::geteuid().is_root() {
        return None;
    }
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    let lacks = |any: &&&[Capability]| !any.iter().any(|capability| held.contains(capability));
    let names: Vec<_> = NEEDED.iter().filter(lacks).map(|any| any[0].to_string()).collect();
    (!names.is_empty()).then(|| names.join(" and "))
}
