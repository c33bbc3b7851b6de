//! Where engines keep their state, and whether that can be believed.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;

use crate::error::Error;

/// Where engines keep their state, and stasis its own.
#[derive(Clone, Debug)]
pub struct Places {
    /// runc's state directory.
    pub runc: PathBuf,
    /// crun's state directory.
    pub crun: PathBuf,
    /// The directory in which containerd has runc keep its state, one for each namespace.
    pub containerd: PathBuf,
    /// Where stasis keeps what is known at run time.
    pub run_dir: PathBuf,
    /// What the `criu` of an engine is given in its environment, where it is run by this process.
    pub environment: Vec<(&'static str, OsString)>,
}

/// The directory by its own path, if it is there and nobody but root (and who runs this) can change it or put
/// another in its place: what it says of containers decides which processes are ended.
///
/// # Errors
/// If others can change it, or it cannot be looked at.
pub(crate) fn believed(path: &Path) -> Result<Option<PathBuf>, Error> {
    let failed = |source| Error::Place { operation: "look at", path: path.to_owned(), source };
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    for above in real.ancestors() {
        if !is_ours(above).map_err(failed)? {
            return Err(Error::Untrusted { path: above.to_owned() });
        }
    }
    Ok(Some(real))
}

/// In a directory with the sticky bit others can make something, but not take away what is there.
fn is_ours(directory: &Path) -> io::Result<bool> {
    let found = directory.metadata()?;
    let by_us = found.uid() == 0 || found.uid() == nix::unistd::geteuid().as_raw();
    Ok(by_us && (found.mode() & 0o022 == 0 || found.mode() & libc::S_ISVTX != 0))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_others_can_change_is_not_believed() {
        let scratch = tempfile::tempdir().unwrap();
        let state = scratch.path().join("a/state");
        assert!(believed(&state).unwrap().is_none());
        fs::create_dir_all(&state).unwrap();
        assert_eq!(believed(&state).unwrap(), Some(state.canonicalize().unwrap()));
        fs::set_permissions(scratch.path().join("a"), Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(believed(&state), Err(Error::Untrusted { path }) if path.ends_with("a")));
        fs::set_permissions(scratch.path().join("a"), Permissions::from_mode(0o1777)).unwrap();
        assert!(believed(&state).unwrap().is_some());
        fs::set_permissions(&state, Permissions::from_mode(0o720)).unwrap();
        assert!(
            matches!(believed(&state), Err(Error::Untrusted { path }) if path.ends_with("state"))
        );
    }
}
