//! What was found when all of a checkpoint was read.

use std::path::Path;

use api::{DamagedFile, Verification};
use images::{Damage, Verified};

/// The same in the words of the API; `called` says what a path is called there.
#[must_use]
pub fn verification(found: &Verified, called: impl Fn(&Path) -> String) -> Verification {
    let damaged = |it: &Damage| DamagedFile { path: called(&it.path), what: it.what.clone() };
    Verification {
        sound: found.damages.is_empty(),
        files: found.files,
        bytes: found.bytes,
        locked: found.locked,
        signed_by: found.signed_by.map(|key| key.to_string()),
        in_part: found.in_part.iter().map(|path| called(path)).collect(),
        without_manifest: found.unknown.iter().map(|path| called(path)).collect(),
        damages: found.damages.iter().map(damaged).collect(),
    }
}
