//! The parents of a checkpoint: an incremental one leaves pages that have not changed to its parent, which may
//! leave them to its own.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::Error;
use crate::images::Images;
use crate::names;
use crate::store::Identity;

/// Longest chain of parents.
const MAX_PARENTS: usize = 1000;

/// Levels that a checkpoint may have which is to become a parent: its child adds itself and
/// [`names::PRE_COPIES`] at most.
const LEVELS_OF_A_PARENT: usize = 900;

/// Refuses a checkpoint some of whose pages were given to others than those by which one comes to it.
fn has_all_pages(dir: &Images, way: &[Images]) -> Result<(), Error> {
    match dir.has_all_pages_for(way)? {
        true => Ok(()),
        false => Err(Error::GivenBack { path: dir.path().into() }),
    }
}

/// A checkpoint and its parents, each opened once, when it is first asked for.
#[derive(Debug)]
pub struct Lineage {
    /// The checkpoint, its parent, and so on, as far as they were asked for.
    levels: Vec<Images>,
    /// Which stores they are.
    seen: BTreeSet<Identity>,
}

impl Lineage {
    /// Begins with a checkpoint.
    pub fn of(dir: &Images) -> Result<Self, Error> {
        has_all_pages(dir, &[])?;
        let seen = BTreeSet::from([dir.identity()?]);
        Ok(Self { levels: vec![dir.clone()], seen })
    }

    /// The checkpoint (level 0) or the parent so many levels above it. It is opened when it was not yet.
    ///
    /// It is an error if there are not so many, if one of them is among its own parents, or if there are absurdly
    /// many.
    pub fn level(&mut self, level: usize) -> Result<&Images, Error> {
        while self.levels.len() <= level {
            let last = &self.levels[self.levels.len() - 1];
            let path = last.path().display().to_string();
            let what =
                |what: &str| Error::invalid(names::PARENT_LINK, format!("{what} (in {path})"));
            if self.levels.len() > MAX_PARENTS {
                return Err(what("more than 1000 checkpoints are each the parent of another"));
            }
            let parent = last.parent()?.ok_or_else(|| {
                what("pages are in the parent checkpoint, and no link leads to one")
            })?;
            if !self.seen.insert(parent.identity()?) {
                return Err(what("a checkpoint is its own parent, or its parent's"));
            }
            has_all_pages(&parent, &self.levels)?;
            self.levels.push(parent);
        }
        Ok(&self.levels[level])
    }

    /// Whether a new checkpoint, in the directory `child`, may leave pages to this one: all parents have to be
    /// there, `child` must not be among them, and a restore has to be able to follow the chain.
    pub fn check_for_child(&mut self, child: &Path) -> Result<(), Error> {
        let child = std::fs::metadata(child).ok().map(|found| (found.dev(), found.ino()));
        for level in 0..LEVELS_OF_A_PARENT {
            let dir = self.level(level)?;
            let what = |what: &str| {
                Error::invalid(names::PARENT_LINK, format!("{what} (in {})", dir.path().display()))
            };
            if child == Some(dir.identity()?) {
                return Err(what("the new checkpoint would replace this one, which it depends on"));
            }
            if dir.parent()?.is_none() {
                return match dir.parent_is_lost() {
                    true => Err(what("the link leads to no directory")),
                    false => Ok(()),
                };
            }
        }
        Err(Error::invalid(
            names::PARENT_LINK,
            "900 checkpoints are each the parent of another: make one without a parent",
        ))
    }
}
