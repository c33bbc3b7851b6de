//! What a command takes is asked for before anything else: what would fail later, at some file of
//! /proc, is said at once, and how it is put right.

use std::ffi::OsStr;

use caps::{CapSet, Capability};

use crate::failure::Failure;

/// Without one of each of these, nothing comes of a dump, a restore or a list of what runs. (A dump or
/// restore of some things takes more, which is said then.)
const NEEDED: [&[Capability]; 2] = [
    &[Capability::CAP_SYS_PTRACE],
    &[Capability::CAP_CHECKPOINT_RESTORE, Capability::CAP_SYS_ADMIN],
];

/// Refuses a command that takes root, or the capabilities for it, to who has neither.
///
/// # Errors
/// With the command that does it as root.
pub(crate) fn require(command: &str) -> Result<(), Failure> {
    let Some(lacking) = lacking() else { return Ok(()) };
    let uid = nix::unistd::geteuid();
    let error = format!("{command}: this takes root, or at least {lacking}; this is uid {uid}");
    Err(Failure::with_remedy(error, format!("run as root: {}", with_sudo())))
}

/// What this process lacks to be of use, if it is not root's.
pub(crate) fn lacking() -> Option<String> {
    if nix::unistd::geteuid().is_root() {
        return None;
    }
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    let lacks = |any: &&&[Capability]| !any.iter().any(|capability| held.contains(capability));
    let names: Vec<_> = NEEDED.iter().filter(lacks).map(|any| any[0].to_string()).collect();
    (!names.is_empty()).then(|| names.join(" and "))
}

/// This very command line, as root has to type it.
pub(crate) fn with_sudo() -> String {
    let words = std::env::args_os().map(|word| quoted(&word)).collect::<Vec<_>>();
    format!("sudo {}", words.join(" "))
}

/// A word as a shell takes it.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_take_them_apart() {
        for (word, shown) in [
            ("stasis", "stasis"),
            ("--directory=/a/b", "--directory=/a/b"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", "'it'\\''s'"),
            ("$HOME", "'$HOME'"),
        ] {
            assert_eq!(quoted(OsStr::new(word)), shown);
        }
    }
}
