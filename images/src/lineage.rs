//! The parents of a checkpoint: an incremental one leaves pages that have not changed to its parent, which may
//! leave them to its own.

use std::collections::BTreeSet;

use crate::dir::ImageDir;
use crate::error::Error;
use crate::names;

/// Longest chain of parents.
const MAX_PARENTS: usize = 1000;

/// A checkpoint and its parents, each opened once, when it is first asked for.
#[derive(Debug)]
pub struct Lineage {
    /// The checkpoint, its parent, and so on, as far as they were asked for.
    dirs: Vec<ImageDir>,
    /// Which directories they are (device, inode).
    seen: BTreeSet<(u64, u64)>,
}

impl Lineage {
    /// Begins with a checkpoint.
    pub fn of(dir: &ImageDir) -> Result<Self, Error> {
        let seen = BTreeSet::from([dir.identity()?]);
        Ok(Self { dirs: vec![dir.try_clone()?], seen })
    }

    /// The checkpoint (level 0) or the parent so many levels above it. The directory is opened when it was not
    /// yet.
    ///
    /// It is an error if there are not so many, if one of them is among its own parents, or if there are absurdly
    /// many.
    pub fn level(&mut self, level: usize) -> Result<&ImageDir, Error> {
        while self.dirs.len() <= level {
            let last = &self.dirs[self.dirs.len() - 1];
            let path = last.path().display().to_string();
            let what =
                |what: &str| Error::invalid(names::PARENT_LINK, format!("{what} (in {path})"));
            if self.dirs.len() > MAX_PARENTS {
                return Err(what("more than 1000 checkpoints are each the parent of another"));
            }
            let parent = last.parent()?.ok_or_else(|| {
                what("pages are in the parent checkpoint, and no link leads to one")
            })?;
            if !self.seen.insert(parent.identity()?) {
                return Err(what("a checkpoint is its own parent, or its parent's"));
            }
            self.dirs.push(parent);
        }
        Ok(&self.dirs[level])
    }
}
