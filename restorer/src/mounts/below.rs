//! Mounts below one that comes from outside: what is mounted at the same place below the path that is given for that one.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use kernel::mounts;
use kernel::paths::{Links, find};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// What is given for the longest beginning of a mount's name, and the rest of that.
pub(super) fn given(external: &BTreeMap<String, PathBuf>, key: &str) -> Option<(PathBuf, PathBuf)> {
    let ends = key.rmatch_indices('/').map(|(at, _)| at);
    let mut parts = ends.map(|at| (&key[..at], Path::new(&key[at + 1..])));
    let (path, below) = parts.find_map(|(name, below)| Some((external.get(name)?, below)))?;
    let is_plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    (is_plain && below.components().next().is_some()).then(|| (path.clone(), below.to_owned()))
}

/// A handle on the root of what is mounted there, without links below `path`; `None` if nothing is.
pub(super) fn root_of(path: &Path, below: &Path) -> io::Result<Option<OwnedFd>> {
    let top = open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let at = |below: &Path| match find(&top, below, Links::Refused) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    };
    let above = at(below.parent().unwrap_or(Path::new("")))?;
    let (Some(found), Some(above)) = (at(below)?, above) else { return Ok(None) };
    let is_mount = mounts::id(&found)? != mounts::id(&above)?;
    Ok(is_mount.then_some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_counts_and_nothing_leads_out() {
        let names = [("/volume", "/srv"), ("/volume/a", "/opt"), ("V", "/var")];
        let names: BTreeMap<_, _> =
            names.iter().map(|(key, path)| ((*key).to_owned(), PathBuf::from(path))).collect();
        let found = |key| given(&names, key);
        let is = |path: &str, below: &str| Some((PathBuf::from(path), PathBuf::from(below)));
        assert_eq!(found("/volume/b/c"), is("/srv", "b/c"));
        assert_eq!(found("/volume/a/c"), is("/opt", "c"));
        assert_eq!(found("V/x"), is("/var", "x"));
        for wrong in ["/volume", "V/", "V/../etc", "/volume/b/../../etc", "W/x", "V//etc"] {
            assert_eq!(found(wrong), None, "{wrong}");
        }
    }
}
