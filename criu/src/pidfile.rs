//! The file that tells others which process was restored.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hooks::{Hooks, Moment, Point, Refusal};
use ids::HostPid;

/// Why a pidfile could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{operation} pidfile {path}")]
pub struct PidfileError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// A pidfile that is ours; it is taken away again unless it is [kept](Pidfile::keep).
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
    file: Option<File>,
}

impl Pidfile {
    /// Makes the file, which must not exist: before the restore, so that one that would fail for
    /// it is not begun.
    ///
    /// # Errors
    /// If it is there, or cannot be made.
    pub fn reserve(path: &Path) -> Result<Self, PidfileError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|source| PidfileError {
            operation: "make",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { path: path.to_owned(), file: Some(file) })
    }

    /// Writes the pid, as CRIU does: digits and nothing else.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, pid: HostPid) -> Result<(), PidfileError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(pid.to_string().as_bytes()).map_err(|source| PidfileError {
            operation: "write",
            path: self.path.clone(),
            source,
        })
    }

    /// Leaves it where it is.
    pub fn keep(mut self) {
        self.file = None;
    }
}

/// Writes the pid where CRIU does: after the scripts at `post-restore`, before those at `pre-resume`.
pub(crate) struct WithPidfile<'a> {
    pub(crate) hooks: &'a mut dyn Hooks,
    pub(crate) pidfile: Option<&'a mut Pidfile>,
}

impl Hooks for WithPidfile<'_> {
    fn hang_on(&self, point: Point) -> bool {
        self.hooks.hang_on(point) || point == Point::PostRestore && self.pidfile.is_some()
    }

    fn keep_frozen(&self) -> bool {
        self.hooks.keep_frozen()
    }

    fn at(&mut self, moment: Moment<'_>) -> Result<(), Refusal> {
        if self.hooks.hang_on(moment.point) {
            self.hooks.at(moment)?;
        }
        if let (Point::PostRestore, Some(pidfile), Some(root)) =
            (moment.point, &mut self.pidfile, moment.root)
        {
            pidfile.write(root)?;
        }
        Ok(())
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        if self.file.is_some()
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!("remove pidfile {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfile_is_new_and_stays_only_when_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        drop(Pidfile::reserve(&path).unwrap());
        assert!(!path.exists());
        let mut pidfile = Pidfile::reserve(&path).unwrap();
        pidfile.write(HostPid::new(41).unwrap()).unwrap();
        pidfile.keep();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "41");
        assert!(Pidfile::reserve(&path).is_err());
    }
}
