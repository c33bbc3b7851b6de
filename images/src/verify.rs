//! Whether all of a checkpoint is as it was written.

use std::path::{Path, PathBuf};

use crate::cancel::Cancel;
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::images::{Access, Images};
use crate::keys::KeyId;
use crate::lineage::Lineage;
use crate::names;

/// A file that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file; the checkpoint itself where it is no single one.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

/// What is found of a checkpoint, and of those that it has left pages to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The files that were compared, all bytes of them.
    pub files: u64,
    /// How long they are together.
    pub bytes: u64,
    /// The files of which only the length, or samples, could be compared: those that an older stasis wrote, whose room was given back, or that
    /// a page server has.
    pub in_part: Vec<PathBuf>,
    /// The directories whose manifest is missing, as CRIU's are: there is nothing to compare their files with.
    pub unknown: Vec<PathBuf>,
    /// The checkpoint is encrypted, and nothing was given to read it by: what is stored was compared, and not what is in it.
    pub locked: bool,
    /// The trusted key that has signed it, if it was opened with such keys.
    pub signed_by: Option<KeyId>,
    /// What is not as it was.
    pub damages: Vec<Damage>,
}

/// Reads all of the checkpoint in a directory, and of its parents, and compares it with what was written. What is damaged does not end it:
/// all of it is told. Of one that is encrypted, and that nothing is given to read by, what is stored is compared.
///
/// # Errors
/// As [`Images::open_locked`]; if the files cannot be listed; [`Error::Cancelled`].
pub fn verify(path: &Path, access: &Access, cancel: &Cancel) -> Result<Verified, Error> {
    let found = Images::open_wanted(path, access, cancel).and_then(|images| compare(&images));
    match cancel.is_cancelled() {
        // What was found then may have come of that.
        true => Err(Error::Cancelled { path: path.into() }),
        false => found,
    }
}

fn compare(images: &Images) -> Result<Verified, Error> {
    let mut found = Verified {
        signed_by: images.vouched_by(),
        locked: images.is_locked(),
        ..Verified::default()
    };
    let mut lineage = Lineage::of(images)?;
    let mut at = 0;
    loop {
        let level = match lineage.level(at) {
            Ok(level) => level.clone(),
            Err(error) => {
                found.damages.push(Damage { path: images.path().into(), what: error.in_full() });
                break;
            }
        };
        files(&level, &mut found)?;
        match level.parent() {
            Ok(None) if !level.parent_is_lost() => break,
            _ => at += 1,
        }
    }
    if !found.locked
        && found.damages.is_empty()
        && let Err(error) = Checkpoint::load(images.clone())
    {
        found.damages.push(Damage { path: images.path().into(), what: error.in_full() });
    }
    Ok(found)
}

/// The files of one directory.
fn files(level: &Images, found: &mut Verified) -> Result<(), Error> {
    if !level.has_manifest() {
        found.unknown.push(level.path().into());
        return Ok(());
    }
    // By its own name, and not that of a link to a parent.
    let place = level.path().canonicalize().unwrap_or_else(|_| level.path().into());
    let named = |name: &str| place.join(name);
    let own = |name: &String| !name.contains('/') && !names::is_service(name);
    let there = level.files()?.into_iter().map(|file| file.name).filter(own);
    let mut names: Vec<String> = there.chain(level.written().map(str::to_owned)).collect();
    names.sort();
    names.dedup();
    for name in names {
        match level.compare(&name).and_then(|bytes| level.decrypt(&name).map(|()| bytes)) {
            Ok(bytes) if level.knows_all_of(&name) => {
                found.files += 1;
                found.bytes += bytes;
            }
            Ok(_) => found.in_part.push(named(&name)),
            Err(error) => {
                let path = named(&name);
                found.damages.push(Damage { path, what: error.in_full() });
            }
        }
    }
    Ok(())
}
