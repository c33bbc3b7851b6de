//! The `criu` that engines are to find: ours, in a directory of its own; and the one that a daemon would find.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use ids::HostPid;
use kernel::procfs::{Dir, ProcFile, Stat};

use crate::error::Error;
use crate::places::believed;
use crate::run::find;

/// The program of ours that is CRIU under that name: `stasis`, or the face alone.
///
/// # Errors
/// If neither is found.
pub(crate) fn program() -> Result<PathBuf, Error> {
    let failed = |source| Error::Place { operation: "find", path: "/proc/self/exe".into(), source };
    let own = std::env::current_exe().map_err(failed)?;
    let of_ours = ["stasis", "criu"].map(OsStr::new);
    if own.file_name().is_some_and(|name| of_ours.contains(&name)) {
        return Ok(own);
    }
    programs_beside(&own)
        .into_iter()
        .take(2)
        .find(|beside| beside.is_file())
        .ok_or(Error::NoCriu { path: own })
}

/// Where programs of ours lie that can be CRIU, beside another one of ours. A `criu` in the same directory may be
/// CRIU itself, so it comes last.
fn programs_beside(own: &Path) -> [PathBuf; 3] {
    let directory = own.parent().unwrap_or(Path::new("/"));
    [directory.join("stasis"), directory.join("../lib/stasis/criu"), directory.join("criu")]
}

/// A directory that has nothing but our `criu`, to be the first of a PATH.
///
/// # Errors
/// If it cannot be made, or others could change it.
pub(crate) fn directory(run_dir: &Path) -> Result<PathBuf, Error> {
    let path = run_dir.join("path");
    let program = program()?;
    let made =
        |operation, path: &Path, source| Error::Place { operation, path: path.to_owned(), source };
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&path)
        .map_err(|source| made("make", &path, source))?;
    let real = believed(&path)?.ok_or_else(|| made("make", &path, ErrorKind::NotFound.into()))?;
    let link = real.join("criu");
    if fs::read_link(&link).is_ok_and(|to| to == program) {
        return Ok(real);
    }
    // Another command may do the same: what is in the place is whole at any time.
    let new = real.join(format!(".criu.{}", std::process::id()));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(made("remove", &new, error));
        }
        _ => {}
    }
    symlink(&program, &new).map_err(|source| made("make", &new, source))?;
    fs::rename(&new, &link).map_err(|source| made("rename", &new, source))?;
    Ok(real)
}

/// The PATH of this process with a directory before it.
pub(crate) fn path_with(first: &Path) -> OsString {
    let mut path = OsString::from(first);
    let rest = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    if !rest.is_empty() {
        path.push(":");
        path.push(rest);
    }
    path
}

/// What an engine's daemon would call as `criu`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OfDaemon {
    /// The program, if one is found.
    pub(crate) found: Option<PathBuf>,
    /// The first directory that it is looked for in.
    pub(crate) first: PathBuf,
}

/// What the parent of a container's first process (the engine's, which runs its commands) finds as `criu`; `None`
/// if that cannot be told.
pub(crate) fn of_daemon(first: HostPid) -> Option<OfDaemon> {
    let parent = Stat::read(&Dir::open(first).ok()?).ok()?.ppid;
    let mut environment = Vec::new();
    Dir::open(parent?).ok()?.read("environ", &mut environment).ok()?;
    Some(found_by(&environment))
}

/// The `criu` on the PATH of an environment, as `/proc/PID/environ` has it.
fn found_by(environment: &[u8]) -> OfDaemon {
    let path = environment.split(|byte| *byte == 0).find_map(|one| one.strip_prefix(b"PATH="));
    let path = OsStr::from_bytes(path.unwrap_or_default());
    let first = std::env::split_paths(path).find(|place| place.is_absolute());
    OfDaemon { found: find("criu", path), first: first.unwrap_or_else(|| "/usr/local/bin".into()) }
}

/// Whether a program is one of ours.
pub(crate) fn is_ours(criu: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    let Ok(own) = std::env::current_exe() else { return false };
    let wanted = identity(criu);
    let beside = programs_beside(&own);
    wanted.is_some() && beside.iter().chain([&own]).any(|one| identity(one) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_daemon_finds_is_by_its_own_path() {
        let scratch = tempfile::tempdir().unwrap();
        let criu = scratch.path().join("criu");
        symlink("/bin/sh", &criu).unwrap();
        let environment =
            format!("HOME=/\0PATH=rel:/nowhere:{}:/bin\0X=", scratch.path().display());
        let found = found_by(environment.as_bytes());
        assert_eq!(found, OfDaemon { found: Some(criu.clone()), first: "/nowhere".into() });
        assert!(!is_ours(&criu));
        fs::remove_file(&criu).unwrap();
        symlink(std::env::current_exe().unwrap(), &criu).unwrap();
        assert!(is_ours(&criu));
        assert_eq!(found_by(b"").found, None);
    }
}
