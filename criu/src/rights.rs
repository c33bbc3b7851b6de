//! What a command takes is asked for before anything else: what would fail later, at some file of
//! /proc, is said at once, and how it is put right.

use caps::{CapSet, Capability};

/// Without one of each of these, nothing comes of a dump, a restore or a list of what runs. (A dump or
/// restore of some things takes more, which is said then.)
const NEEDED: [&[Capability]; 2] = [
    &[Capability::CAP_SYS_PTRACE],
    &[Capability::CAP_CHECKPOINT_RESTORE, Capability::CAP_SYS_ADMIN],
];

/// The same for a user's own programs (`--unprivileged`): he may trace them if they have no capabilities that
/// stasis has not.
const OF_OWN_PROGRAMS: [&[Capability]; 1] =
    [&[Capability::CAP_CHECKPOINT_RESTORE, Capability::CAP_SYS_ADMIN]];

/// Who asks has not the rights for what is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{command}: this takes root, or at least {lacking}{hint}; this is uid {uid}")]
pub struct NoRights {
    command: String,
    lacking: String,
    hint: &'static str,
    uid: u32,
}

/// Refuses a command that takes root, or the capabilities for it, to who has neither.
///
/// # Errors
/// If this process has neither.
pub fn require(command: &str) -> Result<(), NoRights> {
    refuse(command, lacking(), "")
}

/// The same of `criu`, which may be told that the command is about programs of this user alone (`--unprivileged`).
pub(crate) fn require_of_criu(command: &str, of_own_programs: bool) -> Result<(), NoRights> {
    let for_own = lacking_of(&OF_OWN_PROGRAMS);
    match (of_own_programs, &for_own) {
        (true, _) => refuse(command, for_own, ""),
        (false, None) => {
            refuse(command, lacking(), " (or --unprivileged, for programs of its own)")
        }
        (false, Some(_)) => refuse(command, lacking(), ""),
    }
}

fn refuse(command: &str, lacking: Option<String>, hint: &'static str) -> Result<(), NoRights> {
    let Some(lacking) = lacking else { return Ok(()) };
    let uid = nix::unistd::geteuid().as_raw();
    Err(NoRights { command: command.to_owned(), lacking, hint, uid })
}

/// What this process lacks to be of use, if it is not root's.
#[must_use]
pub fn lacking() -> Option<String> {
    lacking_of(&NEEDED)
}

fn lacking_of(needed: &[&[Capability]]) -> Option<String> {
    if nix::unistd::geteuid().is_root() {
        return None;
    }
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    let lacks = |any: &&&[Capability]| !any.iter().any(|capability| held.contains(capability));
    let names: Vec<_> = needed.iter().filter(lacks).map(|any| any[0].to_string()).collect();
    (!names.is_empty()).then(|| names.join(" and "))
}
