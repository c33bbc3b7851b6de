//! A checkpoint is not made inside another one, nor above one: whoever lists checkpoints, copies or
//! removes them takes a directory for one.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::names;

/// How deep it is looked for checkpoints, and into how many directories.
const DEEPEST: usize = 8;
const MOST: usize = 10_000;

/// Refuses a directory that lies inside a checkpoint or has one inside.
pub(super) fn refuse_nested(target: &Path) -> Result<(), Error> {
    if let Some(checkpoint) = target.ancestors().skip(1).find(|above| holds_checkpoint(above)) {
        return Err(Error::Inside { path: target.into(), checkpoint: checkpoint.into() });
    }
    match below(target) {
        Some(checkpoint) => Err(Error::Above { path: target.into(), checkpoint }),
        None => Ok(()),
    }
}

fn holds_checkpoint(directory: &Path) -> bool {
    directory.join(names::inventory().name()).is_file()
}

/// A checkpoint somewhere below a directory. Hidden directories are those being written; what is
/// copied early lies in a directory of the checkpoint's own.
fn below(target: &Path) -> Option<PathBuf> {
    let mut waiting = vec![(target.to_owned(), 0)];
    let mut seen = 0;
    while let Some((directory, depth)) = waiting.pop() {
        if depth > 0 && holds_checkpoint(&directory) {
            return Some(directory);
        }
        seen += 1;
        if depth == DEEPEST || seen == MOST {
            continue;
        }
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let ours = name == names::PRE_COPY || name.to_string_lossy().starts_with('.');
            if !ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push((entry.path(), depth + 1));
            }
        }
    }
    None
}
