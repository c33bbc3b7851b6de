//! The checkpoint that an incremental one leaves pages to.

use std::path::{Component, Path, PathBuf};

use ids::ImagePid;
use images::messages::ManifestEntry;
use images::{Images, Lineage, names};
use kernel::pagemap::{PageRun, push};

use crate::error::Error;

/// A parent checkpoint.
#[derive(Debug)]
pub(super) struct Parent {
    images: Images,
    /// The way there from the directory of the new one.
    pub(super) link: PathBuf,
    /// By what a restore knows it.
    pub(super) entry: ManifestEntry,
}

impl Parent {
    /// The parent of a checkpoint that will be in `target`.
    pub(super) fn of(images: &Images, target: &Path) -> Result<Self, Error> {
        // It is open: where a file system has it, there is a real path to it.
        let path = images.path();
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Lineage::of(images)
            .and_then(|mut lineage| lineage.check_for_child(target))
            .map_err(Error::Parent)?;
        let entry = images.as_parent().map_err(Error::Parent)?;
        Ok(Self { images: images.clone(), link: way(target, &real), entry })
    }

    /// By what its dump is known.
    pub(super) fn id(&self) -> Option<&str> {
        self.images.inventory().dump_criu_run_id.as_deref()
    }

    /// The pages of a process that it, or one of its own parents, holds.
    pub(super) fn pages(&self, pid: ImagePid) -> Result<Vec<PageRun>, Error> {
        let runs = self.images.page_runs(&names::pagemap(pid.unsigned()));
        let runs = runs.map_err(Error::Parent)?.unwrap_or_default();
        let mut pages = Vec::new();
        for run in runs.iter().filter(|run| run.is_stored() || run.in_parent()) {
            push(&mut pages, run.start, run.end());
        }
        Ok(pages)
    }
}

/// The relative way from one directory to another, both by their real paths: it holds when they
/// are moved together.
fn way(from: &Path, to: &Path) -> PathBuf {
    let (from, to): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n(Component::ParentDir, from.len() - common);
    let way: PathBuf = up.chain(to[common..].iter().copied()).collect();
    if way.as_os_str().is_empty() { ".".into() } else { way }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_is_as_short_as_can_be() {
        let way = |from: &str, to: &str| way(from.as_ref(), to.as_ref());
        assert_eq!(way("/a/two", "/a/one"), Path::new("../one"));
        assert_eq!(way("/a/b", "/c"), Path::new("../../c"));
        assert_eq!(way("/a", "/a/b"), Path::new("b"));
        assert_eq!(way("/a", "/a"), Path::new("."));
    }
}
