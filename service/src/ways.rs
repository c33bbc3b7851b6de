//! The directories above checkpoints. Whoever makes or removes one holds those above it; who holds them last leaves none that is
//! empty. So nobody takes a directory away in which another is about to make something.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The directories that are held, and by how many. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ways(Arc<Mutex<BTreeMap<PathBuf, usize>>>);

/// The directories above a checkpoint, held. When it is dropped, those go that are empty and that nobody else holds.
#[derive(Debug)]
pub struct Way {
    ways: Ways,
    /// The highest first.
    held: Vec<PathBuf>,
}

impl Ways {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, usize>> {
        // Each change is to one number.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the directories that `path` lies in, below `root`.
    pub(crate) fn hold(&self, root: &Path, path: &Path) -> Way {
        let above = path.ancestors().skip(1).take_while(|above| *above != root);
        let mut held: Vec<PathBuf> = above.map(Path::to_owned).collect();
        held.reverse();
        let mut counts = self.lock();
        for directory in &held {
            *counts.entry(directory.clone()).or_default() += 1;
        }
        drop(counts);
        Way { ways: self.clone(), held }
    }
}

impl Way {
    /// Makes those that are not there.
    pub(crate) fn make(&self) -> io::Result<()> {
        match self.held.last() {
            Some(last) => DirBuilder::new().recursive(true).mode(0o700).create(last),
            None => Ok(()),
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        let mut counts = self.ways.lock();
        for directory in self.held.iter().rev() {
            match counts.get_mut(directory) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    counts.remove(directory);
                    // One that is not empty is in use.
                    remove_if_unused(directory).ok();
                }
            }
        }
    }
}

/// Removes a directory that was made for a checkpoint which never came to be: one of ours, for us alone, and empty.
///
/// # Errors
/// If it cannot be removed.
pub fn remove_if_unused(directory: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    let ours = found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o777 == 0o700;
    match ours && fs::read_dir(directory)?.next().is_none() {
        true => fs::remove_dir(directory),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_goes_with_the_last_who_holds_it() {
        let root = tempfile::tempdir().unwrap();
        let (root, ways) = (root.path(), Ways::default());
        let [first, second] = ["a/b/one", "a/b/c/two"].map(|name| root.join(name));
        let one = ways.hold(root, &first);
        one.make().unwrap();
        let two = ways.hold(root, &second);
        two.make().unwrap();
        drop(one);
        assert!(root.join("a/b/c").exists(), "somebody holds it");
        fs::write(root.join("a/b/one"), "").unwrap();
        drop(two);
        assert!(!root.join("a/b/c").exists());
        assert!(first.exists(), "it is in use");
        fs::remove_file(&first).unwrap();
        drop(ways.hold(root, &first));
        assert!(!root.join("a").exists() && root.exists());
        assert!(ways.lock().is_empty());
        // It lies in the root itself.
        let beside = ways.hold(root, &root.join("b"));
        beside.make().unwrap();
        drop(beside);
        assert!(root.exists());
    }

    #[test]
    fn only_what_was_made_for_a_checkpoint_is_unused() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str, mode| {
            let path = root.path().join(name);
            DirBuilder::new().mode(mode).create(&path).unwrap();
            path
        };
        let (ours, mounted, full) =
            (make("ours", 0o700), make("mounted", 0o755), make("full", 0o700));
        fs::write(full.join("inventory.img"), "").unwrap();
        for path in [&ours, &mounted, &full] {
            remove_if_unused(path).unwrap();
        }
        assert_eq!([ours, mounted, full].map(|path| path.exists()), [false, true, true]);
    }
}
