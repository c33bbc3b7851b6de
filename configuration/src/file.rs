//! The file itself: where it is, and whether it may be trusted.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::Error;

/// Where it is if nobody says otherwise.
pub(crate) const DEFAULT: &str = "/etc/stasis/stasis.toml";
/// No configuration is larger.
const MOST: u64 = 1 << 20;

/// Where the file is to be looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where it is if nobody says otherwise; it need not be there.
    Default,
    /// Where somebody says that it is.
    Named(PathBuf),
}

impl Place {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Default => Path::new(DEFAULT),
            Self::Named(path) => path,
        }
    }
}

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Text {
    /// Where it lies.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

impl Text {
    /// Reads the file; `None` if it is at its default place and not there.
    ///
    /// # Errors
    /// If it cannot be read, or others than root may write to it and root reads it.
    pub fn read(place: &Place) -> Result<Option<Self>, Error> {
        let path = place.path();
        let failed = |source| Error::Read { path: path.to_owned(), source };
        // Not to wait for the other end of a pipe.
        let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound && *place == Place::Default => {
                return Ok(None);
            }
            file => file.map_err(failed)?,
        };
        if nix::unistd::geteuid().is_root() {
            trust(path, &file)?;
        }
        let mut text = String::new();
        let read = (&file).take(MOST + 1).read_to_string(&mut text).map_err(failed)?;
        if read as u64 > MOST {
            return Err(Error::Large { path: path.to_owned(), most: MOST });
        }
        Ok(Some(Self { path: path.to_owned(), text }))
    }
}

/// Refuses what others than root could have written.
fn trust(path: &Path, file: &File) -> Result<(), Error> {
    let found = file.metadata().map_err(|source| Error::Read { path: path.to_owned(), source })?;
    if !found.is_file() {
        return Err(Error::NoFile(path.to_owned()));
    }
    let mode = found.mode() & 0o7777;
    match found.uid() == 0 && mode & 0o022 == 0 {
        true => Ok(()),
        false => Err(Error::Writable { path: path.to_owned(), uid: found.uid(), mode }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_others_may_write_is_refused_when_root_reads_it() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stasis.toml");
        std::fs::write(&path, "[common]\n").unwrap();
        for (mode, good) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = Text::read(&Place::Named(path.clone()));
            assert_eq!(read.is_ok(), good, "{mode:o}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        let error = Text::read(&Place::Named(path)).unwrap_err().to_string();
        assert!(error.contains("owner 65534") && error.contains("chown root"), "{error}");
    }

    #[test]
    fn a_named_file_has_to_be_there() {
        let missing = Place::Named("/nonexistent/stasis.toml".into());
        let error = Text::read(&missing).unwrap_err().to_string();
        assert_eq!(error, "read the configuration file /nonexistent/stasis.toml");
        let pipes = tempfile::tempdir().unwrap();
        let pipe = pipes.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let read = Text::read(&Place::Named(pipe));
        assert!(read.is_err() || !nix::unistd::geteuid().is_root());
    }
}
